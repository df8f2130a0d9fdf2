//! Runs `kpl-bench` with few records.

use std::process::{Command, Output};

use serde_json::Value;

fn bench(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kpl-bench")).args(args.split_whitespace()).output().unwrap()
}

/// Runs `kpl-bench`, and returns the rows of these subjects. Checks that all records were stored.
fn rows(args: &str, subjects: &[&str]) -> Vec<Value> {
    let run = bench(&format!("--json --rounds 1 {args}"));
    assert_eq!((run.status.code(), &*String::from_utf8_lossy(&run.stderr)), (Some(0), ""));
    let Value::Array(rows) = serde_json::from_slice(&run.stdout).unwrap() else { panic!("{run:?}") };
    let is_selected = |row: &Value| subjects.contains(&row["subject"].as_str().unwrap());
    let rows: Vec<_> = rows.into_iter().filter(is_selected).collect();
    assert_eq!(rows.iter().map(|row| &row["subject"]).collect::<Vec<_>>(), subjects);
    for row in &rows {
        assert_eq!(row["measured"]["stored"], row["work"]["records"], "{row:#}");
    }
    rows
}

#[test]
fn bench_measures_the_floor_kpl_and_the_sdk() {
    let rows = rows("--records 3000", &["floor", "floor-scalar", "tokio", "raw-sdk"]);
    for row in &rows {
        let records = row["kinesis_records"].as_u64().unwrap();
        let [units, least] = [&row["payload_units"], &row["least_units"]].map(|units| units.as_f64().unwrap());
        assert!(least <= units && units >= records as f64, "{row:#}");
        assert!(row["requests"].as_u64() > Some(0), "{row:#}");
        assert!(row["measured"]["usage"]["cpu"]["nanos"].as_u64() > Some(0), "{row:#}");
    }
    // 3,000 records of 100 bytes fit in about seven aggregates; unaggregated, each is a Kinesis record. One more is the
    // record of the warm-up.
    let kinesis_records = |row: usize| rows[row]["kinesis_records"].as_u64().unwrap();
    assert!(kinesis_records(0) < 10 && kinesis_records(1) < 10, "{:#}", rows[0]);
    assert!(kinesis_records(2) < 100, "{:#}", rows[2]);
    assert_eq!(kinesis_records(3), 3_001, "{:#}", rows[3]);
}

#[test]
fn bench_measures_latency_at_a_rate() {
    let rows = rows("--records 1000 --rate 2000 --latency 20ms", &["tokio"]);
    let latency =
        |name: &str| rows[0]["measured"][name].as_array().unwrap().iter().map(Value::as_u64).collect::<Vec<_>>();
    for micros in [latency("latency"), latency("requests")] {
        assert!(micros.is_sorted() && micros.len() == 3 && micros[0] >= Some(20_000), "{:#}", rows[0]);
    }
}

#[test]
fn bench_measures_requests_over_tls() {
    for version in ["1.1", "2"] {
        let rows = rows(&format!("--records 1000 --tls {version}"), &["tokio", "raw-sdk"]);
        assert!(rows[0]["measured"]["requests"][0].as_u64() > Some(0), "{:#}", rows[0]);
    }
}

// Only Linux reports the memory of a process.
#[cfg(target_os = "linux")]
#[test]
fn bench_measures_memory() {
    let held = &rows("--records 2000 --hold", &["tokio"])[0]["measured"]["held"];
    for burst in held["bursts"].as_array().unwrap() {
        assert!(["before", "full", "after"].iter().all(|at| burst[at]["resident"].as_u64() > Some(1_000)), "{held:#}");
    }
    // 3 MiB each. Kinesis accepts two of them in a request.
    let large = &rows("--records 4 --size 3145728 --own-data", &["tokio"])[0];
    let outstanding = large["measured"]["outstanding"].as_u64().unwrap();
    assert!((3_145_740..=4 * 3_145_740).contains(&outstanding), "{large:#}");
}

#[test]
fn bench_writes_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bench.svg");
    let rows = rows(&format!("--records 20 --runtime floor --latency 0s --picture {}", file.display()), &[]);
    assert_eq!(rows.len(), 0);
    let svg = std::fs::read_to_string(file).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains(">floor</text>") && svg.contains(">p99</text>"), "{svg}");
}

#[test]
fn wrong_usage_exits_with_status_2() {
    for (args, message) in [
        ("--records 0", "0 is not in 1.."),
        ("--size 10485749", "10485749 is not in"),
        ("--picture x --size 3", "cannot be used with"),
        ("--hold --rate 3", "cannot be used with"),
    ] {
        let run = bench(args);
        assert_eq!((run.status.code(), run.stdout.len()), (Some(2), 0), "{args}");
        let stderr = String::from_utf8_lossy(&run.stderr);
        assert!(stderr.contains(message), "{args}: {stderr}");
    }
}

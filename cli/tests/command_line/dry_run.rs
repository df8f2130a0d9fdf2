//! `kpl put --dry-run`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};

use kpl_emulator::api::{UpdateMaxRecordSize, UpdateStreamRecordDistributionStrategy};
use kpl_emulator::{Faults, OperationFault};
use serde_json::{Value, json};

use crate::rig::{Kinesis, end, kpl, signal, start};

/// Lines of 97 keys.
fn lines(count: u32) -> Vec<u8> {
    (0..count).flat_map(|n| format!("10.0.0.{} line {n:0100}\n", n % 97).into_bytes()).collect()
}

#[test]
fn dry_run_sends_nothing_and_counts_what_a_real_run_stores() {
    let input = lines(20_000);
    for settings in ["", "--aggregation-max-size 3000", "--aggregation-max-count 7", "--aggregation-enabled false"] {
        let kinesis = Kinesis::start(3);
        kinesis.emulator.reshard("s", 5).unwrap();
        // Aggregates are closed by their size and by the flush at the end, however slow the machine is.
        let args = format!("--json {} --key-field 1 --record-max-buffered-time 60s", kinesis.args());
        let dry = kpl(&format!("put --dry-run {settings} {args}"), &input);
        assert_eq!((dry.code(), dry.stderr.as_str()), (0, ""), "{dry:#?}");
        assert_eq!((kinesis.requests("ListShards"), kinesis.requests("PutRecords")), (1, 0), "{settings}");

        let real = kpl(&format!("put {settings} {args}"), &input);
        assert_eq!(real.code(), 0, "{real:#?}");
        let (dry, real) = (dry.json(), real.json());
        let payload_units = kinesis.emulator.with(|kinesis, _| kinesis.counters().payload_units);
        assert_eq!((&dry["lines"], &dry["refused"]), (&20_000.into(), &0.into()), "{settings}");
        assert_eq!(dry["kinesis_records"], real["kinesis_records"], "{settings}");
        assert_eq!(dry["payload_units"]["count"], payload_units, "{settings}");
        assert_eq!(dry["payload_units_without_aggregation"]["count"], 20_000);
        assert_eq!(dry["partition_keys"], json!({ "random": false, "distinct": 97, "more": false }));

        let mut stored = BTreeMap::new();
        for record in kinesis.read() {
            *stored.entry(record.shard_id.to_string()).or_insert(0) += 1;
        }
        let lines_of =
            |shard: &Value| (shard["shard_id"].as_str().unwrap().to_owned(), shard["lines"].as_u64().unwrap());
        let counted: BTreeMap<_, _> = dry["shards"].as_array().unwrap().iter().map(lines_of).collect();
        assert_eq!(counted, stored, "{settings}");
        let is_aggregated = settings != "--aggregation-enabled false";
        assert_eq!(dry["aggregates"]["count"].as_u64() > Some(0), is_aggregated, "{settings}");
        if settings.is_empty() {
            let fill = dry["aggregates"]["fill"].as_f64().unwrap();
            assert!(fill > 0.9 && fill <= 1.0, "{dry:#}");
        }
    }
}

#[test]
fn shards_without_aws_have_equal_ranges() {
    let run = kpl("put --dry-run --json --shards 4 --stream events", &lines(8_000));
    assert_eq!((run.code(), run.stderr.as_str()), (0, ""), "{run:#?}");
    let report = run.json();
    assert_eq!(report["partition_keys"], json!({ "random": true, "distinct": null, "more": false }));
    let shards = report["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 4);
    for shard in shards {
        let share = shard["share"].as_f64().unwrap();
        assert!((0.2..0.3).contains(&share), "random keys: {report:#}");
    }
    assert!(report["requests"].as_u64() > Some(0));
}

#[test]
fn text_names_refused_lines_and_why() {
    let args = "put --dry-run --shards 2 --stream events --key-field 1";
    let run = kpl(args, b"a 1\n\nb 2\n \n");
    assert_eq!(run.code(), 1, "{run:#?}");
    assert!(run.stderr.starts_with("kpl: line 2 of standard input: No Key: the line has 0 words"), "{run:#?}");
    let text: Vec<_> = run.stdout.lines().take(6).collect();
    assert_eq!(
        text[..3],
        [
            "dry run: nothing was sent to \"events\"",
            "lines: 4, 2 would be put, 2 refused (No Key: 2)",
            "partition keys: 2 different"
        ]
    );
    assert!(text[5].ends_with("without aggregation 2 (1000000 per million lines)"), "{run:#?}");
    assert_eq!(run.stdout.lines().count(), 10, "two shards: {run:#?}");
}

#[test]
fn a_record_above_the_streams_limit_is_refused_as_by_kinesis() {
    let mut input = vec![b'x'; 1_500_000];
    input.extend_from_slice(b"\nb\n");
    let args = "put --dry-run --json --shards 2 --stream events --key k";
    let by_producer = kpl(args, &input).json();
    assert_eq!(by_producer["refused_by_code"], json!({ "Record Too Large": 1 }));
    // The option is wrong, so only Kinesis knows the limit.
    let by_service = kpl(&format!("{args} --max-record-size 2MiB"), &input).json();
    assert_eq!(by_service["refused_by_code"], json!({ "InvalidArgumentException": 1 }));
    assert_eq!((&by_service["lines"], &by_service["kinesis_records"]), (&2.into(), &1.into()));
}

#[test]
fn the_description_of_the_stream_applies() {
    let kinesis = Kinesis::start(2);
    kinesis.emulator.with(|kinesis, _| {
        let size = UpdateMaxRecordSize { max_record_size_in_kib: Some(2_048), ..UpdateMaxRecordSize::of("s") };
        kinesis.update_max_record_size(&size).unwrap();
        let record_distribution_strategy = "AUTO".into();
        let of_stream = UpdateStreamRecordDistributionStrategy::of("s");
        let auto = UpdateStreamRecordDistributionStrategy { record_distribution_strategy, ..of_stream };
        kinesis.update_record_distribution(&auto).unwrap();
    });
    let mut input = vec![b'x'; 1_500_000];
    input.extend_from_slice(&b"\nb".repeat(200));
    let run = kpl(&format!("put --dry-run --json {} --key k", kinesis.args()), &input);
    assert_eq!((run.code(), run.stderr.as_str()), (0, ""), "{run:#?}");
    let report = run.json();
    // Nothing is aggregated, and the one key does not choose the shard.
    assert_eq!((&report["kinesis_records"], &report["aggregates"]["count"]), (&201.into(), &0.into()));
    for shard in report["shards"].as_array().unwrap() {
        assert!(shard["lines"].as_u64() > Some(40), "{report:#}");
    }
}

#[test]
fn shards_that_cannot_be_listed_are_an_error_that_names_the_alternative() {
    let kinesis = Kinesis::start(1);
    let operations = vec![OperationFault::denied("ListShards")];
    kinesis.emulator.set_faults(Faults { operations, ..Faults::default() });
    let run = kpl(&format!("put --dry-run {}", kinesis.args()), b"line\n");
    assert_eq!((run.code(), run.stdout.as_str()), (2, ""), "{run:#?}");
    let expected =
        "kpl: a dry run reads the stream's shards, unless --shards N is given: cannot list the shards of \"s\"";
    assert!(run.stderr.starts_with(expected), "{run:#?}");
}

#[test]
fn a_signal_ends_a_dry_run_with_the_figures_so_far() {
    let (mut child, stdin) = start("put --dry-run --json --shards 1 --stream s --key-field 1", b"a\n\n");
    let mut message = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut message).unwrap();
    assert!(message.starts_with("kpl: line 2 of standard input"), "{message}");
    signal(&child, "INT");
    let run = end(child);
    drop(stdin);
    assert_eq!(run.code(), 130, "{run:#?}");
    let report = run.json();
    assert_eq!(report["interrupted_after"], "line 2 of standard input");
    assert_eq!((&report["lines"], &report["refused"]), (&2.into(), &1.into()));
}

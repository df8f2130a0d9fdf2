//! `kpl encode` and `kpl decode`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kpl_core::codec::AggregatedUserRecord;
use serde_json::{Value, json};

use crate::rig::{KPL, Run, end, kpl, program};

/// Returns the cases of aws-kinesis-agg: user records as NDJSON, and their aggregate in hex.
fn cases() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/data/aws-kinesis-agg.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let ndjson = |records: &Vec<Value>| -> String {
        let lines = records.iter().map(|record| {
            let data = unhex(record["data_hex"].as_str().unwrap());
            let line = json!({
                "partition_key": record["partition_key"],
                "explicit_hash_key": record["explicit_hash_key"],
                "data": STANDARD.encode(data),
            });
            format!("{line}\n")
        });
        lines.collect()
    };
    let cases = file["cases"].as_array().unwrap().iter();
    cases
        .map(|case| {
            let blob = case["aggregate_hex"].as_str().unwrap().to_owned();
            (ndjson(case["records"].as_array().unwrap()), blob)
        })
        .collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Parses lines of JSON, so that comparisons ignore the order of members.
fn values(ndjson: &str) -> Vec<Value> {
    ndjson.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the error message of a run that failed without output.
fn error_message(run: &Run) -> &str {
    assert_eq!((run.code(), run.stdout.as_str()), (1, ""), "{run:#?}");
    run.stderr.trim_end()
}

#[test]
fn encode_and_decode_agree_with_aws_kinesis_agg() {
    for (records, blob) in cases() {
        let encoded = kpl("encode --format hex", records.as_bytes());
        assert_eq!((encoded.code(), encoded.stdout.trim_end()), (0, blob.as_str()));
        let decoded = kpl("decode --format hex", blob.as_bytes());
        assert_eq!((decoded.code(), values(&decoded.stdout)), (0, values(&records)));
        let base64 = kpl("encode", records.as_bytes());
        assert_eq!(base64.stdout.trim_end(), STANDARD.encode(unhex(&blob)));
        assert_eq!(values(&kpl("decode", base64.stdout.as_bytes()).stdout), values(&records));
        assert_eq!(values(&kpl("decode --format raw -", &unhex(&blob)).stdout), values(&records));
    }
}

#[test]
fn encode_error_names_the_line_and_the_reason() {
    let good = "{\"partition_key\": \"a\", \"data\": \"\"}\n\n";
    let encode = |line: &str| kpl("encode", format!("{good}{line}").as_bytes());
    assert_eq!(error_message(&encode("{")), "kpl: line 3: at byte 0: EOF while parsing an object");
    assert_eq!(
        error_message(&encode(r#"{"partition_key": "", "data": ""}"#)),
        "kpl: line 3: partition_key is empty, but must have 1 to 256 characters"
    );
    assert_eq!(
        error_message(&encode(r#"{"partition_key": "a", "data": "a*=="}"#)),
        "kpl: line 3: data is not base64: Invalid symbol 42, offset 1."
    );
    let too_large =
        r#"{"partition_key": "a", "explicit_hash_key": "340282366920938463463374607431768211456", "data": ""}"#;
    assert!(error_message(&encode(too_large)).contains("from 0 to 340282366920938463463374607431768211455"));
    assert!(error_message(&kpl("encode", b"\n")).contains("no user record"));
}

#[test]
fn decode_error_names_the_byte_and_the_reason() {
    let (_, blob) = cases().into_iter().next().unwrap();
    let length = blob.len() / 2;
    let decode = |hex: &str| kpl("decode --format hex", hex.as_bytes());
    assert_eq!(
        error_message(&decode("68656c6c6f")),
        "kpl: not an aggregated record: at byte 0 of 5: the magic number F3 89 9A C2 of an aggregated record is missing: \
         this is a plain record, or not a Kinesis record"
    );
    let digest_at = length - 16;
    let broken = format!("{}00{}", &blob[..40], &blob[42..]);
    assert!(error_message(&decode(&broken)).contains(&format!("at byte {digest_at} of {length}: the MD5")));
    assert_eq!(error_message(&decode("f3x")), "kpl: at byte 2 of the input: 'x' is not a hex digit");
    assert_eq!(error_message(&kpl("decode", b"84ma\nw*g=")), "kpl: at byte 6 of the input: '*' is not base64");
}

#[test]
fn decode_needs_little_memory_for_a_large_output() {
    // 800 MB of output, because each line has the long key.
    let partition_key: Arc<str> = "k".repeat(100_000).into();
    let record = AggregatedUserRecord { partition_key, explicit_hash_key: None, data: Bytes::new() };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), kpl_core::codec::encode(&vec![record; 8_000])).unwrap();
    // 500 MB of address space, on systems that can limit it.
    let script = "ulimit -v 500000 2>/dev/null; exec \"$0\" decode --format raw \"$1\"";
    let mut child = program("sh").args(["-c", script, KPL]).arg(file.path()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    for number in 1..=100 {
        line.clear();
        lines.read_line(&mut line).unwrap();
        assert!(line.len() > 100_000 && line.ends_with("}\n"), "line {number} has {} bytes", line.len());
    }
    let record: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(record["partition_key"].as_str().map(str::len), Some(100_000));
    drop(lines);
    let run = end(child);
    assert_eq!((run.code(), run.stderr.as_str()), (0, ""), "{run:#?}");
}

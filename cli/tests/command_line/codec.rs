//! `kpl encode` and `kpl decode`.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::rig::{Run, kpl};

/// Cases of aws-kinesis-agg: user records and their aggregate.
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

/// Lines of JSON as values: the order of members does not matter.
fn values(ndjson: &str) -> Vec<Value> {
    ndjson.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn refusal(run: &Run) -> &str {
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
fn encode_says_which_line_is_wrong_and_why() {
    let good = "{\"partition_key\": \"a\", \"data\": \"\"}\n\n";
    let encode = |line: &str| kpl("encode", format!("{good}{line}").as_bytes());
    assert_eq!(refusal(&encode("{")), "kpl: line 3: at byte 0: EOF while parsing an object");
    assert_eq!(
        refusal(&encode(r#"{"partition_key": "", "data": ""}"#)),
        "kpl: line 3: partition_key is empty, but must have 1 to 256 characters"
    );
    assert_eq!(
        refusal(&encode(r#"{"partition_key": "a", "data": "a*=="}"#)),
        "kpl: line 3: data is not base64: Invalid symbol 42, offset 1."
    );
    let too_large =
        r#"{"partition_key": "a", "explicit_hash_key": "340282366920938463463374607431768211456", "data": ""}"#;
    assert!(refusal(&encode(too_large)).contains("from 0 to 340282366920938463463374607431768211455"));
    assert!(refusal(&kpl("encode", b"\n")).contains("no user record"));
}

#[test]
fn decode_says_at_which_byte_what_is_wrong() {
    let (_, blob) = cases().into_iter().next().unwrap();
    let length = blob.len() / 2;
    let decode = |hex: &str| kpl("decode --format hex", hex.as_bytes());
    assert_eq!(
        refusal(&decode("68656c6c6f")),
        "kpl: not an aggregated record: at byte 0 of 5: the magic number F3 89 9A C2 of an aggregated record is missing: \
         this is a plain record, or none of Kinesis"
    );
    let digest_at = length - 16;
    let broken = format!("{}00{}", &blob[..40], &blob[42..]);
    assert!(refusal(&decode(&broken)).contains(&format!("at byte {digest_at} of {length}: the MD5")));
    assert_eq!(refusal(&decode("f3x")), "kpl: at byte 2 of the input: 'x' is not a hex digit");
    assert_eq!(refusal(&kpl("decode", b"84ma\nw*g=")), "kpl: at byte 6 of the input: '*' is not base64");
}

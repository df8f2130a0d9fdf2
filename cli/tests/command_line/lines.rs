//! Lines, their keys, and `--verify`.

use std::collections::BTreeMap;

use crate::rig::{Kinesis, kpl};

/// Puts `input`. Returns the keys and data that were stored, sorted.
fn put(args: &str, input: &[u8]) -> Vec<(String, Vec<u8>)> {
    let kinesis = Kinesis::start(3);
    let run = kpl(&format!("put --json {} {args}", kinesis.args()), input);
    assert_eq!(run.code(), 0, "{run:#?}");
    let mut records: Vec<_> = kinesis.read().into_iter().map(|user| (user.partition_key, user.data.to_vec())).collect();
    records.sort();
    assert_eq!(run.json()["succeeded"], records.len());
    records
}

fn data(input: &[u8]) -> Vec<Vec<u8>> {
    put("--key k", input).into_iter().map(|(_, data)| data).collect()
}

#[test]
fn each_line_is_a_record_with_unchanged_bytes() {
    let lines: [&[u8]; 7] = [
        b"plain",
        b"carriage return\r",
        b"\0nul\0",
        b"\xff\xfe not UTF-8",
        "あ\u{2028}é".as_bytes(),
        b" \t ",
        b"\x0b\x0c",
    ];
    let mut expected: Vec<_> = lines.iter().map(|line| line.to_vec()).collect();
    expected.sort();
    assert_eq!(data(&lines.join(&b'\n')), expected, "without a newline at the end");
    assert_eq!(data(&[&lines.join(&b'\n')[..], b"\n"].concat()), expected, "with a newline at the end");
}

#[test]
fn empty_line_is_an_empty_record_and_a_final_newline_adds_none() {
    let empty = |count| vec![Vec::<u8>::new(); count];
    assert_eq!(data(b""), empty(0));
    assert_eq!(data(b"\n"), empty(1));
    assert_eq!(data(b"\n\n"), empty(2));
    assert_eq!(data(b"a"), [b"a"]);
    assert_eq!(data(b"a\n"), [b"a"]);
    assert_eq!(data(b"a\n\n"), [&b""[..], b"a"]);
}

#[test]
fn keys_come_from_words_json_or_the_command_line() {
    let pair = |key: &str, data: &[u8]| (key.to_owned(), data.to_vec());
    assert_eq!(put("--key-field 2", b"x b y\n \ta   c\r\n"), [pair("b", b"x b y"), pair("c", b" \ta   c\r")]);
    let json = br#"{"a": {"b/c": ["x", 1.50]}}"#;
    assert_eq!(put("--key-json /a/b~1c/0", json), [pair("x", json)]);
    assert_eq!(put("--key-json /a/b~1c/1", json), [pair("1.50", json)]);
    assert_eq!(put("--key same", b"1\n2"), [pair("same", b"1"), pair("same", b"2")]);
}

#[test]
fn keys_are_random_without_an_option() {
    let keys: BTreeMap<_, _> = put("", &b"line\n".repeat(200)).into_iter().collect();
    assert!(keys.len() > 190, "{} different keys for 200 lines", keys.len());
}

#[test]
fn files_and_standard_input_are_put_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (first, last) = (file("first", "1\n2"), file("last", "4\n"));
    let kinesis = Kinesis::start(1);
    // One Kinesis record per line makes their order visible.
    let args = format!("put {} --aggregation-enabled false --key k {first} - {last}", kinesis.args());
    let run = kpl(&args, b"3\n");
    assert_eq!(run.code(), 0, "{run:#?}");
    assert_eq!(kinesis.data(), [b"1", b"2", b"3", b"4"]);
}

#[test]
fn verify_reports_arrived_lines_and_duplicates() {
    let input: Vec<u8> = (0..5_000).flat_map(|n| format!("10.0.0.{} line {n}\n", n % 97).into_bytes()).collect();
    let run = kpl("put --emulator --shards 7 --verify --stream access --key-field 1", &input);
    assert_eq!(run.code(), 0, "{run:#?}");
    assert!(run.stdout.contains("5000 succeeded, 0 failed"), "{run:#?}");
    assert!(run.stdout.ends_with("verified: 5000 of 5000 lines arrived, 0 twice\n"), "{run:#?}");
    assert_eq!(run.stderr, "", "no progress without a terminal");

    let run = kpl("put --emulator --verify --json --stream access --key-field 1", &input.repeat(3));
    let json = run.json();
    for (name, value) in [("put", 15_000), ("succeeded", 15_000), ("failed", 0), ("retries", 0)] {
        assert_eq!(json[name], value, "{json:#}");
    }
    for name in ["kinesis_records", "requests", "elapsed_ms"] {
        assert!(json[name].as_u64() > Some(0), "{json:#}");
    }
    for name in ["p50", "p99", "max"] {
        assert!(json["latency_ms"][name].as_f64() > Some(0.0), "{json:#}");
    }
    assert_eq!((&json["verify"]["arrived"], &json["verify"]["twice"]), (&15_000.into(), &0.into()));
}

#[test]
fn verify_ignores_earlier_records() {
    let kinesis = Kinesis::start(2);
    let args = format!("put --verify --json {} --key-field 1", kinesis.args());
    for _ in 0..3 {
        let run = kpl(&args, b"a\nb\nb\n");
        assert_eq!(run.code(), 0, "{run:#?}");
        let verify = &run.json()["verify"];
        assert_eq!((&verify["arrived"], &verify["twice"], &verify["strangers"]), (&3.into(), &0.into(), &0.into()));
    }
    assert_eq!(kinesis.read().len(), 9);
}

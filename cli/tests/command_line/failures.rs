//! Failed lines and their dead letters.

use std::io::Write;
use std::path::Path;

use kpl_emulator::Faults;
use serde_json::{Value, json};

use crate::rig::{Kinesis, command, kpl, wait_until};

fn read_dead_letters(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn line_without_a_key_becomes_a_dead_letter_and_the_others_are_stored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dead.ndjson");
    let kinesis = Kinesis::start(2);
    let args = format!("put --json {} --key-json /id --dead-letter {}", kinesis.args(), path.display());
    let long = format!("{{\"id\": \"{}\"}}", "x".repeat(257));
    let lines = ["{\"id\": 1}", "no JSON", "{\"id\": null}", "", "{\"id\": \"\"}", &long, "{\"id\": 2}"];
    let run = kpl(&args, &[lines.join("\n").as_bytes(), b"\n{\"id\": \xff}\n"].concat());

    assert_eq!(run.code(), 1, "{run:#?}");
    let summary = run.json();
    assert_eq!((&summary["put"], &summary["succeeded"], &summary["failed"]), (&8.into(), &2.into(), &6.into()));
    assert_eq!(kinesis.data(), [b"{\"id\": 1}", b"{\"id\": 2}"]);
    assert!(run.stderr.contains("kpl: line 2 of standard input: No Key: the line is not JSON: "), "{}", run.stderr);

    let letters = read_dead_letters(&path);
    let numbers: Vec<_> = letters.iter().map(|letter| letter["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [2, 3, 4, 5, 6, 8]);
    assert_eq!(letters[0]["data"], "no JSON");
    assert_eq!(letters[5]["data_base64"], "eyJpZCI6IP99");
    assert!(letters[5].get("data").is_none());
    assert_eq!(letters[3]["message"], "partition_key is empty, but must have 1 to 256 characters");
    assert_eq!(letters[4]["message"], "partition_key has 257 characters, but must have 1 to 256");
    for letter in &letters {
        assert_eq!(
            (&letter["source"], &letter["ambiguous"], &letter["attempts"]),
            (&"-".into(), &false.into(), &0.into())
        );
    }
}

#[test]
fn line_above_every_limit_is_refused_and_not_kept_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dead.ndjson");
    let kinesis = Kinesis::start(1);
    let mut input = vec![b'x'; 10 << 20];
    input.extend_from_slice(b"x\nshort\n");
    let run = kpl(&format!("put --json {} --key k --dead-letter {}", kinesis.args(), path.display()), &input);
    assert_eq!(run.code(), 1, "{run:#?}");
    assert_eq!(kinesis.data(), [b"short"]);
    let expected = json!({
        "source": "-", "line": 1, "code": "Record Too Large", "ambiguous": false, "attempts": 0, "bytes": 10_485_761,
        "message": "the line has 10485761 bytes, but the limit is 10485760",
    });
    assert_eq!(read_dead_letters(&path), [expected]);
}

#[test]
fn only_the_line_above_the_streams_limit_fails() {
    let kinesis = Kinesis::start(1);
    let mut input = b"before\n".to_vec();
    input.extend(vec![b'x'; 1 << 20]);
    input.extend_from_slice(b"\nafter\n");
    let run = kpl(&format!("put --json {} --key k", kinesis.args()), &input);
    assert_eq!((run.code(), &run.json()["failed"]), (1, &1.into()), "{run:#?}");
    assert_eq!(kinesis.data(), [&b"after"[..], b"before"]);
    assert!(run.stderr.contains("1048577"), "{}", run.stderr);
}

#[test]
fn missing_stream_is_reported_once_and_every_line_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dead.ndjson");
    let kinesis = Kinesis::start(1);
    let args = kinesis.args().replace("--stream s", "--stream nowhere");
    let run = kpl(&format!("put --json {args} --key k --dead-letter {}", path.display()), b"1\n2\n3\n");
    assert_eq!((run.code(), &run.json()["failed"]), (1, &3.into()), "{run:#?}");
    assert_eq!(read_dead_letters(&path).len(), 3);
    assert_eq!(read_dead_letters(&path)[0]["code"], "ResourceNotFoundException");
    assert_eq!(run.stderr.matches("Stream nowhere").count(), 1, "{}", run.stderr);
    assert!(run.stderr.contains("kpl: ResourceNotFoundException: 3 lines in total"), "{}", run.stderr);

    // Failed lines can be put again, and the dead letters of an earlier run are kept.
    let data: Vec<_> =
        read_dead_letters(&path).iter().map(|letter| letter["data"].as_str().unwrap().to_owned()).collect();
    let again =
        kpl(&format!("put {} --key k --dead-letter {}", kinesis.args(), path.display()), data.join("\n").as_bytes());
    assert_eq!(again.code(), 0, "{again:#?}");
    assert_eq!(kinesis.data(), [b"1", b"2", b"3"]);
    assert_eq!(read_dead_letters(&path).len(), 3);
}

#[test]
fn dead_letters_are_in_the_file_during_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dead.ndjson");
    let kinesis = Kinesis::start(1);
    let args = format!("put {} --key-json /id --dead-letter {}", kinesis.args(), path.display());
    let mut child = command(&args).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for number in 1..=50 {
        writeln!(stdin, "no JSON {number}").unwrap();
    }
    // The file does not exist at first.
    let count = || std::fs::read(&path).map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count());
    wait_until("all dead letters are in the file", || count() == 50);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdin);
    let numbers: Vec<_> = read_dead_letters(&path).iter().map(|letter| letter["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, Vec::from_iter(1..=50));
}

#[test]
fn dead_letter_starts_on_its_own_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dead.ndjson");
    for (before, separator) in [("", ""), ("{}\n", ""), ("{\"source\": \"a crash en", "\n")] {
        std::fs::write(&path, before).unwrap();
        let args = format!("put --emulator --stream s --key-json /id --dead-letter {}", path.display());
        let run = kpl(&args, b"no JSON\nno JSON either\n");
        assert_eq!(run.code(), 1, "{run:#?}");
        let text = std::fs::read_to_string(&path).unwrap();
        let letters = text.strip_prefix(before).and_then(|rest| rest.strip_prefix(separator)).unwrap();
        let letters: Vec<Value> = letters.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((letters.len(), &letters[0]["data"]), (2, &"no JSON".into()), "{text}");
        assert!(text.ends_with("}\n"), "{text}");

        // Without a dead letter, the file is unchanged.
        std::fs::write(&path, before).unwrap();
        assert_eq!(kpl(&args, b"{\"id\": 1}\n").code(), 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    }
}

#[test]
fn dead_letters_can_go_to_a_pipe() {
    let run = kpl("put --emulator --stream s --key-json /id --dead-letter /dev/stderr", b"no JSON\n");
    assert_eq!(run.code(), 1, "{run:#?}");
    let letters: Vec<Value> = run.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!((letters.len(), &letters[0]["data"]), (1, &"no JSON".into()), "{run:#?}");
    assert!(!run.stderr.contains("is incomplete"), "{run:#?}");
}

#[test]
fn lines_that_the_service_refuses_are_reported_as_failed() {
    let kinesis = Kinesis::start(2);
    kinesis.emulator.set_faults(Faults { throttle_rate: 0.5, ..Faults::default() });
    let input: Vec<u8> = (0..500).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let args = "--verify --json --key-field 1 --aggregation-enabled=false --fail-if-throttled";
    let run = kpl(&format!("put {} {args}", kinesis.args()), &input);
    assert_eq!(run.code(), 1, "{run:#?}");
    let summary = run.json();
    let failed = summary["failed"].as_u64().unwrap();
    assert!((100..400).contains(&failed), "{summary:#}");
    let verify = &summary["verify"];
    assert_eq!((&verify["missing_failed"], &verify["lost"]), (&summary["failed"], &0.into()));
    assert_eq!(verify["arrived"], summary["succeeded"]);
}

#[test]
fn unreadable_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let run = kpl(&format!("put --emulator --stream s {}", dir.path().display()), b"");
    assert_eq!(run.code(), 2, "{run:#?}");
    assert!(run.stderr.contains("it is a directory"), "{}", run.stderr);
    let run = kpl("put --emulator --stream s /none/there", b"");
    assert_eq!(run.code(), 2, "{run:#?}");
    assert!(run.stderr.contains("cannot open \"/none/there\": No such file"), "{}", run.stderr);
}

#[test]
fn dead_letter_file_must_not_be_an_input() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display();
    let run = kpl(&format!("put --emulator --stream s --dead-letter {path} {path}"), b"");
    assert_eq!(run.code(), 2, "{run:#?}");
    assert!(run.stderr.contains("is also an input file"), "{}", run.stderr);
}

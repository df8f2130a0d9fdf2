//! Restarts of the service, lost replies, and lost records.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

use kpl_emulator::{Faults, OperationFault, ServiceError};

use crate::rig::{Kinesis, command, end, kpl, start, wait_until};

#[test]
fn summary_is_correct_after_restarts_of_the_service() {
    let mut kinesis = Kinesis::start(4);
    // The latency ensures that requests are in flight when the connections are closed.
    kinesis.emulator.set_faults(Faults { latency: Duration::from_millis(30), ..Faults::default() });
    let args = "--verify --json --key-field 1 --max-in-flight-requests 4";
    let mut child = command(&format!("put {} {args}", kinesis.args())).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut number = 0;
    let mut write_until = |requests: u64, kinesis: &Kinesis| {
        wait_until("requests arrive", || {
            for _ in 0..200 {
                number += 1;
                writeln!(stdin, "key-{} {number}", number % 50).unwrap();
            }
            kinesis.requests("PutRecords") >= requests
        });
    };
    write_until(5, &kinesis);
    for restart in 1..=3_u64 {
        kinesis.stop();
        std::thread::sleep(Duration::from_millis(200));
        kinesis.restart();
        let before = kinesis.requests("PutRecords");
        write_until(before + 5 * restart, &kinesis);
    }
    drop(stdin);
    let run = end(child);

    let summary = run.json();
    assert_eq!((run.code(), &summary["put"], &summary["failed"]), (0, &number.into(), &0.into()), "{run:#?}");
    let verify = &summary["verify"];
    assert_eq!(
        (&verify["arrived"], &verify["lost"], &verify["twice_unexplained"]),
        (&number.into(), &0.into(), &0.into())
    );
    // The stream has as many duplicates as `kpl` reports.
    assert_eq!(kinesis.read().len() as u64, number + verify["twice"].as_u64().unwrap());
}

#[test]
fn duplicates_after_lost_replies_are_explained() {
    let kinesis = Kinesis::start(2);
    kinesis.emulator.set_faults(Faults { drop_reply_rate: 0.4, ..Faults::default() });
    let input: Vec<u8> = (0..3_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    // Small requests, so that many replies are lost.
    let args = "--verify --json --key-field 1 --collection-max-count 20 --aggregation-enabled false";
    let run = kpl(&format!("put {} {args}", kinesis.args()), &input);
    let summary = run.json();
    assert_eq!((run.code(), &summary["succeeded"]), (0, &3_000.into()), "{run:#?}");
    let verify = &summary["verify"];
    assert_eq!((&verify["arrived"], &verify["twice_unexplained"]), (&3_000.into(), &0.into()));
    assert!(verify["twice"].as_u64() > Some(0), "{summary:#}");
    let mut copies = BTreeMap::new();
    kinesis.data().into_iter().for_each(|line| *copies.entry(line).or_insert(0) += 1);
    let duplicated = copies.values().filter(|copies| **copies > 1).count();
    assert_eq!(summary["resent_unanswered"], duplicated, "{summary:#}");
    assert_eq!(kinesis.read().len() as u64, 3_000 + verify["twice"].as_u64().unwrap());
}

#[test]
fn an_outage_is_reported_and_no_line_is_lost_or_sent_twice() {
    let mut kinesis = Kinesis::start(2);
    kinesis.stop();
    let mut child = command(&format!("put --json {} --key k", kinesis.args())).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"1\n2\n").unwrap();
    let mut messages = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let stall = messages.find(|message| message.contains("no result for 1")).unwrap();
    assert!(stall.contains("2 lines are outstanding") && stall.contains("Connection refused"), "{stall}");
    kinesis.restart();
    let run = end(child);
    let summary = run.json();
    assert_eq!(
        (run.code(), &summary["succeeded"], &summary["resent_unanswered"]),
        (0, &2.into(), &0.into()),
        "{run:#?}"
    );
    assert_eq!(kinesis.data(), [b"1", b"2"]);
}

/// Denies access to an operation.
fn denied(operation: &'static str) -> Faults {
    let error = Some(ServiceError::denied(operation));
    let fault = OperationFault { operation, latency: Duration::ZERO, error, first: None };
    Faults { operations: vec![fault], ..Faults::default() }
}

#[test]
fn lines_wait_while_a_permission_is_removed() {
    let kinesis = Kinesis::start(2);
    let (mut child, mut stdin) = start(&format!("put --json {} --key k", kinesis.args()), b"1\n");
    wait_until("the first line arrives", || kinesis.read().len() == 1);
    std::thread::sleep(Duration::from_millis(200)); // until the reply arrives
    kinesis.emulator.set_faults(denied("PutRecords"));
    stdin.write_all(b"2\n").unwrap();
    let mut messages = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let stall = messages.find(|message| message.contains("no result for 1")).unwrap();
    assert!(stall.contains("1 lines are outstanding") && stall.contains("AccessDeniedException"), "{stall}");
    kinesis.emulator.set_faults(Faults::default());
    drop(stdin);
    let run = end(child);
    assert_eq!((run.code(), &run.json()["succeeded"]), (0, &2.into()), "{run:#?}");
    assert_eq!(kinesis.data(), [b"1", b"2"]);
}

#[test]
fn without_any_line_stored_a_missing_permission_fails_lines_at_once() {
    let kinesis = Kinesis::start(2);
    kinesis.emulator.set_faults(denied("PutRecords"));
    let run = kpl(&format!("put --json {} --key k", kinesis.args()), b"1\n");
    assert_eq!((run.code(), &run.json()["failed"]), (1, &1.into()), "{run:#?}");
}

#[test]
fn a_missing_permission_is_reported_once() {
    let kinesis = Kinesis::start(2);
    kinesis.emulator.set_faults(denied("ListShards"));
    let input: Vec<u8> = (0..3_000).flat_map(|n| format!("key-{} {n}\n", n % 20).into_bytes()).collect();
    let run = kpl(&format!("put --json {} --key-field 1", kinesis.args()), &input);
    assert_eq!((run.code(), &run.json()["succeeded"]), (0, &3_000.into()), "{run:#?}");
    assert_eq!(run.stderr.matches("no shard list (permission kinesis:ListShards)").count(), 1, "{}", run.stderr);
    assert!(kinesis.records_stored() <= 300, "{} Kinesis records", kinesis.records_stored());
}

#[test]
fn verify_detects_lines_that_the_service_loses() {
    let mut kinesis = Kinesis::start(2);
    let mut child = command(&format!("put --verify --json {} --key-field 1", kinesis.args())).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\n2\n3\n").unwrap();
    wait_until("the lines arrive", || kinesis.read().len() == 3);
    std::thread::sleep(Duration::from_millis(200)); // until the replies arrive
    kinesis.lose_all_records(2);
    stdin.write_all(b"4\n5\n").unwrap();
    drop(stdin);
    let run = end(child);
    let verify = &run.json()["verify"];
    assert_eq!((run.code(), &verify["arrived"], &verify["lost"]), (1, &2.into(), &3.into()), "{run:#?}");
}

//! SIGINT, SIGTERM and SIGHUP during `kpl put`.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use kpl_emulator::{Faults, OperationFault};

use crate::rig::{KPL, Kinesis, command, end, program, signal, start, wait_until};

/// A latency above every time limit of these tests.
const FOREVER: Duration = Duration::from_secs(3_600);

/// Returns faults in which the service does not reply to an operation.
fn no_reply(operation: &'static str) -> Faults {
    let fault = OperationFault { operation, latency: FOREVER, error: None, first: None };
    Faults { operations: vec![fault], ..Faults::default() }
}

/// Returns whether a mask of signals of a process contains a signal. Only Linux has these masks.
pub(crate) fn has_signal(process: &str, mask: &str, number: u32) -> Option<bool> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let digits = status.lines().find_map(|line| line.strip_prefix(mask)?.strip_prefix(':'))?;
    let mask = u128::from_str_radix(digits.trim(), 16).ok()?;
    Some((mask >> (number - 1)) & 1 == 1)
}

#[test]
fn one_signal_stops_reading_and_flushes() {
    for (name, code) in [("HUP", 129), ("INT", 130), ("TERM", 143)] {
        // `kpl` inherits an ignored SIGHUP, if the tests run under `nohup`.
        if name == "HUP" && has_signal("self", "SigIgn", 1) == Some(true) {
            continue;
        }
        let kinesis = Kinesis::start(2);
        let (child, stdin) = start(&format!("put --json {} --key k", kinesis.args()), b"1\n2\n3\n");
        wait_until("the lines arrive", || kinesis.read().len() == 3);
        // Standard input stays open, so `kpl` blocks in a read.
        signal(&child, name);
        let run = end(child);
        assert_eq!(run.code(), code, "{run:#?}");
        let summary = run.json();
        assert_eq!((&summary["put"], &summary["succeeded"]), (&3.into(), &3.into()));
        assert_eq!(summary["interrupted_after"], "line 3 of standard input");
        drop(stdin);
    }
}

#[test]
fn signal_during_the_input_sets_the_status_even_if_lines_failed() {
    let kinesis = Kinesis::start(1);
    let (child, stdin) = start(&format!("put --json {} --key-json /id", kinesis.args()), b"no JSON\n{\"id\": 1}\n");
    wait_until("the line arrives", || kinesis.read().len() == 1);
    signal(&child, "TERM");
    let run = end(child);
    assert_eq!((run.code(), &run.json()["failed"]), (143, &1.into()), "{run:#?}");
    drop(stdin);
}

#[test]
fn signal_waits_for_requests_in_flight() {
    let kinesis = Kinesis::start(1);
    kinesis.emulator.set_faults(Faults { latency: Duration::from_millis(700), ..Faults::default() });
    let (child, stdin) = start(&format!("put --json {} --key k", kinesis.args()), b"1\n2\n");
    wait_until("the request arrives", || kinesis.requests("PutRecords") == 1);
    signal(&child, "INT");
    let run = end(child);
    assert_eq!((run.code(), &run.json()["succeeded"]), (130, &2.into()), "{run:#?}");
    assert_eq!(kinesis.data(), [b"1", b"2"]);
    drop(stdin);
}

#[test]
fn signal_after_the_end_of_the_input_is_a_success_if_all_lines_are_stored() {
    let kinesis = Kinesis::start(1);
    kinesis.emulator.set_faults(Faults { latency: Duration::from_secs(2), ..Faults::default() });
    let (child, stdin) = start(&format!("put --json {} --key k", kinesis.args()), b"1\n2\n");
    // The end of the input is there long before the request: lines are buffered for 100 ms.
    drop(stdin);
    wait_until("the request arrives", || kinesis.requests("PutRecords") == 1);
    signal(&child, "INT");
    let run = end(child);
    let summary = run.json();
    assert_eq!((run.code(), &summary["succeeded"]), (0, &2.into()), "{run:#?}");
    assert!(summary["interrupted_after"].is_null(), "{summary:#}");
}

#[test]
fn second_signal_stops_at_once_and_keeps_the_lines() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let kinesis = Kinesis::start(1);
    kinesis.emulator.set_faults(Faults { latency: Duration::from_secs(60), ..Faults::default() });
    let args = format!("put --verify --json {} --key k --request-timeout 60s --dead-letter", kinesis.args());
    let mut child = command(&args).arg(file.path()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\n2\n").unwrap();
    wait_until("the request arrives", || kinesis.requests("PutRecords") == 1);
    signal(&child, "INT");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "the first signal waits");
    let start = Instant::now();
    signal(&child, "INT");
    let run = end(child);
    assert!(start.elapsed() < Duration::from_secs(10), "the second signal does not wait");
    let summary = run.json();
    assert_eq!((run.code(), &summary["failed"]), (130, &2.into()), "{run:#?}");
    assert_eq!((&summary["verify_interrupted"], kinesis.requests("GetRecords")), (&true.into(), 0), "{summary:#}");
    let letters = std::fs::read_to_string(file.path()).unwrap();
    assert_eq!(letters.matches("\"code\":\"Closed\"").count(), 2, "{letters}");
    // They were sent and not answered.
    assert_eq!(letters.matches("\"ambiguous\":true").count(), 2, "{letters}");
    drop(stdin);
}

#[test]
fn signal_ends_the_program_before_the_first_put() {
    let kinesis = Kinesis::start(2);
    kinesis.emulator.set_faults(no_reply("ListShards"));
    let (child, stdin) = start(&format!("put --verify {} --key k", kinesis.args()), b"1\n");
    drop(stdin);
    wait_until("the request arrives", || kinesis.requests("ListShards") == 1);
    signal(&child, "INT");
    let run = end(child);
    assert_eq!((run.code(), run.stdout.as_str()), (130, ""), "{run:#?}");
    assert_eq!(run.stderr, "kpl: interrupted before the first put\n");
    assert_eq!((kinesis.read().len(), kinesis.requests("PutRecords")), (0, 0));
}

#[test]
fn signal_ends_the_verification() {
    let kinesis = Kinesis::start(2);
    kinesis.emulator.set_faults(no_reply("GetRecords"));
    let (child, stdin) = start(&format!("put --verify --json {} --key k", kinesis.args()), b"1\n2\n");
    drop(stdin);
    wait_until("the request arrives", || kinesis.requests("GetRecords") > 0);
    signal(&child, "TERM");
    let run = end(child);
    let summary = run.json();
    assert_eq!((run.code(), &summary["succeeded"]), (143, &2.into()), "{run:#?}");
    assert_eq!((&summary["verify_interrupted"], summary["verify"].is_null()), (&true.into(), true), "{summary:#}");
    assert!(summary["interrupted_after"].is_null(), "{summary:#}");
}

#[test]
fn signal_ends_the_program_while_a_fifo_has_no_writer() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let child = command("put --emulator --stream s").arg(&fifo).spawn().unwrap();
    let process = child.id().to_string();
    wait_until("SIGTERM is handled", || has_signal(&process, "SigCgt", 15) == Some(true));
    // Until the FIFO is opened. If the signal comes earlier, the result is the same.
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, "TERM");
    let run = end(child);
    assert_eq!((run.code(), run.stdout.as_str()), (143, ""), "{run:#?}");
}

#[test]
fn nohup_keeps_the_run_alive() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let kinesis = Kinesis::start(1);
    let args = format!("put --json {} --key k", kinesis.args());
    let mut child = program("nohup").arg(KPL).args(args.split_whitespace()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"1\n").unwrap();
    wait_until("the first line arrives", || kinesis.read().len() == 1);
    signal(&child, "HUP");
    stdin.write_all(b"2\n").unwrap();
    drop(stdin);
    let run = end(child);
    assert_eq!((run.code(), &run.json()["succeeded"]), (0, &2.into()), "{run:#?}");
}

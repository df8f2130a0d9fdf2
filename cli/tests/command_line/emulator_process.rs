//! `kpl emulator` in a separate process.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout};

use crate::rig::{command, kpl, signal};

/// An emulator process. Drop kills it.
struct EmulatorProcess {
    child: Child,
    stdout: BufReader<ChildStdout>,
    url: String,
}

impl EmulatorProcess {
    fn start(args: &str) -> Self {
        let mut child = command(&format!("emulator --port 0 {args}")).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut url = String::new();
        stdout.read_line(&mut url).unwrap();
        Self { child, stdout, url: url.trim_end().to_owned() }
    }
}

impl Drop for EmulatorProcess {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn emulator_serves_until_an_interrupt_and_shows_how_to_put() {
    let mut emulator = EmulatorProcess::start("--stream events:3 --stream other:1");
    let args = format!("--endpoint-url {} --dummy-credentials", emulator.url);
    for stream in ["events", "other"] {
        let run = kpl(&format!("put {args} --verify --json --stream {stream} --key-field 1"), b"a 1\nb 2\nc 3\n");
        assert_eq!((run.code(), &run.json()["verify"]["arrived"]), (0, &3.into()), "{run:#?}");
    }
    let shards = kpl(&format!("shards {args} --stream events --json"), b"").json();
    assert_eq!(shards["shards"].as_array().unwrap().len(), 3);

    signal(&emulator.child, "INT");
    assert_eq!(emulator.child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    emulator.stdout.read_to_string(&mut rest).unwrap();
    assert!(rest.contains(&format!("kpl put {args} --stream events FILE")), "{rest}");
}

#[test]
fn every_line_arrives_despite_faults() {
    let faults = "--throttle-rate 0.2 --internal-failure-rate 0.1 --http-500-rate 0.1 --drop-reply-rate 0.1 --seed 3";
    let emulator =
        EmulatorProcess::start(&format!("--stream s:2 --no-limits --latency 1ms --latency-jitter 5ms {faults}"));
    let input: Vec<u8> = (0..2_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let args = "--dummy-credentials --stream s --key-field 1 --verify --json --aggregation-max-count 10";
    let run = kpl(&format!("put --endpoint-url {} {args}", emulator.url), &input);
    let summary = run.json();
    assert_eq!((run.code(), &summary["succeeded"]), (0, &2_000.into()), "{run:#?}");
    assert!(summary["retries"].as_u64() > Some(0), "{summary:#}");
    assert_eq!((&summary["verify"]["arrived"], &summary["verify"]["lost"]), (&2_000.into(), &0.into()));
}

#[test]
fn shards_have_limits_unless_disabled() {
    let limited = EmulatorProcess::start("--stream s:1");
    let unlimited = EmulatorProcess::start("--stream s:1 --no-limits");
    let put = |emulator: &EmulatorProcess| {
        let options = "--aggregation-enabled false --rate-limit-records-per-shard 100000";
        let args = format!("put --endpoint-url {} --dummy-credentials --stream s --json {options}", emulator.url);
        kpl(&args, &b"x\n".repeat(2_500)).json()
    };
    assert!(put(&limited)["throttled"].as_u64() > Some(0));
    assert_eq!(put(&unlimited)["throttled"], 0);
}

#[test]
fn port_in_use_is_an_error() {
    let emulator = EmulatorProcess::start("--stream s:1");
    let port = emulator.url.rsplit(':').next().unwrap();
    let run = kpl(&format!("emulator --port {port}"), b"");
    assert_eq!(run.code(), 2, "{run:#?}");
    assert!(run.stderr.contains(&format!("cannot listen on 127.0.0.1:{port}: ")), "{}", run.stderr);
}

//! Puts the same file through each driver, to an emulator in another process. Checks that all records are stored, and
//! measures the CPU time.
//!
//!     cargo run --release -p kpl-suite --example drivers -- FILE [TIMES]
//!
//! Each line is a record. The file is put TIMES times (default: 1) in each of five rounds, in which the drivers take
//! turns. The CPU time is that of the producer's process, user and system, from before the first put to after the last
//! receipt. An earlier record has already connected, loaded certificates and so on.

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use bytes::Bytes;
use cpu_time::ProcessTime;
use kpl_driver::blocking::{BlockingRuntime, Producer};
use kpl_driver::core::Config;
use kpl_driver::{AwsRuntime, Outcome};
use kpl_emulator::{Emulator, Options, Server, consumer};

const DRIVERS: [&str; 2] = ["tokio", "async-std"];
const ROUNDS: usize = 5;
const TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--child", driver, url, stream, file, times] => {
            let child = if driver == "tokio" { put::<kpl_tokio::Tokio> } else { put::<kpl_async_std::AsyncStd> };
            child(url, stream, Path::new(file), times.parse().expect("a number"));
            ExitCode::SUCCESS
        }
        [file] => compare(file, "1"),
        [file, times] => compare(file, times),
        _ => {
            eprintln!("usage: drivers FILE [TIMES]");
            ExitCode::FAILURE
        }
    }
}

fn compare(file: &str, times: &str) -> ExitCode {
    let lines =
        std::fs::read(file).expect("a file").split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    let records = lines * times.parse::<usize>().expect("a number");
    let emulator = Emulator::new(Options::unlimited());
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None).expect("a free port");
    let mut costs = DRIVERS.map(|_| Vec::new());
    let mut complete = true;
    for round in 0..ROUNDS {
        for (driver, costs) in DRIVERS.iter().zip(&mut costs) {
            let stream = format!("{driver}-{round}");
            let _stream = emulator.clone().with_stream(&stream, 4);
            let child = Command::new(std::env::current_exe().expect("a path"))
                .args(["--child", driver, &server.url(), &stream, file, times])
                .output()
                .expect("a child");
            std::io::stderr().write_all(&child.stderr).expect("a terminal");
            // Without the warm-up record.
            let stored = emulator.with(|kinesis, _| consumer::read_stream(kinesis, &stream)).records.len() - 1;
            let nanos: f64 = String::from_utf8_lossy(&child.stdout).trim().parse().expect("the child's CPU time");
            println!("{driver:>10}: {stored} of {records} records, {:.0} ns of CPU per record", nanos / records as f64);
            complete &= stored == records && child.status.success();
            costs.push(nanos / records as f64);
        }
    }
    let [tokio, async_std] = costs.map(|mut costs| {
        costs.sort_unstable_by(f64::total_cmp);
        costs[ROUNDS / 2]
    });
    println!("medians: tokio {tokio:.0} ns, async-std {async_std:.0} ns of CPU per record: {:.2} x", async_std / tokio);
    if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs in a child process: puts all lines, and prints the CPU time in nanoseconds.
fn put<R: AwsRuntime + BlockingRuntime>(url: &str, stream: &str, file: &Path, times: usize) {
    let sdk = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static(kpl_suite::client::REGION))
        .credentials_provider(Credentials::new("AKIDTEST", "secret", None, None, "drivers"))
        .endpoint_url(url)
        .build();
    // High limits, so that the producer is measured and not its rate limit.
    let config = Config::builder().rate_limit_records_per_shard(1_000_000).rate_limit_bytes_per_shard(1 << 30);
    let producer = Producer::<R>::new(Client::from_conf(sdk), config.build().expect("a config"));
    let file = Bytes::from(std::fs::read(file).expect("a file"));
    let stream = std::sync::Arc::<str>::from(stream);
    producer.put(stream.clone(), "key", "warm-up").expect("a put").wait(TIMEOUT).expect("a receipt");

    let start = ProcessTime::now();
    // One task of the runtime has the handle and the outcomes, as in an application.
    let (done, end) = std::sync::mpsc::channel();
    let producer = producer.as_async().clone();
    R::for_threads().spawn(async move {
        let mut outcomes: Vec<Outcome> = Vec::new();
        for time in 0..times {
            for (n, line) in file.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
                let key = format!("{time}-{n}");
                outcomes.push(producer.put(stream.clone(), key, file.slice_ref(line)).await.expect("a put"));
            }
        }
        for outcome in outcomes {
            outcome.await.expect("a receipt");
        }
        done.send(()).expect("the main thread waits");
    });
    end.recv().expect("the task has not panicked");
    println!("{}", start.elapsed().as_nanos());
}

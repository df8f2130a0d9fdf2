//! `kpl bench`: what a record costs, beside the AWS SDK alone and beside the least that the wire format forces.

mod child;
mod usage;
mod work;

use std::fmt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use kpl_emulator::{Emulator, Options, Server};
use serde::{Deserialize, Serialize};

use self::child::{Measured, STREAM};
use self::usage::Usage;
use self::work::Work;
use crate::emulator::create_stream;

/// Measures what a record costs, beside the AWS SDK alone and the least possible.
///
/// Each run is a process of its own that puts into an emulator in this one. CPU is user and system time of that process.
/// The floor is one thread that does only what the wire format forces: a key's MD5, one copy, the aggregate's MD5, base64,
/// SHA-256, and a request. The AWS SDK sends 500 records a request, 24 at a time, without aggregation.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    work: Work,
    /// What to measure [default: all that is built in]
    #[arg(long, value_enum, value_delimiter = ',')]
    runtime: Vec<Subject>,
    /// Rounds in which all take turns; medians are shown
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// How long the service takes for a request
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Internal: put into the emulator at this URL
    #[arg(long, hide = true)]
    url: Option<String>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Subject {
    /// One thread, only what must be done
    Floor,
    /// kpl-tokio
    Tokio,
    /// kpl-async-std
    #[cfg(feature = "async-std")]
    AsyncStd,
    /// aws-sdk-kinesis, without aggregation
    RawSdk,
}

impl Subject {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    if let (Some(url), [subject]) = (&args.url, &args.runtime[..]) {
        println!("{}", serde_json::to_string(&child::run(*subject, url, &args.work)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    let subjects = if args.runtime.is_empty() { Subject::value_variants() } else { &args.runtime };
    // With a rate, it is about latency: the others have none to compare.
    let has_latency = |subject: &Subject| args.work.rate == 0 || !matches!(subject, Subject::Floor | Subject::RawSdk);
    let subjects: Vec<Subject> = subjects.iter().copied().filter(has_latency).collect();
    let mut runs: Vec<Vec<Run>> = subjects.iter().map(|_| Vec::new()).collect();
    for _ in 0..args.rounds {
        for (subject, runs) in subjects.iter().zip(&mut runs) {
            runs.push(measure(*subject, args)?);
        }
    }
    let rows: Vec<Run> = runs.into_iter().filter_map(median).collect();
    let whole = rows.iter().all(|row| row.measured.stored == args.work.records);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print!("{}", Table(&rows));
    }
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A run, with what the service saw of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    subject: Subject,
    work: Work,
    measured: Measured,
    requests: u64,
    kinesis_records: u64,
    payload_units: u64,
    /// Bytes stored, by 25 KiB: fewer units there cannot be for them.
    least_units: f64,
}

impl Run {
    /// Nanoseconds of CPU a record.
    fn cpu(&self) -> f64 {
        self.measured.usage.cpu.as_nanos() as f64 / self.work.records as f64
    }
}

fn measure(subject: Subject, args: &BenchArgs) -> anyhow::Result<Run> {
    // Nothing is kept: the emulator's memory stays small.
    let emulator = Emulator::new(Options { retain_bytes_max: Some(1 << 20), ..Options::unlimited() });
    create_stream(&emulator, STREAM, args.work.shards)?;
    emulator.set_faults(kpl_emulator::Faults { latency: args.latency, ..Default::default() });
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None)?;
    let Work { records, size, keys, shards, rate, tasks } = &args.work;
    let child = Command::new(std::env::current_exe()?)
        .args(["bench", "--url", &server.url(), "--runtime", &subject.name()])
        .args(["--records", &records.to_string(), "--size", &size.to_string(), "--keys", &keys.to_string()])
        .args(["--shards", &shards.to_string(), "--rate", &rate.to_string(), "--tasks", &tasks.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    if !child.status.success() {
        bail!("{}: {}", subject.name(), child.status);
    }
    let measured: Measured = serde_json::from_slice(&child.stdout).context("what the child printed")?;
    let counters = emulator.with(|kinesis, _| kinesis.counters().clone());
    Ok(Run {
        subject,
        work: args.work.clone(),
        measured,
        requests: counters.requests.get("PutRecords").copied().unwrap_or(0),
        kinesis_records: counters.records_stored,
        payload_units: counters.payload_units,
        least_units: counters.bytes_stored as f64 / f64::from(25 << 10),
    })
}

/// The run in the middle, by CPU.
fn median(mut runs: Vec<Run>) -> Option<Run> {
    runs.sort_unstable_by(|one, other| one.cpu().total_cmp(&other.cpu()));
    let middle = runs.len() / 2;
    (middle < runs.len()).then(|| runs.swap_remove(middle))
}

struct Table<'a>(&'a [Run]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let floor = self.0.iter().find(|run| run.subject == Subject::Floor).map(Run::cpu);
        writeln!(
            f,
            "{:<10} {:>11} {:>8} {:>8} {:>7} {:>22} {:>8} {:>9} {:>9} {:>8}",
            "",
            "records/s",
            "CPU ns",
            "x floor",
            "allocs",
            "RSS MiB (before peak after)",
            "requests",
            "per rec.",
            "units/M",
            "x least"
        )?;
        for run in self.0 {
            let Run { subject, work, measured, requests, kinesis_records, payload_units, least_units } = run;
            let Usage { elapsed, resident, allocations, .. } = measured.usage;
            let per_record = |n: u64| n as f64 / work.records as f64;
            writeln!(
                f,
                "{:<10} {:>11.0} {:>8.0} {:>8} {:>7} {:>22} {:>8} {:>9.1} {:>9.0} {:>8.3}",
                subject.name(),
                work.records as f64 / elapsed.as_secs_f64(),
                run.cpu(),
                floor.map_or_else(|| "-".into(), |floor| format!("{:.2}", run.cpu() / floor)),
                allocations.map_or_else(|| "-".into(), |n| format!("{:.2}", per_record(n))),
                resident.map_or_else(|| "-".into(), |kib| kib.map(|kib| (kib >> 10).to_string()).join(" ")),
                requests,
                work.records as f64 / *kinesis_records as f64,
                per_record(*payload_units) * 1e6,
                *payload_units as f64 / least_units,
            )?;
        }
        for run in self.0 {
            if let (Some(records), Some(requests)) = (run.measured.latency, run.measured.requests) {
                let millis = |[half, most, nearly_all]: [u64; 3]| {
                    let millis = |micros: u64| micros as f64 / 1e3;
                    format!("p50 {:.1}, p99 {:.1}, p99.9 {:.1} ms", millis(half), millis(most), millis(nearly_all))
                };
                writeln!(
                    f,
                    "{}: put to receipt {}; requests {}",
                    run.subject.name(),
                    millis(records),
                    millis(requests)
                )?;
            }
        }
        for run in self.0.iter().filter(|run| run.measured.stored != run.work.records) {
            writeln!(f, "{}: {} of {} records were stored", run.subject.name(), run.measured.stored, run.work.records)?;
        }
        Ok(())
    }
}

//! `kpl-bench`: what a record costs, beside the AWS SDK alone and beside the least that the wire format forces.

mod picture;
mod setup;
mod subjects;
mod sweep;
mod table;
mod usage;
mod work;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Parser, ValueEnum};
use kpl_emulator::api::UpdateMaxRecordSize;
use kpl_emulator::{Emulator, Faults, Options, Server};
use serde::{Deserialize, Serialize};

use self::setup::{Measured, STREAM};
use self::table::Table;
use self::work::Work;

/// Measures what a record costs, beside the AWS SDK alone and beside the least possible.
///
/// Each run is a process of its own that puts into an emulator in this one, from its first put until it knows what
/// became of the last record. CPU is user and system time of that process. The floor is one thread that does only what
/// the wire format forces: a key's MD5, one copy, the aggregate's MD5, base64, SHA-256, and a request. The AWS SDK sends
/// 500 records a request, 24 at a time, without aggregation.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 120,
    after_help = "\
The table: records a second; CPU time a record, and how many times the floor's; resident memory; requests; user records in \
a Kinesis record; PUT payload units (25 KiB, which is what AWS counts) for a million records, and how many times the least \
that their bytes need.

Examples:
  kpl-bench                                             what records of 100 bytes cost, flat out
  kpl-bench --rate 50000 --latency 20ms                 latency
  kpl-bench --size 10000000 --records 100 --own-data    large records, and how many copies of them are alive
  kpl-bench --hold                                      memory of a million outstanding records
  kpl-bench --picture bench.svg                         cost by size of record, and latency by rate"
)]
struct BenchArgs {
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    how: How,
    /// Internal: what a process of a run is to do
    #[arg(long, hide = true)]
    order: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What is measured")]
struct How {
    /// Which producers [default: all that are built in]
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',', hide_possible_values = true)]
    #[arg(long_help = "\
Which producers, separated by commas [default: all that are built in]

floor: one thread that does only what must be done, with MD5 in SIMD lanes as kpl has it; floor-scalar: with MD5 as the \
crate md-5 computes it; tokio: kpl-tokio; async-std: kpl-async-std, if it is built in \
(--features async-std); raw-sdk: aws-sdk-kinesis, without aggregation")]
    runtime: Vec<Subject>,
    /// Rounds in which all take turns; the run in the middle is shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// How long the service takes for a request [default: 0s; for the latency of a picture, 20ms]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    latency: Option<Duration>,
    /// Memory of outstanding records: all are put, and only then they are sent
    ///
    /// Twice: an allocator keeps some of what it once had, so the first burst shows what a record takes, and the second
    /// whether memory grows.
    #[arg(long, conflicts_with_all = ["rate", "tasks"])]
    hold: bool,
    /// Measure many sizes and rates, and draw an SVG of cost and latency
    ///
    /// A run has 150 MB of data, or puts for four seconds, but has no more than --records.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hold", "size", "rate"])]
    picture: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// One thread, only what must be done
    Floor,
    /// The same, with each MD5 computed by itself
    FloorScalar,
    /// kpl-tokio
    Tokio,
    /// kpl-async-std
    #[cfg(feature = "async-std")]
    AsyncStd,
    /// aws-sdk-kinesis, without aggregation
    RawSdk,
}

impl Subject {
    /// As on the command line.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it is a producer that holds records and tells of each of them.
    fn is_ours(self) -> bool {
        !matches!(self, Self::Floor | Self::FloorScalar | Self::RawSdk)
    }
}

/// What a process of a run is to do.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    subject: Subject,
    /// The emulator's.
    url: String,
    work: Work,
    hold: bool,
}

fn main() -> ExitCode {
    run(&BenchArgs::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn run(args: &BenchArgs) -> anyhow::Result<ExitCode> {
    if let Some(order) = &args.order {
        println!("{}", serde_json::to_string(&subjects::run(serde_json::from_str(order)?)?)?);
        return Ok(ExitCode::SUCCESS);
    }
    let BenchArgs { work, how, .. } = args;
    let rows = match &how.picture {
        Some(file) => sweep::run(file, work, how)?,
        None => {
            let rows = measure(work, how, how.latency.unwrap_or_default())?;
            if !how.json {
                print!("{}", Table(&rows));
            }
            rows
        }
    };
    if how.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    }
    let whole = rows.iter().all(|row| row.measured.stored == row.work.records);
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A run of each subject: the one in the middle of all rounds.
fn measure(work: &Work, how: &How, latency: Duration) -> anyhow::Result<Vec<Run>> {
    let subjects = if how.runtime.is_empty() { Subject::value_variants() } else { &how.runtime };
    // Of latency and of what is held, the others have nothing to tell.
    let ours_only = work.rate > 0 || how.hold;
    let subjects: Vec<Subject> = subjects.iter().copied().filter(|subject| !ours_only || subject.is_ours()).collect();
    let mut runs: Vec<Vec<Run>> = subjects.iter().map(|_| Vec::new()).collect();
    for _ in 0..how.rounds {
        for (subject, runs) in subjects.iter().zip(&mut runs) {
            runs.push(measure_once(*subject, work, how.hold, latency)?);
        }
    }
    Ok(runs.into_iter().filter_map(middle).collect())
}

/// A run, with what the service saw of it.
#[derive(Clone, Debug, Serialize)]
struct Run {
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

    /// Data alive at most, in memory that grew, by the bytes that were outstanding at most: with data of their own only.
    fn copies(&self) -> Option<f64> {
        let [before, peak, _] = self.measured.usage.resident.filter(|_| self.work.own_data)?;
        let outstanding = self.measured.outstanding.filter(|bytes| *bytes > 0)?;
        Some((peak.saturating_sub(before) * 1_024) as f64 / outstanding as f64)
    }

    /// What counts most of it.
    fn figure(&self) -> f64 {
        match &self.measured {
            Measured { held: Some(held), .. } => held.bytes_per_record,
            Measured { latency: Some([_, p99, _]), .. } => *p99 as f64,
            _ => self.cpu(),
        }
    }
}

fn measure_once(subject: Subject, work: &Work, hold: bool, latency: Duration) -> anyhow::Result<Run> {
    // Nothing is kept: the emulator's memory stays small.
    let emulator = Emulator::new(Options { retain_bytes_max: Some(1 << 20), ..Options::unlimited() });
    emulator.create_stream(STREAM, work.shards).with_context(|| format!("cannot create {} shards", work.shards))?;
    let mut largest = UpdateMaxRecordSize::default();
    (largest.stream_name, largest.max_record_size_in_kib) = (Some(STREAM.into()), Some(10 << 10));
    let updated = emulator.with(|kinesis, _| kinesis.update_max_record_size(&largest));
    updated.map_err(|error| anyhow!("cannot allow large records: {error}"))?;
    emulator.set_faults(Faults { latency, ..Faults::default() });
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None)?;
    let order = Order { subject, url: server.url(), work: work.clone(), hold };
    let child = Command::new(std::env::current_exe()?)
        .args(["--order", &serde_json::to_string(&order)?])
        .stderr(Stdio::inherit())
        .output()?;
    if !child.status.success() {
        bail!("{}: {}", subject.name(), child.status);
    }
    let measured: Measured = serde_json::from_slice(&child.stdout).context("what the child printed")?;
    let counters = emulator.with(|kinesis, _| kinesis.counters().clone());
    Ok(Run {
        subject,
        work: work.clone(),
        measured,
        requests: counters.requests.get("PutRecords").copied().unwrap_or(0),
        kinesis_records: counters.records_stored,
        payload_units: counters.payload_units,
        least_units: counters.bytes_stored as f64 / f64::from(25 << 10),
    })
}

/// The run in the middle.
fn middle(mut runs: Vec<Run>) -> Option<Run> {
    runs.sort_unstable_by(|one, other| one.figure().total_cmp(&other.figure()));
    let middle = runs.len() / 2;
    (middle < runs.len()).then(|| runs.swap_remove(middle))
}

//! `kpl-bench`: measures the cost of a record with kpl, the AWS SDK alone, and the least work that the wire format
//! requires.

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
use kpl_suite::Certificates;
use serde::{Deserialize, Serialize};

use self::setup::{Endpoint, Measured};
use self::table::Table;
use self::work::{STREAM, Work};

/// Measures the cost of a record with kpl, the AWS SDK alone, and a floor: the least work possible.
///
/// Each run is a separate process that puts into an emulator in this process. It is measured from its first put to the
/// result of its last record. CPU is user and system time of that process. The floor is one thread that does only what
/// the wire format requires: a key's MD5, one copy, the aggregate's MD5, base64, SHA-256, and a request. The AWS SDK
/// sends 500 records per request, 24 requests in flight, without aggregation.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 120,
    after_help = "\
Columns: records per second; CPU time per record, and its ratio to the floor's; resident memory; requests; user \
records per Kinesis record; PUT payload units (25 KiB, which AWS charges for) per million records, and their ratio to \
the minimum for these bytes.

Examples:
  kpl-bench                                             cost of records of 100 bytes at full speed
  kpl-bench --rate 50000 --latency 20ms                 latency
  kpl-bench --runtime tokio,tokio-ordered --keys 100    what an order per key costs
  kpl-bench --size 10000000 --records 100 --own-data    large records, and the number of copies in memory
  kpl-bench --hold                                      memory of a million outstanding records
  kpl-bench --picture bench.svg                         cost by record size, and latency by rate
  kpl-bench --curves curves.svg                         cost by shards, streams, outstanding records and size"
)]
struct BenchArgs {
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    measurement: MeasureArgs,
    /// Internal: the run of a child process
    #[arg(long, hide = true)]
    order: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Measurement")]
struct MeasureArgs {
    /// The producers to measure [default: all that are built in, except tokio-batch and tokio-ordered]
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',', hide_possible_values = true)]
    #[arg(long_help = "\
The producers to measure, separated by commas [default: all that are built in, except tokio-batch and tokio-ordered]

floor: one thread that does only the required work, with MD5 in SIMD lanes as in kpl; floor-scalar: the same, with MD5 \
of the crate md-5; tokio: kpl-tokio; tokio-batch: the same, with put_batch of 256 records; tokio-ordered: the same as tokio, with the \
records of each key in order; async-std: kpl-async-std, if it is built in \
(--features async-std); raw-sdk: aws-sdk-kinesis, without aggregation")]
    runtime: Vec<Subject>,
    /// Number of rounds, each with one run per producer; the median run is shown
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Time from a request to its reply [default: 0s; for the latency of a picture, 20ms]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    latency: Option<Duration>,
    /// Send over TLS, with this version of HTTP
    #[arg(long, value_enum, value_name = "VERSION")]
    tls: Option<HttpVersion>,
    /// Measure the memory of outstanding records: requests start only after all records are put
    ///
    /// Puts two bursts, because the allocator keeps some freed memory: the first shows the memory of a record, the
    /// second whether memory grows.
    #[arg(long, conflicts_with_all = ["rate", "tasks"])]
    hold: bool,
    /// Measure several sizes and rates, and write an SVG of cost, with and without aggregation, and latency
    ///
    /// A run puts 150 MB of data, or for four seconds, but at most --records.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hold", "size", "rate"])]
    picture: Option<PathBuf>,
    /// Measure the cost of a record as shards, streams, outstanding records and sizes grow, and write an SVG
    #[arg(long, value_name = "FILE", conflicts_with_all = ["hold", "size", "rate", "shards", "streams", "picture"])]
    curves: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

/// The subject of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// One thread that does only the required work
    Floor,
    /// The same, with one MD5 at a time
    FloorScalar,
    /// kpl-tokio
    Tokio,
    /// kpl-tokio, with batches
    TokioBatch,
    /// kpl-tokio, with the records of each key in order
    TokioOrdered,
    /// kpl-async-std
    #[cfg(feature = "async-std")]
    AsyncStd,
    /// aws-sdk-kinesis, without aggregation
    RawSdk,
}

impl Subject {
    /// Returns the name on the command line.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Returns whether it is a producer of kpl, which buffers records and returns a result for each.
    fn is_kpl(self) -> bool {
        !self.is_floor() && self != Self::RawSdk
    }

    fn is_floor(self) -> bool {
        matches!(self, Self::Floor | Self::FloorScalar)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HttpVersion {
    /// HTTP/1.1
    #[value(name = "1.1")]
    Http11,
    /// HTTP/2
    #[value(name = "2")]
    Http2,
}

/// The run of a child process.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    subject: Subject,
    endpoint: Endpoint,
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
    let BenchArgs { work, measurement, .. } = args;
    let rows = match (&measurement.picture, &measurement.curves) {
        (Some(file), _) => sweep::run(file, work, measurement)?,
        (None, Some(file)) => sweep::curves(file, work, measurement)?,
        (None, None) => {
            let rows = measure(work, measurement, measurement.latency.unwrap_or_default())?;
            if !measurement.json {
                print!("{}", Table(&rows));
            }
            rows
        }
    };
    if measurement.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    }
    let is_complete = rows.iter().all(|row| row.measured.stored == row.work.records);
    Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Measures all subjects. Returns the median run of each.
fn measure(work: &Work, measurement: &MeasureArgs, latency: Duration) -> anyhow::Result<Vec<Run>> {
    let is_default = |subject: &Subject| !matches!(subject, Subject::TokioOrdered | Subject::TokioBatch);
    let all: Vec<Subject> = Subject::value_variants().iter().copied().filter(is_default).collect();
    let subjects = if measurement.runtime.is_empty() { &all } else { &measurement.runtime };
    // The other subjects have no latency per record, no outstanding records, and one stream.
    let is_kpl_only = work.rate > 0 || work.streams > 1 || measurement.hold;
    // The floor does without TLS.
    let is_measured =
        |subject: &Subject| (!is_kpl_only || subject.is_kpl()) && (measurement.tls.is_none() || !subject.is_floor());
    let subjects: Vec<Subject> = subjects.iter().copied().filter(is_measured).collect();
    let mut runs: Vec<Vec<Run>> = subjects.iter().map(|_| Vec::new()).collect();
    for _ in 0..measurement.rounds {
        for (subject, runs) in subjects.iter().zip(&mut runs) {
            runs.push(measure_once(*subject, work, measurement, latency)?);
        }
    }
    Ok(runs.into_iter().filter_map(median).collect())
}

/// The result of a run, with the counts of the service.
#[derive(Clone, Debug, Serialize)]
struct Run {
    subject: Subject,
    work: Work,
    measured: Measured,
    requests: u64,
    kinesis_records: u64,
    payload_units: u64,
    /// The stored bytes divided by 25 KiB: the minimum number of units for them.
    least_units: f64,
}

impl Run {
    /// Returns the CPU time per record, in nanoseconds.
    fn cpu(&self) -> f64 {
        self.measured.usage.cpu.as_nanos() as f64 / self.work.records as f64
    }

    /// Returns the growth of resident memory at its peak, divided by the maximum of outstanding bytes. `None` without
    /// `--own-data`.
    fn copies(&self) -> Option<f64> {
        let [before, peak, _] = self.measured.usage.resident.filter(|_| self.work.own_data)?;
        let outstanding = self.measured.outstanding.filter(|bytes| *bytes > 0)?;
        Some((peak.saturating_sub(before) * 1_024) as f64 / outstanding as f64)
    }

    /// Returns the value that selects the median run.
    fn main_value(&self) -> f64 {
        match &self.measured {
            Measured { held: Some(held), .. } => held.bytes_per_record,
            Measured { latency: Some([_, p99, _]), .. } => *p99 as f64,
            _ => self.cpu(),
        }
    }
}

/// Runs a subject once, in a child process.
fn measure_once(subject: Subject, work: &Work, measurement: &MeasureArgs, latency: Duration) -> anyhow::Result<Run> {
    // Keeps few records, so that the emulator's memory stays small.
    let limits = if work.shard_limits { Options::default() } else { Options::unlimited() };
    let emulator = Emulator::new(Options { retain_bytes_max: Some(1 << 20), ..limits });
    for stream in work.stream_names() {
        emulator
            .create_stream(&stream, work.shards)
            .with_context(|| format!("cannot create {} shards", work.shards))?;
    }
    let mut largest = UpdateMaxRecordSize::default();
    (largest.stream_name, largest.max_record_size_in_kib) = (Some(STREAM.into()), Some(10 << 10));
    let updated = emulator.with(|kinesis, _| kinesis.update_max_record_size(&largest));
    updated.map_err(|error| anyhow!("cannot allow large records: {error}"))?;
    emulator.set_faults(Faults { latency, ..Faults::default() });
    let tls = measurement.tls.map(|version| {
        let certificates = Certificates::generate();
        let protocol = if version == HttpVersion::Http2 { "h2" } else { "http/1.1" };
        (certificates.server_config_offering(&[protocol]), certificates.ca_pem().to_owned())
    });
    let (tls, ca_pem) = tls.unzip();
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, tls)?;
    let endpoint = Endpoint { url: server.url(), ca_pem };
    let order = Order { subject, endpoint, work: work.clone(), hold: measurement.hold };
    let child = Command::new(std::env::current_exe()?)
        .args(["--order", &serde_json::to_string(&order)?])
        .stderr(Stdio::inherit())
        .output()?;
    if !child.status.success() {
        bail!("{}: {}", subject.name(), child.status);
    }
    let measured: Measured = serde_json::from_slice(&child.stdout).context("the output of the child is invalid")?;
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

/// Returns the median run.
fn median(mut runs: Vec<Run>) -> Option<Run> {
    runs.sort_unstable_by(|a, b| a.main_value().total_cmp(&b.main_value()));
    let middle = runs.len() / 2;
    (middle < runs.len()).then(|| runs.swap_remove(middle))
}

//! `kpl put`: puts each line as a record.
//!
//! A thread reads lines ([`lines`]), or files that grow or are in a checkpoint ([`follow`]). A task chooses a key for each line
//! and puts it ([`put_lines`]). Another task awaits the outcomes ([`results`]) and counts them ([`line_counts`]). With
//! `--checkpoint`, a thread writes what is resolved ([`checkpoint`]). Every channel is bounded, so memory does not depend on the
//! size of the input.

mod checkpoint;
mod console;
mod dead_letter;
mod dry_run;
mod events;
mod follow;
mod inputs;
mod keys;
mod line_counts;
mod lines;
mod metrics;
mod put_lines;
mod results;
mod sources;
mod stall_report;
mod summary;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use kpl_core::{Config, Ordering, UserRecord};
use kpl_emulator::{Emulator, Options, Server};
use kpl_tokio::Producer;
use regex::bytes::Regex;

use self::checkpoint::writer::Writer;
use self::console::Console;
use self::dead_letter::DeadLetters;
use self::events::Events;
use self::follow::multiline::Multiline;
use self::follow::{FollowOptions, lag};
use self::inputs::{Checkpoint, Inputs, Reading, open_files};
use self::keys::{KeySource, Pointer};
use self::line_counts::LineCounts;
use self::metrics::Counts;
use self::put_lines::{FeedEnd, Feeder, Place};
use self::summary::{CheckpointSummary, Latency, Summary};
use crate::connection::Connection;
use crate::emulator::create_stream;
use crate::exit;
use crate::interrupts::{Interrupts, Signal};
use crate::settings::Settings;
use crate::verify::{Comparison, Verifier};

/// The bytes that the emulator in this process keeps without `--verify`.
const EMULATOR_RETAIN_BYTES_MAX: usize = 64 << 20;

/// The default number of shards of the emulator.
const EMULATOR_SHARDS: u32 = 4;

/// The maximum size of a record with its key on a stream that was not configured otherwise.
const RECORD_SIZE_DEFAULT: usize = 1 << 20;

/// The time from a signal until lines without a result are left to the next run, with a checkpoint. `docker stop` kills after
/// 10 s, Kubernetes after 30 s, systemd after 90 s.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);

/// The maximum size of a key: 256 characters.
const KEY_SIZE_MAX: usize = 1 << 10;

/// Puts each line of files or standard input as a record.
///
/// A line is the bytes between two newlines, unchanged; an empty line is an empty record. Lines are aggregated into
/// Kinesis records as by the KPL; consumers that use the KCL receive each line as one record.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kpl put --stream access --key-field 1 access.log
  tail -F app.ndjson | kpl put --stream events --key-json /user/id --dead-letter failed.ndjson
  kpl put --emulator --verify --stream access --key-field 1 access.log
  kpl put --dry-run --shards 8 --stream access --key-field 1 access.log
  kpl put --stream events --follow --checkpoint events.checkpoint 'logs/*.ndjson'

Ctrl-C (or SIGTERM or SIGHUP) stops reading: the lines that have been read are still put, and verified with --verify. \
A second signal stops at once: lines without a result fail, or with --checkpoint are left to the next run. A signal after the end of the input ends the verification. \
With --follow, the first signal is the end of the input.

With --checkpoint, the same command goes on where the last run ended, also after kill -9. No line is lost; those that were \
in flight may be put twice, and the summary says how many. A line that the service refuses for good ends the run with \
status 1 before it is lost, unless --dead-letter keeps it. A signal waits for results for 8 s at most: the next run puts \
the lines that have none.

Put failed lines again (data that is not UTF-8 is in \"data_base64\" instead):
  jq -r .data failed.ndjson | kpl put --stream events --key-json /user/id")]
pub(crate) struct PutArgs {
    /// The stream's name or ARN
    #[arg(long)]
    stream: String,
    /// Files to put, in this order; `-` or no file means standard input. With --follow, also patterns such as 'logs/*.log'
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Go on when the files grow, are rotated, vanish or appear, until a signal. The order of the files is not kept
    #[arg(long, conflicts_with = "verify")]
    follow: bool,
    /// Keep in this file how far each input file is put, and go on there if it exists
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Append lines that do not match to the line before them, such as the lines of a stack trace. A record ends with the
    /// next match, at the end of the file, or with --follow after 1 s without a new line. A line that would make the record
    /// longer than --max-record-size (1 MiB) less 1 KiB begins a new record
    #[arg(long, value_name = "REGEX")]
    multiline_start: Option<Regex>,
    /// Append each failed line to this file, as a JSON object with its source, line number, error code, message and
    /// data; "ambiguous" is true if the line may be in the stream
    #[arg(long, value_name = "FILE")]
    dead_letter: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Read the stream afterwards, as a consumer with the KCL does, and report how many lines arrived, and how many of
    /// them twice. Earlier records of the stream are ignored. Takes about 50 bytes of memory per distinct line
    #[arg(long)]
    verify: bool,
    /// Send nothing, and report what would be sent: lines that would be refused, shards, aggregates, requests, PUT payload
    /// units. Only reads the stream's shards and description; with --shards N, uses N equal shards and no AWS. Files are
    /// read as fast as possible, so the aggregates are those of a busy producer; a live input, as it arrives
    #[arg(long, group = "without_aws", conflicts_with_all = ["verify", "dead_letter", "metrics_port", "follow", "checkpoint"])]
    dry_run: bool,
    /// Serve metrics as Prometheus text at http://127.0.0.1:PORT/metrics during the run; with an address such as
    /// 0.0.0.0:9400, to other machines, too
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = metrics::parse_address)]
    metrics_port: Option<SocketAddr>,
    // Groups with headings come last, because a heading applies to all options after it.
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    emulator: InProcessArgs,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    settings: Settings,
}

/// The source of partition keys. A line without a key fails.
#[derive(Debug, Args)]
#[command(next_help_heading = "Partition key (default: random for each line)")]
#[group(multiple = false)]
struct KeyArgs {
    /// The N-th word of the line, from 1; words are separated by white space
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    key_field: Option<u32>,
    /// The string, number or boolean at this JSON Pointer (RFC 6901) in the line
    #[arg(long, value_name = "POINTER", value_parser = Pointer::parse)]
    key_json: Option<Pointer>,
    /// The same key for all lines
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

/// Options of the emulator in this process.
#[derive(Debug, Args)]
#[command(next_help_heading = "Emulator")]
struct InProcessArgs {
    /// Put into an emulator in this process, which has only this stream. Its shards have no rate limits, and the
    /// producer has none unless --rate-limit-… is given
    #[arg(
        long,
        group = "without_aws",
        conflicts_with_all = ["endpoint_url", "profile", "dummy_credentials", "region"]
    )]
    emulator: bool,
    /// The number of shards of the emulator's stream, or of a dry run without AWS [default with --emulator: 4]
    #[arg(
        long,
        value_name = "N",
        requires = "without_aws",
        conflicts_with_all = ["endpoint_url", "profile", "dummy_credentials", "region"]
    )]
    shards: Option<u32>,
    /// Limit the emulator's shards as Kinesis does: 1000 records and 1 MiB per second
    #[arg(long, requires = "emulator")]
    emulator_limits: bool,
}

pub(crate) async fn run(args: PutArgs) -> anyhow::Result<ExitCode> {
    let mut interrupts = Interrupts::listen()?;
    if args.dry_run {
        return dry_run::run(args, interrupts).await;
    }
    let keys = args.key.source();
    check(&args.stream, &keys)?;
    let settings = args.settings.until_all_are_put();
    let settings = if args.emulator.is_unlimited() { settings.without_shard_limits() } else { settings };
    let config = metrics::enable(&settings.config()?, args.metrics_port.is_some())?;
    // Dropping this variable stops the emulator.
    let in_process = args.emulator.start(&args.stream, args.verify)?;
    let to_emulator = in_process.as_ref().map(|server| Connection::to_emulator(server.url()));
    let connection = to_emulator.as_ref().unwrap_or(&args.connection);

    let options = FollowOptions { follow: args.follow, multiline: multiline(args.multiline_start, &config) };
    let console = Console::new();

    // Each step can wait for another process or for the network.
    let setup = async {
        let (inputs, dead_letters) =
            open_files(args.files, args.dead_letter, args.checkpoint, &args.stream, options, &console).await?;
        let client = connection.client().await?;
        let verifier = match (args.verify, &in_process) {
            (false, _) => None,
            (true, Some(_)) => Some(Verifier::for_empty_stream(client.clone(), &args.stream)),
            (true, None) => Some(Verifier::from_latest(client.clone(), &args.stream).await?),
        };
        anyhow::Ok((inputs, dead_letters, client, verifier))
    };
    let (inputs, dead_letters, client, verifier) = tokio::select! {
        biased;
        signal = interrupts.wait_for(1) => {
            exit::print_warning("interrupted before the first put");
            return Ok(if args.follow { ExitCode::SUCCESS } else { signal.exit_code() });
        }
        result = setup => result?,
    };

    let comparison = verifier.as_ref().map(|_| Comparison::default());
    let progress = inputs.progress();
    let counts = LineCounts::new(inputs.sources.clone(), console.clone(), dead_letters, comparison, progress);
    let is_ordered = config.ordering() != Ordering::None;
    let producer = Producer::new(client, config);
    if let Some(address) = args.metrics_port {
        metrics::serve(&producer, address)?;
        if let Reading::Files { offsets, .. } = &inputs.reading {
            let (offsets, sources) = (offsets.clone(), inputs.sources.clone());
            tokio::spawn(async move { lag::export(&offsets, &sources).await });
        }
    }
    let mut run = put(&args.stream, producer, keys, inputs, counts, &interrupts).await?;

    run.counts.print_error_counts();
    if let Some(Err(incomplete)) = run.counts.dead_letters.take().map(DeadLetters::finish) {
        console.print_error(&incomplete);
    }
    let mut ok = run.counts.failed == 0 && run.is_at_end && !run.has_read_error && run.is_checkpoint_written;
    ok &= run.counts.left == 0 || args.follow;
    let mut is_interrupted = !run.is_at_end || run.is_stopped;
    if let (Some(verifier), Some(comparison)) = (verifier, run.counts.comparison.take()) {
        // A signal that stopped the reading does not end the verification.
        let signals = if run.is_at_end { 1 } else { 2 };
        tokio::select! {
            biased;
            _ = interrupts.wait_for(signals) => {
                run.summary.verify_interrupted = true;
                (ok, is_interrupted) = (false, true);
            }
            result = verifier.verify(comparison) => match result {
                Ok(verification) => {
                    ok &= verification.is_successful() && !(is_ordered && verification.overtaken > 0);
                    run.summary.verify = Some(verification);
                }
                Err(error) => {
                    ok = false;
                    console.print_error(&format!("cannot verify: {error:#}"));
                }
            },
        }
    }
    if let Err(error) = exit::print_summary(&run.summary, args.json) {
        ok = false;
        console.print_error(&format!("cannot print the summary: {error}"));
    }
    let signal = if is_interrupted { interrupts.first() } else { None };
    Ok(exit_code(ok, signal))
}

/// Returns the rule by which lines are joined to records, if there is one.
fn multiline(start: Option<Regex>, config: &Config) -> Option<Multiline> {
    let record_len_max = config.max_record_size().unwrap_or(RECORD_SIZE_DEFAULT).saturating_sub(KEY_SIZE_MAX);
    start.map(|start| Multiline { start, record_len_max })
}

/// Returns the exit status of a run that a signal may have stopped.
fn exit_code(ok: bool, signal: Option<Signal>) -> ExitCode {
    match (ok, signal) {
        (true, _) => ExitCode::SUCCESS,
        (false, Some(signal)) => signal.exit_code(),
        (false, None) => ExitCode::from(exit::FAILED),
    }
}

/// Returns an error if every line would fail: the stream or the fixed key is invalid.
fn check(stream: &str, keys: &KeySource) -> anyhow::Result<()> {
    let key = if let KeySource::Fixed(key) = keys { key.as_str() } else { "any" };
    UserRecord::new(stream, key, "").prepare()?;
    Ok(())
}

/// The result of a run.
struct RunResult {
    counts: LineCounts,
    summary: Summary,
    /// Whether the end of all sources was reached. False if a signal stopped the reading.
    is_at_end: bool,
    /// Whether a source ended with a read error.
    has_read_error: bool,
    /// Whether a second signal, or the time after the first one, stopped the run.
    is_stopped: bool,
    /// Whether the last checkpoint was written, if there is one.
    is_checkpoint_written: bool,
}

async fn put(
    stream: &str,
    producer: Producer,
    keys: KeySource,
    inputs: Inputs,
    counts: LineCounts,
    interrupts: &Interrupts,
) -> anyhow::Result<RunResult> {
    let console = counts.console();
    let fingerprints = counts.comparison.is_some();
    let (mut feeder, put_lines) = Feeder::new(producer.clone(), stream.into(), keys, fingerprints);
    let events = Events::install(console.clone());
    let display_task = tokio::spawn({
        let (console, producer, progress) = (console.clone(), producer.clone(), feeder.progress.clone());
        async move {
            tokio::join!(console.show(&producer, &progress), stall_report::watch(&producer, &console, &events));
        }
    });
    let stop = counts.progress.as_ref().and_then(|progress| progress.stop.clone()).unwrap_or_default();
    let dead_letters = counts.dead_letters.as_ref().map(DeadLetters::handle).transpose()?.flatten();
    let start = Instant::now();
    let collector = tokio::spawn(results::collect(put_lines, counts));

    let mut checkpoint = None;
    let (lines, follow) = match inputs.reading {
        Reading::Once { sources, multiline } => (lines::read(sources, multiline), false),
        Reading::Files { follower, follow, offsets, checkpoint: opened } => {
            if let Some(Checkpoint { file, resumed }) = opened {
                let path = file.path().to_owned();
                let writer = Writer::start(offsets.clone(), file, dead_letters, console.clone());
                checkpoint = Some((writer.context("cannot start a thread")?, path, resumed, offsets));
            }
            (follower.start(), follow)
        }
    };
    let lines = lines.context("cannot start a thread")?;
    let (mut first_signal, mut second_signal) = (interrupts.clone(), interrupts.clone());
    let put_all = async {
        feeder.feed(lines, &mut first_signal, &stop).await;
        producer.flush().await;
    };
    let is_stopped = tokio::select! {
        () = put_all => false,
        _ = second_signal.wait_for(2) => true,
        () = drain_timeout(interrupts.clone()), if checkpoint.is_some() => true,
    };
    // Does not wait: after a flush, no record is outstanding; otherwise, the run is to stop now.
    producer.close_or_fail(Duration::ZERO).await;
    let FeedEnd { last, ended, errors } = feeder.finish().await;
    let counts = collector.await.context("the collector task panicked")?;
    let elapsed = start.elapsed();
    display_task.abort();
    console.clear();

    let stopped_by = counts.progress.as_ref().and_then(|progress| progress.stopped_by.clone());
    // With `--follow`, a signal is the end of the input.
    let (has_signal, keeps_all) = (interrupts.first().is_some(), !is_stopped || checkpoint.is_some());
    let has_reader_failed = !ended && !has_signal && stopped_by.is_none();
    let ended = ended || (follow && has_signal && keeps_all && stopped_by.is_none());
    let mut is_checkpoint_written = true;
    let checkpoint = match checkpoint {
        None => None,
        Some((writer, path, resumed, offsets)) => {
            let end = tokio::task::spawn_blocking(|| writer.end()).await;
            if let Err(message) = end.context("the thread of the checkpoint panicked")? {
                is_checkpoint_written = false;
                console.print_error(&message);
            }
            let (put_again, put_again_total) = offsets.put_again();
            let (left, stopped_by) = (counts.left, stopped_by.clone());
            Some(CheckpointSummary { path, resumed, put_again, put_again_total, left, stopped_by })
        }
    };
    if let Some(line) = &stopped_by {
        console.print_error(&format!(
            "stopped before {line}: no line is lost; the same command goes on there, and with --dead-letter it goes on \
             without such lines"
        ));
    }
    if has_reader_failed {
        console.print_error("the thread that reads the input has ended early");
    }
    for error in &errors {
        let name = counts.name(Place { source: error.source, number: error.after_line });
        console.print_error(&format!("read error after {name}: {}", error.error));
    }
    let metrics = producer.metrics();
    let Counts { succeeded, kinesis_records, requests, retries, throttled, .. } = Counts::new(&metrics);
    let summary = Summary {
        put: succeeded + counts.failed,
        succeeded,
        // Includes refused lines.
        failed: counts.failed,
        kinesis_records,
        requests,
        retries,
        resent_unanswered: counts.resent_unanswered,
        throttled,
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        latency_ms: Latency::new(&metrics),
        checkpoint,
        interrupted_after: (!ended && stopped_by.is_none())
            .then(|| last.map_or("no line".into(), |last| counts.name(last))),
        verify: None,
        verify_interrupted: false,
    };
    let has_read_error = !errors.is_empty();
    Ok(RunResult { counts, summary, is_at_end: ended, has_read_error, is_stopped, is_checkpoint_written })
}

/// Waits until the time is over that a signal leaves for results.
async fn drain_timeout(mut interrupts: Interrupts) {
    interrupts.wait_for(1).await;
    tokio::time::sleep(DRAIN_TIMEOUT).await;
}

impl KeyArgs {
    fn source(self) -> KeySource {
        match self {
            Self { key_field: Some(n), .. } => KeySource::Field(n as usize),
            Self { key_json: Some(pointer), .. } => KeySource::Json(pointer),
            Self { key: Some(key), .. } => KeySource::Fixed(key),
            Self { key_field: None, key_json: None, key: None } => KeySource::Random,
        }
    }
}

impl InProcessArgs {
    fn is_unlimited(&self) -> bool {
        self.emulator && !self.emulator_limits
    }

    /// Starts the emulator, if `--emulator` is given.
    fn start(&self, stream: &str, keep_all: bool) -> anyhow::Result<Option<Server>> {
        if !self.emulator {
            return Ok(None);
        }
        let options = if self.emulator_limits { Options::default() } else { Options::unlimited() };
        let retain_bytes_max = (!keep_all).then_some(EMULATOR_RETAIN_BYTES_MAX);
        let emulator = Emulator::new(Options { retain_bytes_max, ..options });
        create_stream(&emulator, stream, self.shards.unwrap_or(EMULATOR_SHARDS))?;
        let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None);
        Ok(Some(server.context("cannot start the emulator")?))
    }
}

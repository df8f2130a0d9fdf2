//! `kpl put`: each line a record.
//!
//! A thread reads lines ([`lines`]), a task gives each a key and puts it ([`feed`]), another awaits the outcomes
//! ([`collect`]) and adds them up ([`ledger`]). Every hand-over is bounded, so a file of any size takes the same memory.

mod collect;
mod console;
mod dead_letter;
mod events;
mod feed;
mod keys;
mod ledger;
mod lines;
mod metrics;
mod stall;
mod summary;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use kpl_core::UserRecord;
use kpl_emulator::{Emulator, Options, Server};
use kpl_tokio::Producer;

use self::console::Console;
use self::dead_letter::DeadLetters;
use self::events::Events;
use self::feed::{FedAll, Feeder, Place};
use self::keys::{KeySource, Pointer};
use self::ledger::Ledger;
use self::lines::Source;
use self::metrics::Counts;
use self::summary::{Latency, Summary};
use crate::connection::Connection;
use crate::emulator::create_stream;
use crate::exit;
use crate::interrupts::Interrupts;
use crate::settings::Settings;
use crate::verify::{Tally, Verifier};

/// What the emulator inside keeps when nobody will read it.
const EMULATOR_RETAINS: usize = 64 << 20;

/// Puts each line of files, or of standard input, as a record.
///
/// A line is the bytes between two newlines, as they stand; an empty line is an empty record. Lines are packed into
/// aggregated Kinesis records as the KPL does it; consumers that use the KCL see them one by one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kpl put --stream access --key-field 1 access.log
  tail -F app.ndjson | kpl put --stream events --key-json /user/id --dead-letter failed.ndjson
  kpl put --emulator --verify --stream access --key-field 1 access.log

Put again what has failed (data that is not UTF-8 is in \"data_base64\" instead):
  jq -r .data failed.ndjson | kpl put --stream events --key-json /user/id")]
pub(crate) struct PutArgs {
    /// The stream's name or ARN
    #[arg(long)]
    stream: String,
    /// Files to put, one after the other; standard input if there is none, or `-`
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Append lines that failed to this file, each as a JSON object with its source, line, error code, message and
    /// data; "ambiguous" tells that the line may be in the stream all the same
    #[arg(long, value_name = "FILE")]
    dead_letter: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Afterwards, read the stream as a consumer with the KCL does, and tell how many of the lines arrived, and how many
    /// of them twice. What was in the stream before does not count. Takes about 50 bytes of memory a distinct line
    #[arg(long)]
    verify: bool,
    /// While it runs, serve Prometheus text at http://127.0.0.1:PORT/metrics
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    metrics_port: Option<u16>,
    // Groups with headings of their own come last: a heading holds for all that follows.
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    emulator: InsideArgs,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    settings: Settings,
}

/// Where partition keys come from. A line without a key fails.
#[derive(Debug, Args)]
#[command(next_help_heading = "Partition key (random for each line, unless told otherwise)")]
#[group(multiple = false)]
struct KeyArgs {
    /// The N-th word of the line, counted from 1; words are separated by white space
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    key_field: Option<u32>,
    /// The string, number or boolean at this JSON Pointer (RFC 6901) of the line
    #[arg(long, value_name = "POINTER", value_parser = Pointer::parse)]
    key_json: Option<Pointer>,
    /// This one for all lines
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

/// An emulator inside this process.
#[derive(Debug, Args)]
#[command(next_help_heading = "Emulator")]
struct InsideArgs {
    /// Put into an emulator inside this process, which has just this stream. Its shards take any rate, and so does the
    /// producer unless --rate-limit-… say otherwise
    #[arg(long, conflicts_with_all = ["endpoint_url", "profile", "dummy_credentials", "region"])]
    emulator: bool,
    /// Shards of the emulator's stream
    #[arg(long, value_name = "N", default_value_t = 4, requires = "emulator")]
    shards: u32,
    /// The emulator's shards have the limits of the real service: 1000 records and 1 MiB a second
    #[arg(long, requires = "emulator")]
    emulator_limits: bool,
}

pub(crate) async fn run(args: PutArgs) -> anyhow::Result<ExitCode> {
    let interrupts = Interrupts::listen()?;
    let keys = args.key.source();
    check(&args.stream, &keys)?;
    let settings = args.settings.without_time_to_live();
    let settings = if args.emulator.is_unlimited() { settings.without_shard_limits() } else { settings };
    let config = metrics::switch_on(&settings.config()?, args.metrics_port)?;
    let sources = Source::open_all(&args.files)?;
    let dead_letters = args.dead_letter.as_deref().map(|path| DeadLetters::open(path, &args.files)).transpose()?;

    // The emulator lives as long as its server, and that as long as this variable.
    let inside = args.emulator.start(&args.stream, args.verify)?;
    let connection = inside.as_ref().map(|server| Connection::to_emulator(server.url()));
    let client = connection.as_ref().unwrap_or(&args.connection).client().await?;
    let verifier = match (args.verify, &inside) {
        (false, _) => None,
        (true, Some(_)) => Some(Verifier::of_new_stream(client.clone(), &args.stream)),
        (true, None) => Some(Verifier::from_now(client.clone(), &args.stream).await?),
    };

    let tally = verifier.as_ref().map(|_| Tally::default());
    let console = Console::new();
    let names = sources.iter().map(|source| source.name.clone()).collect();
    let ledger = Ledger::new(names, console.clone(), dead_letters, tally);
    let producer = Producer::new(client, config);
    if let Some(port) = args.metrics_port {
        metrics::serve(&producer, port)?;
    }
    let mut ran = put(&args.stream, producer, keys, sources, ledger, interrupts).await?;

    ran.ledger.say_errors();
    let mut ok = ran.ledger.failed == 0 && ran.read_completely;
    if let (Some(verifier), Some(tally)) = (verifier, ran.ledger.tally.take()) {
        match verifier.verify(tally).await {
            Ok(verification) => {
                ok &= verification.is_sound();
                ran.summary.verify = Some(verification);
            }
            Err(error) => {
                ok = false;
                console.say(&format!("not verified: {error:#}"));
            }
        }
    }
    if let Some(Err(incomplete)) = ran.ledger.dead_letters.map(DeadLetters::finish) {
        console.say(&incomplete);
    }
    let out = if args.json { serde_json::to_string(&ran.summary)? + "\n" } else { ran.summary.to_string() };
    exit::print(out.as_bytes())?;
    Ok(match (ran.stopped, ok) {
        (true, _) => ExitCode::from(exit::INTERRUPTED),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::from(exit::FAILED),
    })
}

/// What would fail for each line is told before the first.
fn check(stream: &str, keys: &KeySource) -> anyhow::Result<()> {
    let key = if let KeySource::Fixed(key) = keys { key.as_str() } else { "any" };
    UserRecord::new(stream, key, "").prepare()?;
    Ok(())
}

struct Ran {
    ledger: Ledger,
    summary: Summary,
    /// All sources were read to their end, or to Ctrl-C.
    read_completely: bool,
    /// By a second Ctrl-C.
    stopped: bool,
}

async fn put(
    stream: &str,
    producer: Producer,
    keys: KeySource,
    sources: Vec<Source>,
    ledger: Ledger,
    mut interrupts: Interrupts,
) -> anyhow::Result<Ran> {
    let console = ledger.console();
    let fingerprints = ledger.tally.is_some();
    let (mut feeder, fed) = Feeder::new(producer.clone(), stream.into(), keys, fingerprints);
    let events = Events::receive(console.clone());
    let showing = tokio::spawn({
        let (console, producer, fill) = (console.clone(), producer.clone(), feeder.fill.clone());
        async move {
            tokio::join!(console.show(&producer, &fill), stall::watch(&producer, &console, &events));
        }
    });
    let start = Instant::now();
    let collecting = tokio::spawn(collect::collect(fed, ledger));

    let stop = Arc::new(AtomicBool::new(false));
    let lines = lines::read(sources, stop.clone()).context("cannot start a thread")?;
    let mut second = interrupts.clone();
    let put_all = async {
        feeder.feed(lines, &stop, &mut interrupts).await;
        producer.flush().await;
    };
    let stopped = tokio::select! {
        () = put_all => false,
        () = second.reached(2) => true,
    };
    // After a flush there is nothing left to wait for; after a second Ctrl-C, nobody waits.
    producer.close_or_fail(Duration::ZERO).await;
    let FedAll { last, ended, errors } = feeder.finish().await;
    let ledger = collecting.await.context("the task that counts has failed")?;
    let elapsed = start.elapsed();
    showing.abort();
    console.clear();

    for error in &errors {
        let name = ledger.name(Place { source: error.source, number: error.after_line });
        console.say(&format!("cannot read on after {name}: {}", error.error));
    }
    let metrics = producer.metrics();
    let Counts { succeeded, kinesis_records, requests, retries, throttled, .. } = Counts::new(&metrics);
    let summary = Summary {
        put: succeeded + ledger.failed,
        succeeded,
        // Those that the producer never took among them.
        failed: ledger.failed,
        kinesis_records,
        requests,
        retries,
        resent_unanswered: ledger.resent_unanswered,
        throttled,
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        latency_ms: Latency::new(&metrics),
        interrupted_after: (!ended).then(|| last.map_or("no line".into(), |last| ledger.name(last))),
        verify: None,
    };
    Ok(Ran { ledger, summary, read_completely: errors.is_empty(), stopped })
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

impl InsideArgs {
    fn is_unlimited(&self) -> bool {
        self.emulator && !self.emulator_limits
    }

    /// Starts the emulator, if one is wanted.
    fn start(&self, stream: &str, keep_all: bool) -> anyhow::Result<Option<Server>> {
        if !self.emulator {
            return Ok(None);
        }
        let options = if self.emulator_limits { Options::default() } else { Options::unlimited() };
        let retain_bytes_max = (!keep_all).then_some(EMULATOR_RETAINS);
        let emulator = Emulator::new(Options { retain_bytes_max, ..options });
        create_stream(&emulator, stream, self.shards)?;
        let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None);
        Ok(Some(server.context("cannot start the emulator")?))
    }
}

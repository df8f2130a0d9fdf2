//! `kpl emulator`: emulates Kinesis on this machine, with faults if requested.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use kpl_emulator::{Emulator, Faults, OperationFault, Options, Server, ServiceError};

use crate::exit;
use crate::interrupts::Interrupts;

/// Serves an emulator of Kinesis until Ctrl-C, SIGTERM or SIGHUP. Keeps all records in memory.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kpl emulator --stream events:4 --latency 20ms --throttle-rate 0.01")]
pub(crate) struct EmulatorArgs {
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port to listen on; 0 selects a free port
    #[arg(long, default_value_t = 4567)]
    port: u16,
    /// A stream to create, and its number of shards (repeatable)
    #[arg(long = "stream", value_name = "NAME:SHARDS", value_parser = stream)]
    streams: Vec<(String, u32)>,
    /// Do not limit the records and bytes per second of shards
    #[arg(long)]
    no_limits: bool,
    #[command(flatten)]
    faults: FaultArgs,
}

/// Options of the faults.
#[derive(Debug, Args)]
#[command(next_help_heading = "Faults of puts (rates from 0 to 1; durations such as 20ms)")]
struct FaultArgs {
    /// Rate of records that fail with ProvisionedThroughputExceededException
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    throttle_rate: f64,
    /// Rate of records that fail with InternalFailure
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    internal_failure_rate: f64,
    /// Rate of requests that fail with HTTP 500 and have no effect
    #[arg(long = "http-500-rate", value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    http_500_rate: f64,
    /// Rate of requests whose records are stored and whose reply is lost
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    drop_reply_rate: f64,
    /// Time from a request to its reply
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// Maximum of an additional random time
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    latency_jitter: Duration,
    /// Time from a request of this operation to its reply, such as ListShards=400ms (repeatable)
    #[arg(long, value_name = "OPERATION=TIME", value_parser = slow)]
    slow: Vec<(&'static str, Duration)>,
    /// Operation that fails with AccessDeniedException, such as ListShards (repeatable)
    #[arg(long, value_name = "OPERATION", value_parser = operation)]
    deny: Vec<&'static str>,
    /// Seed of the faults
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

pub(crate) async fn run(args: EmulatorArgs) -> anyhow::Result<ExitCode> {
    let options = if args.no_limits { Options::unlimited() } else { Options::default() };
    let emulator = Emulator::new(Options { seed: args.faults.seed, ..options });
    for (name, shards) in &args.streams {
        create_stream(&emulator, name, *shards)?;
    }
    emulator.set_faults(args.faults.faults());
    let mut interrupts = Interrupts::listen()?;
    let addr = SocketAddr::new(args.host, args.port);
    let server = Server::bind(addr, &emulator, None).await.with_context(|| format!("cannot listen on {addr}"))?;
    // Programs read the URL from the first line.
    let stream = args.streams.first().map_or("NAME", |(name, _)| name);
    let url = server.url();
    let greeting = format!(
        "{url}\n\nTo put records:\n  kpl put --endpoint-url {url} --dummy-credentials --stream {stream} FILE\n"
    );
    exit::print(greeting.as_bytes())?;
    interrupts.wait_for(1).await;
    server.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Creates a stream.
pub(crate) fn create_stream(emulator: &Emulator, name: &str, shards: u32) -> anyhow::Result<()> {
    let created = emulator.create_stream(name, shards);
    created.with_context(|| format!("cannot create the stream {name:?} with {shards} shards"))
}

impl FaultArgs {
    fn faults(&self) -> Faults {
        let fault = |operation, latency, error| OperationFault { operation, latency, error, first: None };
        let denied = self.deny.iter().map(|name| fault(*name, Duration::ZERO, Some(ServiceError::denied(name))));
        let slow = self.slow.iter().map(|(name, latency)| fault(*name, *latency, None));
        Faults {
            throttle_rate: self.throttle_rate,
            internal_failure_rate: self.internal_failure_rate,
            http_500_rate: self.http_500_rate,
            drop_reply_rate: self.drop_reply_rate,
            latency: self.latency,
            latency_jitter: self.latency_jitter,
            operations: denied.chain(slow).collect(),
            ..Faults::default()
        }
    }
}

fn stream(text: &str) -> Result<(String, u32), String> {
    let (name, shards) = text.split_once(':').ok_or("a stream is NAME:SHARDS, such as events:4")?;
    let count = shards.parse().map_err(|_| format!("{shards:?} is not a number of shards"))?;
    Ok((name.to_owned(), count))
}

/// The operations that `--slow` and `--deny` accept.
const OPERATIONS: [&str; 3] = ["DescribeStreamSummary", "ListShards", "PutRecords"];

fn operation(text: &str) -> Result<&'static str, String> {
    let known = OPERATIONS.into_iter().find(|name| *name == text);
    known.ok_or_else(|| format!("an operation is one of {}", OPERATIONS.join(", ")))
}

fn slow(text: &str) -> Result<(&'static str, Duration), String> {
    let (name, time) = text.split_once('=').ok_or("a slow operation is OPERATION=TIME, such as ListShards=400ms")?;
    Ok((operation(name)?, humantime::parse_duration(time).map_err(|error| error.to_string())?))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&rate) { Ok(rate) } else { Err("a rate is from 0 to 1".into()) }
}

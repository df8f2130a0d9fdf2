//! Comparison of kpl with the KPL and with consumers of its records.
//!
//! ```text
//! tests/interop/run [PEER …]
//! ```
//!
//! Each peer is software that others wrote, called by a short script in its language (`tests/interop/peers`). The
//! script reads user records, or an endpoint and a stream, and prints its results, one JSON value per line
//! ([`mod@line`]). This program compares them. A peer that is not available on this machine is skipped, with the
//! reason. In CI, that is a failure.

mod corpus;
mod line;
mod peers;
mod report;
mod service;
mod tools;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use tokio::runtime::Runtime;

use peers::Peer;
use report::Report;
use service::Service;
use tools::Tools;

/// Compares kpl with the KPL and with consumers of its records
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// The peers to run (default: all)
    #[arg(value_enum)]
    peers: Vec<Peer>,
    /// The number of random batches to encode
    #[arg(long, default_value_t = 10_000)]
    batches: usize,
    /// The seed of the random batches
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the KPL's Kinesis records to core/tests/data, as vectors for the unit tests
    #[arg(long)]
    capture: bool,
}

/// The number of peers that run concurrently. They often wait: for downloads, for flushes, for the start of a JVM.
const CONCURRENT_PEERS: usize = 3;

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let tools = Tools::new();
    let runtime = Runtime::new()?;
    let peers = peers::chosen(&args.peers);
    let queue = Mutex::new(peers.iter().enumerate());
    let reports = Mutex::new(BTreeMap::new());
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let run = || {
        while let Some((place, peer)) = take() {
            let report = runtime.block_on(run_peer(*peer, &args, &tools));
            reports.lock().unwrap_or_else(PoisonError::into_inner).insert(place, report);
        }
    };
    std::thread::scope(|scope| (0..CONCURRENT_PEERS).for_each(|_| drop(scope.spawn(run))));
    let reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    anyhow::ensure!(reports.len() == peers.len(), "the run of a peer panicked");
    let report = Report::of(reports.into_values());
    print!("{report}");
    let must_be_complete = std::env::var_os("CI").is_some();
    Ok(if report.is_good(must_be_complete) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a peer with its own service, so that peers do not affect each other.
async fn run_peer(peer: Peer, args: &Args, tools: &Tools) -> Report {
    let mut report = Report::default();
    let run = async { peer.run(args, tools, &Service::start().await?, &mut report).await };
    if let Err(error) = run.await {
        report.add(&peer.name(), "all", Err(error));
    }
    report
}

//! kpl beside the real KPL and the real consumers of its records.
//!
//! ```text
//! tests/interop/run [PEER …]
//! ```
//!
//! Each peer is a program that others wrote, called by a few lines of its own language (`tests/interop/peers`). It gets
//! user records, or an endpoint and a stream, and prints what it made of them, a line of JSON each ([`mod@line`]). All
//! comparing is done here. What cannot be had on this machine is skipped, with the reason; in CI that is a failure.

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

/// Runs the real KPL and the real consumers beside kpl, and compares.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// The peers to run; all of them if none is named
    #[arg(value_enum)]
    peers: Vec<Peer>,
    /// How many random batches are encoded by both
    #[arg(long, default_value_t = 10_000)]
    batches: usize,
    /// The seed of the random batches
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write what the KPL stored to core/tests/data, as vectors for the unit tests
    #[arg(long)]
    capture: bool,
}

/// So many peers run at once: they wait a lot, for downloads, for a flush, for a JVM to start.
const AT_ONCE: usize = 3;

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
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(run))));
    let reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    anyhow::ensure!(reports.len() == peers.len(), "a peer's run has panicked");
    let report = Report::of(reports.into_values());
    print!("{report}");
    let must_be_whole = std::env::var_os("CI").is_some();
    Ok(if report.is_good(must_be_whole) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Each peer has a service of its own: nothing of the others is in its way.
async fn run_peer(peer: Peer, args: &Args, tools: &Tools) -> Report {
    let mut report = Report::default();
    let run = async { peer.run(args, tools, &Service::start().await?, &mut report).await };
    if let Err(error) = run.await {
        report.add(&peer.name(), "all", Err(error));
    }
    report
}

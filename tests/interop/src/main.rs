//! kpl beside the real KPL and the real consumers of its records.
//!
//!     tests/interop/run [PEER …]
//!
//! Each peer is a program that others wrote, called by a few lines of its own language (`tests/interop/peers`). It gets
//! user records, or an endpoint and a stream, and prints what it made of them, a line of JSON each ([`line`]). All
//! comparing is done here. What cannot be had on this machine is skipped, with the reason; in CI that is a failure.

mod corpus;
mod line;
mod peers;
mod report;
mod service;
mod tools;

use std::process::ExitCode;

use clap::Parser;

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

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let tools = Tools::new();
    let mut report = Report::default();
    for peer in peers::chosen(&args.peers) {
        // Each has a service of its own: nothing of the others is in its way.
        let service = Service::start().await?;
        peer.run(&args, &tools, &service, &mut report).await;
    }
    print!("{report}");
    let must_be_whole = std::env::var_os("CI").is_some();
    Ok(if report.is_good(must_be_whole) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

//! `kpl put --dry-run`: what would be sent, without sending it.
//!
//! The producer is the real one. Its requests end in a [`DryRunTransport`], which knows the stream's shards, answers that
//! every record is stored, and counts what arrives.

mod counts;
mod report;
mod target;
mod transport;

use std::process::ExitCode;
use std::sync::PoisonError;

use kpl_tokio::{Producer, Tokio};

use self::report::Report;
use self::target::Target;
use self::transport::DryRunTransport;
use super::console::Console;
use super::follow::FollowOptions;
use super::keys::KeySource;
use super::line_counts::LineCounts;
use super::{PutArgs, check, exit_code, metrics, multiline, open_files, put};
use crate::exit;
use crate::interrupts::Interrupts;

pub(super) async fn run(args: PutArgs, mut interrupts: Interrupts) -> anyhow::Result<ExitCode> {
    let keys = args.key.source();
    check(&args.stream, &keys)?;
    // Nothing is sent, so nothing waits for the shards' limits.
    let config = args.settings.until_all_are_put().without_shard_limits().config()?;
    let config = metrics::enable(&config, false)?;
    let options = FollowOptions { follow: false, multiline: multiline(args.multiline_start, &config) };
    let console = Console::new();
    let setup = async {
        let (inputs, _) = open_files(args.files, None, None, &args.stream, options, &console).await?;
        let target = match args.emulator.shards {
            Some(shards) => Target::with_equal_shards(shards)?,
            None => Target::of_stream(&args.connection, &args.stream).await?,
        };
        anyhow::Ok((inputs, target))
    };
    let (inputs, target) = tokio::select! {
        biased;
        signal = interrupts.wait_for(1) => {
            exit::print_warning("interrupted before the first line");
            return Ok(signal.exit_code());
        }
        result = setup => result?,
    };

    let line_counts = LineCounts::new(inputs.sources.clone(), console.clone(), None, None, None);
    let shard_ids: Vec<_> = target.shards.iter().map(|shard| shard.id.clone()).collect();
    let transport = DryRunTransport::new(target, keys != KeySource::Random);
    let (counts, aggregate_max) = (transport.counts(), config.aggregation_max_size());
    let producer = Producer::with_transport(Tokio::default(), transport, config);
    let run = put(&args.stream, producer, keys, inputs, line_counts, &interrupts).await?;

    let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    let report = Report::new(&args.stream, &shard_ids, &counts, &run, aggregate_max);
    let mut ok = run.counts.failed == 0 && run.is_at_end && !run.has_read_error;
    if let Err(error) = exit::print_summary(&report, args.json) {
        ok = false;
        exit::print_error(&format!("cannot print the summary: {error}"));
    }
    let is_interrupted = !run.is_at_end || run.is_stopped;
    Ok(exit_code(ok, if is_interrupted { interrupts.first() } else { None }))
}

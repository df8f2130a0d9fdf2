//! `kpl`: puts lines into Amazon Kinesis Data Streams as the Kinesis Producer Library does, and related commands.

mod blob;
mod codec;
mod completions;
mod connection;
mod emulator;
mod exit;
mod interrupts;
mod list_shards;
mod man;
mod put;
mod settings;
mod shards;
mod style;
mod verify;

use std::future::Future;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

/// Puts records into Amazon Kinesis Data Streams: aggregated, rate-limited, batched and retried as the KPL does.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    max_term_width = 120,
    styles = style::HELP,
    after_help = "\
Exit status: 0 on success, for `kpl put` only if every line of the input was stored and the verification, if \
requested, was successful; 1 if a line failed, the verification failed, or the input is invalid or could not be read; \
2 for wrong usage or a failed setup. If a signal stopped `kpl put` before that, the status is 128 plus the number of \
the signal, even if lines failed: 129 for SIGHUP, 130 for SIGINT (Ctrl-C), 143 for SIGTERM. A closed standard output \
does not change the status.

Try it without AWS:
  kpl put --emulator --verify --stream access --key-field 1 access.log"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Put(Box<put::PutArgs>),
    Encode(codec::EncodeArgs),
    Decode(codec::DecodeArgs),
    Shards(Box<shards::ShardsArgs>),
    Emulator(emulator::EmulatorArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Put(args) => block_on(put::run(*args)),
        Command::Encode(args) => codec::encode(&args),
        Command::Decode(args) => codec::decode(&args),
        Command::Shards(args) => block_on(shards::run(*args)),
        Command::Emulator(args) => block_on(emulator::run(args)),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command()),
    };
    result.unwrap_or_else(|error| exit::report(&error))
}

fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    let result = runtime.block_on(command);
    // Does not wait for blocking tasks, such as DNS lookups.
    runtime.shutdown_background();
    result
}

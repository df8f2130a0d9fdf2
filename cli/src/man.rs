//! `kpl man`: the manual pages, from the same text as `--help`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Command};
use clap_mangen::Man;

use crate::exit;

/// Prints the manual page kpl(1) as roff, or writes the pages of all commands.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kpl man | man -l -
  kpl man --out ~/.local/share/man/man1    # then: man kpl-put")]
pub(crate) struct ManArgs {
    /// Write kpl.1, kpl-put.1 and the pages of the other commands into this directory, which is created if necessary
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &ManArgs, command: Command) -> anyhow::Result<ExitCode> {
    match &args.out {
        Some(directory) => {
            let write = || {
                std::fs::create_dir_all(directory)?;
                clap_mangen::generate_to(command, directory)
            };
            write().with_context(|| format!("cannot write --out {directory:?}"))?;
        }
        None => {
            let mut page = Vec::new();
            // There is no page of `kpl help`.
            Man::new(command.disable_help_subcommand(true)).render(&mut page)?;
            exit::print(&page)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

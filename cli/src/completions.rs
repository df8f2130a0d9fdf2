//! `kpl completions`: prints the completions of a shell.

use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::exit;

/// Prints the script that completes `kpl` commands in a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples: for all new shells of this user
  bash:  kpl completions bash > ~/.local/share/bash-completion/completions/kpl
  zsh:   kpl completions zsh > \"${fpath[1]}/_kpl\"
  fish:  kpl completions fish > ~/.config/fish/completions/kpl.fish

For this shell only:
  source <(kpl completions bash)")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, mut command: Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "kpl", &mut script);
    exit::print(&script)?;
    Ok(ExitCode::SUCCESS)
}

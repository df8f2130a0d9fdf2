//! Exit statuses and output, which may go to a closed pipe.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// The exit status if a line, the input, or the verification failed.
pub(crate) const FAILED: u8 = 1;

/// The exit status for wrong usage or a failed setup. clap uses the same.
const SETUP_FAILED: u8 = 2;

/// The exit status after a second Ctrl-C: 128 plus the signal's number, as in shells.
pub(crate) const INTERRUPTED: u8 = 130;

/// Invalid input, as opposed to wrong usage.
#[derive(Debug)]
pub(crate) struct BadInput(pub(crate) String);

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// Prints an error, and returns its exit status.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS; // the reader of standard output needs no more
    }
    print_message(&format!("{error:#}"));
    ExitCode::from(if error.is::<BadInput>() { FAILED } else { SETUP_FAILED })
}

/// Prints a message to standard error. Ignores errors, so that the run goes on.
pub(crate) fn print_message(line: &str) {
    let _ = writeln!(io::stderr(), "kpl: {line}");
}

/// Prints the result to standard output.
pub(crate) fn print(out: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(out)?;
    stdout.flush()
}

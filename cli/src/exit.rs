//! How the program ends: statuses, and writing to a pipe that somebody has closed.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

/// A line failed, or the verification did.
pub(crate) const FAILED: u8 = 1;

/// Wrong use, or something that the work needs cannot be had. clap ends with the same.
const SETUP: u8 = 2;

/// Ended by a second Ctrl-C, as shells say it: 128 and the signal's number.
pub(crate) const INTERRUPTED: u8 = 130;

/// Input that is not what it should be: no fault of the command line.
#[derive(Debug)]
pub(crate) struct BadInput(pub(crate) String);

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// Says what went wrong, and gives the status for it.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS; // the reader has what it wanted
    }
    say(&format!("{error:#}"));
    ExitCode::from(if error.is::<BadInput>() { FAILED } else { SETUP })
}

/// Writes a line about the run to standard error. If nobody can hear it, the work goes on.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "kpl: {line}");
}

/// Writes the result to standard output.
pub(crate) fn print(out: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(out)?;
    stdout.flush()
}

//! Exit statuses and output, which may go to a closed pipe.

use std::fmt::{self, Display};
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};
use std::process::ExitCode;

use anstyle::Style;
use serde::Serialize;

use crate::style;

/// The exit status if a line, the input, the verification, or the output of the summary failed.
pub(crate) const FAILED: u8 = 1;

/// The exit status for wrong usage or a failed setup. clap uses the same.
const SETUP_FAILED: u8 = 2;

/// The capacity of the output buffer, in bytes.
const BUFFER_SIZE: usize = 64 << 10;

/// Invalid input, as opposed to wrong usage.
#[derive(Debug)]
pub(crate) struct BadInput(pub(crate) String);

impl Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}

/// Prints an error, and returns its exit status.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    print_error(&format!("{error:#}"));
    ExitCode::from(if error.is::<BadInput>() { FAILED } else { SETUP_FAILED })
}

/// Prints a message to standard error. Ignores errors, so that the run goes on.
pub(crate) fn print_message(line: &str) {
    print_line(Style::new(), line);
}

/// Prints a warning to standard error, as [`print_message`] does.
pub(crate) fn print_warning(line: &str) {
    print_line(style::WARNING, line);
}

/// Prints an error to standard error, as [`print_message`] does.
pub(crate) fn print_error(line: &str) {
    print_line(style::ERROR, line);
}

fn print_line(prefix: Style, line: &str) {
    let _ = writeln!(anstream::stderr(), "{} {line}", style::styled(prefix, "kpl:"));
}

/// Prints the result to standard output. A closed pipe is not an error: its reader needs no more.
pub(crate) fn print(out: &[u8]) -> io::Result<()> {
    print_with(|stdout| stdout.write_all(out))
}

/// Prints a summary: as one JSON object, or as text.
pub(crate) fn print_summary(summary: &(impl Serialize + Display), json: bool) -> io::Result<()> {
    if json { print(format!("{}\n", serde_json::to_string(summary)?).as_bytes()) } else { print_styled(summary) }
}

/// Prints text as [`print()`] does. Its styles appear on a terminal only.
pub(crate) fn print_styled(text: impl Display) -> io::Result<()> {
    let mut stdout = anstream::stdout();
    unless_closed(stdout.write_all(text.to_string().as_bytes()).and_then(|()| stdout.flush()))
}

/// Prints as [`print()`] does, but in parts: the result does not have to fit into memory. A closed pipe ends `write`.
pub(crate) fn print_with(write: impl FnOnce(&mut BufWriter<StdoutLock<'static>>) -> io::Result<()>) -> io::Result<()> {
    let mut stdout = BufWriter::with_capacity(BUFFER_SIZE, io::stdout().lock());
    unless_closed(write(&mut stdout).and_then(|()| stdout.flush()))
}

fn unless_closed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

//! Colours and weights of text. They appear on terminals only, and never if NO_COLOR is set.

use std::fmt::{self, Display};

use anstyle::{AnsiColor, Style};
use clap::builder::Styles;

/// Errors, and numbers of failures.
pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();

/// What needs attention, but is not an error.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// The first word of a line, and table headings.
pub(crate) const HEADING: Style = Style::new().bold();

/// The styles of help texts and of errors in the usage.
pub(crate) const HELP: Styles =
    Styles::styled().error(ERROR).invalid(WARNING).header(HEADING.underline()).usage(HEADING.underline());

/// Returns a text in this style.
pub(crate) fn styled<T: Display>(style: Style, text: T) -> impl Display {
    Styled { style, text }
}

/// Returns the number of failures: as an error if there are any.
pub(crate) fn failures(count: u64) -> impl Display {
    styled(if count > 0 { ERROR } else { Style::new() }, count)
}

struct Styled<T> {
    style: Style,
    text: T,
}

impl<T: Display> Display for Styled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { style, text } = self;
        write!(f, "{style}{text}{style:#}")
    }
}

//! The events of a run, one per line.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use kpl_core::Instant;
use rustc_hash::FxHasher;

/// The number of lines in a finding.
const LINES_MAX: usize = 400;

/// The hash of all events of a run and, if enabled, the last events as text.
#[derive(Default)]
pub(crate) struct Trace {
    hasher: FxHasher,
    lines: Option<VecDeque<String>>,
}

/// Adds an event to the trace: its values to the hash and, if lines are kept, its text.
macro_rules! note {
    ($trace:expr, $now:expr, $text:literal $(, $value:expr)* $(,)?) => {{
        let trace: &mut $crate::trace::Trace = &mut $trace;
        trace.mix(&($text.len() as u64, $now));
        $(trace.mix(&$value);)*
        if trace.has_lines() {
            trace.line($now, format_args!($text $(, $value)*));
        }
    }};
}
pub(crate) use note;

impl Trace {
    /// Creates a trace that keeps the last lines.
    pub(crate) fn with_lines() -> Self {
        Self { hasher: FxHasher::default(), lines: Some(VecDeque::new()) }
    }

    pub(crate) fn mix(&mut self, value: &impl Hash) {
        value.hash(&mut self.hasher);
    }

    pub(crate) fn has_lines(&self) -> bool {
        self.lines.is_some()
    }

    pub(crate) fn line(&mut self, now: Instant, event: fmt::Arguments<'_>) {
        let Some(lines) = &mut self.lines else { return };
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        let now = Duration::from_nanos(now.as_nanos());
        lines.push_back(format!("{:>16.9}s  {event}", now.as_secs_f64()));
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.map(Vec::from).unwrap_or_default()
    }
}

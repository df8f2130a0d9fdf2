//! The producer's log events that a user at a terminal needs.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::console::Console;

/// Receives the warnings and errors of the producer. It shows those that are logged once, and keeps the last one of the
/// others: it explains why no result arrives.
#[derive(Clone)]
pub(crate) struct Events {
    console: Console,
    last_problem: Arc<Mutex<Option<String>>>,
}

impl Events {
    /// Installs the subscriber for the whole process.
    pub(crate) fn install(console: Console) -> Self {
        let events = Self { console, last_problem: Arc::default() };
        // Cannot fail: the program sets no other subscriber.
        let _ = tracing::subscriber::set_global_default(events.clone());
        events
    }

    /// Returns the last problem since the last call.
    pub(crate) fn take_last_problem(&self) -> Option<String> {
        self.last_problem.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("kpl_driver")
    }

    fn event(&self, event: &Event<'_>) {
        let mut problem = Problem::default();
        event.record(&mut problem);
        if problem.is_once {
            self.console.print_warning(&problem.to_string());
        } else {
            *self.last_problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem.to_string());
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The text of an event.
#[derive(Default)]
struct Problem {
    message: String,
    code: String,
    error: String,
    /// Whether the producer logs it once per stream.
    is_once: bool,
}

impl Visit for Problem {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = match field.name() {
            "message" => &mut self.message,
            "code" => &mut self.code,
            "error" => &mut self.error,
            _ => return,
        };
        let _ = write!(text, "{value:?}");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.is_once |= field.name() == "once" && value;
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for part in [&self.code, &self.error] {
            if !part.is_empty() {
                write!(f, ": {part}")?;
            }
        }
        Ok(())
    }
}

//! The operator's events, for the module `logging` of Python.

use std::fmt::{self, Write};
use std::mem;
use std::sync::Mutex;

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::lock;
use crate::signal::{Signal, Watchers};

/// The maximum number of events that are kept for Python.
const EVENTS_MAX: usize = 1_000;

static EVENTS: Mutex<Vec<(u8, String)>> = Mutex::new(Vec::new());
static WATCHERS: Watchers = Watchers::new();

/// Keeps events until Python fetches them.
struct Kept;

impl Subscriber for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("kpl_driver")
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            _ => 20,
        };
        let mut events = lock(&EVENTS);
        if events.len() < EVENTS_MAX {
            events.push((level, text.message + &text.fields));
        }
        drop(events);
        WATCHERS.notify();
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// Starts to keep events, and sends a token when there are some.
#[pyfunction]
pub(crate) fn start_logs(signal: &Signal, token: u64) {
    // An error means that this was called before.
    let _ = tracing::subscriber::set_global_default(Kept);
    WATCHERS.add(signal, token);
    // An event may have come before.
    if !lock(&EVENTS).is_empty() {
        WATCHERS.notify();
    }
}

/// Removes and returns the events: level and message.
#[pyfunction]
pub(crate) fn take_logs() -> Vec<(u8, String)> {
    mem::take(&mut *lock(&EVENTS))
}

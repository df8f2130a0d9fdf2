//! The operator's events, for the module `logging` of Python.

use std::fmt::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::runtime::forks;
use crate::signal::{Signal, Watchers};
use crate::{lock, rehearsal};

/// The maximum number of events that are kept for Python.
const EVENTS_MAX: usize = 1_000;

static IS_SUBSCRIBED: AtomicBool = AtomicBool::new(false);

/// The log of the process that was not forked.
static FIRST: Log = Log::new();

/// The events that Python did not take yet: level and message.
struct Log {
    events: Mutex<Vec<(u8, String)>>,
    watchers: Watchers,
    /// That of a child process. It does not use its parent's: a fork may copy its locks while they are taken, and nobody
    /// would release them.
    after_fork: OnceLock<Box<Log>>,
}

impl Log {
    const fn new() -> Self {
        Self { events: Mutex::new(Vec::new()), watchers: Watchers::new(), after_fork: OnceLock::new() }
    }

    /// Returns the log of this process.
    fn of_process() -> &'static Self {
        (0..forks()).fold(&FIRST, |log, _| log.after_fork.get_or_init(|| Box::new(Self::new())))
    }
}

/// Keeps events until Python fetches them.
struct Kept;

impl Subscriber for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("kpl_driver")
    }

    fn event(&self, event: &Event<'_>) {
        if !rehearsal::is_done() {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            _ => 20,
        };
        let log = Log::of_process();
        let mut events = lock(&log.events);
        if events.len() < EVENTS_MAX {
            events.push((level, text.message + &text.fields));
        }
        drop(events);
        log.watchers.notify();
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
    // At most once, also after forks: `tracing` may have been forked while one of its locks was taken, which only this
    // takes exclusively. An error means that something else in the process subscribed.
    if !IS_SUBSCRIBED.swap(true, Ordering::Relaxed) {
        let _ = tracing::subscriber::set_global_default(Kept);
    }
    let log = Log::of_process();
    log.watchers.add(signal, token);
    // An event may have come before.
    if !lock(&log.events).is_empty() {
        log.watchers.notify();
    }
}

/// Removes and returns the events: level and message.
#[pyfunction]
pub(crate) fn take_logs() -> Vec<(u8, String)> {
    mem::take(&mut *lock(&Log::of_process().events))
}

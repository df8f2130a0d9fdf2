//! Wakes event loops and threads from any thread, without the interpreter's lock.

use std::io::{Read, Write};
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::task::Wake;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::lock;

/// The time between two checks for signals while a thread waits.
const SIGNALS_CHECKED: Duration = Duration::from_millis(100);

/// A socket that becomes readable when there are tokens. One byte wakes the loop for any number of them.
#[pyclass(frozen, module = "kpl")]
pub(crate) struct Signal(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    tokens: Mutex<Vec<u64>>,
    reader: UnixStream,
    writer: UnixStream,
}

impl Shared {
    /// Adds a token. Never blocks.
    fn send(&self, token: u64) {
        let mut tokens = lock(&self.tokens);
        tokens.push(token);
        if tokens.len() == 1 {
            // An error means that the socket is full, so the loop is woken anyway.
            let _ = (&self.writer).write(&[0]);
        }
    }
}

#[pymethods]
impl Signal {
    #[new]
    fn new() -> PyResult<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self(Arc::new(Shared { tokens: Mutex::default(), reader, writer })))
    }

    /// Returns the file descriptor to watch.
    fn fileno(&self) -> i32 {
        self.0.reader.as_raw_fd()
    }

    /// Removes and returns all tokens.
    fn take(&self) -> Vec<u64> {
        let mut tokens = lock(&self.0.tokens);
        let _ = (&self.0.reader).read(&mut [0; 16]);
        mem::take(&mut *tokens)
    }
}

/// Those who wait for one result: event loops and threads. It is the only waker of the result, so that none of them
/// replaces another.
#[derive(Default)]
pub(crate) struct Watchers(Mutex<Vec<Watcher>>);

enum Watcher {
    Loop(Arc<Shared>, u64),
    Thread(Arc<Parked>),
}

impl Watchers {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Adds an event loop, which gets the token.
    pub(crate) fn add(&self, signal: &Signal, token: u64) {
        lock(&self.0).push(Watcher::Loop(signal.0.clone(), token));
    }

    /// Wakes all of them.
    pub(crate) fn notify(&self) {
        for watcher in mem::take(&mut *lock(&self.0)) {
            match watcher {
                Watcher::Loop(signal, token) => signal.send(token),
                Watcher::Thread(parked) => parked.wake(),
            }
        }
    }

    /// Waits on this thread until `is_ready` returns true, at most for `timeout` seconds. Checks for signals, such as that
    /// of Ctrl-C. `is_ready` makes sure that these watchers are notified when that changes.
    pub(crate) fn wait(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        mut is_ready: impl FnMut() -> bool + Send,
    ) -> PyResult<bool> {
        let deadline = timeout.and_then(|seconds| {
            let timeout = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
            Instant::now().checked_add(timeout)
        });
        let parked = Arc::new(Parked::default());
        loop {
            lock(&self.0).push(Watcher::Thread(parked.clone()));
            // Parks until it is woken, or signals are to be checked.
            let is_ready = py.detach(|| {
                while !is_ready() {
                    let left = deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
                    if !parked.wait(left.min(SIGNALS_CHECKED)) {
                        return is_ready();
                    }
                    lock(&self.0).push(Watcher::Thread(parked.clone()));
                }
                true
            });
            lock(&self.0).retain(|watcher| !matches!(watcher, Watcher::Thread(other) if Arc::ptr_eq(other, &parked)));
            if is_ready {
                return Ok(true);
            }
            py.check_signals()?;
            if deadline.is_some_and(|at| at <= Instant::now()) {
                return Ok(false);
            }
        }
    }
}

impl Wake for Watchers {
    fn wake(self: Arc<Self>) {
        self.notify();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.notify();
    }
}

/// A thread that waits.
#[derive(Default)]
struct Parked {
    is_woken: Mutex<bool>,
    changed: Condvar,
}

impl Parked {
    /// Waits until it is woken. Returns false after `time`.
    fn wait(&self, time: Duration) -> bool {
        let is_woken = lock(&self.is_woken);
        let waited = self.changed.wait_timeout_while(is_woken, time, |is_woken| !*is_woken);
        waited.is_ok_and(|(mut is_woken, _)| mem::take(&mut *is_woken))
    }

    fn wake(&self) {
        *lock(&self.is_woken) = true;
        self.changed.notify_all();
    }
}

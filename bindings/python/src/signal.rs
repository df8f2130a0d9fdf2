//! Wakes an event loop from any thread, without the interpreter's lock.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::task::Wake;

use pyo3::prelude::*;

use crate::lock;

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
        std::mem::take(&mut *tokens)
    }
}

/// Those who wait for one result: a signal and a token each.
#[derive(Default)]
pub(crate) struct Watchers(Mutex<Vec<(Arc<Shared>, u64)>>);

impl Watchers {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    pub(crate) fn add(&self, signal: &Signal, token: u64) {
        lock(&self.0).push((signal.0.clone(), token));
    }

    /// Sends all tokens.
    pub(crate) fn notify(&self) {
        for (signal, token) in std::mem::take(&mut *lock(&self.0)) {
            signal.send(token);
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

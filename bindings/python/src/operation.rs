//! An operation that takes time, such as a flush: it runs on the runtime, and its end can be watched or awaited by a thread.

use std::future::Future;
use std::mem;
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;

use crate::engine::Engine;
use crate::outcome::{BatchOutcome, Outcome};
use crate::signal::{Signal, Watchers};
use crate::{lock, runtime};

/// What an operation returns.
pub(crate) enum Value {
    Nothing,
    Outcome(kpl_tokio::Outcome),
    BatchOutcome(kpl_tokio::BatchOutcome),
    Engine(Engine),
}

impl Value {
    /// Returns the object for Python.
    pub(crate) fn into_object(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match self {
            Self::Nothing => py.None(),
            Self::Outcome(outcome) => Py::new(py, Outcome::of_record(outcome))?.into_any(),
            Self::Engine(engine) => Py::new(py, engine)?.into_any(),
            Self::BatchOutcome(outcome) => Py::new(py, BatchOutcome::new(outcome))?.into_any(),
        })
    }
}

/// An operation that runs on the runtime.
#[pyclass(frozen, module = "kpl")]
pub(crate) struct Operation(Arc<Shared>);

struct Shared {
    value: Mutex<State>,
    watchers: Watchers,
}

enum State {
    Running,
    Ended(PyResult<Value>),
    Taken,
}

/// Ends the operation, also if its task is dropped.
struct End(Arc<Shared>);

impl End {
    fn set(&self, value: PyResult<Value>) {
        let mut state = lock(&self.0.value);
        if matches!(*state, State::Running) {
            *state = State::Ended(value);
            drop(state);
            self.0.watchers.notify();
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.set(Err(crate::runtime_error("the operation was lost: its thread has ended")));
    }
}

impl Operation {
    /// Starts an operation.
    pub(crate) fn start(operation: impl Future<Output = PyResult<Value>> + Send + 'static) -> PyResult<Self> {
        let shared = Arc::new(Shared { value: Mutex::new(State::Running), watchers: Watchers::default() });
        let end = End(shared.clone());
        runtime::handle()?.spawn(async move { end.set(operation.await) });
        Ok(Self(shared))
    }
}

#[pymethods]
impl Operation {
    /// Sends a token when the operation has ended. Returns false if it has already.
    fn watch(&self, signal: &Signal, token: u64) -> bool {
        let state = lock(&self.0.value);
        let is_running = matches!(*state, State::Running);
        if is_running {
            self.0.watchers.add(signal, token);
        }
        is_running
    }

    /// Takes the value of the operation, which has ended.
    fn take(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let state = mem::replace(&mut *lock(&self.0.value), State::Taken);
        match state {
            State::Ended(value) => value?.into_object(py),
            State::Running | State::Taken => Err(crate::runtime_error("the operation has no value")),
        }
    }

    /// Waits until the operation has ended, at most for `timeout` seconds. Returns whether it has.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.0.watchers.wait(py, timeout, || !matches!(*lock(&self.0.value), State::Running))
    }
}

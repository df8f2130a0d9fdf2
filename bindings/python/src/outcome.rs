//! Outcomes: the future results of records.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};

use kpl_tokio::RecordResult as Result;
use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::result::RecordResult;
use crate::signal::{Signal, Watchers};
use crate::{lock, runtime};

/// The future result of a record: an outcome of a producer, or one that Python code sets.
#[pyclass(frozen, subclass, module = "kpl")]
pub(crate) struct Outcome {
    state: Mutex<State>,
    /// Those who wait. Created for the first of them: most outcomes have their result when they are awaited.
    watchers: OnceLock<Arc<Watchers>>,
    /// See [`runtime::forks`].
    forks: u64,
}

enum State {
    /// Of a record that is not resolved.
    Record(kpl_tokio::Outcome),
    /// Created by Python code, and not set.
    Open,
    /// The result of a record. Its object is created when it is looked at.
    Result(Result),
    Value(Py<PyAny>),
    Error(PyErr),
}

impl Outcome {
    pub(crate) fn of_record(outcome: kpl_tokio::Outcome) -> Self {
        Self { state: Mutex::new(State::Record(outcome)), watchers: OnceLock::new(), forks: runtime::forks() }
    }

    /// Returns the state, with the result of the record if there is one yet.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        if let State::Record(outcome) = &mut *state
            && let Some(result) = outcome.try_result()
        {
            *state = State::Result(result);
        }
        state
    }

    /// Returns the value, or `None` if there is none yet.
    fn value(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let result = match &*self.state() {
            State::Result(result) => Some(result.clone()),
            _ => None,
        };
        if let Some(result) = result {
            // Without the lock: creating an object may run any code of Python.
            let value = Py::new(py, RecordResult::of_record(result))?.into_any();
            let mut state = self.state();
            if matches!(*state, State::Result(_)) {
                *state = State::Value(value);
            }
        }
        match &*self.state() {
            State::Value(value) => Ok(Some(value.clone_ref(py))),
            State::Error(error) => Err(error.clone_ref(py)),
            State::Record(_) if self.forks != runtime::forks() => Err(PyRuntimeError::new_err(
                "the outcome was created before a fork: its record is in the parent process",
            )),
            _ => Ok(None),
        }
    }

    fn set(&self, new: State) -> PyResult<()> {
        let mut state = self.state();
        if !matches!(*state, State::Open | State::Record(_)) {
            return Err(PyRuntimeError::new_err("Outcome already set"));
        }
        *state = new;
        drop(state);
        if let Some(watchers) = self.watchers.get() {
            watchers.notify();
        }
        Ok(())
    }

    fn watchers(&self) -> &Arc<Watchers> {
        self.watchers.get_or_init(Arc::default)
    }

    /// Whether there is a result or an exception; otherwise, the watchers are notified of it.
    fn poll_result(&self) -> bool {
        let mut state = lock(&self.state);
        if let State::Record(outcome) = &mut *state {
            let waker = Waker::from(self.watchers().clone());
            if let Poll::Ready(result) = Pin::new(outcome).poll(&mut Context::from_waker(&waker)) {
                *state = State::Result(result);
            }
        }
        !matches!(*state, State::Open | State::Record(_))
    }
}

#[pymethods]
impl Outcome {
    #[new]
    fn new() -> Self {
        Self { state: Mutex::new(State::Open), watchers: OnceLock::new(), forks: runtime::forks() }
    }

    #[classmethod]
    fn __class_getitem__<'py>(cls: &Bound<'py, PyType>, _item: &Bound<'py, PyAny>) -> Bound<'py, PyType> {
        cls.clone()
    }

    /// Whether there is a result or an exception.
    fn is_set(&self) -> bool {
        !matches!(*self.state(), State::Open | State::Record(_))
    }

    /// Resolves the outcome with a value. Raises RuntimeError if it is already set.
    fn set_value(&self, value: Py<PyAny>) -> PyResult<()> {
        self.set(State::Value(value))
    }

    /// Resolves the outcome with an exception. Raises RuntimeError if it is already set.
    fn set_exception(&self, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set(State::Error(PyErr::from_value(exc.clone())))
    }

    /// Waits for the result, and returns it or raises the exception. Any number of tasks may wait.
    fn wait(slf: Py<Self>) -> Wait {
        Wait { outcome: slf.into_any(), inner: Mutex::new(None) }
    }

    fn __await__(slf: Py<Self>) -> Wait {
        Self::wait(slf)
    }

    /// Returns the result, or None.
    fn poll(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.value(py)
    }

    /// Sends a token when there is a result. Returns false if there is one already.
    fn watch(&self, py: Python<'_>, signal: &Signal, token: u64) -> PyResult<bool> {
        if self.value(py)?.is_some() {
            return Ok(false);
        }
        self.watchers().add(signal, token);
        Ok(!self.poll_result())
    }

    /// Waits on this thread, at most for `timeout` seconds. Returns the result; None after the timeout.
    #[pyo3(signature = (timeout=None))]
    fn wait_blocking(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        if let Some(value) = self.value(py)? {
            return Ok(Some(value));
        }
        self.watchers().wait(py, timeout, || self.poll_result())?;
        self.value(py)
    }

    fn __repr__(&self) -> &'static str {
        if self.is_set() { "<Outcome set>" } else { "<Outcome pending>" }
    }
}

/// The future results of a batch, in the order of its records.
#[pyclass(frozen, module = "kpl")]
pub(crate) struct BatchOutcome {
    state: Mutex<BatchState>,
    watchers: Arc<Watchers>,
    len: usize,
}

enum BatchState {
    Records(kpl_tokio::BatchOutcome),
    Results(Vec<Result>),
    /// A list of them.
    List(Py<PyAny>),
}

impl BatchOutcome {
    pub(crate) fn new(outcome: kpl_tokio::BatchOutcome) -> Self {
        Self { len: outcome.len(), state: Mutex::new(BatchState::Records(outcome)), watchers: Arc::default() }
    }

    /// Whether every record has its result; otherwise, the watchers are notified of it.
    fn poll_results(&self) -> bool {
        let mut state = lock(&self.state);
        if let BatchState::Records(outcome) = &mut *state {
            let waker = Waker::from(self.watchers.clone());
            match Pin::new(outcome).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(results) => *state = BatchState::Results(results),
                Poll::Pending => return false,
            }
        }
        true
    }
}

#[pymethods]
impl BatchOutcome {
    fn __len__(&self) -> usize {
        self.len
    }

    /// Whether every record has its result.
    fn is_set(&self) -> bool {
        let mut state = lock(&self.state);
        if let BatchState::Records(outcome) = &mut *state {
            match outcome.try_results() {
                Some(results) => *state = BatchState::Results(results),
                None => return false,
            }
        }
        true
    }

    /// Returns a list of the results, or None.
    fn poll(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        if !self.is_set() {
            return Ok(None);
        }
        let results = match &*lock(&self.state) {
            BatchState::Results(results) => Some(results.clone()),
            _ => None,
        };
        if let Some(results) = results {
            // Without the lock: creating an object may run any code of Python.
            let results: Vec<RecordResult> = results.into_iter().map(RecordResult::of_record).collect();
            let list = results.into_pyobject(py)?.into_any().unbind();
            let mut state = lock(&self.state);
            if matches!(*state, BatchState::Results(_)) {
                *state = BatchState::List(list);
            }
        }
        Ok(match &*lock(&self.state) {
            BatchState::List(list) => Some(list.clone_ref(py)),
            _ => None,
        })
    }

    /// Waits until every record has its result, and returns a list of them.
    fn wait(slf: Py<Self>) -> Wait {
        Wait { outcome: slf.into_any(), inner: Mutex::new(None) }
    }

    fn __await__(slf: Py<Self>) -> Wait {
        Self::wait(slf)
    }

    /// Sends a token when there are results. Returns false if there are already.
    fn watch(&self, signal: &Signal, token: u64) -> bool {
        self.watchers.add(signal, token);
        !self.poll_results()
    }

    /// Waits on this thread, at most for `timeout` seconds. Returns the results; None after the timeout.
    #[pyo3(signature = (timeout=None))]
    fn wait_blocking(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        if !self.is_set() {
            self.watchers.wait(py, timeout, || self.poll_results())?;
        }
        self.poll(py)
    }

    fn __repr__(&self) -> String {
        format!("<BatchOutcome of {} records, {}>", self.len, if self.is_set() { "set" } else { "pending" })
    }
}

/// The coroutine of `wait`. If there is a result, it ends at once; otherwise, Python code waits.
#[pyclass(frozen, module = "kpl")]
pub(crate) struct Wait {
    outcome: Py<PyAny>,
    /// The coroutine of Python, once it waits.
    inner: Mutex<Option<Py<PyAny>>>,
}

static WAIT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

impl Wait {
    /// Returns the coroutine of Python, which is created if there is no result.
    fn inner(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(inner) = &*lock(&self.inner) {
            return Ok(inner.clone_ref(py));
        }
        let value = self.outcome.call_method0(py, "poll")?;
        if !value.is_none(py) {
            return Err(PyStopIteration::new_err((value,)));
        }
        let wait = WAIT.get_or_try_init(py, || PyResult::Ok(py.import("kpl._loop")?.getattr("wait")?.unbind()))?;
        let inner = wait.call1(py, (&self.outcome,))?;
        *lock(&self.inner) = Some(inner.clone_ref(py));
        Ok(inner)
    }
}

#[pymethods]
impl Wait {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.send(py, py.None())
    }

    fn send(&self, py: Python<'_>, value: Py<PyAny>) -> PyResult<Py<PyAny>> {
        self.inner(py)?.call_method1(py, "send", (value,))
    }

    #[pyo3(signature = (*exc))]
    fn throw(&self, py: Python<'_>, exc: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<Py<PyAny>> {
        self.inner(py)?.call_method1(py, "throw", exc.clone())
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let inner = lock(&self.inner).take();
        inner.map_or(Ok(()), |inner| inner.call_method0(py, "close").map(drop))
    }

    #[getter(__name__)]
    fn name(&self) -> &'static str {
        "wait"
    }

    #[getter(__qualname__)]
    fn qualname(&self) -> &'static str {
        "Outcome.wait"
    }
}

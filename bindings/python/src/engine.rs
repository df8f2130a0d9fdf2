//! The producer for Python.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use kpl_core::UserRecord;
use kpl_core::metrics::MetricsLevel;
use kpl_tokio::{BatchRecord, Producer, PutBatchError, PutError, Refusal};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

use crate::config::Fields;
use crate::metrics::Reports;
use crate::operation::{Operation, Value};
use crate::outcome::Outcome;
use crate::rehearsal::rehearse;
use crate::signal::Signal;
use crate::{lock, runtime};

/// A producer. Each call that may take time returns an `Operation`, or has its value at once.
#[pyclass(frozen, module = "kpl")]
pub(crate) struct Engine {
    /// `None` only in `drop`.
    producer: Option<Producer>,
    /// See [`runtime::forks`].
    forks: u64,
    /// The stream of the last put: most puts are for the same one.
    last_stream: Mutex<Arc<str>>,
    reports: Arc<Reports>,
}

impl Engine {
    fn producer(&self) -> PyResult<&Producer> {
        match &self.producer {
            Some(producer) if self.forks == runtime::forks() => Ok(producer),
            _ => Err(PyRuntimeError::new_err(
                "the producer was created before a fork: create one in the child process after the fork",
            )),
        }
    }

    fn stream(&self, name: &str) -> Arc<str> {
        let mut last = lock(&self.last_stream);
        if **last != *name {
            *last = name.into();
        }
        last.clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.forks != runtime::forks() {
            // Its threads are in the parent process, and its locks may be held by them.
            std::mem::forget(self.producer.take());
        }
    }
}

/// Returns the bytes of an object of Python, with one copy.
fn data(object: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    if let Ok(bytes) = object.cast::<PyBytes>() {
        return Ok(Bytes::copy_from_slice(bytes.as_bytes()));
    }
    if let Ok(array) = object.cast::<PyByteArray>() {
        return Ok(array.to_vec().into());
    }
    if object.is_instance_of::<PyMemoryView>() {
        let bytes = object.call_method0("tobytes")?;
        return Ok(Bytes::copy_from_slice(bytes.cast::<PyBytes>()?.as_bytes()));
    }
    let name = object.get_type().name()?;
    Err(PyTypeError::new_err(format!("data is {name}, but must be bytes, bytearray or memoryview")))
}

fn closed() -> PyErr {
    PyRuntimeError::new_err("Producer is closed")
}

/// Returns the error of Python; `None` if the put may be tried again later.
fn error(error: &PutError) -> Option<PyErr> {
    match error {
        PutError::Full { .. } => None,
        PutError::Invalid { reason, .. } => Some(PyValueError::new_err(reason.to_string())),
        _ => Some(closed()),
    }
}

fn batch_error(error: &PutBatchError) -> PyErr {
    match &error.refusal {
        Refusal::Invalid(_) => PyValueError::new_err(error.to_string()),
        Refusal::Full(full) => PyRuntimeError::new_err(full.to_string()),
        _ => closed(),
    }
}

#[pymethods]
impl Engine {
    /// Starts a producer: loads the settings, which may need a request. The operation returns it.
    #[staticmethod]
    fn start(fields: Fields, metrics_level: &str) -> PyResult<Operation> {
        let level = match metrics_level {
            "none" => MetricsLevel::None,
            "summary" => MetricsLevel::Summary,
            _ => MetricsLevel::Detailed,
        };
        let config = fields.config(level)?;
        Operation::start(async move {
            rehearse().await;
            let producer = Producer::from_sdk_config(&fields.sdk_config().await?, config);
            let reports = Arc::new(Reports::default());
            if level != MetricsLevel::None {
                producer.export_metrics_to(reports.clone());
            }
            let last_stream = Mutex::new("".into());
            Ok(Value::Engine(Self { producer: Some(producer), forks: runtime::forks(), last_stream, reports }))
        })
    }

    /// Puts a record if there is room for it. Returns its outcome; None if there is no room.
    fn try_put(
        &self,
        stream: &str,
        partition_key: String,
        data: &Bound<'_, PyAny>,
        explicit_hash_key: Option<String>,
    ) -> PyResult<Option<Outcome>> {
        let data = self::data(data)?;
        let record = UserRecord { stream: self.stream(stream), partition_key, explicit_hash_key, data };
        match self.producer()?.try_put_record(record) {
            Ok(outcome) => Ok(Some(Outcome::of_record(outcome))),
            Err(error) => self::error(&error).map_or(Ok(None), Err),
        }
    }

    /// Puts a record as soon as there is room for it. The operation returns the outcome.
    fn put(
        &self,
        stream: &str,
        partition_key: String,
        data: &Bound<'_, PyAny>,
        explicit_hash_key: Option<String>,
    ) -> PyResult<Operation> {
        let data = self::data(data)?;
        let record = UserRecord { stream: self.stream(stream), partition_key, explicit_hash_key, data };
        let producer = self.producer()?.clone();
        Operation::start(async move {
            let put = producer.put_record(record).await;
            put.map(Value::Outcome).map_err(|error| self::error(&error).unwrap_or_else(closed))
        })
    }

    /// Puts a batch. Returns its outcome if there is room for all of its records, and an operation otherwise.
    fn put_batch(&self, py: Python<'_>, stream: &str, records: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let mut batch = Vec::with_capacity(records.len().unwrap_or(0));
        for record in records.try_iter()? {
            let (partition_key, data, explicit_hash_key) = match record?.extract::<Record<'_>>()? {
                Record::Pair(key, data) => (key, data, None),
                Record::Triple(key, data, hash_key) => (key, data, hash_key),
            };
            batch.push(BatchRecord { partition_key, explicit_hash_key, data: self::data(&data)? });
        }
        let (producer, stream) = (self.producer()?.clone(), self.stream(stream));
        let mut put = Box::pin(async move { producer.put_batch(stream, batch).await });
        match pin!(&mut put).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(outcome)) => Value::BatchOutcome(outcome).into_object(py),
            Poll::Ready(Err(error)) => Err(batch_error(&error)),
            Poll::Pending => {
                let put = async move { put.await.map(Value::BatchOutcome).map_err(|error| batch_error(&error)) };
                Ok(Py::new(py, Operation::start(put)?)?.into_any())
            }
        }
    }

    /// Starts a flush.
    fn flush(&self) -> PyResult<Operation> {
        let producer = self.producer()?.clone();
        Operation::start(async move {
            producer.flush().await;
            Ok(Value::Nothing)
        })
    }

    /// Starts a close. Records that are left after `timeout` seconds fail.
    #[pyo3(signature = (timeout=None))]
    fn close(&self, timeout: Option<f64>) -> PyResult<Operation> {
        let producer = self.producer()?.clone();
        let timeout = timeout.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX));
        Operation::start(async move {
            match timeout {
                None | Some(Duration::MAX) => producer.close().await,
                Some(timeout) => producer.close_or_fail(timeout).await,
            }
            Ok(Value::Nothing)
        })
    }

    /// The number of records accepted and not resolved.
    #[getter]
    fn outstanding_records(&self) -> PyResult<usize> {
        Ok(self.producer()?.outstanding_records())
    }

    /// The number of bytes accepted and not resolved.
    #[getter]
    fn outstanding_bytes(&self) -> PyResult<usize> {
        Ok(self.producer()?.outstanding_bytes())
    }

    /// Sends a token when there is a metrics report. Returns false if there is one.
    fn watch_reports(&self, signal: &Signal, token: u64) -> bool {
        self.reports.watch(signal, token)
    }

    /// Removes and returns the metrics of the reports.
    fn take_reports(&self) -> Vec<Vec<crate::metrics::Snapshot>> {
        self.reports.take()
    }

    /// Returns the metrics of the last 60 s.
    fn metrics(&self) -> PyResult<Vec<crate::metrics::Snapshot>> {
        Ok(crate::metrics::snapshots(&self.producer()?.metrics_of_last(60)))
    }
}

/// A record of a batch: partition key, data, and an explicit hash key or None.
#[derive(FromPyObject)]
enum Record<'py> {
    Triple(String, Bound<'py, PyAny>, Option<String>),
    Pair(String, Bound<'py, PyAny>),
}

//! The results of records.

use kpl_core::{Attempt as CoreAttempt, RecordResult as CoreResult};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

/// One try to put a record.
#[pyclass(frozen, module = "kpl", eq, hash, get_all)]
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attempt {
    /// When it was sent, in seconds since 1970.
    started_at: f64,
    /// When it ended, in seconds since 1970.
    ended_at: f64,
    success: bool,
    shard_id: Option<String>,
    sequence_number: Option<String>,
    error_code: Option<String>,
    error_message: Option<String>,
    /// Whether the record may have been stored although the attempt did not succeed.
    ambiguous: bool,
}

impl std::hash::Hash for Attempt {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.started_at.to_bits(), self.ended_at.to_bits(), self.success, &self.shard_id, &self.error_code)
            .hash(state);
    }
}

#[pymethods]
impl Attempt {
    #[new]
    #[pyo3(signature = (
        started_at, ended_at, success, shard_id=None, sequence_number=None, error_code=None, error_message=None,
        ambiguous=false
    ))]
    #[expect(clippy::too_many_arguments, reason = "the fields of a Python dataclass")]
    fn new(
        started_at: f64,
        ended_at: f64,
        success: bool,
        shard_id: Option<String>,
        sequence_number: Option<String>,
        error_code: Option<String>,
        error_message: Option<String>,
        ambiguous: bool,
    ) -> Self {
        Self { started_at, ended_at, success, shard_id, sequence_number, error_code, error_message, ambiguous }
    }

    fn __repr__(&self) -> String {
        format!(
            "Attempt(started_at={:?}, ended_at={:?}, success={}, shard_id={}, sequence_number={}, error_code={}, \
             error_message={}, ambiguous={})",
            self.started_at,
            self.ended_at,
            python_bool(self.success),
            python_str(self.shard_id.as_deref()),
            python_str(self.sequence_number.as_deref()),
            python_str(self.error_code.as_deref()),
            python_str(self.error_message.as_deref()),
            python_bool(self.ambiguous),
        )
    }
}

fn python_bool(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

fn python_str(value: Option<&str>) -> String {
    value.map_or_else(|| "None".to_owned(), |text| format!("{text:?}"))
}

/// What became of a record. The attributes of a stored or failed record are created when they are looked at.
#[pyclass(frozen, module = "kpl")]
pub(crate) struct RecordResult(Content);

enum Content {
    Record(CoreResult),
    Given { success: bool, shard_id: Option<String>, sequence_number: Option<String>, attempts: Py<PyTuple> },
}

impl RecordResult {
    pub(crate) fn of_record(result: CoreResult) -> Self {
        Self(Content::Record(result))
    }

    fn failure(&self) -> Option<&kpl_core::PutFailure> {
        match &self.0 {
            Content::Record(Err(failure)) => Some(failure),
            _ => None,
        }
    }
}

fn seconds(at: kpl_core::Instant) -> f64 {
    at.as_nanos() as f64 / 1e9
}

fn attempt(attempt: &CoreAttempt, stored: Option<(&str, &str)>) -> Attempt {
    let error = attempt.error.as_ref();
    Attempt {
        started_at: seconds(attempt.start),
        ended_at: seconds(attempt.end),
        success: error.is_none(),
        shard_id: stored.map(|(shard_id, _)| shard_id.to_owned()),
        sequence_number: stored.map(|(_, sequence_number)| sequence_number.to_owned()),
        error_code: error.map(|error| error.code.to_string()),
        error_message: error.map(|error| error.message.to_string()),
        ambiguous: attempt.is_ambiguous(),
    }
}

#[pymethods]
impl RecordResult {
    #[new]
    fn new(success: bool, shard_id: Option<String>, sequence_number: Option<String>, attempts: Py<PyTuple>) -> Self {
        Self(Content::Given { success, shard_id, sequence_number, attempts })
    }

    /// Whether the record is stored.
    #[getter]
    fn success(&self) -> bool {
        match &self.0 {
            Content::Record(result) => result.is_ok(),
            Content::Given { success, .. } => *success,
        }
    }

    /// The shard that stored the record, or None.
    #[getter]
    fn shard_id(&self) -> Option<&str> {
        match &self.0 {
            Content::Record(Ok(receipt)) => Some(receipt.shard_id()),
            Content::Record(Err(_)) => None,
            Content::Given { shard_id, .. } => shard_id.as_deref(),
        }
    }

    /// The sequence number of the Kinesis record that has the record, or None.
    #[getter]
    fn sequence_number(&self) -> Option<&str> {
        match &self.0 {
            Content::Record(Ok(receipt)) => Some(receipt.sequence_number()),
            Content::Record(Err(_)) => None,
            Content::Given { sequence_number, .. } => sequence_number.as_deref(),
        }
    }

    /// The position in the aggregate; None if the record was not aggregated or not stored.
    #[getter]
    fn sub_sequence_number(&self) -> Option<u64> {
        match &self.0 {
            Content::Record(Ok(receipt)) => receipt.sub_sequence_number(),
            _ => None,
        }
    }

    /// All attempts, the last one last. Of many failed attempts, the first and the last 8 are kept.
    #[getter]
    fn attempts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        match &self.0 {
            Content::Record(Ok(receipt)) => {
                let stored = (receipt.shard_id(), receipt.sequence_number());
                let attempts = receipt.attempts().iter();
                let attempts: Vec<Attempt> =
                    attempts.map(|each| attempt(each, each.error.is_none().then_some(stored))).collect();
                PyTuple::new(py, attempts)
            }
            Content::Record(Err(failure)) => {
                // As in aiokpl, a record that was never sent has an attempt with the reason.
                let mut attempts: Vec<Attempt> = failure.attempts.iter().map(|each| attempt(each, None)).collect();
                if attempts.last().is_none_or(|last| last.error_code.as_deref() != Some(&failure.error.code)) {
                    let ended_at = attempts.last().map_or(0.0, |last| last.ended_at);
                    attempts.push(Attempt {
                        started_at: ended_at,
                        ended_at,
                        success: false,
                        shard_id: None,
                        sequence_number: None,
                        error_code: Some(failure.error.code.to_string()),
                        error_message: Some(failure.error.message.to_string()),
                        ambiguous: false,
                    });
                }
                PyTuple::new(py, attempts)
            }
            Content::Given { attempts, .. } => Ok(attempts.bind(py).clone()),
        }
    }

    /// The code of the error that failed the record, or None.
    #[getter]
    fn error_code(&self) -> Option<&str> {
        self.failure().map(|failure| &*failure.error.code)
    }

    /// The message of the error that failed the record, or None.
    #[getter]
    fn error_message(&self) -> Option<&str> {
        self.failure().map(|failure| &*failure.error.message)
    }

    /// Whether the record failed and may be stored nevertheless.
    #[getter]
    fn ambiguous(&self) -> bool {
        self.failure().is_some_and(kpl_core::PutFailure::is_ambiguous)
    }

    /// The keyword arguments of `put_record` for a record that failed, to put it again; None if it is stored.
    #[getter]
    fn record<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, pyo3::types::PyDict>>> {
        let Some(failure) = self.failure() else { return Ok(None) };
        let record = pyo3::types::PyDict::new(py);
        record.set_item("stream", &*failure.record.stream)?;
        record.set_item("partition_key", &failure.record.partition_key)?;
        record.set_item("data", PyBytes::new(py, &failure.record.data))?;
        record.set_item("explicit_hash_key", &failure.record.explicit_hash_key)?;
        Ok(Some(record))
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Ok(other) = other.cast::<Self>() else { return Ok(false) };
        let other = other.get();
        Ok(self.success() == other.success()
            && self.shard_id() == other.shard_id()
            && self.sequence_number() == other.sequence_number()
            && self.attempts(py)?.eq(other.attempts(py)?)?)
    }

    fn __hash__(&self) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        (self.success(), self.shard_id(), self.sequence_number()).hash(&mut hasher);
        hasher.finish()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!(
            "RecordResult(success={}, shard_id={}, sequence_number={}, attempts={})",
            python_bool(self.success()),
            python_str(self.shard_id()),
            python_str(self.sequence_number()),
            self.attempts(py)?.repr()?,
        ))
    }
}

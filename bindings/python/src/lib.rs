//! The native module of the Python package `kpl`: a producer of kpl-tokio, and objects for its outcomes.
//!
//! Rust code never waits for Python: results are stored in Rust, and a byte in a socket wakes the event loop, which then
//! fetches all that is new ([`signal`]). The interpreter's lock is released while a call waits.

mod codec;
mod config;
mod engine;
mod logs;
mod metrics;
mod operation;
mod outcome;
mod rehearsal;
mod result;
mod runtime;
mod signal;

use pyo3::prelude::*;

/// The native part of the package `kpl`.
#[pymodule]
mod _kpl {
    #[pymodule_export]
    use super::codec::{
        decode_aggregated, decode_tags, encode_aggregated, encode_message, is_aggregated, md5_hash_key,
    };
    #[pymodule_export]
    use super::engine::Engine;
    #[pymodule_export]
    use super::logs::{start_logs, take_logs};
    #[pymodule_export]
    use super::operation::Operation;
    #[pymodule_export]
    use super::outcome::{BatchOutcome, Outcome, Wait};
    #[pymodule_export]
    use super::result::{Attempt, RecordResult};
    #[pymodule_export]
    use super::runtime::after_fork;
    #[pymodule_export]
    use super::signal::Signal;
}

use pyo3::exceptions::PyRuntimeError;

/// Returns the value in a lock, also after a panic.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub(crate) fn runtime_error(message: impl Into<String>) -> PyErr {
    PyRuntimeError::new_err(message.into())
}

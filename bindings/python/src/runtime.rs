//! The runtime that all producers of the process share.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::{lock, runtime_error};

/// The number of forks that led to this process. The threads of a runtime do not survive a fork.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// The runtime, and the value of [`FORKS`] at its start. Locked only with the interpreter's lock, so never during a fork.
static RUNTIME: Mutex<Option<(u64, &'static Runtime)>> = Mutex::new(None);

/// Returns the number of forks. Something that was created at another number is unusable.
pub(crate) fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Returns the runtime. It starts with the first producer and never ends: its tasks may hold records at any time.
pub(crate) fn handle() -> PyResult<Handle> {
    let mut runtime = lock(&RUNTIME);
    if let Some((started_at, runtime)) = *runtime
        && started_at == forks()
    {
        return Ok(runtime.handle().clone());
    }
    let new = Builder::new_multi_thread().worker_threads(2).thread_name("kpl").enable_all().build();
    let new = new.map_err(|error| runtime_error(format!("cannot start threads: {error}")))?;
    // After a fork, the memory of the old runtime is not freed: that would wait for threads that do not exist.
    let new: &'static Runtime = Box::leak(Box::new(new));
    *runtime = Some((forks(), new));
    Ok(new.handle().clone())
}

/// Called in the child process after a fork.
#[pyfunction]
pub(crate) fn after_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

//! Helpers for locks and events.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use event_listener::Event;

/// Locks a mutex, even if it is poisoned: records must be resolved after a panic, too.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks a mutex as [`lock`] does, unless another thread holds it.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// A flag that is set once. Tasks can wait for it.
#[derive(Debug, Default)]
pub(crate) struct Latch {
    is_set: AtomicBool,
    set: Event,
}

impl Latch {
    /// Sets the flag and wakes all waiting tasks.
    pub(crate) fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        self.set.notify(usize::MAX);
    }

    /// Waits until the flag is set.
    pub(crate) async fn wait(&self) {
        while !self.is_set.load(Ordering::Acquire) {
            let listener = self.set.listen();
            if !self.is_set.load(Ordering::Acquire) {
                listener.await;
            }
        }
    }
}

//! A conformance suite for drivers: it checks that a runtime keeps its promises.
//!
//! It needs the feature `conformance`, which a driver enables in its dev-dependencies. [`driver`] runs the whole suite:
//!
//! ```no_run
//! # fn a_test_of_my_driver<MyRuntime: kpl_driver::AwsRuntime>(my_runtime: MyRuntime) {
//! kpl_driver::conformance::driver(&my_runtime);
//! # }
//! ```
//!
//! Each check tests a promise of [`Runtime`] or [`AwsRuntime`], a property that a producer needs, or a common fault of
//! HTTP clients. The first broken promise panics. The message has the promise, the observation, and in some cases why a
//! producer needs the promise. The suite takes a few seconds.
//!
//! It blocks the calling thread, so the runtime must run on other threads: call it from a plain test, not from an async
//! one. Tokio's current-thread runtime only runs inside `block_on`, so it needs a separate thread.

mod blocking;
mod http;
mod producer;
mod server;
mod spawn;
mod time;

use std::time::Duration;

use tokio::sync::oneshot;

use crate::blocking::BlockingRuntime;
use crate::park::wait_for;
use crate::runtime::{AwsRuntime, Runtime};

/// The time limit for operations that should end at once. It is long enough for a slow machine.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Checks the clock, sleep and spawn, and a producer that uses them.
///
/// # Panics
///
/// If a promise is broken.
pub fn runtime<R: Runtime>(runtime: &R) {
    // All other checks depend on these.
    spawn::check_basics(runtime);
    time::check(runtime);
    spawn::check(runtime);
    producer::check(runtime);
}

/// Checks the runtime, and its HTTP client and sleep with the AWS SDK, against local servers with faults.
///
/// # Panics
///
/// If a promise is broken.
pub fn driver<R: AwsRuntime>(runtime: &R) {
    self::runtime(runtime);
    http_client(runtime);
}

/// Checks only the HTTP client: the second part of [`driver`].
///
/// # Panics
///
/// If a promise is broken.
pub fn http_client<R: AwsRuntime>(runtime: &R) {
    http::check(runtime);
}

/// Checks the promises that [`blocking::Producer`](crate::blocking::Producer) needs.
///
/// # Panics
///
/// If a promise is broken.
pub fn blocking<R: BlockingRuntime>() {
    blocking::check::<R>();
}

/// Runs a future on the runtime and returns its output; `None` if it panics, is dropped, or takes longer than
/// [`TIME_LIMIT`].
fn try_run<R: Runtime, T: Send + 'static>(runtime: &R, future: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    runtime.spawn(async move {
        // An error means that the time limit has expired.
        let _ = sender.send(future.await);
    });
    wait_for(receiver, Some(TIME_LIMIT))?.ok()
}

/// Runs a future as [`try_run`] does, and panics without an output.
fn run<R: Runtime, T: Send + 'static>(
    runtime: &R,
    promise: &str,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    try_run(runtime, future).unwrap_or_else(|| fail(promise, "it did not end within 10 s, or panicked"))
}

/// Panics unless the promise is kept.
#[track_caller]
fn require(is_kept: bool, promise: &str, observation: impl FnOnce() -> String) {
    if !is_kept {
        fail(promise, &observation());
    }
}

#[track_caller]
fn fail(promise: &str, observation: &str) -> ! {
    panic!("the runtime does not conform. Promise: {promise}. Observation: {observation}")
}

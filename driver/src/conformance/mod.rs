//! Does a runtime keep its promises? What a new driver's tests end in.
//!
//! Behind the feature `conformance`, to be switched on among the dev-dependencies of a driver. [`driver`] is all of it:
//!
//! ```no_run
//! # fn a_test_of_my_driver<MyRuntime: kpl_driver::AwsRuntime>(my_runtime: MyRuntime) {
//! kpl_driver::conformance::driver(&my_runtime);
//! # }
//! ```
//!
//! Each check is a promise of [`Runtime`] or [`AwsRuntime`], what a producer needs of it, or what an HTTP client gets
//! wrong. The first that is broken panics, and says what was promised, what happened, and, where that helps, what a
//! producer would suffer from it. All of it takes some seconds.
//!
//! It waits on the calling thread, so the runtime must run on others: call it from a plain test, not from an async one.
//! (tokio's current-thread runtime runs where somebody blocks on it: on a thread beside, for these.)

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

/// What is to happen at once must happen within this time, on the slowest of machines.
const PATIENCE: Duration = Duration::from_secs(10);

/// Checks clock, sleep and spawn, and a producer on top of them.
///
/// # Panics
///
/// If a promise is broken.
pub fn runtime<R: Runtime>(runtime: &R) {
    // What all others need comes first.
    spawn::check_basics(runtime);
    time::check(runtime);
    spawn::check(runtime);
    producer::check(runtime);
}

/// Checks the runtime, and its HTTP client and sleep beneath the AWS SDK, against servers on this machine that misbehave.
///
/// # Panics
///
/// If a promise is broken.
pub fn driver<R: AwsRuntime>(runtime: &R) {
    self::runtime(runtime);
    http_client(runtime);
}

/// The second half of [`driver`] by itself: the HTTP client.
///
/// # Panics
///
/// If a promise is broken.
pub fn http_client<R: AwsRuntime>(runtime: &R) {
    http::check(runtime);
}

/// Checks what [`blocking::Producer`](crate::blocking::Producer) needs.
///
/// # Panics
///
/// If a promise is broken.
pub fn blocking<R: BlockingRuntime>() {
    blocking::check::<R>();
}

/// What a future gives that runs on the runtime; `None` if it panics, is dropped, or takes longer than [`PATIENCE`].
fn on<R: Runtime, T: Send + 'static>(runtime: &R, future: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    runtime.spawn(async move {
        // Nobody waits any longer if it takes that long.
        let _ = sender.send(future.await);
    });
    wait_for(receiver, Some(PATIENCE))?.ok()
}

/// As [`on`], for what has to give something.
fn must<R: Runtime, T: Send + 'static>(
    runtime: &R,
    promise: &str,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    on(runtime, future).unwrap_or_else(|| broken(promise, "it did not end within 10 s, or panicked"))
}

/// Panics if a promise is broken.
#[track_caller]
fn check(kept: bool, promise: &str, happened: impl FnOnce() -> String) {
    if !kept {
        broken(promise, &happened());
    }
}

#[track_caller]
fn broken(promise: &str, happened: &str) -> ! {
    panic!("the runtime does not conform. Promised: {promise}. But: {happened}")
}

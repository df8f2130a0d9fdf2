//! The conformance suite, applied to kpl-async-std.

use async_std::task::{block_on, spawn_blocking};
use kpl_async_std::AsyncStd;
use kpl_driver::blocking::BlockingRuntime;
use kpl_driver::conformance;

#[test]
fn it_conforms() {
    conformance::driver(&AsyncStd::default());
}

#[test]
fn it_conforms_for_threads_without_a_runtime() {
    conformance::blocking::<AsyncStd>();
}

#[test]
fn a_thread_of_spawn_blocking_is_not_an_async_task() {
    block_on(async {
        assert!(AsyncStd::in_async_task());
        assert!(!spawn_blocking(AsyncStd::in_async_task).await);
    });
}

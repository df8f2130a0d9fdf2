//! kpl-async-std keeps every promise that a driver makes.

use async_std::task::{block_on, spawn_blocking};
use kpl_async_std::AsyncStd;
use kpl_driver::blocking::BlockingRuntime;
use kpl_driver::conformance;

#[test]
fn the_driver_conforms() {
    conformance::driver(&AsyncStd::default());
}

#[test]
fn it_conforms_for_threads_that_have_no_runtime() {
    conformance::blocking::<AsyncStd>();
}

#[test]
fn a_thread_for_blocking_code_is_no_task() {
    block_on(async {
        assert!(AsyncStd::in_async_task());
        assert!(!spawn_blocking(AsyncStd::in_async_task).await);
    });
}

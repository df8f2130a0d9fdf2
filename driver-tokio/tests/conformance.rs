//! kpl-tokio keeps every promise that a driver makes.

use kpl_driver::conformance;
use kpl_tokio::Tokio;

#[test]
fn the_driver_conforms() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tokio = runtime.block_on(async { Tokio::default() });
    conformance::driver(&tokio);
}

#[test]
fn it_conforms_on_one_thread() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tokio = runtime.block_on(async { Tokio::default() });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || runtime.block_on(stopped));
    conformance::driver(&tokio);
    drop(stop);
    thread.join().unwrap().unwrap_err();
}

#[test]
fn it_conforms_for_threads_that_have_no_runtime() {
    conformance::blocking::<Tokio>();
}

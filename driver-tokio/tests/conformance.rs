//! The conformance suite, applied to kpl-tokio.

use kpl_driver::conformance;
use kpl_tokio::Tokio;

#[test]
fn it_conforms_on_many_threads() {
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
fn it_conforms_for_threads_without_a_runtime() {
    conformance::blocking::<Tokio>();
}

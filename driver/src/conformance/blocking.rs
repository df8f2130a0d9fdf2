//! Checks of a runtime for the blocking producer.

use std::thread;

use super::{require, run};
use crate::blocking::BlockingRuntime;

const FOR_THREADS: &str = "`for_threads` returns a runtime on any thread";
const IN_TASK: &str = "`in_async_task` is true in every task, and false on plain threads";

pub(super) fn check<R: BlockingRuntime>() {
    let Ok(runtime) = thread::spawn(R::for_threads).join() else {
        super::fail(FOR_THREADS, "it panicked on a plain thread");
    };
    super::runtime(&runtime);
    for task in ["one", "another"] {
        require(run(&runtime, IN_TASK, async { R::in_async_task() }), IN_TASK, || {
            format!("it was false in {task} task")
        });
    }
    // Also after an await, when the task may be on another thread.
    let later = run(&runtime, IN_TASK, async {
        crate::drive::yield_now().await;
        R::in_async_task()
    });
    require(later, IN_TASK, || "it was false after an await".into());
    let plain = thread::spawn(R::in_async_task).join();
    require(matches!(plain, Ok(false)), IN_TASK, || "on a plain thread, it was not false".into());
    require(!R::in_async_task(), IN_TASK, || "on the thread of this test, it was not false".into());
}

//! A runtime for threads that have none.

use std::thread;

use super::{check as promised, must};
use crate::blocking::BlockingRuntime;

const FOR_THREADS: &str = "`for_threads` is a runtime, given on any thread";
const KNOWS_TASKS: &str = "`in_async_task` is true in every task, and false on plain threads";

pub(super) fn check<R: BlockingRuntime>() {
    let Ok(runtime) = thread::spawn(R::for_threads).join() else {
        super::broken(FOR_THREADS, "it panicked on a plain thread");
    };
    super::runtime(&runtime);
    for task in ["one", "another"] {
        promised(must(&runtime, KNOWS_TASKS, async { R::in_async_task() }), KNOWS_TASKS, || {
            format!("it was false in {task} task")
        });
    }
    // Also after the await of a task that has moved on.
    let later = must(&runtime, KNOWS_TASKS, async {
        crate::drive::yield_now().await;
        R::in_async_task()
    });
    promised(later, KNOWS_TASKS, || "it was false after an await".into());
    let plain = thread::spawn(R::in_async_task).join();
    promised(matches!(plain, Ok(false)), KNOWS_TASKS, || "on a plain thread, it was not false".into());
    promised(!R::in_async_task(), KNOWS_TASKS, || "on the thread of this test, it was not false".into());
}

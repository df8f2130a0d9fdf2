//! Wakers of callers. A waker is code of the caller's executor: if it panics, only that caller is affected.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use tracing::error;

/// Wakes a caller's task. A panic ends here.
pub(crate) fn wake(waker: &Waker) {
    if catch_unwind(AssertUnwindSafe(|| waker.wake_by_ref())).is_err() {
        error!("the waker of a task that waits for the producer panicked; the task may not be woken");
    }
}

/// Runs a future with a waker that does not panic: events and semaphores that call it would lose wake-ups of others.
pub(crate) async fn guarded<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut guard: Option<Arc<Guard>> = None;
    poll_fn(|cx| {
        let current = guard.take().filter(|guard| guard.0.will_wake(cx.waker()));
        let current = guard.insert(current.unwrap_or_else(|| Arc::new(Guard(cx.waker().clone()))));
        future.as_mut().poll(&mut Context::from_waker(&Waker::from(current.clone())))
    })
    .await
}

struct Guard(Waker);

impl Wake for Guard {
    fn wake(self: Arc<Self>) {
        wake(&self.0);
    }
}

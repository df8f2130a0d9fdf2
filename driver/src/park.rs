//! Waits for a future on a thread that has no runtime.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Waits until a future ends, and parks the thread between polls. Returns `None` if that takes longer than `timeout`.
///
/// A future that is ready needs one poll and no allocation.
pub(crate) fn wait_for<T>(future: impl Future<Output = T>, timeout: Option<Duration>) -> Option<T> {
    let mut future = pin!(future);
    if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        return Some(value);
    }
    // If the deadline exceeds the range of the clock, there is none.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let parked = Arc::new(Parked { thread: thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(parked.clone());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(value);
        }
        while !parked.woken.swap(false, Ordering::Acquire) {
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => thread::park(),
                Some(Duration::ZERO) => return None,
                Some(left) => thread::park_timeout(left),
            }
        }
    }
}

/// A thread that waits. It needs the flag because other code may unpark the thread, or use up an unpark.
struct Parked {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn};

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_ready_future_needs_no_time_and_a_pending_one_times_out() {
        assert_eq!(wait_for(async { 1 }, Some(Duration::ZERO)), Some(1));
        assert_eq!(wait_for(pending::<()>(), Some(Duration::ZERO)), None);
        let start = Instant::now();
        assert_eq!(wait_for(pending::<()>(), Some(Duration::from_millis(20))), None);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn another_thread_can_end_the_wait() {
        for timeout in [None, Some(Duration::from_secs(60)), Some(Duration::MAX)] {
            let (sender, receiver) = oneshot::channel();
            let thread = thread::spawn(move || {
                thread::sleep(Duration::from_millis(2));
                sender.send(7)
            });
            assert_eq!(wait_for(receiver, timeout), Some(Ok(7)));
            thread.join().unwrap().unwrap();
        }
    }

    #[test]
    fn unparks_by_other_code_and_wakes_during_the_poll_are_harmless() {
        let mut polls = 0;
        let woken_at_once = poll_fn(|cx| {
            polls += 1;
            thread::current().unpark();
            cx.waker().wake_by_ref();
            // The future itself may park, and use up an unpark.
            thread::park();
            if polls == 5 { Poll::Ready(()) } else { Poll::Pending }
        });
        assert_eq!(wait_for(woken_at_once, Some(Duration::from_secs(60))), Some(()));
    }
}

//! The drive loop. Production and simulation use the same one.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use kpl_core::{Action, Instant};

use crate::outcome::Ticket;
use crate::requests::RequestTasks;
use crate::runtime::Runtime;
use crate::shared::Shared;
use crate::transport::Transport;

/// The maximum number of actions taken under one lock. The rest waits for the next turn, so that puts get the lock in
/// between.
const ACTIONS_PER_TURN: usize = 1_024;

/// Ticks the state machine and carries out its actions, until it is closed and drained.
///
/// All remaining records are resolved in each case: when it is drained, when its runtime drops it before or after the
/// first poll, and when it panics.
pub(crate) struct DriveLoop {
    shared: Arc<Shared>,
    actions: VecDeque<Action<Ticket>>,
}

impl DriveLoop {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, actions: VecDeque::new() }
    }

    pub(crate) async fn run<R: Runtime, X: Transport>(mut self, runtime: R, transport: Arc<X>) {
        let shared = self.shared.clone();
        let mut tasks = RequestTasks { shared: shared.clone(), runtime: runtime.clone(), transport };
        loop {
            let woken = shared.wake.listen(); // before the turn, so that no wake-up is lost
            let turn = shared.take_turn(ACTIONS_PER_TURN, &mut self.actions);
            shared.carry_out(&mut self.actions, &mut tasks);
            if turn.has_more {
                // Other tasks of this thread have to run, too.
                yield_now().await;
            } else if turn.is_drained {
                return shared.exporter.finish(&runtime).await;
            } else if turn.next == Instant::NEVER {
                woken.await;
            } else {
                race(woken, runtime.sleep_until(turn.next)).await;
            }
        }
    }
}

impl Drop for DriveLoop {
    fn drop(&mut self) {
        self.shared.abandon(mem::take(&mut self.actions));
    }
}

/// Waits until one of two futures ends, and drops the other. Returns `None` if `second` ended first.
pub(crate) async fn race<T>(first: impl Future<Output = T>, second: impl Future<Output = ()>) -> Option<T> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    poll_fn(|cx| {
        if let Poll::Ready(value) = first.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        second.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// Lets the runtime run other tasks first.
pub(crate) async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|cx| {
        if has_yielded {
            return Poll::Ready(());
        }
        has_yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

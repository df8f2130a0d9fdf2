//! The drive loop: the only one there is, in production and under simulation.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use kpl_core::{Action, Delivery, Instant, Reply, RequestError};

use crate::outcome::Ticket;
use crate::runtime::Runtime;
use crate::shared::Shared;
use crate::transport::Transport;

/// Actions taken under one lock. What is more waits for the next turn, so that puts get in between.
const ACTIONS_A_TURN: usize = 1_024;

/// Ticks the state machine and carries out what it wants, until it is closed and drained.
///
/// However it ends, drained, dropped with its runtime before or after it was first polled, or by a panic: what is left
/// is resolved.
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
        loop {
            let woken = shared.wake.listen(); // before looking: no wake-up is lost
            let turn = shared.turn(ACTIONS_A_TURN, &mut self.actions);
            // The lock has ended; effects begin.
            shared.carry_out(&mut self.actions, |action| start(action, &shared, &runtime, &transport));
            if turn.more {
                // Others on this thread get a turn too.
                yield_now().await;
            } else if turn.drained {
                return shared.exports.finished(&runtime).await;
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

/// Starts what takes time beside the loop.
fn start<R: Runtime, X: Transport>(action: Action<Ticket>, shared: &Arc<Shared>, runtime: &R, transport: &Arc<X>) {
    let transport = transport.clone();
    match action {
        Action::SendBatch(batch) => {
            let mut sending = UnderWay::new(shared, batch, |shared, batch, reply| {
                let now = shared.now();
                let reply = reply.unwrap_or_else(Reply::Failed);
                shared.change(|state| state.core.respond(now, batch, reply));
            });
            runtime.spawn(async move {
                let UnderWay { shared, question: Some(batch), answer, .. } = &mut sending else { return };
                *answer = Some(unless_cancelled(shared, transport.put_records(batch)).await);
            });
        }
        Action::ListShards(request) => {
            let mut asking = UnderWay::new(shared, request, |shared, request, page| {
                let now = shared.now();
                shared.change(|state| state.core.respond_shards(now, &request, page.flatten()));
            });
            runtime.spawn(async move {
                let UnderWay { shared, question: Some(request), answer, .. } = &mut asking else { return };
                *answer = Some(unless_cancelled(shared, transport.list_shards(request)).await);
            });
        }
        Action::DescribeStream(request) => {
            let mut asking = UnderWay::new(shared, request, |shared, request, summary| {
                let now = shared.now();
                shared.change(|state| state.core.respond_stream(now, &request, summary.flatten()));
            });
            runtime.spawn(async move {
                let UnderWay { shared, question: Some(request), answer, .. } = &mut asking else { return };
                *answer = Some(unless_cancelled(shared, transport.describe_stream(request)).await);
            });
        }
        Action::ExportMetrics(observations) => shared.exports.export(observations, runtime),
        // Everything else has been carried out already.
        _ => {}
    }
}

/// A question under way. However its task ends, by an answer, a panic, a cancellation or its runtime's end, the question
/// is given back.
struct UnderWay<Q, A> {
    shared: Arc<Shared>,
    question: Option<Q>,
    answer: Option<Result<A, RequestError>>,
    give_back: fn(&Shared, Q, Result<A, RequestError>),
}

impl<Q, A> UnderWay<Q, A> {
    fn new(shared: &Arc<Shared>, question: Q, give_back: fn(&Shared, Q, Result<A, RequestError>)) -> Self {
        Self { shared: shared.clone(), question: Some(question), answer: None, give_back }
    }
}

impl<Q, A> Drop for UnderWay<Q, A> {
    fn drop(&mut self) {
        if let Some(question) = self.question.take() {
            // A task may panic after its request went out: the records may be stored.
            let ended = || Err(unanswered("Task Ended", "the request's task ended before the reply came"));
            (self.give_back)(&self.shared, question, self.answer.take().unwrap_or_else(ended));
        }
    }
}

fn unanswered(code: &str, message: &str) -> RequestError {
    RequestError::new(Delivery::Unanswered, code, message)
}

/// Waits for an answer, but not past the deadline of a close.
async fn unless_cancelled<A>(shared: &Shared, answer: impl Future<Output = A>) -> Result<A, RequestError> {
    let answer = race(answer, shared.cancelled()).await;
    answer.ok_or_else(|| unanswered("Cancelled", "the deadline of the close passed before the reply came"))
}

/// Ends with the first of two futures; `None` if that was the second. The other one is dropped.
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

/// Lets the runtime run something else first.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

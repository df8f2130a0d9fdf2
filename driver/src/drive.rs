//! The drive loop: the only one there is, in production and under simulation.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use kpl_core::{Action, Batch, Delivery, Instant, Reply, RequestError};

use crate::outcome::Ticket;
use crate::runtime::Runtime;
use crate::shared::Shared;
use crate::transport::Transport;

/// Actions taken under one lock. What is more waits for the next turn, so that puts get in between.
const ACTIONS_A_TURN: usize = 1_024;

/// Ticks the state machine and carries out what it wants, until it is closed and drained.
pub(crate) async fn drive<R: Runtime, X: Transport>(shared: Arc<Shared>, runtime: R, transport: Arc<X>) {
    let mut turns = Turns { shared: shared.clone(), actions: Vec::new() };
    loop {
        let woken = shared.wake.listen(); // before looking: no wake-up is lost
        let turn = shared.lock().turn(runtime.now(), ACTIONS_A_TURN, &mut turns.actions);
        // The lock has ended; effects begin.
        for action in shared.carry_out(&mut turns.actions) {
            start(action, &shared, &runtime, &transport);
        }
        if turn.more {
            continue;
        }
        if turn.drained {
            return;
        }
        if turn.next == Instant::NEVER {
            woken.await;
        } else {
            race(woken, runtime.sleep_until(turn.next)).await;
        }
    }
}

/// The drive loop's end, whichever way it comes: drained, dropped with its runtime, or by a panic. What is left is
/// resolved.
struct Turns {
    shared: Arc<Shared>,
    actions: Vec<Action<Ticket>>,
}

impl Drop for Turns {
    fn drop(&mut self) {
        for action in self.shared.carry_out(&mut self.actions) {
            if let Action::SendBatch(batch) = action {
                drop(send(self.shared.clone(), batch));
            }
        }
        self.shared.abandon();
    }
}

/// Starts what takes time beside the loop.
fn start<R: Runtime, X: Transport>(action: Action<Ticket>, shared: &Arc<Shared>, runtime: &R, transport: &Arc<X>) {
    let transport = transport.clone();
    match action {
        Action::SendBatch(batch) => {
            let mut sending = send(shared.clone(), batch);
            runtime.spawn(async move {
                let UnderWay { shared, question: Some(batch), answer, .. } = &mut sending else { return };
                *answer = race(transport.put_records(batch), shared.cancelled()).await;
            });
        }
        Action::ListShards(request) => {
            let mut asking = UnderWay::new(shared.clone(), request, |shared, request, reply| {
                let now = shared.now();
                shared.change(|core| core.respond_shards(now, &request, reply.unwrap_or_else(|| Err(task_failed()))));
            });
            runtime.spawn(async move {
                let UnderWay { question: Some(request), answer, .. } = &mut asking else { return };
                *answer = Some(transport.list_shards(request).await);
            });
        }
        Action::DescribeStream(request) => {
            let mut asking = UnderWay::new(shared.clone(), request, |shared, request, reply| {
                let now = shared.now();
                shared.change(|core| core.respond_stream(now, &request, reply.unwrap_or_else(|| Err(task_failed()))));
            });
            runtime.spawn(async move {
                let UnderWay { question: Some(request), answer, .. } = &mut asking else { return };
                *answer = Some(transport.describe_stream(request).await);
            });
        }
        // Everything else has been carried out already.
        _ => {}
    }
}

fn send(shared: Arc<Shared>, batch: Batch<Ticket>) -> UnderWay<Batch<Ticket>, Reply> {
    UnderWay::new(shared, batch, |shared, batch, reply| {
        let now = shared.now();
        let reply = reply.unwrap_or_else(|| Reply::Failed(task_failed()));
        shared.change(|core| core.respond(now, batch, reply));
    })
}

/// A question under way. However its task ends, by an answer, a panic, a cancellation or its runtime's end, the question
/// is given back.
struct UnderWay<Q, A> {
    shared: Arc<Shared>,
    question: Option<Q>,
    answer: Option<A>,
    give_back: fn(&Shared, Q, Option<A>),
}

impl<Q, A> UnderWay<Q, A> {
    fn new(shared: Arc<Shared>, question: Q, give_back: fn(&Shared, Q, Option<A>)) -> Self {
        Self { shared, question: Some(question), answer: None, give_back }
    }
}

impl<Q, A> Drop for UnderWay<Q, A> {
    fn drop(&mut self) {
        if let Some(question) = self.question.take() {
            (self.give_back)(&self.shared, question, self.answer.take());
        }
    }
}

/// The task may have panicked after the request went out: its records may be stored.
fn task_failed() -> RequestError {
    RequestError::new(Delivery::Unanswered, "Task Ended", "the task of the request ended before the reply came")
}

/// Ends with the first of two futures; `None` if that was the second. The other one is dropped.
async fn race<T>(first: impl Future<Output = T>, second: impl Future<Output = ()>) -> Option<T> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    poll_fn(|cx| {
        if let Poll::Ready(value) = first.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        second.as_mut().poll(cx).map(|()| None)
    })
    .await
}

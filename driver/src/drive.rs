//! The drive loop. Production and simulation use the same one.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use kpl_core::metrics::MetricsSnapshot;
use kpl_core::{Action, Batch, Delivery, DescribeStreamRequest, Instant, ListShardsRequest, Reply, RequestError};

use crate::dispatch::StartTasks;
use crate::outcome::Ticket;
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
        let mut tasks = Tasks { shared: shared.clone(), runtime: runtime.clone(), transport };
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

/// Starts a task for each request.
struct Tasks<R, X> {
    shared: Arc<Shared>,
    runtime: R,
    transport: Arc<X>,
}

impl<R: Runtime, X: Transport> StartTasks for Tasks<R, X> {
    fn put_records(&mut self, batch: Batch<Ticket>) {
        let transport = self.transport.clone();
        let mut in_flight = InFlight::new(&self.shared, batch, |shared, batch, reply| {
            let now = shared.now();
            let reply = reply.unwrap_or_else(Reply::Failed);
            shared.change(|state| state.core.handle_reply(now, batch, reply));
        });
        self.runtime.spawn(async move {
            let InFlight { shared, request: Some(batch), reply, .. } = &mut in_flight else { return };
            *reply = Some(unless_cancelled(shared, transport.put_records(batch)).await);
        });
    }

    fn list_shards(&mut self, request: ListShardsRequest) {
        let transport = self.transport.clone();
        let mut in_flight = InFlight::new(&self.shared, request, |shared, request, page| {
            let now = shared.now();
            shared.change(|state| state.core.handle_shards(now, &request, page.flatten()));
        });
        self.runtime.spawn(async move {
            let InFlight { shared, request: Some(request), reply, .. } = &mut in_flight else { return };
            *reply = Some(unless_cancelled(shared, transport.list_shards(request)).await);
        });
    }

    fn describe_stream(&mut self, request: DescribeStreamRequest) {
        let transport = self.transport.clone();
        let mut in_flight = InFlight::new(&self.shared, request, |shared, request, summary| {
            let now = shared.now();
            shared.change(|state| state.core.handle_stream_summary(now, &request, summary.flatten()));
        });
        self.runtime.spawn(async move {
            let InFlight { shared, request: Some(request), reply, .. } = &mut in_flight else { return };
            *reply = Some(unless_cancelled(shared, transport.describe_stream(request)).await);
        });
    }

    fn export_metrics(&mut self, snapshot: Box<MetricsSnapshot>) {
        self.shared.exporter.export(snapshot, &self.runtime);
    }
}

/// A request in flight. It returns the request to the state machine when its task ends: by a reply, a panic, a
/// cancellation or the end of its runtime.
struct InFlight<Q, A> {
    shared: Arc<Shared>,
    request: Option<Q>,
    reply: Option<Result<A, RequestError>>,
    give_back: fn(&Shared, Q, Result<A, RequestError>),
}

impl<Q, A> InFlight<Q, A> {
    fn new(shared: &Arc<Shared>, request: Q, give_back: fn(&Shared, Q, Result<A, RequestError>)) -> Self {
        Self { shared: shared.clone(), request: Some(request), reply: None, give_back }
    }
}

impl<Q, A> Drop for InFlight<Q, A> {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            // A task may panic after its request was sent: the records may be stored.
            let task_ended = || Err(unanswered("Task Ended", "the request's task ended before the reply arrived"));
            (self.give_back)(&self.shared, request, self.reply.take().unwrap_or_else(task_ended));
        }
    }
}

fn unanswered(code: &str, message: &str) -> RequestError {
    RequestError::new(Delivery::Unanswered, code, message)
}

/// Waits for a reply until the deadline of a close.
async fn unless_cancelled<A>(shared: &Shared, reply: impl Future<Output = A>) -> Result<A, RequestError> {
    let reply = race(reply, shared.cancelled.wait()).await;
    reply.ok_or_else(|| unanswered("Cancelled", "the deadline of the close passed before the reply arrived"))
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

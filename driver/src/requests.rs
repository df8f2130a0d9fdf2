//! Requests in flight: a task for each. When a task ends, it passes the reply to the state machine, also after a panic.

use std::future::Future;
use std::sync::Arc;

use kpl_core::metrics::MetricsSnapshot;
use kpl_core::{Batch, Delivery, DescribeStreamRequest, ListShardsRequest, Reply, RequestError};

use crate::dispatch::StartTasks;
use crate::drive::race;
use crate::outcome::Ticket;
use crate::runtime::Runtime;
use crate::shared::Shared;
use crate::transport::Transport;

/// Starts a task for each request.
pub(crate) struct RequestTasks<R, X> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) runtime: R,
    pub(crate) transport: Arc<X>,
}

impl<R: Runtime, X: Transport> StartTasks for RequestTasks<R, X> {
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

/// The guard of a request in flight. When its task ends, this is dropped, and the drop passes the request to the state
/// machine with the reply. If there is none, after a panic or the end of the runtime, it passes the error `Task Ended`.
struct InFlight<Q, A> {
    shared: Arc<Shared>,
    request: Option<Q>,
    reply: Option<Result<A, RequestError>>,
    on_reply: fn(&Shared, Q, Result<A, RequestError>),
}

impl<Q, A> InFlight<Q, A> {
    fn new(shared: &Arc<Shared>, request: Q, on_reply: fn(&Shared, Q, Result<A, RequestError>)) -> Self {
        Self { shared: shared.clone(), request: Some(request), reply: None, on_reply }
    }
}

impl<Q, A> Drop for InFlight<Q, A> {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            // A task may panic after its request was sent: the records may be stored.
            let task_ended = || Err(unanswered("Task Ended", "the request's task ended before the reply arrived"));
            (self.on_reply)(&self.shared, request, self.reply.take().unwrap_or_else(task_ended));
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

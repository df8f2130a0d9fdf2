//! Carries out the state machine's actions. All kinds of actions are dispatched here.

use std::collections::VecDeque;
use std::iter;

use kpl_core::metrics::MetricsSnapshot;
use kpl_core::{Action, Batch, Delivery, DescribeStreamRequest, ListShardsRequest, Reply, RequestError};

use crate::outcome::Ticket;
use crate::shared::Shared;

/// Starts requests and exports. The drive loop starts tasks; after its end, nothing is sent.
pub(crate) trait StartTasks {
    fn put_records(&mut self, batch: Batch<Ticket>);
    fn list_shards(&mut self, request: ListShardsRequest);
    fn describe_stream(&mut self, request: DescribeStreamRequest);
    fn export_metrics(&mut self, snapshot: Box<MetricsSnapshot>);
}

impl Shared {
    /// Carries out actions one by one, outside the lock. If one of them panics, the later actions and the remaining
    /// records of this one stay in `actions`.
    pub(crate) fn carry_out(&self, actions: &mut VecDeque<Action<Ticket>>, tasks: &mut impl StartTasks) {
        let mut is_room_freed = false;
        while let Some(action) = actions.front_mut() {
            if let Action::Resolve(records) = action {
                is_room_freed = true;
                for (ticket, result) in records {
                    ticket.complete(result);
                }
            }
            let Some(action) = actions.pop_front() else { break };
            match action {
                Action::Resolve(_) => {} // its records were resolved in place
                Action::SendBatch(batch) => tasks.put_records(batch),
                Action::ListShards(request) => tasks.list_shards(request),
                Action::DescribeStream(request) => tasks.describe_stream(request),
                Action::ExportMetrics(snapshot) => tasks.export_metrics(snapshot),
                Action::RoomFreed(shard) => self.shard_queues.notify(&shard),
                Action::FlushDone(flush) => self.end_flush(flush),
                Action::CancelRequests => self.cancelled.set(),
                Action::Log(event) => self.event_log.write(self.now(), &event),
            }
        }
        if is_room_freed {
            self.wait_queue.notify();
        }
    }

    /// Carries out all actions without a drive loop. Batches are returned to the state machine unsent, so that their
    /// records are resolved.
    pub(crate) fn resolve_all(&self, mut actions: VecDeque<Action<Ticket>>) {
        let _resolver = Resolver::new(self);
        loop {
            let mut unsent = Unsent::default();
            self.carry_out(&mut actions, &mut unsent);
            let now = self.now();
            let mut state = self.lock();
            for batch in unsent.0 {
                let error = RequestError::new(Delivery::NotSent, "Closed", "the runtime was shut down");
                state.core.handle_reply(now, batch, Reply::Failed(error));
            }
            actions.extend(iter::from_fn(|| state.core.poll_action()));
            if actions.is_empty() {
                return;
            }
        }
    }
}

/// Collects batches without sending them. Drops metadata requests and metrics, which have no use after the end.
#[derive(Default)]
struct Unsent(Vec<Batch<Ticket>>);

impl StartTasks for Unsent {
    fn put_records(&mut self, batch: Batch<Ticket>) {
        self.0.push(batch);
    }

    fn list_shards(&mut self, _: ListShardsRequest) {}

    fn describe_stream(&mut self, _: DescribeStreamRequest) {}

    fn export_metrics(&mut self, _: Box<MetricsSnapshot>) {}
}

/// A thread that carries out actions after the drive loop has ended. The last one sets `finished`.
struct Resolver<'a>(&'a Shared);

impl<'a> Resolver<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.lock().resolvers += 1;
        Self(shared)
    }
}

impl Drop for Resolver<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.resolvers -= 1;
        // If a batch is in flight, the thread that drops its guard resolves the records later.
        if state.core.is_drained() && state.resolvers == 0 {
            self.0.finished.set();
        }
    }
}

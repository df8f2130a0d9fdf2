//! Closes the aggregates that are due.

use super::Stream;
use crate::context::Context;
use crate::stream::aggregator::Aggregate;
use crate::stream::in_order;
use crate::stream::limiter::WHOLE_STREAM;
use crate::time::Instant;

impl<T> Stream<T> {
    /// Closes aggregates that are due. If there are any, also closes those that are due within a quarter of
    /// `record_max_buffered_time`: fewer requests are worth slightly smaller aggregates.
    pub(super) fn close_due(&mut self, now: Instant, context: &mut Context<T>) {
        let mut horizon = now;
        let later = now + context.config.record_max_buffered_time() / 4;
        while self.close_next(now, horizon, context).is_some() {
            horizon = later;
        }
        while self.close_next_unmapped(now, horizon, context).is_some() {
            horizon = later;
        }
    }

    /// Closes an aggregate of a single hash key that is due by `horizon`. Returns the number of its user records.
    pub(super) fn close_next_unmapped(
        &mut self,
        now: Instant,
        horizon: Instant,
        context: &mut Context<T>,
    ) -> Option<usize> {
        let Self { hash_key_aggregator, limiter, sequencer, metadata, .. } = self;
        let is_backlogged = limiter.is_backlogged(WHOLE_STREAM);
        let waits_in_order = |open: &Aggregate<T>| in_order::waits_in_order(sequencer.as_deref(), metadata, open);
        let record = hash_key_aggregator.close_due(horizon, is_backlogged, waits_in_order)?;
        let user_records = record.user_records();
        self.pass_unmapped(now, record, context);
        Some(user_records)
    }

    /// Whether an open aggregate cannot be sent, whenever it is due: because of a backlog, or of its order.
    pub(super) fn is_held(&self, slot: u32, open: &Aggregate<T>) -> bool {
        self.limiter.is_backlogged(slot) || self.waits_in_order(open)
    }

    /// Closes the aggregate of a shard that is due first, if it is due by `horizon`. Returns the number of its user
    /// records.
    pub(super) fn close_next(&mut self, now: Instant, horizon: Instant, context: &mut Context<T>) -> Option<usize> {
        let Self { aggregator, limiter, sequencer, metadata, .. } = self;
        let is_held = |slot: u32, open: &Aggregate<T>| {
            limiter.is_backlogged(slot) || in_order::waits_in_order(sequencer.as_deref(), metadata, open)
        };
        let slot = aggregator.pop_due(horizon, |slot, open| is_held(slot, open).then_some(open.expiry()))?;
        Some(self.close(now, slot, context))
    }

    /// Closes the aggregate of a shard. Returns the number of its user records.
    pub(super) fn close(&mut self, now: Instant, slot: u32, context: &mut Context<T>) -> usize {
        let Some(record) = self.aggregator.close(slot) else { return 0 };
        let user_records = record.user_records();
        self.pass(now, slot, record, context);
        user_records
    }
}

//! Records that linger: they wait only for others, to share an aggregate or a request with them.

use super::Stream;
use crate::context::Context;
use crate::stream::limiter::WHOLE_STREAM;
use crate::time::Instant;

impl<T> Stream<T> {
    /// Returns the number of user records that linger, and their bytes: those in open aggregates, and in a request that
    /// is not full.
    pub(crate) fn lingering(&self) -> (usize, usize) {
        let (open, collected) = (self.lingering_in_aggregates(), self.lingering_in_collector());
        (open.0 + collected.0, open.1 + collected.1)
    }

    /// Aggregates that are held cannot be sent anyway.
    fn lingering_in_aggregates(&self) -> (usize, usize) {
        let open = self.aggregator.open().filter(|(slot, open)| !self.is_held(*slot, open));
        let sizes = open.map(|(_, open)| (open.user_records(), open.size()));
        let (mut records, mut bytes) = sizes.fold((0, 0), |sum, (records, size)| (sum.0 + records, sum.1 + size));
        if !self.limiter.is_backlogged(WHOLE_STREAM) {
            let open = self.hash_key_aggregator.open().filter(|open| !self.waits_in_order(open));
            for open in open {
                (records, bytes) = (records + open.user_records(), bytes + open.size());
            }
        }
        (records, bytes)
    }

    fn lingering_in_collector(&self) -> (usize, usize) {
        let sizes = self.collector.records().map(|record| (record.user_records(), record.size()));
        sizes.fold((0, 0), |sum, (records, size)| (sum.0 + records, sum.1 + size))
    }

    /// Makes three quarters of the [lingering](Self::lingering) records due, the oldest first.
    pub(crate) fn stop_lingering(&mut self, now: Instant, context: &mut Context<T>) {
        let (mut left, _) = self.lingering_in_aggregates();
        let kept = (left + self.lingering_in_collector().0) / 4;
        // Open aggregates of shards without a backlog are due by then.
        let horizon = now + context.config.record_max_buffered_time();
        while left > kept
            && let Some(user_records) = self.close_next(now, horizon, context)
        {
            left = left.saturating_sub(user_records);
        }
        while left > kept
            && let Some(user_records) = self.close_next_unmapped(now, horizon, context)
        {
            left = left.saturating_sub(user_records);
        }
        self.collector.flush();
    }
}

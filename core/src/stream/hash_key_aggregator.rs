//! Aggregates records whose shard is not known, as when there is no shard list: one aggregate per hash key.
//!
//! User records with the same hash key always go to the same shard, so consumers accept such an aggregate.

use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use hashbrown::HashMap;

use crate::record::kinesis_record::{KinesisRecord, Pending};
use crate::stream::aggregator::{Aggregate, AggregateLimits, Aggregator, Times};
use crate::stream::limiter::Backlog;
use crate::time::Instant;

/// While the stream has a backlog, an aggregate stays open for this much longer, to take more records: it could not be
/// sent anyway.
const EXTENSION: Duration = Duration::from_secs(1);

/// The open aggregates of a stream by hash key.
#[derive(Debug)]
pub(crate) struct HashKeyAggregator<T> {
    aggregator: Aggregator<T>,
    /// The slots of hash keys with an open aggregate.
    slots: HashMap<u128, u32>,
    /// The hash key of each slot.
    hash_keys: Vec<u128>,
    free_slots: Vec<u32>,
    /// The user records in open aggregates, and their bytes.
    user_records: usize,
    bytes: usize,
    /// Whether aggregates may be open after their deadline, because of the stream's backlog.
    is_extended: bool,
}

impl<T> Default for HashKeyAggregator<T> {
    fn default() -> Self {
        Self {
            aggregator: Aggregator::default(),
            slots: HashMap::new(),
            hash_keys: Vec::new(),
            free_slots: Vec::new(),
            user_records: 0,
            bytes: 0,
            is_extended: false,
        }
    }
}

impl<T> HashKeyAggregator<T> {
    /// Adds a user record to the aggregate of its hash key, as [`Aggregator::add`] does.
    pub(crate) fn add(
        &mut self,
        user: Pending<T>,
        deadline: Instant,
        expiry: Instant,
        limits: AggregateLimits,
        mut closed: impl FnMut(KinesisRecord<T>),
    ) {
        let slot = self.slot(user.entry.hash_key());
        self.user_records += 1;
        self.bytes += user.entry.size();
        let (user_records, bytes) = (&mut self.user_records, &mut self.bytes);
        self.aggregator.add(user, slot, None, Times { deadline, expiry }, limits, |record| {
            *user_records -= record.user_records();
            *bytes -= record.user_bytes();
            closed(record);
        });
        if self.aggregator.get(slot).is_none() {
            self.free(slot);
        }
    }

    /// Returns the amount of records in open aggregates.
    pub(crate) fn backlog(&self) -> Backlog {
        let Self { slots, user_records, bytes, .. } = self;
        Backlog { kinesis_records: slots.len(), user_records: *user_records, bytes: *bytes, ..Backlog::default() }
    }

    /// Returns the earliest time at which an aggregate may be due.
    pub(crate) fn next_timer(&self) -> Instant {
        self.aggregator.next_timer()
    }

    /// Closes and returns an aggregate that is due by `horizon`. When the backlog is cleared, [`resume`](Self::resume).
    ///
    /// An aggregate for which `waits_in_order` returns true stays open: see [`resume_keys`](Self::resume_keys).
    pub(crate) fn close_due(
        &mut self,
        horizon: Instant,
        is_backlogged: bool,
        waits_in_order: impl Fn(&Aggregate<T>) -> bool,
    ) -> Option<KinesisRecord<T>> {
        self.is_extended |= is_backlogged && self.aggregator.next_timer() <= horizon;
        let late_until = |_, open: &Aggregate<T>| match is_backlogged {
            _ if waits_in_order(open) => Some(open.expiry()),
            true => Some(open.expiry().min(open.deadline() + EXTENSION)),
            false => None,
        };
        let slot = self.aggregator.pop_due(horizon, late_until)?;
        self.close(slot)
    }

    /// Makes all aggregates due at their deadlines again, when the stream has no backlog.
    pub(crate) fn resume(&mut self) {
        if mem::take(&mut self.is_extended) {
            let slots: Vec<u32> = self.aggregator.open_slots().collect();
            slots.into_iter().for_each(|slot| self.aggregator.resume(slot));
        }
    }

    /// Makes the aggregates of hash keys in `range` due at their deadlines again, when they no longer wait in order. Those
    /// of `size` bytes or more are due at once.
    pub(crate) fn resume_keys(&mut self, range: (u128, u128), now: Instant, size: usize) {
        let slots: Vec<u32> = if range.0 == range.1 {
            self.slots.get(&range.0).copied().into_iter().collect()
        } else {
            let in_range = |open: &Aggregate<T>| (range.0..=range.1).contains(&open.hash_key());
            self.aggregator.open().filter(|(_, open)| in_range(open)).map(|(slot, _)| slot).collect()
        };
        for slot in slots {
            if self.aggregator.get(slot).is_some_and(|open| open.size() >= size) {
                self.aggregator.expedite(slot, now);
            }
            self.aggregator.resume(slot);
        }
    }

    /// Returns all open aggregates.
    pub(crate) fn open(&self) -> impl Iterator<Item = &Aggregate<T>> {
        self.aggregator.open().map(|(_, open)| open)
    }

    /// Closes and returns all aggregates that do not wait in order, as [`Aggregator::flush`] does.
    pub(crate) fn flush(
        &mut self,
        now: Instant,
        waits_in_order: impl Fn(&Aggregate<T>) -> bool,
    ) -> Vec<KinesisRecord<T>> {
        let closed = self.aggregator.flush(now, waits_in_order);
        closed.into_iter().map(|(slot, record)| self.closed(slot, record)).collect()
    }

    /// Closes and returns all aggregates.
    pub(crate) fn close_all(&mut self) -> impl Iterator<Item = KinesisRecord<T>> {
        let slots: Vec<u32> = self.aggregator.open_slots().collect();
        slots.into_iter().filter_map(|slot| self.close(slot))
    }

    fn close(&mut self, slot: u32) -> Option<KinesisRecord<T>> {
        let record = self.aggregator.close(slot)?;
        Some(self.closed(slot, record))
    }

    /// Frees the slot of a closed aggregate.
    fn closed(&mut self, slot: u32, record: KinesisRecord<T>) -> KinesisRecord<T> {
        self.free(slot);
        self.user_records -= record.user_records();
        self.bytes -= record.user_bytes();
        record
    }

    fn slot(&mut self, hash_key: u128) -> u32 {
        let Self { slots, hash_keys, free_slots, .. } = self;
        *slots.entry(hash_key).or_insert_with(|| match free_slots.pop() {
            Some(slot) => {
                hash_keys[slot as usize] = hash_key;
                slot
            }
            None => {
                hash_keys.push(hash_key);
                hash_keys.len() as u32 - 1
            }
        })
    }

    fn free(&mut self, slot: u32) {
        self.slots.remove(&self.hash_keys[slot as usize]);
        self.free_slots.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::testing::{ms, tickets, user};

    const LIMITS: AggregateLimits = AggregateLimits { count: 100, size: 1_000, in_order: false };

    fn add(aggregator: &mut HashKeyAggregator<usize>, ticket: usize, key: &str, size: usize) -> Vec<Vec<usize>> {
        let mut closed = Vec::new();
        let deadline = ms(100 + ticket as u64);
        aggregator.add(user(ticket, key, None, size), deadline, ms(9_000), LIMITS, |record| {
            assert!(record.shard.is_none());
            closed.push(tickets([&record]));
        });
        closed
    }

    fn due(aggregator: &mut HashKeyAggregator<usize>, at: u64, is_backlogged: bool) -> Vec<Vec<usize>> {
        let due = core::iter::from_fn(|| aggregator.close_due(ms(at), is_backlogged, |_| false));
        due.map(|record| tickets([&record])).collect()
    }

    #[test]
    fn records_of_one_hash_key_share_an_aggregate() {
        let mut aggregator = HashKeyAggregator::default();
        for (ticket, key) in ["a", "b", "a", "c", "b", "a"].into_iter().enumerate() {
            assert!(add(&mut aggregator, ticket, key, 10).is_empty());
        }
        assert_eq!(aggregator.next_timer(), ms(100));
        assert_eq!((aggregator.backlog().kinesis_records, aggregator.backlog().bytes), (3, 6 * 11));
        assert_eq!(due(&mut aggregator, 101, false), [vec![0, 2, 5], vec![1, 4]]);
        let rest: Vec<_> = aggregator.close_all().map(|record| tickets([&record])).collect();
        assert_eq!(rest, [[3]]);
    }

    #[test]
    fn a_full_aggregate_closes_and_the_next_one_opens() {
        let mut aggregator = HashKeyAggregator::default();
        assert!(add(&mut aggregator, 0, "a", 600).is_empty());
        assert_eq!(add(&mut aggregator, 1, "a", 600), [[0]]);
        assert_eq!(add(&mut aggregator, 2, "b", 2_000), [[2]], "too large to be aggregated");
        assert_eq!(due(&mut aggregator, 200, false), [[1]]);
    }

    #[test]
    fn with_a_backlog_an_aggregate_stays_open_for_a_second_more() {
        let mut aggregator = HashKeyAggregator::default();
        assert!(add(&mut aggregator, 0, "a", 10).is_empty());
        assert!(due(&mut aggregator, 1_099, true).is_empty());
        assert!(add(&mut aggregator, 1, "a", 10).is_empty());
        assert_eq!(due(&mut aggregator, 1_100, true), [[0, 1]]);
    }

    #[test]
    fn after_a_backlog_aggregates_are_due_at_their_deadlines_again() {
        let mut aggregator = HashKeyAggregator::default();
        assert!(add(&mut aggregator, 0, "a", 10).is_empty());
        assert!(due(&mut aggregator, 150, true).is_empty());
        assert_eq!(aggregator.next_timer(), ms(1_100));
        aggregator.resume();
        assert_eq!(aggregator.next_timer(), ms(100));
        assert_eq!(due(&mut aggregator, 150, false), [[0]]);
    }

    #[test]
    fn slots_are_reused() {
        let mut aggregator = HashKeyAggregator::default();
        for ticket in 0..1_000 {
            assert!(add(&mut aggregator, ticket, &alloc::format!("{ticket}"), 10).is_empty());
            assert_eq!(due(&mut aggregator, 100 + ticket as u64, false), [[ticket]]);
            assert_eq!(add(&mut aggregator, 0, &alloc::format!("large {ticket}"), 2_000).len(), 1);
        }
        assert!(aggregator.hash_keys.len() <= 2 && aggregator.slots.is_empty());
        assert_eq!((aggregator.backlog().kinesis_records, aggregator.backlog().bytes), (0, 0));
    }
}

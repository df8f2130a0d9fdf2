//! How a stream keeps its records in order: what it passes to the [`Sequencer`] and takes back from it. All of it does
//! nothing without [`Ordering::PerKey`].
//!
//! [`Ordering::PerKey`]: crate::Ordering::PerKey

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::Stream;
use crate::action::LogEvent;
use crate::config::Config;
use crate::context::Context;
use crate::limits;
use crate::record::attempt::{AttemptError, code};
use crate::record::kinesis_record::{KinesisRecord, Pending, ShardRef};
use crate::stream::aggregator::Aggregate;
use crate::stream::limiter::WHOLE_STREAM;
use crate::stream::metadata::Metadata;
use crate::stream::sequencer::{Sequence, Sequencer};
use crate::time::Instant;

/// An aggregate that waits for the one before may grow to this part of what its shard takes in a second: 256 KiB at the
/// default rate limit. A larger one would be throttled often if other producers use the shard, too.
const HELD_PART: u64 = 4;

/// Returns the maximum size of an aggregate that waits for the one before.
pub(super) fn size_max(config: &Config) -> usize {
    let part = usize::try_from(config.rate_limit_bytes_per_shard() / HELD_PART).unwrap_or(usize::MAX);
    part.min(limits::RECORD_SIZE_DEFAULT).max(config.aggregation_max_size())
}

/// Accepts the newest record of a sequence, and returns it if it may be sent. Without [`Ordering::PerKey`], it always may.
///
/// [`Ordering::PerKey`]: crate::Ordering::PerKey
pub(super) fn pass<T>(
    sequencer: &mut Option<Box<Sequencer<T>>>,
    now: Instant,
    sequence: Option<Sequence>,
    record: KinesisRecord<T>,
) -> Option<KinesisRecord<T>> {
    match (sequencer, sequence) {
        (Some(sequencer), Some(sequence)) => sequencer.push(now, sequence, record),
        _ => Some(record),
    }
}

/// Whether an open aggregate waits for earlier records of its hash keys: those of a shard if it is known, or one.
pub(super) fn waits_in_order<T>(sequencer: Option<&Sequencer<T>>, metadata: &Metadata, open: &Aggregate<T>) -> bool {
    sequencer.is_some_and(|sequencer| {
        let hash_key = open.hash_key();
        sequencer.is_in_doubt(metadata.map.open_range(hash_key).unwrap_or((hash_key, hash_key)))
    })
}

impl<T> Stream<T> {
    /// Returns the sequence of a hash key: its `shard`; if records are not aggregated or the shard is not known, the hash key
    /// alone.
    pub(super) fn sequence(&self, shard: Option<&ShardRef>, hash_key: u128, config: &Config) -> Sequence {
        let slot = shard.map_or(WHOLE_STREAM, |shard| shard.slot);
        let range = shard.filter(|shard| self.metadata.can_aggregate(Some(shard), config));
        let range = range.and_then(|_| self.metadata.map.open_range(hash_key));
        Sequence { range: range.unwrap_or((hash_key, hash_key)), slot }
    }

    /// Whether the open aggregate of a shard waits for earlier records of its hash keys.
    pub(super) fn waits_in_order(&self, open: &Aggregate<T>) -> bool {
        waits_in_order(self.sequencer.as_deref(), &self.metadata, open)
    }

    /// Takes the user records of a Kinesis record back, in front of newer ones.
    pub(super) fn put_back(&mut self, now: Instant, users: Vec<Pending<T>>, context: &mut Context<T>) {
        if users.is_empty() {
            return;
        }
        if self.is_order_impossible() {
            return self.fail_unordered(now, users, context);
        }
        // After a reshard, they may be of several sequences.
        let mut sequences: BTreeMap<u128, Vec<Pending<T>>> = BTreeMap::new();
        for user in users {
            let hash_key = user.entry.hash_key();
            let sequence = self.sequence(self.metadata.shard(hash_key), hash_key, &context.config);
            sequences.entry(sequence.range.0).or_default().push(user);
        }
        for (hash_key, users) in sequences {
            let shard = self.metadata.shard(hash_key).cloned();
            let sequence = self.sequence(shard.as_ref(), hash_key, &context.config);
            if self.metadata.can_aggregate(shard.as_ref(), &context.config) {
                let record = Self::aggregate(users, shard, now, context);
                self.put_record_back(sequence, record);
            } else {
                for user in users.into_iter().rev() {
                    let expiry = context.expiry(&user);
                    self.put_record_back(sequence, Some(KinesisRecord::single(user, shard.clone(), now, expiry)));
                }
            }
            self.count_upstream(now, sequence.slot);
        }
    }

    fn put_record_back(&mut self, sequence: Sequence, record: Option<KinesisRecord<T>>) {
        if let (Some(sequencer), Some(record)) = (&mut self.sequencer, record) {
            sequencer.put_back(sequence, record);
        }
    }

    fn aggregate(
        users: impl IntoIterator<Item = Pending<T>>,
        shard: Option<ShardRef>,
        deadline: Instant,
        context: &Context<T>,
    ) -> Option<KinesisRecord<T>> {
        let mut aggregate = Aggregate::new(shard);
        for user in users {
            let expiry = context.expiry(&user);
            aggregate.push(user, deadline, expiry);
        }
        aggregate.close()
    }

    /// Ends the doubt about a record with this hash key, and sends what waited for it.
    pub(super) fn end_doubt(&mut self, now: Instant, hash_key: Option<u128>, context: &mut Context<T>) {
        let ended = |sequencer: &mut Box<Sequencer<T>>| sequencer.end_doubt(now, hash_key?);
        if let Some(range) = self.sequencer.as_mut().and_then(ended) {
            self.send_ready(now, range, context);
        }
    }

    /// Sends what no longer waits for a record in doubt with hash keys in `range`.
    pub(super) fn send_ready(&mut self, now: Instant, range: (u128, u128), context: &mut Context<T>) {
        let Some(sequencer) = &self.sequencer else { return };
        let mut from = sequencer.first_place(range);
        while let Some(sequencer) = &mut self.sequencer
            && let Some((sequence, record)) = sequencer.pop_ready(now, &mut from, range.1)
        {
            self.count_upstream(now, sequence.slot);
            self.pass_to_limiter(now, sequence.slot, record, context);
        }
        let size = context.config.aggregation_max_size();
        if context.config.aggregation_enabled() {
            self.hash_key_aggregator.resume_keys(range, now, size);
            // Nearly always, it is one shard.
            let mut next = Some(range.0);
            while let Some(hash_key) = next.filter(|hash_key| *hash_key <= range.1)
                && let Some((slot, end)) = self.metadata.map.slot_from(hash_key)
            {
                next = end.checked_add(1);
                match self.aggregator.get(slot) {
                    Some(open) if self.waits_in_order(open) => {}
                    Some(open) if open.size() >= size => {
                        self.close(now, slot, context);
                    }
                    _ => self.aggregator.resume(slot),
                }
            }
        }
    }

    /// Ends the doubt about `records`, which were taken out of the limiter, and adds those of these slots that wait.
    /// Returns the hash keys for which records may be ready.
    pub(super) fn take_sequenced(
        &mut self,
        now: Instant,
        slots: &[u32],
        records: &mut Vec<KinesisRecord<T>>,
    ) -> Vec<(u128, u128)> {
        let Some(sequencer) = &mut self.sequencer else { return Vec::new() };
        let ended = records.iter().filter_map(|record| sequencer.end_doubt(now, record.hash_key())).collect();
        let slots: BTreeSet<u32> = slots.iter().copied().collect();
        records.extend(sequencer.take(|slot| slots.contains(&slot)));
        for slot in slots {
            self.count_upstream(now, slot);
        }
        ended
    }

    /// Fails the waiting user records that have expired.
    pub(super) fn expire_sequenced(&mut self, now: Instant, context: &mut Context<T>) {
        while let Some((place, sequence, record)) =
            self.sequencer.as_mut().and_then(|sequencer| sequencer.pop_expired(now))
        {
            let (shard, deadline) = (record.shard.clone(), record.deadline);
            let (expired, left): (Vec<_>, Vec<_>) = record.into_users().partition(|user| context.expiry(user) <= now);
            for user in expired {
                self.fail_expired(now, user, context);
            }
            let left = Self::aggregate(left, shard, deadline, context);
            if let (Some(sequencer), Some(record)) = (&mut self.sequencer, left) {
                sequencer.restore(place, sequence, record);
            }
            self.count_upstream(now, sequence.slot);
        }
    }

    /// Whether records cannot be kept in order, because the stream ignores keys.
    pub(super) fn is_order_impossible(&self) -> bool {
        self.sequencer.is_some() && self.metadata.ignores_keys()
    }

    /// Fails records because their order cannot be kept.
    pub(super) fn fail_unordered(
        &mut self,
        now: Instant,
        users: impl IntoIterator<Item = Pending<T>>,
        context: &mut Context<T>,
    ) {
        let (code, message) = (code::ORDER_IMPOSSIBLE, "ordering is PerKey, but the stream ignores keys (AUTO)");
        let mut user_records = 0;
        for user in users {
            user_records += 1;
            self.fail(now, user, AttemptError::new(code, message), context);
        }
        if user_records > 0 {
            let stream = self.name.clone();
            context.log(LogEvent::Failed { stream, code: code.into(), message: message.into(), user_records });
        }
    }

    /// Fails all records that are not under way yet, after it became known that the stream ignores keys.
    pub(super) fn fail_all_unordered(&mut self, now: Instant, context: &mut Context<T>) {
        let mut records = Vec::new();
        for slot in self.limiter.slots() {
            self.take_waiting(now, slot, &mut records, context);
        }
        if let Some(sequencer) = &mut self.sequencer {
            for record in &records {
                // What waits for it fails, too.
                sequencer.end_doubt(now, record.hash_key());
            }
        }
        records.extend(self.take_unlimited(now));
        self.fail_unordered(now, records.into_iter().flat_map(KinesisRecord::into_users), context);
    }
}

//! Collects a stream's Kinesis records into PutRecords requests.

use alloc::vec::Vec;

use crate::config::Config;
use crate::record::kinesis_record::KinesisRecord;
use crate::time::Instant;
use crate::time::deadline_queue::DeadlineQueue;

/// Released records that wait for a request that is full or due.
#[derive(Debug)]
pub(crate) struct Collector<T> {
    waiting: DeadlineQueue<KinesisRecord<T>>,
    bytes: usize,
    /// The bytes per shard, by slot.
    shards: Vec<ShardBytes>,
    /// The number of shards with enough waiting bytes for one request.
    full_shards: usize,
    /// The number of requests so far. `ShardBytes::taken` is valid for one request only, so it needs no clearing.
    request: u64,
    /// Whether a flush covers the waiting records.
    flushing: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct ShardBytes {
    waiting: usize,
    /// The bytes in the request being filled.
    taken: usize,
    /// The request to which `taken` applies.
    taken_by: u64,
}

impl<T> Default for Collector<T> {
    fn default() -> Self {
        Self {
            waiting: DeadlineQueue::default(),
            bytes: 0,
            shards: Vec::new(),
            full_shards: 0,
            request: 0,
            flushing: false,
        }
    }
}

impl<T> Collector<T> {
    pub(crate) fn push(&mut self, record: KinesisRecord<T>, config: &Config) {
        self.count(&record, config, |waiting, size| waiting + size);
        self.bytes += record.size();
        self.waiting.push(record.deadline, record.expiry, record);
    }

    /// Whether a request should be sent now.
    pub(crate) fn is_due(&self, now: Instant, config: &Config) -> bool {
        self.next_deadline() <= now
            || self.waiting.len() >= config.collection_max_count()
            || self.bytes >= config.collection_max_size()
            || self.full_shards > 0
            || self.flushing
    }

    /// Returns the waiting records.
    pub(crate) fn records(&self) -> impl Iterator<Item = &KinesisRecord<T>> {
        self.waiting.values()
    }

    /// Whether records for the shard wait.
    pub(crate) fn has_any(&self, slot: u32) -> bool {
        self.shards.get(slot as usize).is_some_and(|shard| shard.waiting > 0)
    }

    /// Removes and returns the records of the next request: at least one if any waits, at most what the limits allow.
    pub(crate) fn take(&mut self, config: &Config) -> Vec<KinesisRecord<T>> {
        let mut batch = Vec::with_capacity(self.waiting.len().min(config.collection_max_count()));
        let mut size = 0;
        self.request += 1;
        while batch.len() < config.collection_max_count()
            && let Some(first) = self.waiting.first()
        {
            let fits = size + first.size() <= config.collection_max_size() && self.shard_has_room(first, config);
            if !fits && !batch.is_empty() {
                break;
            }
            let Some(record) = self.pop(config) else { break };
            size += record.size();
            if let Some(shard) = &record.shard {
                let bytes = &mut self.shards[shard.slot as usize];
                let before = if bytes.taken_by == self.request { bytes.taken } else { 0 };
                (bytes.taken, bytes.taken_by) = (before + record.size(), self.request);
            }
            batch.push(record);
        }
        batch
    }

    /// Removes and returns the record with the earliest deadline.
    pub(crate) fn pop(&mut self, config: &Config) -> Option<KinesisRecord<T>> {
        let record = self.waiting.pop()?;
        self.uncount(&record, config);
        Some(record)
    }

    /// Removes and returns a record of which a user record has expired.
    pub(crate) fn pop_expired(&mut self, now: Instant, config: &Config) -> Option<KinesisRecord<T>> {
        let record = self.waiting.pop_expired(now)?;
        self.uncount(&record, config);
        Some(record)
    }

    /// Makes the waiting records due.
    pub(crate) fn flush(&mut self) {
        self.flushing = !self.waiting.is_empty();
    }

    pub(crate) fn next_deadline(&self) -> Instant {
        self.waiting.next_deadline()
    }

    pub(crate) fn next_expiry(&self) -> Instant {
        self.waiting.next_expiry()
    }

    fn shard_has_room(&self, record: &KinesisRecord<T>, config: &Config) -> bool {
        record.shard.as_ref().is_none_or(|shard| {
            let bytes = self.shards[shard.slot as usize];
            bytes.taken_by != self.request || bytes.taken + record.size() <= config.collection_max_size_per_shard()
        })
    }

    fn uncount(&mut self, record: &KinesisRecord<T>, config: &Config) {
        self.count(record, config, |waiting, size| waiting - size);
        self.bytes -= record.size();
        self.flushing &= !self.waiting.is_empty();
    }

    fn count(&mut self, record: &KinesisRecord<T>, config: &Config, change: impl Fn(usize, usize) -> usize) {
        let Some(shard) = &record.shard else { return };
        let slot = shard.slot as usize;
        if slot >= self.shards.len() {
            self.shards.resize_with(slot + 1, ShardBytes::default);
        }
        let full = |waiting| usize::from(waiting >= config.collection_max_size_per_shard());
        let bytes = &mut self.shards[slot];
        let waiting = change(bytes.waiting, record.size());
        self.full_shards = self.full_shards + full(waiting) - full(bytes.waiting);
        bytes.waiting = waiting;
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;
    use core::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{ms, single, tickets};

    #[derive(Clone, Debug)]
    enum Step {
        Push { slot: Option<u32>, size: usize, buffered: u64, ttl: u64 },
        Pass { millis: u64 },
        Take,
        TakeIfDue,
        Pop,
        Flush,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let slot = proptest::option::of(0..3_u32);
        // Some sizes fill a request, or its part for a shard, to the byte.
        let size = prop_oneof![1..100_usize, 10_000..30_000_usize, Just(10_000), Just(60_000)];
        let push = (slot, size, 0..60_u64, 0..120_u64).prop_map(|(slot, size, buffered, ttl)| Step::Push {
            slot,
            size,
            buffered,
            ttl,
        });
        let step = prop_oneof![
            12 => push,
            3 => (0..40_u64).prop_map(|millis| Step::Pass { millis }),
            1 => Just(Step::Take),
            3 => Just(Step::TakeIfDue),
            1 => Just(Step::Pop),
            1 => Just(Step::Flush),
        ];
        proptest::collection::vec(step, 0..80)
    }

    /// A record that waits. Deadline and ticket come first, since they give the order of requests.
    type Waiting = (Instant, usize, Instant, Option<u32>, usize);

    /// Whether one request may have all of `records`.
    fn fit(records: &[Waiting], config: &Config) -> bool {
        let mut shards = BTreeMap::new();
        for (.., slot, size) in records {
            *shards.entry(*slot).or_insert(0) += size;
        }
        shards.remove(&None);
        records.len() <= config.collection_max_count()
            && records.iter().map(|(.., size)| size).sum::<usize>() <= config.collection_max_size()
            && shards.iter().all(|(slot, bytes)| {
                let alone = records.iter().filter(|(.., other, _)| other == slot).count() == 1;
                *bytes <= config.collection_max_size_per_shard() || alone
            })
    }

    proptest! {
        #[test]
        fn requests_are_as_full_as_the_limits_allow_without_loss(
            steps in steps(),
            count in 1..8_usize,
            size in prop_oneof![52_224..90_000_usize, Just(60_000)],
            per_shard in prop_oneof![1..60_000_usize, Just(20_000)],
        ) {
            let config = Config::builder()
                .collection_max_count(count)
                .collection_max_size(size)
                .collection_max_size_per_shard(per_shard)
                .build()
                .unwrap();
            let mut collector = Collector::default();
            let mut model: Vec<Waiting> = Vec::new();
            let (mut now, mut put, mut flushing) = (ms(0), 0, false);
            for step in steps {
                match step {
                    Step::Push { slot, size, buffered, ttl } => {
                        let deadline = now + Duration::from_millis(buffered);
                        let expiry = deadline + Duration::from_millis(ttl);
                        collector.push(single(put, slot, size, deadline, expiry), &config);
                        model.push((deadline, put, expiry, slot, size));
                        model.sort_unstable();
                        put += 1;
                    }
                    Step::Pass { millis } => {
                        now = now + Duration::from_millis(millis);
                        while let Some(record) = collector.pop_expired(now, &config) {
                            let ticket = tickets([&record])[0];
                            let at = model.iter().position(|waiting| waiting.1 == ticket);
                            let (_, _, expiry, ..) = model.remove(at.expect("waiting"));
                            prop_assert!(expiry <= now);
                        }
                    }
                    Step::TakeIfDue if !collector.is_due(now, &config) => {}
                    Step::Take | Step::TakeIfDue => {
                        let taken = tickets(&collector.take(&config));
                        let gone: Vec<Waiting> = model.drain(..taken.len()).collect();
                        let first: Vec<usize> = gone.iter().map(|waiting| waiting.1).collect();
                        prop_assert_eq!(&taken, &first, "the earliest deadline first");
                        prop_assert!(gone.len() == 1 || fit(&gone, &config), "{:?}", gone);
                        if let Some(next) = model.first() {
                            let more: Vec<Waiting> = gone.into_iter().chain([*next]).collect();
                            prop_assert!(more.len() > 1 && !fit(&more, &config), "there was room: {:?}", more);
                        }
                    }
                    Step::Pop => {
                        let popped = collector.pop(&config).map(|record| tickets([&record])[0]);
                        prop_assert_eq!(popped, model.first().map(|waiting| waiting.1));
                        model.drain(..usize::from(popped.is_some()));
                    }
                    Step::Flush => {
                        collector.flush();
                        flushing = true;
                    }
                }
                flushing &= !model.is_empty();
                let sum = |slot: Option<u32>| -> usize {
                    model.iter().filter(|waiting| slot.is_none() || waiting.3 == slot).map(|waiting| waiting.4).sum()
                };
                let due = flushing
                    || model.iter().any(|(deadline, ..)| *deadline <= now)
                    || model.len() >= count
                    || sum(None) >= size
                    || (0..3).any(|slot| sum(Some(slot)) >= per_shard);
                prop_assert_eq!(collector.is_due(now, &config), due, "{:?}", model);
                for slot in 0..4 {
                    prop_assert_eq!(collector.has_any(slot), sum(Some(slot)) > 0, "slot {} of {:?}", slot, model);
                }
                let first = |time: fn(&Waiting) -> Instant| model.iter().map(time).min().unwrap_or(Instant::NEVER);
                prop_assert_eq!(collector.next_deadline(), first(|waiting| waiting.0));
                prop_assert_eq!(collector.next_expiry(), first(|waiting| waiting.2));
            }
        }
    }
}

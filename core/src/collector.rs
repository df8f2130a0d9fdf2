//! Gathers a stream's Kinesis records into PutRecords requests.

use alloc::vec::Vec;

use crate::config::Config;
use crate::deadline_queue::DeadlineQueue;
use crate::kinesis_record::KinesisRecord;
use crate::time::Instant;

/// Records that may go, waiting for a request that is worth it: full, or due.
#[derive(Debug)]
pub(crate) struct Collector<T> {
    waiting: DeadlineQueue<KinesisRecord<T>>,
    bytes: usize,
    /// By the shard's slot: bytes waiting, and bytes in the request being filled.
    shards: Vec<ShardBytes>,
    /// How many shards have as much waiting as one request takes.
    full_shards: usize,
    /// Numbers the requests, so that `ShardBytes::taken` need not be cleared.
    request: u64,
    /// A flush wants out what is here.
    flushing: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct ShardBytes {
    waiting: usize,
    taken: usize,
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

    /// The records of the next request: at least one if any waits, at most what the limits allow.
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

    /// Takes the first record, in order.
    pub(crate) fn pop(&mut self, config: &Config) -> Option<KinesisRecord<T>> {
        let record = self.waiting.pop()?;
        self.uncount(&record, config);
        Some(record)
    }

    /// Takes a record that has waited until one of its user records expired.
    pub(crate) fn pop_expired(&mut self, now: Instant, config: &Config) -> Option<KinesisRecord<T>> {
        let record = self.waiting.pop_expired(now)?;
        self.uncount(&record, config);
        Some(record)
    }

    /// Sends what is here without waiting for more.
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

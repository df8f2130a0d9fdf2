//! Counts the records of requests.

use std::collections::HashSet;

use bytes::Bytes;
use kpl_core::KinesisRecord;
use kpl_core::codec::{self, DecodeError};
use xxhash_rust::xxh3::xxh3_128;

/// The bytes that a PUT payload unit has at most: <https://aws.amazon.com/kinesis/data-streams/pricing/>.
const PAYLOAD_UNIT: usize = 25 << 10;

/// The maximum number of keys that are counted exactly. It bounds the memory to about 50 MB.
const DISTINCT_KEYS_MAX: usize = 1_000_000;

/// The counts of one shard.
#[derive(Clone, Debug, Default)]
pub(super) struct ShardCounts {
    pub(super) lines: u64,
    pub(super) kinesis_records: u64,
    /// The bytes that count against the shard's limit: data and partition keys of the Kinesis records.
    pub(super) bytes: u64,
}

/// The counts of a dry run.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) requests: u64,
    /// The counts of each shard, in the order of the target's shards.
    pub(super) shards: Vec<ShardCounts>,
    pub(super) aggregates: u64,
    pub(super) lines_in_aggregates: u64,
    /// The bytes of the aggregates, without their partition keys.
    pub(super) bytes_of_aggregates: u64,
    pub(super) payload_units: u64,
    /// The payload units of the same lines if each of them is a Kinesis record.
    pub(super) payload_units_unaggregated: u64,
    /// `None` if the keys are random.
    pub(super) keys: Option<DistinctKeys>,
}

/// A Kinesis record as it arrives, with what its lines are.
pub(super) struct Arrived {
    lines: u64,
    is_aggregated: bool,
    data_size: usize,
    size: usize,
    payload_units_unaggregated: u64,
    /// The hashes of its partition keys.
    keys: Vec<u128>,
}

impl Arrived {
    /// Reads a record as a consumer does.
    pub(super) fn read<T>(record: &KinesisRecord<T>) -> Result<Self, DecodeError> {
        let data = record.data();
        let (data_size, size) = (data.len(), data.len() + record.partition_key().len());
        let is_aggregated = record.is_aggregated();
        let mut arrived =
            Self { lines: 0, is_aggregated, data_size, size, payload_units_unaggregated: 0, keys: Vec::new() };
        if is_aggregated {
            codec::decode(data)?.iter().for_each(|user| arrived.add(&user.partition_key, &user.data));
        } else {
            arrived.add(record.partition_key(), &data);
        }
        Ok(arrived)
    }

    fn add(&mut self, partition_key: &str, data: &Bytes) {
        self.lines += 1;
        self.payload_units_unaggregated += payload_units(partition_key.len() + data.len());
        self.keys.push(xxh3_128(partition_key.as_bytes()));
    }
}

impl Counts {
    pub(super) fn new(shards: usize, count_keys: bool) -> Self {
        Self {
            requests: 0,
            shards: vec![ShardCounts::default(); shards],
            aggregates: 0,
            lines_in_aggregates: 0,
            bytes_of_aggregates: 0,
            payload_units: 0,
            payload_units_unaggregated: 0,
            keys: count_keys.then(DistinctKeys::default),
        }
    }

    /// Counts a record that a shard stores.
    pub(super) fn add(&mut self, shard: usize, record: Arrived) {
        let counts = &mut self.shards[shard];
        counts.lines += record.lines;
        counts.kinesis_records += 1;
        counts.bytes += record.size as u64;
        if record.is_aggregated {
            self.aggregates += 1;
            self.lines_in_aggregates += record.lines;
            self.bytes_of_aggregates += record.data_size as u64;
        }
        self.payload_units += payload_units(record.size);
        self.payload_units_unaggregated += record.payload_units_unaggregated;
        if let Some(keys) = &mut self.keys {
            record.keys.into_iter().for_each(|key| keys.add(key));
        }
    }

    pub(super) fn sum(&self) -> ShardCounts {
        let mut sum = ShardCounts::default();
        for shard in &self.shards {
            sum.lines += shard.lines;
            sum.kinesis_records += shard.kinesis_records;
            sum.bytes += shard.bytes;
        }
        sum
    }
}

fn payload_units(size: usize) -> u64 {
    size.div_ceil(PAYLOAD_UNIT) as u64
}

/// The number of different partition keys, up to a limit.
#[derive(Debug, Default)]
pub(super) struct DistinctKeys {
    hashes: HashSet<u128>,
    /// Whether there are more than the limit.
    is_above_limit: bool,
}

impl DistinctKeys {
    fn add(&mut self, hash: u128) {
        if self.hashes.len() < DISTINCT_KEYS_MAX {
            self.hashes.insert(hash);
        } else {
            self.is_above_limit = self.is_above_limit || !self.hashes.contains(&hash);
        }
    }

    /// Returns the number of keys.
    pub(super) fn count(&self) -> usize {
        self.hashes.len()
    }

    /// Returns whether there are more keys than [`count`](Self::count).
    pub(super) fn has_more(&self) -> bool {
        self.is_above_limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_counted_exactly_up_to_the_limit() {
        let mut keys = DistinctKeys::default();
        for hash in 0..DISTINCT_KEYS_MAX as u128 {
            keys.add(hash);
            keys.add(hash / 2);
        }
        assert_eq!((keys.count(), keys.has_more()), (DISTINCT_KEYS_MAX, false));
        keys.add(u128::MAX);
        assert_eq!((keys.count(), keys.has_more()), (DISTINCT_KEYS_MAX, true));
    }

    #[test]
    fn a_payload_unit_has_up_to_25_kib() {
        assert_eq!([1, 25_600, 25_601, 51_201].map(payload_units), [1, 1, 2, 3]);
    }
}

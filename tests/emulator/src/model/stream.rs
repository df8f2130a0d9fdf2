//! A stream, its shards and their records.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::tokens::Bucket;
use crate::api;

/// A stored Kinesis record.
#[derive(Clone, Debug)]
pub struct StoredRecord {
    /// Its number in the stream: the last digits of its sequence number.
    pub(crate) number: u64,
    /// Its sequence number.
    pub sequence_number: String,
    /// Its arrival time, since the Unix epoch.
    pub arrived_at: Duration,
    /// Its partition key.
    pub partition_key: String,
    /// Its explicit hash key, which GetRecords does not return.
    pub explicit_hash_key: Option<u128>,
    /// Its data.
    pub data: Bytes,
}

#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) id: String,
    index: usize,
    /// The first and the last hash key.
    pub(crate) range: (u128, u128),
    pub(crate) parents: [Option<String>; 2],
    pub(crate) records: VecDeque<StoredRecord>,
    pub(super) created_at: Duration,
    pub(super) closed_at: Option<Duration>,
    /// The first digits of all its sequence numbers.
    sequence_prefix: String,
    first_number: u64,
    /// The stream's record number when it was closed.
    end_number: Option<u64>,
    record_rate: Option<Bucket>,
    byte_rate: Option<Bucket>,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) name: String,
    pub(super) incarnation: u64,
    pub(super) created_at: Duration,
    pub(super) active_at: Duration,
    pub(super) on_demand: bool,
    pub(super) max_record_size: usize,
    pub(super) auto_distribution: bool,
    pub(crate) shards: Vec<Shard>,
    /// The indexes of the open shards, ordered by range.
    open: Vec<usize>,
    /// The number of the next record. Shards share it, so that a child's numbers are above its parent's.
    pub(super) next_number: u64,
    stored_bytes: usize,
    /// The shard indexes of the stored records, oldest record first. Used only with a maximum of stored bytes.
    arrivals: VecDeque<usize>,
}

impl Stream {
    pub(super) fn new(name: String, incarnation: u64, now: Duration, shards: usize) -> Self {
        let mut stream = Self {
            name,
            incarnation,
            created_at: now,
            active_at: now,
            on_demand: false,
            max_record_size: 1 << 20,
            auto_distribution: false,
            shards: Vec::new(),
            open: Vec::new(),
            next_number: 1,
            stored_bytes: 0,
            arrivals: VecDeque::new(),
        };
        for start in even_starts(shards).zip(even_starts(shards).skip(1).map(|next| next - 1).chain([u128::MAX])) {
            stream.open_shard(now, start, [None, None]);
        }
        stream
    }

    pub(super) fn status(&self, now: Duration) -> &'static str {
        match (now < self.active_at, self.shards.iter().all(|shard| shard.closed_at.is_none())) {
            (false, _) => "ACTIVE",
            (true, true) => "CREATING",
            (true, false) => "UPDATING",
        }
    }

    pub(super) fn open_shards(&self) -> impl ExactSizeIterator<Item = &Shard> {
        self.open.iter().map(|index| &self.shards[*index])
    }

    pub(super) fn shard(&self, id: &str) -> Option<&Shard> {
        self.shards.iter().find(|shard| shard.id == id)
    }

    /// Returns the index of the open shard whose range contains the hash key. There always is one.
    pub(super) fn route(&self, hash_key: u128) -> usize {
        self.open[self.open.partition_point(|index| self.shards[*index].range.1 < hash_key)]
    }

    /// Returns the index of the n-th open shard, modulo their number.
    pub(super) fn nth_open_shard(&self, n: u64) -> usize {
        self.open[(n % self.open.len() as u64) as usize]
    }

    pub(super) fn open_shard(&mut self, now: Duration, range: (u128, u128), parents: [Option<String>; 2]) {
        let index = self.shards.len();
        self.shards.push(Shard {
            id: format!("shardId-{index:012}"),
            index,
            range,
            parents,
            records: VecDeque::new(),
            created_at: now,
            closed_at: None,
            sequence_prefix: format!("49{index:034}"),
            first_number: self.next_number,
            end_number: None,
            record_rate: None,
            byte_rate: None,
        });
        self.next_number += 1;
        let place = self.open.partition_point(|other| self.shards[*other].range.1 < range.1);
        self.open.insert(place, index);
    }

    pub(super) fn close_shard(&mut self, now: Duration, id: &str) {
        let Some(shard) = self.shards.iter_mut().find(|shard| shard.id == id) else { return };
        shard.closed_at = Some(now);
        shard.end_number = Some(self.next_number);
        self.next_number += 1;
        let index = shard.index;
        self.open.retain(|open| *open != index);
    }

    /// Stores a record in a shard, and discards the oldest records above `retain_bytes_max`.
    pub(super) fn store(&mut self, shard: usize, record: NewRecord, retain_bytes_max: Option<usize>) -> String {
        let number = self.next_number;
        self.next_number += 1;
        self.stored_bytes += record.data.len();
        let sequence_number = self.shards[shard].sequence_number(number);
        self.shards[shard].records.push_back(StoredRecord {
            number,
            sequence_number: sequence_number.clone(),
            arrived_at: record.arrived_at,
            partition_key: record.partition_key,
            explicit_hash_key: record.explicit_hash_key,
            data: record.data,
        });
        if let Some(max) = retain_bytes_max {
            self.arrivals.push_back(shard);
            self.discard_oldest(max);
        }
        sequence_number
    }

    fn discard_oldest(&mut self, bytes_max: usize) {
        while self.stored_bytes > bytes_max
            && let Some(shard) = self.arrivals.pop_front()
        {
            // Records of a shard are in the order of arrival, so its first record is the stream's oldest.
            let oldest = self.shards[shard].records.pop_front();
            self.stored_bytes -= oldest.map_or(0, |record| record.data.len());
        }
    }
}

/// A record that is not stored yet.
pub(super) struct NewRecord {
    pub(super) arrived_at: Duration,
    pub(super) partition_key: String,
    pub(super) explicit_hash_key: Option<u128>,
    pub(super) data: Bytes,
}

impl Shard {
    /// Returns whether the record exceeds the shard's limits. If not, counts it.
    pub(super) fn throttles(&mut self, now: Duration, size: usize, options: &super::Options) -> bool {
        let bucket = |per_second: u64| Bucket::new(per_second, now);
        let records = options.shard_records_per_second.map(|rate| self.record_rate.get_or_insert_with(|| bucket(rate)));
        let bytes = options.shard_bytes_per_second.map(|rate| self.byte_rate.get_or_insert_with(|| bucket(rate)));
        let mut buckets = [(records, 1), (bytes, size as u64)];
        let fits = buckets.iter_mut().all(|(bucket, cost)| bucket.as_mut().is_none_or(|bucket| bucket.has(now, *cost)));
        if fits {
            for (bucket, cost) in buckets {
                if let Some(bucket) = bucket {
                    bucket.take(cost);
                }
            }
        }
        !fits
    }

    /// Returns a sequence number of 56 digits, as those of Kinesis. It increases with the shard's number and with the
    /// record's number, and so within a shard and from parent to child.
    pub(super) fn sequence_number(&self, number: u64) -> String {
        // Not `{number:020}`, whose padding took a tenth of the time under the lock.
        const ZEROS: &str = "00000000000000000000";
        let digits = number.to_string();
        [&self.sequence_prefix, &ZEROS[digits.len()..], &digits].concat()
    }

    /// Returns the record number in a sequence number of this shard.
    pub(super) fn number_of(&self, sequence_number: &str) -> Option<u64> {
        sequence_number.strip_prefix(&self.sequence_prefix).filter(|tail| tail.len() == 20)?.parse().ok()
    }

    pub(super) fn describe(&self) -> api::Shard {
        let [parent_shard_id, adjacent_parent_shard_id] = self.parents.clone();
        api::Shard {
            shard_id: self.id.clone(),
            hash_key_range: self.hash_key_range(),
            sequence_number_range: api::SequenceNumberRange {
                starting_sequence_number: self.sequence_number(self.first_number),
                ending_sequence_number: self.end_number.map(|number| self.sequence_number(number)),
            },
            parent_shard_id,
            adjacent_parent_shard_id,
        }
    }

    pub(super) fn hash_key_range(&self) -> api::HashKeyRange {
        api::HashKeyRange { starting_hash_key: self.range.0, ending_hash_key: self.range.1 }
    }
}

/// Returns the first hash keys of shards of equal size: the multiples of 2^128 divided by their number, rounded down,
/// as in Kinesis (the second of two shards starts at 2^127).
pub(super) fn even_starts(shards: usize) -> impl Iterator<Item = u128> {
    let shards = shards as u128;
    // 2^128 is u128::MAX + 1. If it is a multiple of the number of shards, its quotient is one more than that of
    // u128::MAX. For one shard, the quotient overflows to 0, but only 0 times the quotient is used.
    let width = (u128::MAX / shards).wrapping_add(u128::from(u128::MAX % shards == shards - 1));
    (0..shards).map(move |n| width.wrapping_mul(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_start_at_the_hash_keys_of_kinesis() {
        let starts = |shards| even_starts(shards).collect::<Vec<_>>();
        assert_eq!(starts(1), [0]);
        assert_eq!(starts(2), [0, 1 << 127]);
        // From the examples of the AWS documentation.
        assert_eq!(
            starts(3),
            [
                0,
                113_427_455_640_312_821_154_458_202_477_256_070_485,
                226_854_911_280_625_642_308_916_404_954_512_140_970
            ]
        );
        assert_eq!(starts(4)[1], 85_070_591_730_234_615_865_843_651_857_942_052_864);
        for shards in 1..=1_000 {
            assert!(starts(shards).is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn a_sequence_number_is_valid_only_for_its_shard() {
        let stream = Stream::new("s".into(), 1, Duration::ZERO, 2);
        let number = stream.shards[1].sequence_number(u64::MAX);
        assert_eq!(number.len(), 56);
        assert_eq!(stream.shards[1].number_of(&number), Some(u64::MAX));
        assert_eq!(stream.shards[0].number_of(&number), None);
        for bad in ["", "49", &number[1..], &format!("{number}0"), &number.replace('4', "5")] {
            assert_eq!(stream.shards[1].number_of(bad), None, "{bad:?}");
        }
    }
}

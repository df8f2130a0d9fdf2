//! Reading by the KCL's rules, independently of kpl's own code. prost decodes the messages. The rules are those of the
//! KCL's `AggregatorUtil` (amazon-kinesis-client, `retrieval/AggregatorUtil.java`).
//!
//! A Kinesis record without the magic, with a wrong checksum, or with a message that does not parse, is one plain user
//! record. Any other is an aggregate. If a user record's index is beyond the tables of keys, only the user records
//! before it are read: the KCL logs an error and continues with the next Kinesis record. For user records outside the
//! shard's range, the KCL's documentation and its code differ: see [`OutOfRange`].

use bytes::Bytes;
use md5::{Digest, Md5};
use prost::Message;

use crate::Kinesis;

const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];

/// A user record as a consumer reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The shard from which it was read.
    pub shard_id: String,
    /// The sequence number of its Kinesis record.
    pub sequence_number: String,
    /// Its position in the aggregate, or 0 if the Kinesis record is not an aggregate.
    pub sub_sequence_number: u64,
    /// Whether the Kinesis record is an aggregate.
    pub aggregated: bool,
    /// Its partition key.
    pub partition_key: String,
    /// Its explicit hash key, if it is in an aggregate and was put with one.
    pub explicit_hash_key: Option<u128>,
    /// Its data.
    pub data: Bytes,
}

/// The records that a consumer drops if an aggregate has a user record outside the shard's range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutOfRange {
    /// Only the user records outside the range. The KCL's documentation of `deaggregate` says so, and the KPL's retries
    /// rely on it.
    #[default]
    DropsItself,
    /// All user records of the aggregate. The KCL's code does so: at the first user record outside the range, it
    /// discards those before it and does not read those after it.
    DropsAggregate,
}

/// The user records that a consumer has read from a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The user records in the order in which they were read.
    pub records: Vec<ConsumedRecord>,
    /// The number of user records that the consumer dropped: those outside their shard's range, those dropped with them
    /// by [`OutOfRange::DropsAggregate`], those with an index beyond the tables of keys, and those after them.
    pub dropped: u64,
    out_of_range: OutOfRange,
}

/// Reads all records that are stored in a stream of the model, with [`OutOfRange::DropsItself`].
pub fn read_stream(kinesis: &Kinesis, stream: &str) -> Reading {
    read_stream_with(kinesis, stream, OutOfRange::default())
}

/// Reads all records that are stored in a stream of the model.
pub fn read_stream_with(kinesis: &Kinesis, stream: &str, out_of_range: OutOfRange) -> Reading {
    let mut reading = Reading::new(out_of_range);
    for (shard_id, range, record) in kinesis.records(stream) {
        reading.take(shard_id, range, &record.sequence_number, &record.partition_key, &record.data);
    }
    reading
}

impl Reading {
    /// Creates an empty reading.
    pub fn new(out_of_range: OutOfRange) -> Self {
        Self { out_of_range, ..Self::default() }
    }

    /// Reads a Kinesis record, as GetRecords returns it, from the shard with this hash key range (first and last).
    pub fn take(
        &mut self,
        shard_id: &str,
        range: (u128, u128),
        sequence_number: &str,
        partition_key: &str,
        data: &Bytes,
    ) {
        let records = &mut self.records;
        self.dropped += deaggregate(range, partition_key, data, self.out_of_range, |user| {
            records.push(ConsumedRecord {
                shard_id: shard_id.to_owned(),
                sequence_number: sequence_number.to_owned(),
                sub_sequence_number: user.sub_sequence_number,
                aggregated: user.aggregated,
                partition_key: user.partition_key.to_owned(),
                explicit_hash_key: user.explicit_hash_key,
                data: user.data.clone(),
            });
        });
    }
}

/// A user record of a Kinesis record, as a consumer reads it.
#[derive(Clone, Copy, Debug)]
pub struct UserRecord<'a> {
    /// Its position in the aggregate, or 0 if the Kinesis record is not an aggregate.
    pub sub_sequence_number: u64,
    /// Whether the Kinesis record is an aggregate.
    pub aggregated: bool,
    /// Its partition key.
    pub partition_key: &'a str,
    /// Its explicit hash key, if it is in an aggregate and was put with one.
    pub explicit_hash_key: Option<u128>,
    /// Its data.
    pub data: &'a Bytes,
}

/// Calls `visit` for each user record of a Kinesis record from the shard with this hash key range (first and last), in
/// order. Returns the number of user records that a consumer drops.
pub fn deaggregate(
    range: (u128, u128),
    partition_key: &str,
    data: &Bytes,
    out_of_range: OutOfRange,
    mut visit: impl FnMut(UserRecord<'_>),
) -> u64 {
    let Some(aggregate) = parse(data) else {
        visit(UserRecord { sub_sequence_number: 0, aggregated: false, partition_key, explicit_hash_key: None, data });
        return 0;
    };
    let all = aggregate.records.len();
    // Reading ends at the first one with an index beyond the tables.
    let users: Vec<User<'_>> = aggregate.records.iter().map_while(|record| aggregate.user(record)).collect();
    let is_in_range = |user: &User<'_>| (range.0..=range.1).contains(&user.hash_key());
    let in_range: Vec<bool> = users.iter().map(is_in_range).collect();
    if out_of_range == OutOfRange::DropsAggregate && in_range.contains(&false) {
        return all as u64;
    }
    let mut visited = 0;
    for (position, (user, in_range)) in users.iter().zip(in_range).enumerate() {
        if in_range {
            visited += 1;
            visit(UserRecord {
                sub_sequence_number: position as u64,
                aggregated: true,
                partition_key: user.partition_key,
                explicit_hash_key: user.explicit_hash_key,
                data: user.data,
            });
        }
    }
    (all - visited) as u64
}

fn parse(blob: &Bytes) -> Option<AggregatedRecord> {
    let message_end = blob.len().checked_sub(16).filter(|end| *end > MAGIC.len())?;
    if !blob.starts_with(&MAGIC) || Md5::digest(&blob[MAGIC.len()..message_end])[..] != blob[message_end..] {
        return None;
    }
    let aggregate = AggregatedRecord::decode(blob.slice(MAGIC.len()..message_end)).ok()?;
    // Java's parser fails if a field that proto2 requires is missing. prost would set it to its default, so these
    // fields are optional here.
    let complete = aggregate.records.iter().all(|record| {
        record.partition_key_index.is_some() && record.data.is_some() && record.tags.iter().all(|tag| tag.key.is_some())
    });
    complete.then_some(aggregate)
}

struct User<'a> {
    partition_key: &'a str,
    explicit_hash_key: Option<u128>,
    data: &'a Bytes,
}

impl User<'_> {
    fn hash_key(&self) -> u128 {
        let by_key = || u128::from_be_bytes(Md5::digest(self.partition_key.as_bytes()).into());
        self.explicit_hash_key.unwrap_or_else(by_key)
    }
}

impl AggregatedRecord {
    /// Returns a user record with its keys, or `None` if an index is beyond the tables.
    fn user<'a>(&'a self, record: &'a Record) -> Option<User<'a>> {
        let partition_key = self.partition_key_table.get(usize::try_from(record.partition_key_index?).ok()?)?;
        let explicit_hash_key = match record.explicit_hash_key_index {
            Some(index) => Some(self.explicit_hash_key_table.get(usize::try_from(index).ok()?)?.parse().ok()?),
            None => None,
        };
        Some(User { partition_key, explicit_hash_key, data: record.data.as_ref()? })
    }
}

#[derive(Clone, PartialEq, Message)]
struct AggregatedRecord {
    #[prost(string, repeated, tag = "1")]
    partition_key_table: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    explicit_hash_key_table: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    records: Vec<Record>,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    /// Required in the schema.
    #[prost(uint64, optional, tag = "1")]
    partition_key_index: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    explicit_hash_key_index: Option<u64>,
    /// Required in the schema.
    #[prost(bytes = "bytes", optional, tag = "3")]
    data: Option<Bytes>,
    #[prost(message, repeated, tag = "4")]
    tags: Vec<Tag>,
}

#[derive(Clone, PartialEq, Message)]
struct Tag {
    /// Required in the schema.
    #[prost(string, optional, tag = "1")]
    key: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: (u128, u128) = (0, u128::MAX);

    fn user(key: u64, hash_key: Option<u64>, data: &'static str) -> Record {
        Record {
            partition_key_index: Some(key),
            explicit_hash_key_index: hash_key,
            data: Some(data.into()),
            tags: Vec::new(),
        }
    }

    /// Encodes an aggregate with the partition key `k` and the explicit hash keys 5 and 500.
    fn aggregate(records: Vec<Record>) -> Bytes {
        let message = AggregatedRecord {
            partition_key_table: vec!["k".into()],
            explicit_hash_key_table: vec!["5".into(), "500".into()],
            records,
        };
        let message = message.encode_to_vec();
        [&MAGIC[..], &message, &Md5::digest(&message)].concat().into()
    }

    fn read(out_of_range: OutOfRange, range: (u128, u128), data: &Bytes) -> (Vec<Bytes>, u64) {
        let mut reading = Reading::new(out_of_range);
        reading.take("shardId-000000000000", range, "49", "a", data);
        (reading.records.into_iter().map(|record| record.data).collect(), reading.dropped)
    }

    #[test]
    fn a_user_record_outside_the_range_is_dropped_alone_or_with_its_aggregate() {
        let data = aggregate(vec![user(0, Some(0), "one"), user(0, Some(1), "two"), user(0, Some(0), "three")]);
        assert_eq!(read(OutOfRange::DropsItself, (0, 99), &data), (vec!["one".into(), "three".into()], 1));
        assert_eq!(read(OutOfRange::DropsAggregate, (0, 99), &data), (vec![], 3));
        for rule in [OutOfRange::DropsItself, OutOfRange::DropsAggregate] {
            assert_eq!(read(rule, ALL, &data).1, 0);
        }
    }

    #[test]
    fn a_dropped_aggregate_does_not_affect_earlier_records() {
        let mut reading = Reading::new(OutOfRange::DropsAggregate);
        reading.take("shardId-000000000000", (0, 99), "48", "plain", &"before".into());
        let data = aggregate(vec![user(0, Some(0), "one"), user(0, Some(1), "two")]);
        reading.take("shardId-000000000000", (0, 99), "49", "a", &data);
        assert_eq!((reading.records.len(), reading.dropped), (1, 2));
        assert_eq!(reading.records[0].data, "before");
    }

    #[test]
    fn without_an_explicit_hash_key_the_partition_key_is_hashed() {
        let hash_key = u128::from_be_bytes(Md5::digest(b"k").into());
        let data = aggregate(vec![user(0, None, "one")]);
        assert_eq!(read(OutOfRange::default(), (hash_key, hash_key), &data), (vec!["one".into()], 0));
        assert_eq!(read(OutOfRange::default(), (hash_key + 1, u128::MAX), &data), (vec![], 1));
    }

    #[test]
    fn an_index_beyond_the_tables_ends_the_aggregate() {
        for broken in [user(1, None, "two"), user(0, Some(2), "two"), user(u64::MAX, None, "two")] {
            let data = aggregate(vec![user(0, None, "one"), broken, user(0, None, "three")]);
            assert_eq!(read(OutOfRange::default(), ALL, &data), (vec!["one".into()], 2));
        }
    }

    #[test]
    fn a_message_without_a_required_field_is_a_plain_record() {
        let tag_without_key = Tag { key: None, value: Some("v".into()) };
        for incomplete in [
            Record { partition_key_index: None, ..user(0, None, "two") },
            Record { data: None, ..user(0, None, "two") },
            Record { tags: vec![tag_without_key], ..user(0, None, "two") },
        ] {
            let data = aggregate(vec![user(0, None, "one"), incomplete]);
            assert_eq!(read(OutOfRange::default(), ALL, &data), (vec![data.clone()], 0));
        }
    }

    #[test]
    fn tags_are_ignored() {
        let tags = vec![Tag { key: Some("t".into()), value: None }];
        let data = aggregate(vec![Record { tags, ..user(0, None, "one") }]);
        assert_eq!(read(OutOfRange::default(), ALL, &data), (vec!["one".into()], 0));
    }

    #[test]
    fn an_empty_aggregate_has_no_user_records() {
        assert_eq!(read(OutOfRange::default(), ALL, &aggregate(vec![])), (vec![], 0));
    }
}

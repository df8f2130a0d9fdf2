//! Reading by the KCL's rules, independently of kpl's own code: the messages are prost's, the rules those of the KCL's
//! `AggregatorUtil` (amazon-kinesis-client, `retrieval/AggregatorUtil.java`).
//!
//! A Kinesis record without the magic, with another checksum, or whose message does not parse, is one plain user record.
//! Else it is an aggregate. Where a user record in it points beyond the tables of keys, reading ends with those before
//! it: the KCL logs an error and goes on to the next Kinesis record. On user records outside the shard's range the KCL
//! says one thing and does another: see [`OutOfRange`].

use bytes::Bytes;
use md5::{Digest, Md5};
use prost::Message;

use crate::Kinesis;

const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];

/// A user record as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The shard that it was read from.
    pub shard_id: String,
    /// The sequence number of the Kinesis record that carried it.
    pub sequence_number: String,
    /// Its place in an aggregated Kinesis record; 0 for one that is not.
    pub sub_sequence_number: u64,
    /// Whether the Kinesis record was aggregated.
    pub aggregated: bool,
    /// Its own partition key.
    pub partition_key: String,
    /// Its own explicit hash key, if it is in an aggregate and was put with one.
    pub explicit_hash_key: Option<u128>,
    /// Its data.
    pub data: Bytes,
}

/// What a consumer makes of an aggregate in which a user record lies outside the range of the shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutOfRange {
    /// It drops that user record. So says the KCL's documentation of `deaggregate`, and the KPL's retries count on it.
    #[default]
    DropsItself,
    /// It drops all user records of the aggregate. So does the KCL's code: it takes back those before the first one that
    /// lies outside, and does not look at those behind it.
    DropsAggregate,
}

/// All that a consumer reads from a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The user records, by shard, in order.
    pub records: Vec<ConsumedRecord>,
    /// User records that the consumer dropped: those outside the range of the shard that they are in, those that fell
    /// with them by [`OutOfRange::DropsAggregate`], and those whose keys cannot be found.
    pub dropped: u64,
    out_of_range: OutOfRange,
}

/// Reads all that is stored in a stream of the model, with [`OutOfRange::DropsItself`].
pub fn read_stream(kinesis: &Kinesis, stream: &str) -> Reading {
    read_stream_with(kinesis, stream, OutOfRange::default())
}

/// Reads all that is stored in a stream of the model.
pub fn read_stream_with(kinesis: &Kinesis, stream: &str, out_of_range: OutOfRange) -> Reading {
    let mut reading = Reading::new(out_of_range);
    for (shard_id, range, record) in kinesis.records(stream) {
        reading.take(shard_id, range, &record.sequence_number, &record.partition_key, &record.data);
    }
    reading
}

impl Reading {
    /// Nothing read yet.
    pub fn new(out_of_range: OutOfRange) -> Self {
        Self { out_of_range, ..Self::default() }
    }

    /// Takes a Kinesis record, as GetRecords gives it, from the shard with this range of hash keys (first and last).
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

/// A user record in a Kinesis record, as a consumer sees it.
#[derive(Clone, Copy, Debug)]
pub struct UserRecord<'a> {
    /// Its place in an aggregated Kinesis record; 0 for one that is not.
    pub sub_sequence_number: u64,
    /// Whether the Kinesis record was aggregated.
    pub aggregated: bool,
    /// Its own partition key.
    pub partition_key: &'a str,
    /// Its own explicit hash key, if it is in an aggregate and was put with one.
    pub explicit_hash_key: Option<u128>,
    /// Its data.
    pub data: &'a Bytes,
}

/// Shows the user records of a Kinesis record from the shard with this range of hash keys (first and last), in order.
/// Says how many a consumer drops.
pub fn deaggregate(
    range: (u128, u128),
    partition_key: &str,
    data: &Bytes,
    out_of_range: OutOfRange,
    mut show: impl FnMut(UserRecord<'_>),
) -> u64 {
    // Whatever is not an aggregate in every detail is a plain record.
    let Some(aggregate) = parse(data) else {
        show(UserRecord { sub_sequence_number: 0, aggregated: false, partition_key, explicit_hash_key: None, data });
        return 0;
    };
    let all = aggregate.records.len();
    // Reading ends at the first one whose keys cannot be found.
    let users: Vec<User<'_>> = aggregate.records.iter().map_while(|record| aggregate.user(record)).collect();
    let lies_in_range = |user: &User<'_>| (range.0..=range.1).contains(&user.hash_key());
    let good: Vec<bool> = users.iter().map(lies_in_range).collect();
    if out_of_range == OutOfRange::DropsAggregate && good.contains(&false) {
        return all as u64;
    }
    let mut shown = 0;
    for (position, (user, good)) in users.iter().zip(good).enumerate() {
        if good {
            shown += 1;
            show(UserRecord {
                sub_sequence_number: position as u64,
                aggregated: true,
                partition_key: user.partition_key,
                explicit_hash_key: user.explicit_hash_key,
                data: user.data,
            });
        }
    }
    (all - shown) as u64
}

fn parse(blob: &Bytes) -> Option<AggregatedRecord> {
    let message_end = blob.len().checked_sub(16).filter(|end| *end > MAGIC.len())?;
    if !blob.starts_with(&MAGIC) || Md5::digest(&blob[MAGIC.len()..message_end])[..] != blob[message_end..] {
        return None;
    }
    let aggregate = AggregatedRecord::decode(blob.slice(MAGIC.len()..message_end)).ok()?;
    // What proto2 requires and is not there makes Java's parser fail; prost fills it in, unless it is optional.
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
    /// A user record with its keys, if the tables have them.
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
    /// Required.
    #[prost(uint64, optional, tag = "1")]
    partition_key_index: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    explicit_hash_key_index: Option<u64>,
    /// Required.
    #[prost(bytes = "bytes", optional, tag = "3")]
    data: Option<Bytes>,
    #[prost(message, repeated, tag = "4")]
    tags: Vec<Tag>,
}

#[derive(Clone, PartialEq, Message)]
struct Tag {
    /// Required.
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

    /// Key `k`; hash keys 5 and 500.
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
    fn one_user_record_outside_the_range_costs_itself_or_by_the_kcls_code_all() {
        let data = aggregate(vec![user(0, Some(0), "one"), user(0, Some(1), "two"), user(0, Some(0), "three")]);
        assert_eq!(read(OutOfRange::DropsItself, (0, 99), &data), (vec!["one".into(), "three".into()], 1));
        assert_eq!(read(OutOfRange::DropsAggregate, (0, 99), &data), (vec![], 3));
        for rule in [OutOfRange::DropsItself, OutOfRange::DropsAggregate] {
            assert_eq!(read(rule, ALL, &data).1, 0);
        }
    }

    #[test]
    fn an_aggregate_that_is_dropped_takes_none_of_the_records_before_it() {
        let mut reading = Reading::new(OutOfRange::DropsAggregate);
        reading.take("shardId-000000000000", (0, 99), "48", "plain", &"before".into());
        let data = aggregate(vec![user(0, Some(0), "one"), user(0, Some(1), "two")]);
        reading.take("shardId-000000000000", (0, 99), "49", "a", &data);
        assert_eq!((reading.records.len(), reading.dropped), (1, 2));
        assert_eq!(reading.records[0].data, "before");
    }

    #[test]
    fn a_user_record_without_hash_key_goes_by_its_partition_key() {
        let hash_key = u128::from_be_bytes(Md5::digest(b"k").into());
        let data = aggregate(vec![user(0, None, "one")]);
        assert_eq!(read(OutOfRange::default(), (hash_key, hash_key), &data), (vec!["one".into()], 0));
        assert_eq!(read(OutOfRange::default(), (hash_key + 1, u128::MAX), &data), (vec![], 1));
    }

    #[test]
    fn keys_that_are_not_in_the_tables_end_the_reading_of_the_aggregate() {
        for broken in [user(1, None, "two"), user(0, Some(2), "two"), user(u64::MAX, None, "two")] {
            let data = aggregate(vec![user(0, None, "one"), broken, user(0, None, "three")]);
            assert_eq!(read(OutOfRange::default(), ALL, &data), (vec!["one".into()], 2));
        }
    }

    #[test]
    fn a_message_without_a_required_field_is_a_plain_record() {
        let nameless = Tag { key: None, value: Some("v".into()) };
        for incomplete in [
            Record { partition_key_index: None, ..user(0, None, "two") },
            Record { data: None, ..user(0, None, "two") },
            Record { tags: vec![nameless], ..user(0, None, "two") },
        ] {
            let data = aggregate(vec![user(0, None, "one"), incomplete]);
            assert_eq!(read(OutOfRange::default(), ALL, &data), (vec![data.clone()], 0));
        }
    }

    #[test]
    fn tags_are_read_over() {
        let tags = vec![Tag { key: Some("t".into()), value: None }];
        let data = aggregate(vec![Record { tags, ..user(0, None, "one") }]);
        assert_eq!(read(OutOfRange::default(), ALL, &data), (vec!["one".into()], 0));
    }

    #[test]
    fn an_aggregate_of_nothing_is_nothing() {
        assert_eq!(read(OutOfRange::default(), ALL, &aggregate(vec![])), (vec![], 0));
    }
}

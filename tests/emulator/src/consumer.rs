//! Reading by the KCL's rules, independently of kpl's own code: the messages are prost's, the rules those of the KCL's
//! `AggregatorUtil`.

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

/// All that a consumer reads from a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The user records, by shard, in order.
    pub records: Vec<ConsumedRecord>,
    /// User records that the consumer dropped, since they lie outside the range of the shard that they are in.
    pub dropped: u64,
}

/// Reads all that is stored in a stream of the model.
pub fn read_stream(kinesis: &Kinesis, stream: &str) -> Reading {
    let mut reading = Reading::default();
    for (shard_id, range, record) in kinesis.records(stream) {
        reading.take(shard_id, range, &record.sequence_number, &record.partition_key, &record.data);
    }
    reading
}

impl Reading {
    /// Takes a Kinesis record, as GetRecords gives it, from the shard with this range of hash keys.
    pub fn take(
        &mut self,
        shard_id: &str,
        range: (u128, u128),
        sequence_number: &str,
        partition_key: &str,
        data: &Bytes,
    ) {
        let base = ConsumedRecord {
            shard_id: shard_id.to_owned(),
            sequence_number: sequence_number.to_owned(),
            sub_sequence_number: 0,
            aggregated: false,
            partition_key: partition_key.to_owned(),
            explicit_hash_key: None,
            data: data.clone(),
        };
        // Whatever is not an aggregate in every detail is a plain record.
        let Some(users) = deaggregate(data) else { return self.records.push(base) };
        for (position, user) in users.into_iter().enumerate() {
            let by_key = || u128::from_be_bytes(Md5::digest(user.partition_key.as_bytes()).into());
            let hash_key = user.explicit_hash_key.unwrap_or_else(by_key);
            if !(range.0..=range.1).contains(&hash_key) {
                self.dropped += 1;
                continue;
            }
            self.records.push(ConsumedRecord {
                sub_sequence_number: position as u64,
                aggregated: true,
                partition_key: user.partition_key,
                explicit_hash_key: user.explicit_hash_key,
                data: user.data,
                ..base.clone()
            });
        }
    }
}

struct User {
    partition_key: String,
    explicit_hash_key: Option<u128>,
    data: Bytes,
}

fn deaggregate(blob: &Bytes) -> Option<Vec<User>> {
    let message_end = blob.len().checked_sub(16).filter(|end| *end > MAGIC.len())?;
    if !blob.starts_with(&MAGIC) || Md5::digest(&blob[MAGIC.len()..message_end])[..] != blob[message_end..] {
        return None;
    }
    let message = AggregatedRecord::decode(blob.slice(MAGIC.len()..message_end)).ok()?;
    let users = message.records.into_iter().map(|record| {
        let partition_key = message.partition_key_table.get(usize::try_from(record.partition_key_index).ok()?)?;
        let explicit_hash_key = match record.explicit_hash_key_index {
            Some(index) => Some(message.explicit_hash_key_table.get(usize::try_from(index).ok()?)?.parse().ok()?),
            None => None,
        };
        Some(User { partition_key: partition_key.clone(), explicit_hash_key, data: record.data })
    });
    users.collect()
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
    #[prost(uint64, required, tag = "1")]
    partition_key_index: u64,
    #[prost(uint64, optional, tag = "2")]
    explicit_hash_key_index: Option<u64>,
    #[prost(bytes = "bytes", required, tag = "3")]
    data: Bytes,
}

//! Fuzz target: any records. Decoding returns the encoded records, the bytes are those of prost, and what the producer
//! sends has the size that it computed in advance.

#![no_main]

use std::collections::HashSet;

use arbitrary::Arbitrary;
use kpl_core::codec::{AggregatedUserRecord, MAGIC, decode, encode, proto};
use kpl_core::{Action, Config, Instant, ListedShard, Producer, RecordDistribution, ShardPage, UserRecord};
use libfuzzer_sys::fuzz_target;
use prost::Message;

#[derive(Arbitrary, Debug)]
struct Input {
    records: Vec<Record>,
    /// The number of additional records, each with different keys: they need indexes of two bytes.
    numbered: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct Record {
    partition_key: Key,
    explicit_hash_key: Option<HashKey>,
    data: Vec<u8>,
    /// Zeros after the data, around the sizes at which the length field needs another byte.
    padding: Padding,
}

#[derive(Arbitrary, Debug)]
enum Key {
    Few(u8),
    Any(String),
}

#[derive(Arbitrary, Debug)]
enum HashKey {
    Few(u8),
    Any(u128),
}

#[derive(Arbitrary, Debug)]
enum Padding {
    None,
    One(u8),
    Two(u8),
}

impl From<Record> for AggregatedUserRecord {
    fn from(record: Record) -> Self {
        let partition_key = match record.partition_key {
            Key::Few(key) => key.to_string(),
            Key::Any(key) => key,
        };
        let explicit_hash_key = record.explicit_hash_key.map(|key| match key {
            HashKey::Few(key) => key.into(),
            HashKey::Any(key) => key,
        });
        let padding = match record.padding {
            Padding::None => 0,
            Padding::One(more) => usize::from(more),
            Padding::Two(more) => 16_256 + usize::from(more),
        };
        let data = [record.data, vec![0; padding]].concat();
        Self { partition_key: partition_key.into(), explicit_hash_key, data: data.into() }
    }
}

fuzz_target!(|input: Input| {
    let mut records: Vec<AggregatedUserRecord> = input.records.into_iter().map(Into::into).collect();
    records.extend((0..input.numbered.unwrap_or(0)).map(|n| AggregatedUserRecord {
        partition_key: format!("numbered {n}").into(),
        explicit_hash_key: Some(u128::MAX - u128::from(n)),
        data: Default::default(),
    }));
    let blob = encode(&records);
    let message = &blob[MAGIC.len()..blob.len() - 16];
    let by_prost = proto::AggregatedRecord::decode(message).expect("prost decodes it");
    assert_eq!(by_prost.encode_to_vec(), message);
    check_tables(&by_prost);
    assert_eq!(decode(blob).as_ref(), Ok(&records));
    check_sizes(&records);
});

/// Checks that each key is in its table once, in the order of first use.
fn check_tables(message: &proto::AggregatedRecord) {
    let once = |table: &[String]| table.iter().collect::<HashSet<_>>().len() == table.len();
    assert!(once(&message.partition_key_table) && once(&message.explicit_hash_key_table));
    let (mut keys, mut hash_keys) = (0, 0);
    for record in &message.records {
        assert!(record.partition_key_index <= keys);
        keys = keys.max(record.partition_key_index + 1);
        if let Some(index) = record.explicit_hash_key_index {
            assert!(index <= hash_keys);
            hash_keys = hash_keys.max(index + 1);
        }
    }
    assert_eq!(
        (keys, hash_keys),
        (message.partition_key_table.len() as u64, message.explicit_hash_key_table.len() as u64)
    );
}

/// Sends the records through a producer to a stream of one shard, and checks the sizes of the Kinesis records.
fn check_sizes(records: &[AggregatedUserRecord]) {
    let now = Instant::from_nanos(0);
    let config = Config::builder()
        .record_distribution(RecordDistribution::ByKey)
        .max_record_size(Some(10 << 20))
        // High limits, so that the limiter holds nothing back.
        .rate_limit_records_per_shard(1_000_000)
        .rate_limit_bytes_per_shard(1 << 30)
        .collection_max_size_per_shard(10 << 20)
        .build()
        .expect("the config is valid");
    let mut producer = Producer::new(config, now);
    let mut put = Vec::new();
    for record in records {
        let mut user = UserRecord::new("s", &*record.partition_key, record.data.clone());
        user.explicit_hash_key = record.explicit_hash_key.map(|key| key.to_string());
        if let Ok(prepared) = user.prepare() {
            producer.put(now, prepared, put.len()).expect("there is room");
            put.push(record);
        }
    }
    producer.flush(now);
    let mut sent = 0;
    while let Some(action) = producer.poll_action() {
        match action {
            Action::ListShards(request) => {
                let (start, end) = (0, u128::MAX);
                let shard = ListedShard { id: "s-0".into(), start, end, closed: false, parents: [None, None] };
                producer.handle_shards(now, &request, Ok(ShardPage { shards: vec![shard], next_token: None }));
            }
            Action::SendBatch(batch) => {
                for record in batch.records() {
                    assert_eq!(record.size(), record.data().len() + record.partition_key().len());
                    sent += record.user_records();
                    if record.is_aggregated() {
                        assert_eq!(decode(record.data()).map(|users| users.len()), Ok(record.user_records()));
                        assert!(record.data().len() <= producer.config().aggregation_max_size());
                    }
                }
            }
            _ => {}
        }
    }
    assert_eq!(sent, put.len());
}

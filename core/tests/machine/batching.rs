//! Tests of the aggregator, the limiter and the collector.

use std::collections::BTreeSet;
use std::time::Duration;

use kpl_core::codec::{decode, encode};
use kpl_core::{Batch, Config, Delivery, Instant, RecordReply, Reply, RequestError, UserRecord};
use proptest::prelude::*;

use crate::rig::*;

#[test]
fn a_record_reaches_the_network_within_the_buffering_time_of_its_put() {
    let mut rig = Rig::with_shards(Config::builder(), 4);
    rig.put(start_of(0, 4), "a");
    rig.run_for(60 * MS);
    rig.put(start_of(1, 4), "b");
    rig.run_for(39 * MS);
    assert!(rig.batches.is_empty());
    rig.run_for(MS);
    assert_eq!(
        rig.shape(),
        [[1]],
        "the second has 60 ms left, more than a quarter of 100 ms: it waits for more records"
    );
    rig.run_for(59 * MS);
    assert_eq!(rig.batches.len(), 1);
    rig.run_for(MS);
    assert_eq!(rig.batches.len(), 2);
}

#[derive(Clone, Debug)]
enum Event {
    Put { stream: bool, key: u128, size: usize },
    Pass { micros: u32 },
    Reply { which: usize, stored: bool },
    Shards { split: bool },
    Flush,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let key = prop_oneof![any::<u128>(), 0..4_u128];
    let size = prop_oneof![4 => 20..200_usize, 1 => 20_000..60_000_usize];
    let event = prop_oneof![
        8 => (any::<bool>(), key, size).prop_map(|(stream, key, size)| Event::Put { stream, key, size }),
        8 => prop_oneof![0..5_000_u32, 0..60_000_u32].prop_map(|micros| Event::Pass { micros }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(which, stored)| Event::Reply { which, stored }),
        1 => any::<bool>().prop_map(|split| Event::Shards { split }),
        1 => Just(Event::Flush),
    ];
    proptest::collection::vec(event, 0..150)
}

/// Returns the tickets of a request's user records. Each user record's data begins with its ticket.
fn tickets(batch: &Batch<u64>) -> Vec<u64> {
    let ticket = |data: &[u8]| u64::from_le_bytes(data[..8].try_into().unwrap());
    let users = |record: &kpl_core::KinesisRecord<u64>| match decode(record.data()) {
        Ok(users) => users.iter().map(|user| ticket(&user.data)).collect(),
        Err(_) => vec![ticket(&record.data())],
    };
    batch.records().iter().flat_map(users).collect()
}

proptest! {
    /// Holds for any events: the config's rates and its limit on requests in flight are too high to delay a record.
    #[test]
    fn any_record_reaches_the_network_within_the_buffering_time(events in events(), aggregation in any::<bool>()) {
        let config = Config::builder()
            .aggregation_enabled(aggregation)
            .start_timeout(Duration::ZERO)
            .rate_limit_records_per_shard(1_000_000)
            .rate_limit_bytes_per_shard(1 << 30)
            .max_in_flight_requests(1_024);
        let mut rig = Rig::new(config);
        let mut waiting: Vec<(u64, Instant)> = vec![];
        let (mut put, mut checked) = (0, 0);
        for event in events {
            match event {
                Event::Put { stream, key, size } => {
                    let data = [&u64::to_le_bytes(put)[..], &vec![0; size]].concat();
                    let record = UserRecord::new(if stream { "a" } else { "b" }, "k", data);
                    waiting.push((rig.put_record(record.explicit_hash_key(key.to_string())), rig.now));
                    put += 1;
                }
                Event::Pass { micros } => rig.run_for(Duration::from_micros(micros.into())),
                Event::Reply { which, stored } if !rig.batches.is_empty() => {
                    let batch = rig.batches.remove(which % rig.batches.len());
                    checked -= 1;
                    let records = batch.records().len();
                    let failed = RequestError::new(Delivery::Unanswered, "X", "why");
                    let stored = stored.then(|| (0..records).map(|_| RecordReply::stored(shard_id(0), "1")).collect());
                    rig.handle_reply(batch, stored.map_or(Reply::Failed(failed), Reply::Records));
                }
                Event::Reply { .. } => {}
                Event::Shards { split: false } => rig.answer_refreshes(&equal_shards(3)),
                Event::Shards { split: true } => {
                    rig.answer_refreshes(&[child(3, 0, 0, 1), child(4, 0, 2, u128::MAX)]);
                }
                Event::Flush => {
                    rig.producer.flush(rig.now);
                    rig.drain();
                }
            }
            let sent: BTreeSet<u64> = rig.batches[checked..].iter().flat_map(tickets).collect();
            checked = rig.batches.len();
            waiting.retain(|(ticket, _)| !sent.contains(ticket) && !rig.results.contains_key(ticket));
            let late = waiting.iter().find(|(_, put_at)| *put_at + 100 * MS <= rig.now);
            prop_assert_eq!(late, None, "at {:?}", rig.now);
        }
    }
}

#[test]
fn records_that_are_nearly_due_share_the_request_of_a_due_record() {
    let mut rig = Rig::with_shards(Config::builder(), 100);
    for shard in 0..100 {
        rig.put(start_of(shard, 100), "a");
        rig.run_for(MS / 5);
    }
    rig.run_for(100 * MS);
    let records: usize = rig.shape().iter().map(Vec::len).sum();
    assert_eq!((records, rig.batches.len()), (100, 1), "at most 20 ms apart: one request");
}

/// The rig compares the data that `encode_each` encodes in groups with the data of each record alone.
#[test]
fn a_request_of_more_than_one_encoding_group_is_encoded_in_order() {
    let mut rig = Rig::with_shards(Config::builder(), 100);
    for shard in 0..100 {
        for n in 0..shard % 4 + 1 {
            // Some shards get one record, which is not aggregated; some get so much that a group is full by its size.
            rig.put(start_of(shard, 100), vec![shard as u8; if shard < 60 { 100 * n + 1 } else { 9_000 }]);
        }
    }
    rig.run_for(100 * MS);
    let largest = rig.batches.iter().map(|batch| batch.records().len()).max();
    assert_eq!(largest, Some(100));
}

#[test]
fn an_aggregate_closes_by_size_and_its_data_is_that_of_the_codec() {
    let mut rig = Rig::with_shards(Config::builder().aggregation_max_size(1_000), 1);
    for key in 0..40_u128 {
        rig.put(key, format!("{key:=^100}"));
    }
    rig.run_for(100 * MS);
    let batch = rig.take_batch();
    let mut key = 0;
    for record in batch.records() {
        let data = record.data();
        assert!(data.len() <= 1_000, "{} bytes", data.len());
        assert_eq!(record.size(), data.len() + 1, "the size counts data and key");
        assert_eq!(record.partition_key(), "a");
        assert_eq!(record.explicit_hash_key(), key, "the first record's hash key");
        let users = decode(data.clone()).unwrap();
        assert_eq!(encode(&users), data);
        for user in users {
            assert_eq!((&*user.partition_key, user.explicit_hash_key), ("k", Some(key)));
            assert_eq!(user.data, format!("{key:=^100}"));
            key += 1;
        }
    }
    assert_eq!(key, 40);
    assert_eq!(batch.records().len(), 5, "8 records of about 108 bytes fit");
}

#[test]
fn a_kinesis_record_with_its_key_is_within_the_streams_limit() {
    let config = Config::builder().max_record_size(Some(1_024)).rate_limit_records_per_shard(10_000);
    let mut rig = Rig::with_shards(config, 1);
    let mut largest = 0;
    for size in 0..100 {
        for _ in 0..400 {
            rig.put_record(UserRecord::new("s", "k", vec![0; size]));
        }
        rig.producer.flush(rig.now);
        rig.drain();
        let records = rig.batches.iter().flat_map(|batch| batch.records());
        largest =
            records.map(|record| record.data().len() + record.partition_key().len()).max().max(Some(largest)).unwrap();
        rig.answer_all_stored(&equal_shards(1));
        rig.run_for(SEC);
    }
    assert_eq!(largest, 1_024, "the largest record fills the limit to the last byte");
}

#[test]
fn an_aggregate_closes_by_count() {
    let mut rig = Rig::with_shards(Config::builder().aggregation_max_count(3), 1);
    for key in 0..7 {
        rig.put(key, "a");
    }
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[3, 3, 1]]);
}

#[test]
fn a_record_too_large_to_be_aggregated_is_sent_alone_and_leaves_the_aggregate_open() {
    let mut rig = Rig::with_shards(Config::builder().collection_max_size_per_shard(10 << 20), 1);
    rig.put(1, "a");
    rig.put(2, vec![0; 60_000]);
    rig.put(3, "b");
    rig.run_for(100 * MS);
    let mut shape = rig.shape().concat();
    shape.sort_unstable();
    assert_eq!(shape, [1, 2]);
}

#[test]
fn a_single_user_record_is_sent_as_it_is() {
    let mut rig = Rig::with_shards(Config::builder(), 1);
    rig.put_record(UserRecord::new("s", "key", "data"));
    rig.run_for(100 * MS);
    let batch = rig.take_batch();
    let record = &batch.records()[0];
    assert_eq!((record.partition_key(), record.explicit_hash_key()), ("key", kpl_core::hash_key("key")));
    assert_eq!(record.data(), "data");
    rig.handle_reply(batch, Reply::Records(vec![RecordReply::stored(shard_id(0), "1")]));
}

#[test]
fn without_aggregation_records_are_sent_as_they_are_and_shards_have_rate_limits() {
    let mut rig = Rig::with_shards(Config::builder().aggregation_enabled(false), 2);
    for _ in 0..1_500 {
        rig.put(1, "a");
    }
    rig.put(u128::MAX, "b");
    rig.run_for(100 * MS);
    let sent: usize = rig.shape().concat().len();
    assert!((1_000..=1_200).contains(&sent), "{sent}: one second's worth for one shard, and one record for the other");
    rig.answer_all_stored(&equal_shards(2));
    let mut requests = 0;
    for _ in 0..50 {
        rig.run_for(10 * MS);
        requests += rig.batches.len();
        assert!(rig.shape().concat().len() <= 20, "1,000 records a second");
        rig.answer_all_stored(&equal_shards(2));
    }
    assert_eq!(rig.results.len(), 1_501);
    assert!(requests <= 50, "{requests} requests: records that wait for the rate limit share requests");
}

#[test]
fn no_shard_is_sent_more_than_its_rate() {
    let mut rig = Rig::with_shards(Config::builder().max_shard_backlog(ANY_BACKLOG), 2);
    for key in 0..400 {
        rig.put(key, vec![0; 25_000]);
    }
    let mut sent = vec![];
    for _ in 0..100 {
        rig.run_for(100 * MS);
        let bytes: usize = rig.batches.iter().flat_map(|batch| batch.records()).map(|record| record.size()).sum();
        sent.push(bytes);
        rig.answer_all_stored(&equal_shards(2));
    }
    for window in 0..90 {
        let bytes: usize = sent[window..window + 10].iter().sum();
        assert!(bytes <= 2 * (1 << 20) + 60_000, "{bytes} in the second from {window}00 ms on");
    }
    assert!(sent.iter().sum::<usize>() >= 400 * 25_000);
    assert_eq!(rig.results.len(), 400);
}

#[test]
fn a_backlogged_shard_fills_its_aggregates_instead_of_sending_small_ones() {
    let config = Config::builder().rate_limit_records_per_shard(5).record_max_buffered_time(10 * MS);
    let mut rig = Rig::with_shards(config, 1);
    let mut kinesis_records = 0;
    for n in 0..400 {
        rig.put(n, "small");
        rig.run_for(10 * MS);
        kinesis_records += rig.shape().concat().len();
        rig.answer_all_stored(&equal_shards(1));
    }
    rig.run_for(SEC);
    kinesis_records += rig.shape().concat().len();
    rig.answer_all_stored(&equal_shards(1));
    assert_eq!(rig.results.len(), 400);
    assert!(kinesis_records <= 32, "{kinesis_records} Kinesis records in 5 s, at 5 a second");
}

#[test]
fn a_record_larger_than_the_token_bucket_is_sent_and_the_average_rate_holds() {
    let mut rig = Rig::with_shards(
        Config::builder()
            .max_record_size(Some(10 << 20))
            .collection_max_size(10 << 20)
            .record_ttl(Duration::MAX)
            .max_shard_backlog(ANY_BACKLOG),
        1,
    );
    for n in 0..3 {
        rig.put(n, vec![0; 9 << 20]);
    }
    let mut at = vec![];
    for second in 0..30 {
        if !rig.batches.is_empty() {
            at.push(second);
            rig.answer_all_stored(&equal_shards(1));
        }
        rig.run_for(SEC);
    }
    assert_eq!(rig.results.len(), 3);
    assert!(at[1] - at[0] >= 8 && at[2] - at[1] >= 8, "each takes 9 s at the shard's rate: {at:?}");
}

#[test]
fn a_request_is_within_all_its_limits() {
    let config = Config::builder().aggregation_enabled(false).collection_max_size(1 << 20);
    let mut rig = Rig::with_shards(config, 20);
    for n in 0..2_000_usize {
        rig.put(start_of(n % 20, 20), vec![0; 1 + (n * 37) % 5_000]);
    }
    rig.run_for(100 * MS);
    assert!(rig.batches.len() > 2);
    for batch in &rig.batches {
        let size: usize = batch.records().iter().map(|record| record.size()).sum();
        assert!(batch.records().len() <= 500 && size <= 1 << 20, "{} records, {size} bytes", batch.records().len());
        let mut by_shard = std::collections::BTreeMap::new();
        for record in batch.records() {
            *by_shard.entry(record.explicit_hash_key()).or_insert(0) += record.size();
        }
        assert!(by_shard.values().all(|bytes| *bytes <= 256 << 10), "{by_shard:?}");
    }
    assert_eq!(rig.shape().concat().len(), 2_000);
}

#[test]
fn a_request_that_is_full_for_one_shard_is_sent_at_once() {
    let mut rig = Rig::with_shards(Config::builder(), 4);
    for n in 0..7 {
        rig.put(n, vec![0; 50_000]);
    }
    assert_eq!(rig.shape(), [[1; 5]], "256 KiB for one shard fill a request");
    rig.put(100, "later");
    assert_eq!(rig.batches.len(), 1);
}

#[test]
fn requests_in_flight_are_limited_and_streams_take_turns() {
    let config = Config::builder().max_in_flight_requests(2).aggregation_enabled(false).collection_max_count(1);
    let mut rig =
        Rig::new(config.record_distribution(kpl_core::RecordDistribution::Auto).max_record_size(Some(1 << 20)));
    for n in 0..5 {
        for stream in ["s", "t", "u"] {
            rig.put_record(UserRecord::new(stream, "k", format!("{n}")));
        }
    }
    rig.run_for(100 * MS);
    let mut order = vec![];
    while !rig.batches.is_empty() {
        assert!(rig.batches.len() <= 2);
        assert_eq!(rig.producer.requests_in_flight(), rig.batches.len());
        order.push(rig.batches[0].stream().to_string());
        rig.answer_records([RecordReply::stored(shard_id(0), "1")]);
    }
    assert_eq!(rig.results.len(), 15);
    let mut tail: Vec<_> = order[order.len() - 9..].to_vec();
    tail.sort_unstable();
    assert_eq!(tail, ["s", "s", "s", "t", "t", "t", "u", "u", "u"], "no stream starves: {order:?}");
}

#[test]
fn a_retry_is_sent_before_newer_records() {
    let config = Config::builder().aggregation_enabled(false).rate_limit_records_per_shard(1);
    let mut rig = Rig::with_shards(config, 1);
    rig.run_for(SEC);
    let first = rig.put(1, "first");
    rig.run_for(100 * MS);
    assert_eq!(rig.batches.len(), 1);
    let newer: Vec<u64> = (0..3).map(|n| rig.put(n, "newer")).collect();
    rig.answer_records([RecordReply::failed("InternalFailure", "why")]);
    rig.run_for(SEC);
    rig.answer_all_stored(&equal_shards(1));
    assert!(rig.results.contains_key(&first), "the retry's deadline, half the buffering time away, is the earlier one");
    assert!(!rig.results.contains_key(&newer[0]));
}

#[test]
fn idle_shards_need_no_ticks() {
    let mut rig = Rig::with_shards(Config::builder(), 10_000);
    assert_eq!(rig.until_tick(), Some(RETIRED_AFTER - SEC), "nothing is outstanding: the next tick retires the stream");
    let ticket = rig.put(1, "a");
    assert_eq!(rig.until_tick(), Some(100 * MS));
    rig.run_for(100 * MS);
    rig.answer_all_stored(&equal_shards(10_000));
    rig.receipt(ticket);
    assert_eq!(rig.until_tick(), Some(RETIRED_AFTER));
    rig.run_for(RETIRED_AFTER);
    assert_eq!(rig.until_tick(), None, "no tick is due after that");
}

#[test]
fn an_aggregate_is_sent_by_its_deadline_if_the_backlog_of_its_shard_ends_before() {
    let config = Config::builder().rate_limit_records_per_shard(10).collection_max_size_per_shard(1 << 20);
    let mut rig = Rig::with_shards(config, 2);
    let elsewhere = rig.put(u128::MAX, "due while the first shard is backlogged");
    rig.run_for(5 * MS);
    // Too large to be aggregated: ten are released at once, the eleventh waits for 100 ms.
    (0..11).for_each(|key| {
        rig.put(key, vec![0; 60_000]);
    });
    rig.run_for(10 * MS);
    let ticket = rig.put(1, "nearly due when the other shard's aggregate is");
    rig.run_for(85 * MS);
    assert_eq!(rig.shape(), [[1; 11]], "the ten, and the other shard's record");
    for _ in 0..4 {
        rig.answer_all_stored(&equal_shards(2));
        rig.run_for(100 * MS);
    }
    rig.receipt(elsewhere);
    rig.receipt(ticket);
}

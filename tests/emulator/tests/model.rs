//! Tests of the service's rules, with simulated time.

use std::time::Duration;

use bytes::Bytes;
use kpl_emulator::api::*;
use kpl_emulator::consumer::read_stream;
use kpl_emulator::{Faults, Kinesis, Options, ServiceError};

const T0: Duration = Duration::from_secs(1_000);

fn service(options: Options, shards: u32) -> Kinesis {
    let mut kinesis = Kinesis::new(options);
    kinesis.create_stream(T0, &CreateStream::new("s", shards)).unwrap();
    kinesis
}

fn entry(key: &str, size: usize) -> PutRecordsEntry {
    PutRecordsEntry { partition_key: key.into(), explicit_hash_key: None, data: vec![b'x'; size].into() }
}

fn put(kinesis: &mut Kinesis, now: Duration, records: Vec<PutRecordsEntry>) -> Result<PutRecordsOutput, ServiceError> {
    kinesis.put_records(now, PutRecords { stream_name: Some("s".into()), stream_arn: None, records })
}

fn ids(page: &ListShardsOutput) -> Vec<&str> {
    page.shards.iter().map(|shard| shard.shard_id.trim_start_matches("shardId-00000000000")).collect()
}

fn list(kinesis: &Kinesis, now: Duration, filter: &str) -> ListShardsOutput {
    let shard_filter = Some(ShardFilter { r#type: filter.into(), ..ShardFilter::default() });
    kinesis.list_shards(now, &ListShards { shard_filter, ..ListShards::of("s") }).unwrap()
}

fn split(kinesis: &mut Kinesis, now: Duration, shard: &str, at: u128) {
    let request = SplitShard {
        stream_name: Some("s".into()),
        shard_to_split: shard.into(),
        new_starting_hash_key: at.to_string(),
        ..SplitShard::default()
    };
    kinesis.split_shard(now, &request).unwrap();
}

#[test]
fn a_shard_accepts_1000_records_per_second_and_throttles_the_others() {
    let mut kinesis = service(Options::default(), 1);
    let mut accepted = 0;
    for _ in 0..3 {
        accepted += 500 - put(&mut kinesis, T0, (0..500).map(|_| entry("k", 1)).collect()).unwrap().failed_record_count;
    }
    assert_eq!(accepted, 1_000);
    let later = T0 + Duration::from_millis(250);
    let output = put(&mut kinesis, later, (0..500).map(|_| entry("k", 1)).collect()).unwrap();
    assert_eq!(output.failed_record_count, 250, "the tokens of a quarter of a second");
    let refused = output.records.iter().find(|record| record.error_code.is_some()).unwrap();
    assert_eq!(refused.error_code.as_deref(), Some("ProvisionedThroughputExceededException"));
    assert!(
        refused.error_message.as_ref().unwrap().starts_with("Rate exceeded for shard shardId-000000000000 in stream s")
    );
    assert_eq!(kinesis.counters().records_throttled, 500 + 250);
}

#[test]
fn a_shard_accepts_1_mib_per_second_including_keys() {
    let mut kinesis = service(Options::default(), 1);
    let quarter = (1 << 18) - 1;
    assert_eq!(put(&mut kinesis, T0, vec![entry("k", quarter); 5]).unwrap().failed_record_count, 1);
    assert_eq!(
        put(&mut kinesis, T0 + Duration::from_secs(1), vec![entry("k", quarter); 5]).unwrap().failed_record_count,
        1
    );
}

#[test]
fn requests_over_the_limits_are_refused() {
    let mut kinesis = service(Options::unlimited(), 1);
    let code = |result: Result<PutRecordsOutput, ServiceError>| result.map(drop).unwrap_err().code;
    assert_eq!(code(put(&mut kinesis, T0, vec![])), "ValidationException");
    assert_eq!(code(put(&mut kinesis, T0, vec![entry("k", 1); 501])), "ValidationException");
    assert_eq!(code(put(&mut kinesis, T0, vec![entry("k", 1 << 20)])), "InvalidArgumentException");
    assert_eq!(code(put(&mut kinesis, T0, vec![entry("k", 1 << 20), entry("k", 1)])), "InvalidArgumentException");
    assert_eq!(code(put(&mut kinesis, T0, vec![entry("k", (1 << 20) - 1); 11])), "InvalidArgumentException");
    assert!(put(&mut kinesis, T0, vec![entry("k", (1 << 20) - 1); 10]).is_ok());
    assert_eq!(kinesis.records("s").count(), 10, "a refused request stores nothing");

    let larger =
        UpdateMaxRecordSize { stream_name: Some("s".into()), max_record_size_in_kib: Some(10_240), stream_arn: None };
    kinesis.update_max_record_size(&larger).unwrap();
    assert!(put(&mut kinesis, T0, vec![entry("k", (10 << 20) - 1)]).is_ok());
    assert_eq!(code(put(&mut kinesis, T0, vec![entry("k", 10 << 20)])), "InvalidArgumentException");
}

#[test]
fn hash_keys_at_both_ends_of_a_range_belong_to_the_shard() {
    let mut kinesis = service(Options::unlimited(), 3);
    for shard in list(&kinesis, T0, "AT_LATEST").shards {
        for key in [shard.hash_key_range.starting_hash_key, shard.hash_key_range.ending_hash_key] {
            let entry = PutRecordsEntry { explicit_hash_key: Some(key.to_string()), ..entry("k", 1) };
            assert_eq!(put(&mut kinesis, T0, vec![entry]).unwrap().records[0].shard_id, Some(shard.shard_id.clone()));
        }
    }
}

#[test]
fn page_tokens_exclude_the_name_and_expire() {
    let kinesis = service(Options::default(), 5);
    let first = kinesis.list_shards(T0, &ListShards { max_results: Some(2), ..ListShards::of("s") }).unwrap();
    let by_token = ListShards { next_token: first.next_token.clone(), max_results: Some(2), ..ListShards::default() };
    let second = kinesis.list_shards(T0, &by_token).unwrap();
    assert_eq!((ids(&first), ids(&second)), (vec!["0", "1"], vec!["2", "3"]));
    let with_name = ListShards { stream_name: Some("s".into()), ..by_token.clone() };
    assert_eq!(kinesis.list_shards(T0, &with_name).unwrap_err().code, "InvalidArgumentException");
    let late = T0 + Duration::from_secs(301);
    assert_eq!(kinesis.list_shards(late, &by_token).unwrap_err().code, "ExpiredNextTokenException");
}

#[test]
fn a_split_closes_the_parent_and_its_children_share_the_range() {
    let mut kinesis = service(Options::default(), 2);
    let parent = list(&kinesis, T0, "AT_LATEST").shards[0].clone();
    let at = parent.hash_key_range.ending_hash_key / 3;
    split(&mut kinesis, T0 + Duration::from_secs(9), &parent.shard_id, at);
    let after = T0 + Duration::from_secs(10);
    assert_eq!(ids(&list(&kinesis, after, "AT_LATEST")), ["1", "2", "3"]);
    assert_eq!(ids(&list(&kinesis, after, "AT_TRIM_HORIZON")), ["0", "1"]);
    assert_eq!(ids(&list(&kinesis, after, "FROM_TRIM_HORIZON")), ["0", "1", "2", "3"]);
    let all = kinesis.list_shards(after, &ListShards::of("s")).unwrap().shards;
    assert!(all[0].sequence_number_range.ending_sequence_number.is_some());
    assert_eq!(all[2].hash_key_range, HashKeyRange { starting_hash_key: 0, ending_hash_key: at - 1 });
    assert_eq!(all[3].hash_key_range.starting_hash_key, at);
    assert_eq!(all[3].parent_shard_id.as_deref(), Some("shardId-000000000000"));
}

#[test]
fn update_shard_count_makes_shards_of_equal_size() {
    let mut kinesis = service(Options::default(), 4);
    split(&mut kinesis, T0, "shardId-000000000001", u128::MAX / 3);
    for target in [7, 4, 3, 6, 3, 2, 1] {
        let request = UpdateShardCount { stream_name: Some("s".into()), target_shard_count: target, stream_arn: None };
        kinesis.update_shard_count(T0, &request).unwrap();
        let open = list(&kinesis, T0, "AT_LATEST").shards;
        assert_eq!(open.len(), target as usize);
        let mut starts: Vec<u128> = open.iter().map(|shard| shard.hash_key_range.starting_hash_key).collect();
        starts.sort_unstable();
        // 2^128 divided by the target, rounded down.
        let width = match target {
            1 => 0,
            target if (target as u128).is_power_of_two() => u128::MAX / target as u128 + 1,
            target => u128::MAX / target as u128,
        };
        assert_eq!(starts, (0..target as u128).map(|n| n * width).collect::<Vec<_>>());
    }
    let too_many = UpdateShardCount { stream_name: Some("s".into()), target_shard_count: 3, stream_arn: None };
    assert_eq!(kinesis.update_shard_count(T0, &too_many).unwrap_err().code, "InvalidArgumentException");
}

#[test]
fn reshards_need_an_active_stream_and_puts_a_created_one() {
    let mut kinesis = service(Options { transition: Duration::from_secs(1), ..Options::default() }, 2);
    let request = SplitShard {
        stream_name: Some("s".into()),
        shard_to_split: "shardId-000000000000".into(),
        new_starting_hash_key: "1000".into(),
        stream_arn: None,
    };
    assert_eq!(kinesis.split_shard(T0, &request).unwrap_err().code, "ResourceInUseException");
    assert_eq!(put(&mut kinesis, T0, vec![entry("k", 1)]).unwrap_err().code, "ResourceNotFoundException");
    let active_at = T0 + Duration::from_secs(1);
    kinesis.split_shard(active_at, &request).unwrap();
    assert_eq!(kinesis.split_shard(active_at, &request).unwrap_err().code, "ResourceInUseException");
    let output = put(&mut kinesis, active_at, vec![entry("k", 1)]).unwrap();
    assert_eq!(output.failed_record_count, 0, "records are accepted while it is UPDATING");
}

fn iterator(kinesis: &Kinesis, now: Duration, kind: &str, from: Option<&str>) -> String {
    let request = GetShardIterator {
        stream_name: Some("s".into()),
        shard_id: "shardId-000000000000".into(),
        shard_iterator_type: kind.into(),
        starting_sequence_number: from.map(Into::into),
        timestamp: (kind == "AT_TIMESTAMP").then_some(now.as_secs_f64()),
        stream_arn: None,
    };
    kinesis.get_shard_iterator(T0 + Duration::from_secs(9), &request).unwrap().shard_iterator
}

fn read(kinesis: &Kinesis, iterator: String, limit: Option<i64>) -> GetRecordsOutput {
    kinesis.get_records(T0 + Duration::from_secs(9), &GetRecords { shard_iterator: iterator, limit }).unwrap()
}

#[test]
fn every_type_of_iterator_starts_at_its_position() {
    let mut kinesis = service(Options::default(), 1);
    let mut numbers = vec![];
    for n in 0..4_u64 {
        let record = PutRecord::new("s", "k", n.to_string());
        numbers.push(kinesis.put_record(T0 + Duration::from_secs(n), record).unwrap().sequence_number);
    }
    let data =
        |iterator| -> Vec<Bytes> { read(&kinesis, iterator, None).records.into_iter().map(|r| r.data).collect() };
    assert_eq!(data(iterator(&kinesis, T0, "TRIM_HORIZON", None)), ["0", "1", "2", "3"]);
    assert!(data(iterator(&kinesis, T0, "LATEST", None)).is_empty());
    assert_eq!(data(iterator(&kinesis, T0, "AT_SEQUENCE_NUMBER", Some(&numbers[2]))), ["2", "3"]);
    assert_eq!(data(iterator(&kinesis, T0, "AFTER_SEQUENCE_NUMBER", Some(&numbers[2]))), ["3"]);
    assert_eq!(data(iterator(&kinesis, T0 + Duration::from_secs(1), "AT_TIMESTAMP", None)), ["1", "2", "3"]);
    let page = read(&kinesis, iterator(&kinesis, T0, "TRIM_HORIZON", None), Some(3));
    assert_eq!((page.records.len(), page.millis_behind_latest), (3, 6_000));
    let rest = read(&kinesis, page.next_shard_iterator.unwrap(), None);
    assert_eq!((rest.records.len(), rest.millis_behind_latest), (1, 0));
    assert!(rest.next_shard_iterator.is_some() && rest.child_shards.is_none());

    split(&mut kinesis, T0 + Duration::from_secs(8), "shardId-000000000000", 1_000);
    let end = read(&kinesis, iterator(&kinesis, T0, "TRIM_HORIZON", None), None);
    assert_eq!((end.records.len(), end.next_shard_iterator, end.child_shards.unwrap().len()), (4, None, 2));
    let expired = GetRecords { shard_iterator: iterator(&kinesis, T0, "TRIM_HORIZON", None), limit: None };
    let late = T0 + Duration::from_secs(400);
    assert_eq!(kinesis.get_records(late, &expired).unwrap_err().code, "ExpiredIteratorException");
}

#[test]
fn stored_bytes_do_not_exceed_their_maximum() {
    let mut kinesis = service(Options { retain_bytes_max: Some(1_000), ..Options::unlimited() }, 2);
    for n in 0..100 {
        put(&mut kinesis, T0, vec![entry(&n.to_string(), 100)]).unwrap();
    }
    let kept: usize = kinesis.records("s").map(|(_, _, record)| record.data.len()).sum();
    assert!(kept <= 1_000, "{kept}");
    assert_eq!(kinesis.counters().records_stored, 100);
}

#[test]
fn the_oldest_record_of_the_stream_is_discarded_first() {
    let mut kinesis = service(Options { retain_bytes_max: Some(1_000), ..Options::unlimited() }, 2);
    let to = |hash_key: u128, size: usize| PutRecordsEntry {
        explicit_hash_key: Some(hash_key.to_string()),
        ..entry("k", size)
    };
    put(&mut kinesis, T0, vec![to(0, 500), to(0, 400)]).unwrap();
    put(&mut kinesis, T0, vec![to(u128::MAX, 300)]).unwrap();
    let kept = |kinesis: &Kinesis| kinesis.records("s").map(|(_, _, record)| record.data.len()).collect::<Vec<_>>();
    assert_eq!(kept(&kinesis), [400, 300], "the newest record stays");
    put(&mut kinesis, T0, vec![to(u128::MAX, 700)]).unwrap();
    assert_eq!(kept(&kinesis), [300, 700]);
}

#[test]
fn an_oversized_record_can_fail_alone() {
    let options = Options { oversized_record_fails_alone: true, ..Options::unlimited() };
    let mut kinesis = service(options, 1);
    let records = vec![entry("k", 1), entry("k", 1 << 20), entry("k", (1 << 20) - 1)];
    let output = put(&mut kinesis, T0, records).unwrap();
    let codes: Vec<_> = output.records.iter().map(|record| record.error_code.as_deref()).collect();
    assert_eq!(codes, [None, Some("InvalidArgumentException"), None]);
    assert_eq!(output.failed_record_count, 1);
}

#[test]
fn a_record_over_the_shards_rate_needs_a_full_bucket_and_leaves_a_debt() {
    let mut kinesis = service(Options::default(), 1);
    let larger =
        UpdateMaxRecordSize { stream_name: Some("s".into()), max_record_size_in_kib: Some(10_240), stream_arn: None };
    kinesis.update_max_record_size(&larger).unwrap();
    let failed = |kinesis: &mut Kinesis, after_ms, size| {
        put(kinesis, T0 + Duration::from_millis(after_ms), vec![entry("k", size)]).unwrap().failed_record_count
    };
    assert_eq!(failed(&mut kinesis, 0, 3 << 20), 0);
    assert_eq!(failed(&mut kinesis, 1_900, 1), 1, "a debt of two seconds");
    assert_eq!(failed(&mut kinesis, 2_100, 1), 0);
    assert_eq!(failed(&mut kinesis, 2_200, 3 << 20), 1, "the bucket is not full");
}

#[test]
fn put_record_returns_the_errors_of_put_records() {
    let mut kinesis = service(Options::default(), 1);
    let code = |kinesis: &mut Kinesis, record| kinesis.put_record(T0, record).map(drop).unwrap_err().code;
    let one = |key: &str| PutRecord::new("s", key, "data");
    assert!(kinesis.put_record(T0, one(&"👤".repeat(256))).is_ok(), "the limit is in characters, not bytes");
    assert_eq!(code(&mut kinesis, one(&"k".repeat(257))), "ValidationException");
    assert_eq!(code(&mut kinesis, one("")), "ValidationException");
    assert_eq!(code(&mut kinesis, PutRecord::new("s", "k", vec![0; 1 << 20])), "InvalidArgumentException");
    for (hash_key, error) in [("01", "ValidationException"), (&*"9".repeat(39), "InvalidArgumentException")] {
        let record = PutRecord { explicit_hash_key: Some(hash_key.into()), ..one("k") };
        assert_eq!(code(&mut kinesis, record), error);
    }
    kinesis.set_faults(Faults { throttle_rate: 1.0, ..Faults::default() });
    assert_eq!(code(&mut kinesis, one("k")), "ProvisionedThroughputExceededException");
    kinesis.set_faults(Faults { internal_failure_rate: 1.0, ..Faults::default() });
    assert_eq!(code(&mut kinesis, one("k")), "InternalFailure");
    assert_eq!((kinesis.counters().records_throttled, kinesis.counters().records_failed), (1, 1));
}

#[test]
fn get_records_returns_at_most_10_mib() {
    let mut kinesis = service(Options::unlimited(), 1);
    for _ in 0..2 {
        put(&mut kinesis, T0, vec![entry("k", 1_000_000); 10]).unwrap();
    }
    let mut next = Some(iterator(&kinesis, T0, "TRIM_HORIZON", None));
    let mut pages = Vec::new();
    while let Some(from) = next.take() {
        let page = read(&kinesis, from, None);
        pages.push(page.records.len());
        next = page.next_shard_iterator.filter(|_| page.millis_behind_latest > 0);
    }
    assert_eq!(pages, [10, 10]);
}

#[test]
fn invalid_iterators_are_refused() {
    let mut kinesis = service(Options::default(), 1);
    put(&mut kinesis, T0, vec![entry("k", 1)]).unwrap();
    let code = |iterator: &str| {
        let request = GetRecords { shard_iterator: iterator.into(), limit: None };
        kinesis.get_records(T0, &request).map(drop).unwrap_err().code
    };
    for bad in ["", "x", "records/s", "records/s/1/shardId-000000000000/-1/0", "shards/s/1//all/0"] {
        assert_eq!(code(bad), "InvalidArgumentException", "{bad:?}");
    }
    // The greatest number must not overflow.
    let last = format!("49{:034}{:020}", 0, u64::MAX);
    assert!(read(&kinesis, iterator(&kinesis, T0, "AFTER_SEQUENCE_NUMBER", Some(&last)), None).records.is_empty());
}

#[test]
fn the_same_seed_results_in_the_same_faults() {
    let run = |seed| {
        let mut kinesis = service(Options { seed, ..Options::unlimited() }, 2);
        kinesis.set_faults(Faults { throttle_rate: 0.2, internal_failure_rate: 0.2, ..Faults::default() });
        put(&mut kinesis, T0, (0..200).map(|n| entry(&n.to_string(), 1)).collect()).unwrap().records
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let codes = run(1);
    let count = |code: &str| codes.iter().filter(|record| record.error_code.as_deref() == Some(code)).count();
    assert!((20..=60).contains(&count("ProvisionedThroughputExceededException")));
    assert!((16..=50).contains(&count("InternalFailure")));
}

#[test]
fn keys_do_not_choose_the_shards_of_an_auto_stream() {
    let mut kinesis = service(Options::unlimited(), 4);
    let auto = UpdateStreamRecordDistributionStrategy {
        stream_name: Some("s".into()),
        record_distribution_strategy: "AUTO".into(),
        stream_arn: None,
    };
    kinesis.update_record_distribution(&auto).unwrap();
    let output = put(&mut kinesis, T0, (0..100).map(|_| entry("same", 1)).collect()).unwrap();
    let shards: std::collections::BTreeSet<_> = output.records.iter().map(|record| &record.shard_id).collect();
    assert_eq!(shards.len(), 4);
    let request = DescribeStreamSummary { stream_name: Some("s".into()), stream_arn: None };
    let summary = kinesis.describe_stream_summary(T0, &request).unwrap().stream_description_summary;
    assert_eq!(summary.record_distribution_strategy, "AUTO");
}

#[test]
fn a_recreated_stream_is_empty_and_refuses_old_iterators() {
    let mut kinesis = service(Options::default(), 1);
    put(&mut kinesis, T0, vec![entry("k", 1)]).unwrap();
    let old = iterator(&kinesis, T0, "TRIM_HORIZON", None);
    kinesis.delete_stream(&DeleteStream { stream_name: Some("s".into()), stream_arn: None }).unwrap();
    assert_eq!(put(&mut kinesis, T0, vec![entry("k", 1)]).unwrap_err().code, "ResourceNotFoundException");
    kinesis.create_stream(T0, &CreateStream::new("s", 1)).unwrap();
    assert_eq!(read_stream(&kinesis, "s").records, []);
    let request = GetRecords { shard_iterator: old, limit: None };
    assert_eq!(kinesis.get_records(T0, &request).unwrap_err().code, "ResourceNotFoundException");
}

/// Encodes an aggregate by hand: partition key `k`, explicit hash keys 5 and 2^128 - 1, data `one` and `two`.
fn aggregate() -> Vec<u8> {
    use md5::{Digest, Md5};
    let mut message = vec![0x0A, 1, b'k', 0x12, 1, b'5', 0x12, 39];
    message.extend(u128::MAX.to_string().bytes());
    for (index, data) in [(0, b"one"), (1, b"two")] {
        message.extend([0x1A, 9, 0x08, 0, 0x10, index, 0x1A, 3]);
        message.extend(data);
    }
    [&[0xF3, 0x89, 0x9A, 0xC2][..], &message, &Md5::digest(&message)].concat()
}

#[test]
fn a_consumer_drops_user_records_outside_the_shards_range() {
    let mut kinesis = service(Options::default(), 2);
    let entry =
        PutRecordsEntry { partition_key: "a".into(), explicit_hash_key: Some("5".into()), data: aggregate().into() };
    put(&mut kinesis, T0, vec![entry]).unwrap();
    let reading = read_stream(&kinesis, "s");
    assert_eq!((reading.records.len(), reading.dropped), (1, 1));
    let record = &reading.records[0];
    assert_eq!((&record.data[..], record.sub_sequence_number, record.explicit_hash_key), (&b"one"[..], 0, Some(5)));
    assert_eq!(record.partition_key, "k");
}

#[test]
fn a_corrupt_aggregate_is_one_plain_record() {
    let mut kinesis = service(Options::default(), 1);
    for corrupt_byte in [4, 30, aggregate().len() - 1] {
        let mut data = aggregate();
        data[corrupt_byte] ^= 0x40;
        kinesis.put_record(T0, PutRecord::new("s", "k", data)).unwrap();
    }
    kinesis.put_record(T0, PutRecord::new("s", "k", vec![0xF3, 0x89, 0x9A, 0xC2])).unwrap();
    let reading = read_stream(&kinesis, "s");
    assert_eq!((reading.records.len(), reading.dropped), (4, 0));
    assert!(reading.records.iter().all(|record| !record.aggregated && record.partition_key == "k"));
}

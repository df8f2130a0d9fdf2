//! Tests of streams: creation, names, lists, descriptions and reshards.

use std::time::Duration;

use kpl_emulator::api::*;
use kpl_emulator::{Kinesis, Options};

const T0: Duration = Duration::from_secs(1_000);
const ARN: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/s";

fn service(shards: u32) -> Kinesis {
    let mut kinesis = Kinesis::new(Options::default());
    kinesis.create_stream(T0, &CreateStream::new("s", shards)).unwrap();
    kinesis
}

fn at(seconds: u64) -> Duration {
    T0 + Duration::from_secs(seconds)
}

fn shard(n: u32) -> String {
    format!("shardId-{n:012}")
}

fn split(n: u32, at: u128) -> SplitShard {
    SplitShard {
        stream_name: Some("s".into()),
        shard_to_split: shard(n),
        new_starting_hash_key: at.to_string(),
        ..SplitShard::default()
    }
}

fn merge(lower: u32, upper: u32) -> MergeShards {
    MergeShards {
        stream_name: Some("s".into()),
        shard_to_merge: shard(lower),
        adjacent_shard_to_merge: shard(upper),
        ..MergeShards::default()
    }
}

fn numbers(page: &ListShardsOutput) -> Vec<u32> {
    page.shards.iter().map(|shard| shard.shard_id["shardId-".len()..].parse().unwrap()).collect()
}

fn filtered(kinesis: &Kinesis, now: Duration, filter: ShardFilter) -> Vec<u32> {
    numbers(&kinesis.list_shards(now, &ListShards { shard_filter: Some(filter), ..ListShards::of("s") }).unwrap())
}

#[test]
fn a_stream_is_found_by_name_or_arn() {
    let mut kinesis = service(1);
    let by = |name: Option<&str>, arn: Option<&str>| DescribeStreamSummary {
        stream_name: name.map(Into::into),
        stream_arn: arn.map(Into::into),
    };
    let summary = kinesis.describe_stream_summary(T0, &by(Some("s"), None)).unwrap().stream_description_summary;
    assert_eq!((&*summary.stream_arn, summary.stream_status), (ARN, "ACTIVE"));
    assert!(kinesis.describe_stream_summary(T0, &by(None, Some(ARN))).is_ok());
    let put = PutRecord { stream_name: None, stream_arn: Some(ARN.into()), ..PutRecord::new("", "k", "data") };
    assert_eq!(kinesis.put_record(T0, put).unwrap().shard_id, shard(0));

    let code =
        |name: Option<&str>, arn: Option<&str>| kinesis.describe_stream_summary(T0, &by(name, arn)).unwrap_err().code;
    assert_eq!(code(None, Some(&ARN.replace("us-east-1", "eu-west-1"))), "ResourceNotFoundException");
    assert_eq!(code(None, Some(&ARN.replace(":0000", ":1234"))), "ResourceNotFoundException");
    assert_eq!(code(None, Some("arn:aws:kinesis:us-east-1")), "ValidationException");
    assert_eq!(code(None, None), "InvalidArgumentException");
    assert_eq!(code(Some("missing"), None), "ResourceNotFoundException");
    assert_eq!(code(Some("a blank"), None), "ValidationException");
}

#[test]
fn invalid_create_requests_are_refused() {
    let mut kinesis = service(1);
    let mut code = |request: CreateStream| kinesis.create_stream(T0, &request).unwrap_err().code;
    assert_eq!(code(CreateStream::new("s", 1)), "ResourceInUseException");
    assert_eq!(code(CreateStream::new("", 1)), "ValidationException");
    assert_eq!(code(CreateStream::new("t".repeat(129), 1)), "ValidationException");
    assert_eq!(code(CreateStream::new("t", 0)), "ValidationException");
    assert_eq!(code(CreateStream::new("t", 10_001)), "LimitExceededException");
    assert_eq!(code(CreateStream { shard_count: None, ..CreateStream::new("t", 1) }), "ValidationException");
    let kib = |kib| CreateStream { max_record_size_in_kib: Some(kib), ..CreateStream::new("t", 1) };
    assert_eq!(code(kib(1_023)), "ValidationException");
    assert_eq!(code(kib(10_241)), "ValidationException");
    let mode = Some(StreamModeDetails { stream_mode: "SOMETIMES".into() });
    assert_eq!(code(CreateStream { stream_mode_details: mode, ..CreateStream::new("t", 1) }), "ValidationException");
    kinesis.create_stream(T0, &kib(10_240)).unwrap();
}

#[test]
fn an_on_demand_stream_has_four_shards_and_refuses_reshards() {
    let mut kinesis = Kinesis::new(Options::default());
    let stream_mode_details = Some(StreamModeDetails { stream_mode: "ON_DEMAND".into() });
    let request = CreateStream { stream_mode_details, shard_count: None, ..CreateStream::new("s", 0) };
    kinesis.create_stream(T0, &request).unwrap();
    assert_eq!(numbers(&kinesis.list_shards(T0, &ListShards::of("s")).unwrap()), [0, 1, 2, 3]);
    assert_eq!(kinesis.split_shard(T0, &split(0, 1_000)).unwrap_err().code, "ValidationException");
    assert_eq!(kinesis.merge_shards(T0, &merge(0, 1)).unwrap_err().code, "ValidationException");
}

#[test]
fn the_maximum_transition_does_not_end() {
    let mut kinesis = Kinesis::new(Options { transition: Duration::MAX, ..Options::default() });
    kinesis.create_stream(T0, &CreateStream::new("s", 1)).unwrap();
    let request = DescribeStreamSummary { stream_name: Some("s".into()), stream_arn: None };
    let summary = kinesis.describe_stream_summary(at(1 << 40), &request).unwrap().stream_description_summary;
    assert_eq!(summary.stream_status, "CREATING");
}

#[test]
fn streams_are_listed_in_pages() {
    let mut kinesis = Kinesis::new(Options::default());
    for name in ["c", "a", "e", "d", "b"] {
        kinesis.create_stream(T0, &CreateStream::new(name, 1)).unwrap();
    }
    let mut request = ListStreams { limit: Some(2), ..ListStreams::default() };
    let mut pages = Vec::new();
    loop {
        let page = kinesis.list_streams(&request).unwrap();
        pages.push(page.stream_names.join(""));
        assert_eq!(page.has_more_streams, page.next_token.is_some());
        let Some(next_token) = page.next_token else { break };
        request.next_token = Some(next_token);
    }
    assert_eq!(pages, ["ab", "cd", "e"]);
    let after = ListStreams { exclusive_start_stream_name: Some("c".into()), ..ListStreams::default() };
    assert_eq!(kinesis.list_streams(&after).unwrap().stream_names, ["d", "e"]);
    let none = ListStreams { limit: Some(0), ..ListStreams::default() };
    assert_eq!(kinesis.list_streams(&none).unwrap_err().code, "ValidationException");
}

#[test]
fn describe_stream_returns_shards_in_pages() {
    let kinesis = service(3);
    let request = DescribeStream { stream_name: Some("s".into()), limit: Some(2), ..DescribeStream::default() };
    let first = kinesis.describe_stream(T0, &request).unwrap().stream_description;
    assert_eq!((first.shards.len(), first.has_more_shards), (2, true));
    let rest = DescribeStream { exclusive_start_shard_id: Some(shard(1)), ..request };
    let rest = kinesis.describe_stream(T0, &rest).unwrap().stream_description;
    assert_eq!((&*rest.shards[0].shard_id, rest.has_more_shards), (&*shard(2), false));
}

#[test]
fn a_merge_needs_adjacent_shards_and_records_both_parents() {
    let mut kinesis = service(3);
    for (lower, upper, code) in [
        (0, 2, "InvalidArgumentException"),
        (1, 0, "InvalidArgumentException"),
        (1, 1, "InvalidArgumentException"),
        (0, 9, "ResourceNotFoundException"),
    ] {
        assert_eq!(kinesis.merge_shards(T0, &merge(lower, upper)).unwrap_err().code, code, "{lower} {upper}");
    }
    let before = kinesis.list_shards(T0, &ListShards::of("s")).unwrap().shards;
    kinesis.merge_shards(at(1), &merge(1, 2)).unwrap();
    let after = kinesis.list_shards(at(1), &ListShards::of("s")).unwrap().shards;
    let child = &after[3];
    assert_eq!(child.parent_shard_id, Some(shard(1)));
    assert_eq!(child.adjacent_parent_shard_id, Some(shard(2)));
    assert_eq!(child.hash_key_range.starting_hash_key, before[1].hash_key_range.starting_hash_key);
    assert_eq!(child.hash_key_range.ending_hash_key, u128::MAX);
    let ended = |n: usize| after[n].sequence_number_range.ending_sequence_number.is_some();
    assert_eq!([ended(0), ended(1), ended(2), ended(3)], [false, true, true, false]);
    assert_eq!(kinesis.merge_shards(at(1), &merge(0, 1)).unwrap_err().code, "ResourceInUseException");
}

#[test]
fn a_childs_sequence_numbers_are_above_its_parents() {
    let mut kinesis = service(1);
    let put = |kinesis: &mut Kinesis| {
        let put = kinesis.put_record(T0, PutRecord::new("s", "k", "data")).unwrap();
        (put.sequence_number, put.shard_id)
    };
    let mut numbers = vec![put(&mut kinesis), put(&mut kinesis)];
    kinesis.split_shard(at(1), &split(0, 1 << 127)).unwrap();
    numbers.push(put(&mut kinesis));
    kinesis.merge_shards(at(2), &merge(1, 2)).unwrap();
    numbers.push(put(&mut kinesis));
    assert!(numbers.is_sorted_by(|a, b| a.0 < b.0), "{numbers:?}");
    assert_eq!(numbers[3].1, shard(3), "shard ids are not reused");
}

#[test]
fn each_child_of_a_split_has_more_than_one_hash_key() {
    let mut kinesis = service(1);
    for at in [0, 1, u128::MAX] {
        assert_eq!(kinesis.split_shard(T0, &split(0, at)).unwrap_err().code, "InvalidArgumentException", "{at}");
    }
    for bad in ["", "007", "-1", "x", &"9".repeat(40)] {
        let request = SplitShard { new_starting_hash_key: bad.into(), ..split(0, 2) };
        assert_eq!(kinesis.split_shard(T0, &request).unwrap_err().code, "ValidationException", "{bad:?}");
    }
    let too_large = SplitShard { new_starting_hash_key: "9".repeat(39), ..split(0, 2) };
    assert_eq!(kinesis.split_shard(T0, &too_large).unwrap_err().code, "InvalidArgumentException");
    kinesis.split_shard(T0, &split(0, 2)).unwrap();
}

#[test]
fn filters_choose_shards_by_time_and_id() {
    let mut kinesis = service(2);
    kinesis.split_shard(at(10), &split(0, 1_000)).unwrap();
    kinesis.merge_shards(at(20), &merge(3, 1)).unwrap();
    let filter = |kind: &str, time: Option<Duration>| ShardFilter {
        r#type: kind.into(),
        timestamp: time.map(|time| time.as_secs_f64()),
        shard_id: None,
    };
    let now = at(30);
    assert_eq!(filtered(&kinesis, now, filter("AT_LATEST", None)), [2, 4]);
    assert_eq!(filtered(&kinesis, now, filter("AT_TIMESTAMP", Some(at(5)))), [0, 1]);
    assert_eq!(filtered(&kinesis, now, filter("AT_TIMESTAMP", Some(at(15)))), [1, 2, 3]);
    assert_eq!(filtered(&kinesis, now, filter("AT_TIMESTAMP", Some(at(25)))), [2, 4]);
    assert_eq!(filtered(&kinesis, now, filter("FROM_TIMESTAMP", Some(at(15)))), [1, 2, 3, 4]);
    assert_eq!(filtered(&kinesis, now, filter("FROM_TRIM_HORIZON", None)), [0, 1, 2, 3, 4]);
    let after = ShardFilter { shard_id: Some(shard(2)), ..filter("AFTER_SHARD_ID", None) };
    assert_eq!(filtered(&kinesis, now, after.clone()), [3, 4]);

    // A day later, the first parent was closed before the trim horizon.
    assert_eq!(filtered(&kinesis, at(86_400 + 15), filter("FROM_TRIM_HORIZON", None)), [1, 2, 3, 4]);
    assert_eq!(filtered(&kinesis, at(86_400 + 15), filter("AT_TRIM_HORIZON", None)), [1, 2, 3]);

    let refused = |filter: ShardFilter| {
        kinesis.list_shards(now, &ListShards { shard_filter: Some(filter), ..ListShards::of("s") }).unwrap_err().code
    };
    assert_eq!(refused(filter("AT_TIMESTAMP", None)), "InvalidArgumentException");
    assert_eq!(refused(filter("AFTER_SHARD_ID", None)), "InvalidArgumentException");
    assert_eq!(refused(ShardFilter { shard_id: Some("a/b".into()), ..after }), "ValidationException");
    assert_eq!(refused(filter("SOMETIMES", None)), "ValidationException");
}

#[test]
fn a_token_contains_the_filter() {
    let mut kinesis = service(3);
    kinesis.split_shard(at(10), &split(1, 1 << 127)).unwrap();
    let shard_filter = Some(ShardFilter { r#type: "AT_LATEST".into(), ..ShardFilter::default() });
    let mut request = ListShards { shard_filter, max_results: Some(1), ..ListShards::of("s") };
    let mut seen = Vec::new();
    loop {
        let page = kinesis.list_shards(at(11), &request).unwrap();
        seen.extend(numbers(&page));
        let Some(next_token) = page.next_token else { break };
        request = ListShards { next_token: Some(next_token), max_results: Some(1), ..ListShards::default() };
    }
    assert_eq!(seen, [0, 2, 3, 4]);
}

#[test]
fn a_token_of_an_earlier_stream_of_the_same_name_is_refused() {
    let mut kinesis = service(2);
    let page = kinesis.list_shards(T0, &ListShards { max_results: Some(1), ..ListShards::of("s") }).unwrap();
    kinesis.delete_stream(&DeleteStream { stream_name: Some("s".into()), stream_arn: None }).unwrap();
    kinesis.create_stream(T0, &CreateStream::new("s", 2)).unwrap();
    let request = ListShards { next_token: page.next_token, ..ListShards::default() };
    assert_eq!(kinesis.list_shards(T0, &request).unwrap_err().code, "ResourceNotFoundException");
}

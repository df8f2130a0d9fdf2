//! Requests that are refused, and the codes of their errors.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, ShardIteratorType};

use crate::transcript::{Transcript, create_stream, until_active, verdict};

const MIB: usize = 1024 * 1024;

/// Computes where to split a shard, from its first and its last hash key.
type SplitPoint = fn(u128, u128) -> String;

/// Calls to a missing stream, and calls that name no stream or two.
pub(crate) async fn streams(client: &Client, transcript: &mut Transcript) {
    create_stream(client, "errors", 2).await;
    let summary = client.describe_stream_summary().stream_name("errors").send().await.expect("a summary");
    let arn = summary.stream_description_summary().expect("a summary").stream_arn().to_owned();

    let put = || client.put_record().partition_key("k").data(Blob::new("x"));
    transcript.note("PutRecord: missing", verdict(put().stream_name("missing").send().await));
    let batch = || client.put_records().records(entry("k", None, 1));
    transcript.note("PutRecords: missing", verdict(batch().stream_name("missing").send().await));
    let list = client.list_shards().stream_name("missing").send();
    transcript.note("ListShards: missing", verdict(list.await));
    let describe = client.describe_stream_summary().stream_name("missing").send();
    transcript.note("DescribeStreamSummary: missing", verdict(describe.await));
    let iterator = client.get_shard_iterator().stream_name("missing").shard_id("shardId-000000000000");
    let iterator = iterator.shard_iterator_type(ShardIteratorType::Latest).send();
    transcript.note("GetShardIterator: missing", verdict(iterator.await));
    let split = client.split_shard().stream_name("missing").shard_to_split("shardId-000000000000");
    transcript.note("SplitShard: missing", verdict(split.new_starting_hash_key("7").send().await));
    let merge = client.merge_shards().stream_name("missing").shard_to_merge("shardId-000000000000");
    transcript
        .note("MergeShards: missing", verdict(merge.adjacent_shard_to_merge("shardId-000000000001").send().await));
    transcript.note("DeleteStream: missing", verdict(client.delete_stream().stream_name("missing").send().await));

    let other_arn = arn.replace("stream/errors", "stream/missing");
    transcript.note("PutRecord: missing, by ARN", verdict(put().stream_arn(&other_arn).send().await));
    transcript.note("PutRecord: not an ARN", verdict(put().stream_arn("errors").send().await));
    transcript.note("PutRecord: name and ARN", verdict(put().stream_name("errors").stream_arn(&arn).send().await));
    transcript.note("PutRecord: neither name nor ARN", verdict(put().send().await));
    transcript.note("PutRecord: empty name", verdict(put().stream_name("").send().await));
    transcript.note("PutRecord: name with a space", verdict(put().stream_name("a b").send().await));
    transcript.note("PutRecord: name of 129", verdict(put().stream_name("n".repeat(129)).send().await));

    let create = |name: &str, shards| client.create_stream().stream_name(name).shard_count(shards).send();
    transcript.note("CreateStream: exists", verdict(create("errors", 1).await));
    transcript.note("CreateStream: name with a space", verdict(create("a b", 1).await));
    transcript.note("CreateStream: no shards", verdict(create("none", 0).await));
}

/// Invalid records, alone and together with a valid one. Some valid ones are at a limit.
pub(crate) async fn records(client: &Client, transcript: &mut Transcript) {
    create_stream(client, "records", 2).await;
    let too_big = MIB + 1;
    let cases = [
        ("an empty key", entry("", None, 1)),
        ("a key of 256", entry(&"k".repeat(256), None, 1)),
        ("a key of 257", entry(&"k".repeat(257), None, 1)),
        ("a key of 256 letters, 512 bytes", entry(&"é".repeat(256), None, 1)),
        ("a key of 257 letters, 514 bytes", entry(&"é".repeat(257), None, 1)),
        ("a key of 128 letters beyond the BMP", entry(&"👤".repeat(128), None, 1)),
        ("a key of 129 letters beyond the BMP", entry(&"👤".repeat(129), None, 1)),
        ("no data", entry("k", None, 0)),
        ("hash key 0", entry("k", Some("0"), 1)),
        ("hash key 2^128 - 1", entry("k", Some("340282366920938463463374607431768211455"), 1)),
        ("hash key 2^128", entry("k", Some("340282366920938463463374607431768211456"), 1)),
        ("hash key of 40 digits", entry("k", Some(&"9".repeat(40)), 1)),
        ("an empty hash key", entry("k", Some(""), 1)),
        ("hash key -1", entry("k", Some("-1"), 1)),
        ("hash key +1", entry("k", Some("+1"), 1)),
        ("hash key 007", entry("k", Some("007"), 1)),
        ("hash key 0x7", entry("k", Some("0x7"), 1)),
        ("hash key with a space", entry("k", Some(" 7"), 1)),
        ("1 MiB including its key", entry("k", None, MIB - 1)),
        ("1 MiB without its key", entry("k", None, MIB)),
        ("more than 1 MiB", entry("k", None, too_big)),
    ];
    for (case, record) in cases {
        let alone = client.put_record().stream_name("records").data(record.data().clone());
        let alone = alone
            .set_partition_key(record.partition_key.clone())
            .set_explicit_hash_key(record.explicit_hash_key.clone());
        transcript.note(format!("PutRecord: {case}"), verdict(alone.send().await));

        let batch = client.put_records().stream_name("records").records(entry("valid", None, 1)).records(record);
        let answer = match batch.send().await {
            Ok(answer) => {
                let codes = answer.records().iter().map(|record| record.error_code().unwrap_or("ok"));
                codes.collect::<Vec<_>>().join(", ")
            }
            Err(error) => verdict::<(), _>(Err(error)),
        };
        transcript.note(format!("PutRecords: {case}"), answer);
    }
    let empty = client.put_records().stream_name("records").set_records(Some(Vec::new())).send();
    transcript.note("PutRecords: no records", verdict(empty.await));
    let batch = |count| client.put_records().stream_name("records").set_records(Some(vec![entry("k", None, 1); count]));
    transcript.note("PutRecords: 500", verdict(batch(500).send().await));
    transcript.note("PutRecords: 501", verdict(batch(501).send().await));
}

/// Splits and merges that are not possible.
pub(crate) async fn resharding(client: &Client, transcript: &mut Transcript) {
    create_stream(client, "reshard", 16).await;
    let page = client.list_shards().stream_name("reshard").send().await.expect("shards");
    let split = |shard: &str, at: String| {
        client.split_shard().stream_name("reshard").shard_to_split(shard).new_starting_hash_key(at).send()
    };
    let cases: [(&str, SplitPoint); 10] = [
        ("below the range", |first, _| (first - 1).to_string()),
        ("at the start", |first, _| first.to_string()),
        ("one above the start", |first, _| (first + 1).to_string()),
        ("at the end", |_, last| last.to_string()),
        ("above the range", |_, last| (last + 1).to_string()),
        ("at a non-number", |_, _| "x".to_owned()),
        ("at an empty hash key", |_, _| String::new()),
        ("at 2^128", |_, _| "340282366920938463463374607431768211456".to_owned()),
        ("at 007", |_, _| "007".to_owned()),
        ("at -1", |_, _| "-1".to_owned()),
    ];
    // Each case has a different shard, because a service may split it.
    for ((case, at), shard) in cases.into_iter().zip(&page.shards()[1..]) {
        let range = shard.hash_key_range().expect("a range");
        let hash_key = |value: &str| value.parse::<u128>().expect("a hash key");
        let at = at(hash_key(range.starting_hash_key()), hash_key(range.ending_hash_key()));
        transcript.note(format!("SplitShard: {case}"), verdict(split(shard.shard_id(), at).await));
        until_active(client, "reshard").await;
    }
    transcript.note("SplitShard: missing shard", verdict(split("shardId-000000000099", "7".to_owned()).await));
    transcript.note("SplitShard: not a shard id", verdict(split("a shard", "7".to_owned()).await));
    let merge = |shard: &str, neighbor: &str| {
        client.merge_shards().stream_name("reshard").shard_to_merge(shard).adjacent_shard_to_merge(neighbor).send()
    };
    let apart = merge("shardId-000000000012", "shardId-000000000014").await;
    transcript.note("MergeShards: not adjacent", verdict(apart));
    let around = merge("shardId-000000000015", "shardId-000000000000").await;
    transcript.note("MergeShards: last and first", verdict(around));
    let missing = merge("shardId-000000000000", "shardId-000000000099").await;
    transcript.note("MergeShards: missing shard", verdict(missing));
    transcript.note("MergeShards: with itself", verdict(merge("shardId-000000000000", "shardId-000000000000").await));
}

fn entry(key: &str, hash_key: Option<&str>, size: usize) -> PutRecordsRequestEntry {
    let entry = PutRecordsRequestEntry::builder().partition_key(key).data(Blob::new(vec![b'x'; size]));
    entry.set_explicit_hash_key(hash_key.map(str::to_owned)).build().expect("an entry")
}

//! What a consumer reads: iterators of every type, and their records.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::operation::get_records::GetRecordsOutput;
use aws_sdk_kinesis::operation::get_shard_iterator::builders::GetShardIteratorFluentBuilder;
use aws_sdk_kinesis::primitives::{Blob, DateTime};
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, ShardIteratorType};

use crate::transcript::{Transcript, create_stream, until_active, verdict};

const SHARD: &str = "shardId-000000000000";

/// Puts three records, and reads them from each position that an iterator can have.
pub(crate) async fn iterators(client: &Client, transcript: &mut Transcript) {
    create_stream(client, "reading", 1).await;
    let summary = client.describe_stream_summary().stream_name("reading").send().await.expect("a summary");
    let arn = summary.stream_description_summary().expect("a summary").stream_arn().to_owned();
    let tail = iterator(client, ShardIteratorType::Latest).send().await.expect("an iterator");
    let tail = tail.shard_iterator().expect("an iterator").to_owned();

    let put = |data: &'static str| client.put_record().partition_key(format!("key-{data}")).data(Blob::new(data));
    let one = put("one").stream_name("reading").send().await.expect("a record is accepted");
    let two = put("two").stream_arn(&arn).send().await.expect("a record is accepted");
    let three = PutRecordsRequestEntry::builder().partition_key("key-three").data(Blob::new("three"));
    let three = client.put_records().stream_arn(&arn).records(three.build().expect("an entry")).send().await;
    let three = three.expect("a record is accepted").records()[0].clone();
    let numbers = [one.sequence_number(), two.sequence_number(), three.sequence_number().unwrap_or_default()];
    // Sequence numbers have up to 56 digits, more than any integer type holds.
    let rising = numbers.is_sorted_by_key(|number| (number.len(), *number));
    let digits = numbers.iter().all(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
    transcript.note("sequence numbers are numbers and rise", rising && digits);

    let read = client.get_records().shard_iterator(&tail).send().await.expect("records");
    transcript.note("LATEST, taken before the records", contents(&read));
    for (kind, number) in [
        (ShardIteratorType::TrimHorizon, None),
        (ShardIteratorType::Latest, None),
        (ShardIteratorType::AtSequenceNumber, Some(two.sequence_number())),
        (ShardIteratorType::AfterSequenceNumber, Some(two.sequence_number())),
    ] {
        let request = iterator(client, kind.clone()).set_starting_sequence_number(number.map(str::to_owned));
        transcript.note(&kind, read_all(client, request).await);
    }
    // Even with a fast service, the records are older than the second of the requested timestamp.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    for (step, time) in [("AT_TIMESTAMP of long ago", 1), ("AT_TIMESTAMP of now", now())] {
        let request = iterator(client, ShardIteratorType::AtTimestamp).timestamp(DateTime::from_secs(time));
        transcript.note(step, read_all(client, request).await);
    }
    let by_arn = client.get_shard_iterator().stream_arn(&arn).shard_id(SHARD);
    let by_arn = by_arn.shard_iterator_type(ShardIteratorType::TrimHorizon);
    transcript.note("by ARN", read_all(client, by_arn).await);
    pages(client, transcript).await;
    closed_shard(client, transcript).await;
    refused(client, transcript).await;
}

/// A limit ends a page. The next iterator continues after it.
async fn pages(client: &Client, transcript: &mut Transcript) {
    let start = iterator(client, ShardIteratorType::TrimHorizon).send().await.expect("an iterator");
    let mut next = start.shard_iterator().map(str::to_owned);
    for number in 1..=3 {
        let page = client.get_records().set_shard_iterator(next.clone()).limit(2).send().await.expect("records");
        transcript.note(format!("page {number} of two records each"), contents(&page));
        let behind = page.millis_behind_latest().unwrap_or_default() > 0;
        transcript.note(format!("page {number} is behind"), behind);
        next = page.next_shard_iterator().map(str::to_owned);
        transcript.note(format!("page {number} has a next iterator"), next.is_some());
    }
}

/// A closed shard still returns its records, and then no next iterator.
async fn closed_shard(client: &Client, transcript: &mut Transcript) {
    let split = client.split_shard().stream_name("reading").shard_to_split(SHARD);
    split.new_starting_hash_key("170141183460469231731687303715884105728").send().await.expect("a split");
    until_active(client, "reading").await;
    let start = iterator(client, ShardIteratorType::TrimHorizon).send().await.expect("an iterator");
    let read = client.get_records().set_shard_iterator(start.shard_iterator().map(str::to_owned)).send().await;
    let read = read.expect("records");
    transcript.note("a closed shard's records", contents(&read));
    transcript.note("a closed shard has a next iterator", read.next_shard_iterator().is_some());
    transcript.note("a closed shard's children", {
        let children =
            read.child_shards().iter().map(|child| format!("{} of {:?}", child.shard_id(), child.parent_shards()));
        children.collect::<Vec<_>>().join(", ")
    });
}

async fn refused(client: &Client, transcript: &mut Transcript) {
    let get = |iterator: &str| client.get_records().shard_iterator(iterator);
    transcript.note("a made-up iterator", verdict(get("made up").send().await));
    transcript.note("a made-up iterator in base64", verdict(get("AAAAAAAAAAEAAAAA").send().await));
    let fresh = iterator(client, ShardIteratorType::TrimHorizon).send().await.expect("an iterator");
    let fresh = fresh.shard_iterator().expect("an iterator").to_owned();
    transcript.note("Limit 0", verdict(get(&fresh).limit(0).send().await));
    transcript.note("Limit 10,000", verdict(get(&fresh).limit(10_000).send().await));
    transcript.note("Limit 10,001", verdict(get(&fresh).limit(10_001).send().await));
    let missing = client.get_shard_iterator().stream_name("reading").shard_id("shardId-000000000099");
    let missing = missing.shard_iterator_type(ShardIteratorType::Latest).send();
    transcript.note("an iterator of a missing shard", verdict(missing.await));
    let without_number = iterator(client, ShardIteratorType::AtSequenceNumber).send();
    transcript.note("AT_SEQUENCE_NUMBER without a number", verdict(without_number.await));
    let bad_number = iterator(client, ShardIteratorType::AfterSequenceNumber).starting_sequence_number("x").send();
    transcript.note("AFTER_SEQUENCE_NUMBER of a non-number", verdict(bad_number.await));
    let without_time = iterator(client, ShardIteratorType::AtTimestamp).send();
    transcript.note("AT_TIMESTAMP without a time", verdict(without_time.await));
    let future = iterator(client, ShardIteratorType::AtTimestamp).timestamp(DateTime::from_secs(now() + 3600)).send();
    transcript.note("AT_TIMESTAMP in the future", verdict(future.await));
    let unknown = iterator(client, ShardIteratorType::from("SOMEWHERE")).send();
    transcript.note("an iterator of an unknown type", verdict(unknown.await));
}

fn iterator(client: &Client, kind: ShardIteratorType) -> GetShardIteratorFluentBuilder {
    client.get_shard_iterator().stream_name("reading").shard_id(SHARD).shard_iterator_type(kind)
}

async fn read_all(client: &Client, request: GetShardIteratorFluentBuilder) -> String {
    let start = request.send().await.expect("an iterator");
    let read = client.get_records().set_shard_iterator(start.shard_iterator().map(str::to_owned)).send();
    contents(&read.await.expect("records"))
}

fn contents(read: &GetRecordsOutput) -> String {
    let records = read.records().iter().map(|record| {
        format!("{}={}", record.partition_key().unwrap_or_default(), String::from_utf8_lossy(record.data().as_ref()))
    });
    records.collect::<Vec<_>>().join(" ")
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_secs()).expect("seconds fit")
}

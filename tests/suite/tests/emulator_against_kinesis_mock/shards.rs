//! Lists of shards in pages, and after splits and merges.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::operation::list_shards::ListShardsOutput;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{Shard, ShardFilter, ShardFilterType};

use crate::transcript::{Transcript, create_stream, describe, until_active, verdict};

/// Lists five shards in pages of two, and combines tokens with other parameters.
pub(crate) async fn paging(client: &Client, transcript: &mut Transcript) {
    create_stream(client, "pages", 5).await;
    let mut page = client.list_shards().stream_name("pages").max_results(2).send().await.expect("a page");
    let first_token = page.next_token().expect("more pages").to_owned();
    for number in 1.. {
        transcript.note(format!("page {number}"), ids(&page));
        let Some(token) = page.next_token() else {
            break;
        };
        page = client.list_shards().next_token(token).max_results(2).send().await.expect("a page");
    }

    let by_token = || client.list_shards().next_token(&first_token);
    let rest = by_token().send().await.expect("a page");
    transcript.note("the rest, without MaxResults", ids(&rest));
    let again = by_token().max_results(2).send().await.expect("a page");
    transcript.note("a token used twice", ids(&again));
    transcript.note("a token and the name", verdict(by_token().stream_name("pages").send().await));
    transcript.note("a token and ExclusiveStartShardId", {
        verdict(by_token().exclusive_start_shard_id("shardId-000000000001").send().await)
    });
    transcript.note("neither token nor stream", verdict(client.list_shards().send().await));
    transcript.note("a made-up token", verdict(client.list_shards().next_token("made up").send().await));
    let by_name = || client.list_shards().stream_name("pages");
    transcript.note("MaxResults 0", verdict(by_name().max_results(0).send().await));
    transcript.note("MaxResults 10,000", verdict(by_name().max_results(10_000).send().await));
    transcript.note("MaxResults 10,001", verdict(by_name().max_results(10_001).send().await));
    let after = by_name().exclusive_start_shard_id("shardId-000000000002").send().await.expect("a page");
    transcript.note("after shard 2", ids(&after));
    let arn = arn(client, "pages").await;
    let by_arn = client.list_shards().stream_arn(&arn).send().await.expect("a page");
    transcript.note("by ARN", ids(&by_arn));
    transcript.note("the ARN", arn);
}

/// Splits a shard, merges one half with its neighbor, and merges the other half.
pub(crate) async fn resharding(client: &Client, transcript: &mut Transcript) {
    create_stream(client, "reshard", 3).await;
    // Uneven, so that a service that halves the range fails the test.
    let split = client.split_shard().stream_name("reshard").shard_to_split("shardId-000000000001");
    split.new_starting_hash_key("150000000000000000000000000000000000000").send().await.expect("a split");
    until_active(client, "reshard").await;
    note_shards(client, transcript, "after a split").await;

    let merge = |shard: &'static str, neighbor: &'static str| {
        client.merge_shards().stream_name("reshard").shard_to_merge(shard).adjacent_shard_to_merge(neighbor).send()
    };
    merge("shardId-000000000000", "shardId-000000000003").await.expect("a merge");
    until_active(client, "reshard").await;
    note_shards(client, transcript, "after a merge").await;

    let reversed = verdict(merge("shardId-000000000002", "shardId-000000000004").await);
    transcript.note("a merge that names the upper shard first", reversed);
    merge("shardId-000000000004", "shardId-000000000002").await.expect("a merge");
    until_active(client, "reshard").await;
    note_shards(client, transcript, "after a second merge").await;

    for key in ["a", "b", "c", "d", "e", "f"] {
        let put = client.put_record().stream_name("reshard").partition_key(key).data(Blob::new("x"));
        transcript.note(format!("shard of key {key}"), put.send().await.expect("a record is accepted").shard_id());
    }
    for (step, shard, neighbor) in [
        ("merge of closed shards", "shardId-000000000000", "shardId-000000000001"),
        ("merge of a shard with itself", "shardId-000000000005", "shardId-000000000005"),
        ("merge with a missing shard", "shardId-000000000005", "shardId-000000000099"),
    ] {
        transcript.note(step, verdict(merge(shard, neighbor).await));
    }
    let split = client.split_shard().stream_name("reshard").shard_to_split("shardId-000000000001");
    let split = split.new_starting_hash_key("150000000000000000000000000000000000000").send();
    transcript.note("split of a closed shard", verdict(split.await));
}

async fn note_shards(client: &Client, transcript: &mut Transcript, when: &str) {
    let all = client.list_shards().stream_name("reshard").send().await.expect("shards");
    for shard in all.shards() {
        transcript.note(format!("{when}: {}", shard.shard_id()), describe(shard));
    }
    transcript.note(format!("{when}: all"), ids(&all));
    for filter in [ShardFilterType::AtLatest, ShardFilterType::AtTrimHorizon, ShardFilterType::FromTrimHorizon] {
        let built = ShardFilter::builder().r#type(filter.clone()).build().expect("a filter");
        let page = client.list_shards().stream_name("reshard").shard_filter(built).send().await.expect("shards");
        transcript.note(format!("{when}: {filter}"), ids(&page));
    }
    let filter = ShardFilter::builder().r#type(ShardFilterType::AtLatest).build().expect("a filter");
    let first = client.list_shards().stream_name("reshard").shard_filter(filter).max_results(1);
    let first = first.send().await.expect("shards");
    transcript.note(format!("{when}: first page of AT_LATEST"), ids(&first));
    if let Some(token) = first.next_token() {
        // The token contains the filter.
        let second = client.list_shards().next_token(token).send().await.expect("shards");
        transcript.note(format!("{when}: second page of AT_LATEST"), ids(&second));
    }
    let summary = client.describe_stream_summary().stream_name("reshard").send().await.expect("a summary");
    let open = summary.stream_description_summary().expect("a summary").open_shard_count();
    transcript.note(format!("{when}: open shards"), open);
}

async fn arn(client: &Client, name: &str) -> String {
    let summary = client.describe_stream_summary().stream_name(name).send().await.expect("a summary");
    summary.stream_description_summary().expect("a summary").stream_arn().to_owned()
}

fn ids(page: &ListShardsOutput) -> String {
    let ids: Vec<_> = page.shards().iter().map(Shard::shard_id).collect();
    let more = if page.next_token().is_some() { ", and more" } else { "" };
    format!("{}{more}", ids.join(" "))
}

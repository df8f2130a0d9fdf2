//! Maps between the core's and the SDK's types.

use aws_sdk_kinesis::operation::describe_stream_summary::DescribeStreamSummaryOutput;
use aws_sdk_kinesis::operation::list_shards::ListShardsOutput;
use aws_sdk_kinesis::operation::put_records::PutRecordsOutput;
use aws_sdk_kinesis::types::{RecordDistributionStrategy, Shard, StreamDescriptionSummary};
use kpl_core::{ListedShard, RecordReply, ShardPage, StreamSummary};

/// Returns a stream's name or ARN; the other one is `None`.
pub(super) fn target(stream: &str) -> (Option<String>, Option<String>) {
    if stream.starts_with("arn:") { (None, Some(stream.to_owned())) } else { (Some(stream.to_owned()), None) }
}

/// Maps a reply that the SDK has parsed.
pub(super) fn record_replies(output: PutRecordsOutput) -> Vec<RecordReply> {
    let replies = output.records.into_iter().map(|record| RecordReply {
        shard_id: record.shard_id.map(Into::into),
        sequence_number: record.sequence_number.map(Into::into),
        error_code: record.error_code.map(Into::into),
        error_message: record.error_message.map(Into::into),
    });
    replies.collect()
}

pub(super) fn shard_page(output: ListShardsOutput) -> ShardPage {
    let shards = output.shards.unwrap_or_default();
    ShardPage { shards: shards.into_iter().filter_map(listed_shard).collect(), next_token: output.next_token }
}

/// Maps a shard. Returns `None` if its range is missing or invalid: the shard map tolerates gaps.
fn listed_shard(shard: Shard) -> Option<ListedShard> {
    let range = shard.hash_key_range?;
    Some(ListedShard {
        id: shard.shard_id.into(),
        start: range.starting_hash_key.parse().ok()?,
        end: range.ending_hash_key.parse().ok()?,
        closed: shard.sequence_number_range.is_some_and(|range| range.ending_sequence_number.is_some()),
        parents: [shard.parent_shard_id.map(Into::into), shard.adjacent_parent_shard_id.map(Into::into)],
    })
}

pub(super) fn stream_summary(output: &DescribeStreamSummaryOutput) -> StreamSummary {
    let summary = output.stream_description_summary();
    let kib = summary.and_then(StreamDescriptionSummary::max_record_size_in_kib);
    StreamSummary {
        max_record_size: kib.and_then(|kib| usize::try_from(kib).ok()).map(|kib| kib * 1_024),
        auto_distribution: summary.and_then(StreamDescriptionSummary::record_distribution_strategy)
            == Some(&RecordDistributionStrategy::Auto),
        open_shards: summary.and_then(|summary| usize::try_from(summary.open_shard_count()).ok()),
    }
}

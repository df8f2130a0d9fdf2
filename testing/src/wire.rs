//! Requests of the state machine, executed by the model.

use std::time::Duration;

use kpl_core::{
    Batch, Delivery, ListShardsRequest, ListedShard, RecordReply, Reply, RequestError, ShardPage, StreamSummary,
};
use kpl_emulator::api::{
    DescribeStreamSummary, ListShards, PutRecords, PutRecordsEntry, PutRecordsResult, Shard, ShardFilter,
};
use kpl_emulator::{Kinesis, ServiceError};

/// Returns the records of a batch as they are sent.
pub fn entries<T>(batch: &Batch<T>) -> Vec<PutRecordsEntry> {
    let entry = |record: &kpl_core::KinesisRecord<T>| PutRecordsEntry {
        partition_key: record.partition_key().to_owned(),
        explicit_hash_key: Some(record.explicit_hash_key().to_string()),
        data: record.data(),
    };
    batch.records().iter().map(entry).collect()
}

/// Executes PutRecords.
pub fn put_records(kinesis: &mut Kinesis, now: Duration, stream: &str, records: Vec<PutRecordsEntry>) -> Reply {
    let (stream_name, stream_arn) = name_or_arn(stream);
    match kinesis.put_records(now, PutRecords { stream_name, stream_arn, records }) {
        Ok(output) => Reply::Records(output.records.into_iter().map(record_reply).collect()),
        Err(error) => Reply::Failed(failed(error)),
    }
}

/// Executes ListShards. `page_size` is the maximum number of shards in the reply; `None` is the service's.
///
/// # Errors
///
/// The errors of the model.
pub fn list_shards(
    kinesis: &Kinesis,
    now: Duration,
    request: &ListShardsRequest,
    page_size: Option<usize>,
) -> Result<ShardPage, RequestError> {
    let max_results = page_size.map(|size| size as i64);
    let request = match &request.next_token {
        Some(token) => ListShards { next_token: Some(token.clone()), max_results, ..ListShards::default() },
        None => {
            let (stream_name, stream_arn) = name_or_arn(&request.stream);
            let latest = ShardFilter { r#type: "AT_LATEST".into(), ..ShardFilter::default() };
            let shard_filter = (!request.include_closed).then_some(latest);
            ListShards { stream_name, stream_arn, shard_filter, max_results, ..ListShards::default() }
        }
    };
    let output = kinesis.list_shards(now, &request).map_err(failed)?;
    Ok(ShardPage { shards: output.shards.into_iter().map(listed_shard).collect(), next_token: output.next_token })
}

/// Executes DescribeStreamSummary.
///
/// # Errors
///
/// The errors of the model.
pub fn describe_stream(kinesis: &Kinesis, now: Duration, stream: &str) -> Result<StreamSummary, RequestError> {
    let (stream_name, stream_arn) = name_or_arn(stream);
    let output = kinesis.describe_stream_summary(now, &DescribeStreamSummary { stream_name, stream_arn });
    let summary = output.map_err(failed)?.stream_description_summary;
    Ok(StreamSummary {
        max_record_size: Some(summary.max_record_size_in_kib * 1_024),
        auto_distribution: summary.record_distribution_strategy == "AUTO",
        open_shards: Some(summary.open_shard_count),
    })
}

/// Returns a shard as the state machine reads it.
pub fn listed_shard(shard: Shard) -> ListedShard {
    ListedShard {
        id: shard.shard_id.into(),
        start: shard.hash_key_range.starting_hash_key,
        end: shard.hash_key_range.ending_hash_key,
        closed: shard.sequence_number_range.ending_sequence_number.is_some(),
        parents: [shard.parent_shard_id.map(Into::into), shard.adjacent_parent_shard_id.map(Into::into)],
    }
}

/// Returns the error of a request that failed as a whole.
pub fn failed(error: ServiceError) -> RequestError {
    let delivery = if error.http_status() == 500 { Delivery::Unanswered } else { Delivery::Refused };
    RequestError::new(delivery, error.code, error.message)
}

fn record_reply(result: PutRecordsResult) -> RecordReply {
    RecordReply {
        shard_id: result.shard_id.map(Into::into),
        sequence_number: result.sequence_number.map(Into::into),
        error_code: result.error_code.map(Into::into),
        error_message: result.error_message.map(Into::into),
    }
}

fn name_or_arn(stream: &str) -> (Option<String>, Option<String>) {
    if stream.starts_with("arn:") { (None, Some(stream.to_owned())) } else { (Some(stream.to_owned()), None) }
}

//! What happens to requests: time, loss, and the service's answers as a driver would tell them.

use std::time::Duration;

use kpl_core::{
    Batch, Delivery, ListShardsRequest, ListedShard, RecordReply, Reply, RequestError, ShardPage, StreamSummary,
};
use kpl_emulator::api::{DescribeStreamSummary, ListShards, PutRecords, PutRecordsEntry, ShardFilter};
use kpl_emulator::{Kinesis, ServiceError};

/// A batch as it goes over the wire. The batch itself stays with the driver.
pub(crate) fn wire<T>(batch: &Batch<T>) -> PutRecords {
    let records = batch.records().iter().map(|record| PutRecordsEntry {
        partition_key: record.partition_key().to_owned(),
        explicit_hash_key: record.explicit_hash_key().map(|key| key.to_string()),
        data: record.data(),
    });
    PutRecords { stream_name: Some(batch.stream().to_string()), stream_arn: None, records: records.collect() }
}

pub(crate) fn put_records(kinesis: &mut Kinesis, now: Duration, request: PutRecords) -> Reply {
    match kinesis.put_records(now, request) {
        Ok(output) => Reply::Records(
            output
                .records
                .into_iter()
                .map(|record| RecordReply {
                    shard_id: record.shard_id,
                    sequence_number: record.sequence_number,
                    error_code: record.error_code,
                    error_message: record.error_message,
                })
                .collect(),
        ),
        Err(error) => Reply::Failed(refusal(error)),
    }
}

pub(crate) fn list_shards(
    kinesis: &Kinesis,
    now: Duration,
    request: &ListShardsRequest,
    page_size: Option<i64>,
) -> Result<ShardPage, RequestError> {
    let filter = ShardFilter { r#type: "AT_LATEST".into(), ..ShardFilter::default() };
    let request = match &request.next_token {
        Some(token) => ListShards { next_token: Some(token.clone()), max_results: page_size, ..ListShards::default() },
        None => ListShards {
            shard_filter: (!request.include_closed).then_some(filter),
            max_results: page_size,
            ..ListShards::of(&*request.stream)
        },
    };
    let output = kinesis.list_shards(now, &request).map_err(refusal)?;
    let shards = output.shards.into_iter().map(|shard| ListedShard {
        id: shard.shard_id.into(),
        start: shard.hash_key_range.starting_hash_key,
        end: shard.hash_key_range.ending_hash_key,
        closed: shard.sequence_number_range.ending_sequence_number.is_some(),
        parents: [shard.parent_shard_id.map(Into::into), shard.adjacent_parent_shard_id.map(Into::into)],
    });
    Ok(ShardPage { shards: shards.collect(), next_token: output.next_token })
}

pub(crate) fn describe(kinesis: &Kinesis, now: Duration, stream: &str) -> Result<StreamSummary, RequestError> {
    let request = DescribeStreamSummary { stream_name: Some(stream.into()), stream_arn: None };
    let output = kinesis.describe_stream_summary(now, &request).map_err(refusal)?.stream_description_summary;
    Ok(StreamSummary {
        max_record_size: Some(output.max_record_size_in_kib * 1_024),
        auto_distribution: output.record_distribution_strategy == "AUTO",
    })
}

pub(crate) fn time_out() -> RequestError {
    RequestError::new(Delivery::Unanswered, "Request Timeout", "no reply")
}

pub(crate) fn not_sent() -> RequestError {
    RequestError::new(Delivery::NotSent, "Connection Failed", "connection refused")
}

pub(crate) fn http_500() -> RequestError {
    RequestError::new(Delivery::Unanswered, "InternalFailure", "HTTP 500")
}

fn refusal(error: ServiceError) -> RequestError {
    RequestError::new(Delivery::Refused, error.code, error.message)
}

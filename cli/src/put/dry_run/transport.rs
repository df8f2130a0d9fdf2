//! The end of a dry run's requests.

use std::sync::{Arc, Mutex, PoisonError};

use kpl_core::{
    Batch, Delivery, DescribeStreamRequest, KinesisRecord, ListShardsRequest, ListedShard, RecordReply, Reply,
    RequestError, ShardPage, StreamSummary, limits,
};
use kpl_driver::Transport;

use super::counts::{Arrived, Counts};
use super::target::Target;

/// Answers as the stream does if nothing fails, and counts the records. Nothing is sent.
pub(super) struct DryRunTransport {
    target: Target,
    counts: Arc<Mutex<Counts>>,
}

impl DryRunTransport {
    pub(super) fn new(target: Target, count_keys: bool) -> Self {
        let counts = Arc::new(Mutex::new(Counts::new(target.shards.len(), count_keys)));
        Self { target, counts }
    }

    /// Returns the counts, which the transport goes on to change.
    pub(super) fn counts(&self) -> Arc<Mutex<Counts>> {
        self.counts.clone()
    }

    /// Returns the error of a request with a record above the stream's limit: Kinesis refuses the request as a whole.
    fn refusal<T>(&self, batch: &Batch<T>) -> Option<RequestError> {
        let limit = self.target.summary.max_record_size.unwrap_or(limits::RECORD_SIZE_DEFAULT);
        let size = batch.records().iter().map(KinesisRecord::size).find(|size| *size > limit)?;
        let message = format!("a record has {size} bytes of data and partition key, but the stream's limit is {limit}");
        Some(RequestError::new(Delivery::Refused, "InvalidArgumentException", message))
    }

    fn put_record<T>(&self, record: &KinesisRecord<T>) -> RecordReply {
        let arrived = match Arrived::read(record) {
            Ok(arrived) => arrived,
            Err(error) => return RecordReply::failed("InvalidArgumentException", error.to_string()),
        };
        let shard = self.target.shard(record.explicit_hash_key());
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.add(shard, arrived);
        let sequence_number = counts.shards[shard].kinesis_records;
        RecordReply::stored(self.target.shards[shard].id.clone(), sequence_number.to_string())
    }
}

impl Transport for DryRunTransport {
    async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).requests += 1;
        match self.refusal(batch) {
            Some(error) => Reply::Failed(error),
            None => Reply::Records(batch.records().iter().map(|record| self.put_record(record)).collect()),
        }
    }

    async fn list_shards(&self, _: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        let shards = self.target.shards.iter().map(|shard| ListedShard {
            id: shard.id.as_str().into(),
            start: shard.start,
            end: shard.end,
            closed: false,
            parents: [None, None],
        });
        Ok(ShardPage { shards: shards.collect(), next_token: None })
    }

    async fn describe_stream(&self, _: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
        Ok(self.target.summary)
    }
}

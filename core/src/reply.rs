//! What the driver tells the state machine about the service's answers: facts, no judgement.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What became of a [`Batch`](crate::Batch).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// PutRecords answered with a result for each record, in the order of the batch.
    Records(Vec<RecordReply>),
    /// The request failed as a whole.
    Failed(RequestError),
}

/// One entry of a PutRecords reply, as the service sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordReply {
    /// The shard that took the record.
    pub shard_id: Option<String>,
    /// Its sequence number there.
    pub sequence_number: Option<String>,
    /// Why it was not taken.
    pub error_code: Option<String>,
    /// The same in words.
    pub error_message: Option<String>,
}

impl RecordReply {
    /// A record that was stored.
    pub fn stored(shard_id: impl Into<String>, sequence_number: impl Into<String>) -> Self {
        Self { shard_id: Some(shard_id.into()), sequence_number: Some(sequence_number.into()), ..Self::default() }
    }

    /// A record that was not.
    pub fn failed(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { error_code: Some(code.into()), error_message: Some(message.into()), ..Self::default() }
    }
}

/// A request that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct RequestError {
    /// How far the request came.
    pub delivery: Delivery,
    /// The service's error code, or the driver's name for what happened.
    pub code: Box<str>,
    /// In words.
    pub message: Box<str>,
}

impl RequestError {
    /// A request that failed with `code`.
    pub fn new(delivery: Delivery, code: impl Into<Box<str>>, message: impl Into<Box<str>>) -> Self {
        Self { delivery, code: code.into(), message: message.into() }
    }
}

/// How far a failed request came, which decides whether its records may have been stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing was sent: connection refused, no such host, TLS, no credentials. Nothing was stored.
    NotSent,
    /// Something was sent, and no answer, or a 5xx, came back. The records may have been stored.
    Unanswered,
    /// The service answered with an error of the client's kind (4xx). Nothing was stored.
    Refused,
}

/// One page of a ListShards reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardPage {
    /// Its shards.
    pub shards: Vec<ListedShard>,
    /// Where the next page starts, if there is one.
    pub next_token: Option<String>,
}

/// One shard of a ListShards reply. Hash keys are decimal on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedShard {
    /// For instance `shardId-000000000000`.
    pub id: Arc<str>,
    /// First hash key of its range.
    pub start: u128,
    /// Last hash key of its range, inclusive.
    pub end: u128,
    /// Whether it has been split or merged away and takes no records (it has an ending sequence number).
    pub closed: bool,
    /// The shard that it came from, and the other one after a merge.
    pub parents: [Option<Arc<str>>; 2],
}

/// What a stream says of itself (DescribeStreamSummary).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamSummary {
    /// Most bytes in a record, if the stream says so (`MaxRecordSizeInKiB`).
    pub max_record_size: Option<usize>,
    /// Whether Kinesis ignores keys (`RecordDistributionStrategy = AUTO`).
    pub auto_distribution: bool,
    /// The number of open shards, if the stream says so (`OpenShardCount`).
    pub open_shards: Option<usize>,
}

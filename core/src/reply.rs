//! The service's replies, as the driver passes them to the state machine. The driver does not interpret them.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bytestring::ByteString;

/// The result of a [`Batch`](crate::Batch).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// PutRecords returned a result for each record, in the order of the batch.
    Records(Vec<RecordReply>),
    /// The request failed as a whole.
    Failed(RequestError),
}

/// The result of one record in a PutRecords reply. Its strings may be parts of the reply's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordReply {
    /// The shard that stored the record.
    pub shard_id: Option<ByteString>,
    /// The sequence number of the record.
    pub sequence_number: Option<ByteString>,
    /// The error code, if the record was not stored.
    pub error_code: Option<ByteString>,
    /// The error message, if the record was not stored.
    pub error_message: Option<ByteString>,
}

impl RecordReply {
    /// Creates the result of a stored record.
    pub fn stored(shard_id: impl Into<ByteString>, sequence_number: impl Into<ByteString>) -> Self {
        Self { shard_id: Some(shard_id.into()), sequence_number: Some(sequence_number.into()), ..Self::default() }
    }

    /// Creates the result of a record that was not stored.
    pub fn failed(code: impl Into<ByteString>, message: impl Into<ByteString>) -> Self {
        Self { error_code: Some(code.into()), error_message: Some(message.into()), ..Self::default() }
    }
}

/// The error of a failed request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct RequestError {
    /// How far the request was processed.
    pub delivery: Delivery,
    /// The error code of the service or the driver.
    pub code: Box<str>,
    /// The error message.
    pub message: Box<str>,
}

impl RequestError {
    /// Creates the error of a request that failed with `code`.
    pub fn new(delivery: Delivery, code: impl Into<Box<str>>, message: impl Into<Box<str>>) -> Self {
        Self { delivery, code: code.into(), message: message.into() }
    }
}

/// How far a failed request was processed. It decides whether the records may have been stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The request was not sent: connection refused, unknown host, TLS error, no credentials. No record was stored.
    NotSent,
    /// The request was sent at least in part, without a reply or with a 5xx reply. The records may have been stored.
    Unanswered,
    /// The service replied with a client error (4xx). No record was stored.
    Refused,
}

/// One page of a ListShards reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardPage {
    /// The shards.
    pub shards: Vec<ListedShard>,
    /// The token for the next page, if there is one.
    pub next_token: Option<String>,
}

/// One shard of a ListShards reply. Hash keys are decimal on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedShard {
    /// The shard's id, such as `shardId-000000000000`.
    pub id: Arc<str>,
    /// The first hash key of the shard's range.
    pub start: u128,
    /// The last hash key of the shard's range, inclusive.
    pub end: u128,
    /// Whether the shard is closed after a split or merge (it has an ending sequence number).
    pub closed: bool,
    /// The parent shard, and the adjacent parent shard after a merge.
    pub parents: [Option<Arc<str>>; 2],
}

/// A DescribeStreamSummary reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamSummary {
    /// The maximum size of a record in bytes, if the reply has it (`MaxRecordSizeInKiB`).
    pub max_record_size: Option<usize>,
    /// Whether the stream ignores keys (`RecordDistributionStrategy = AUTO`).
    pub auto_distribution: bool,
    /// The number of open shards, if the reply has it (`OpenShardCount`).
    pub open_shards: Option<usize>,
}

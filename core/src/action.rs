//! The actions of the state machine.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::time::Duration;

use crate::full::ShardName;
use crate::metrics::MetricsSnapshot;
use crate::outstanding::FlushId;
use crate::record::kinesis_record::Batch;
use crate::record::result::Resolution;

/// An action for the driver to carry out, returned by [`Producer::poll_action`](crate::Producer::poll_action).
#[derive(Debug)]
#[must_use = "an action that is not carried out loses records"]
pub enum Action<T> {
    /// Send these records with PutRecords. In every case, pass the batch and the reply or error to
    /// [`Producer::handle_reply`](crate::Producer::handle_reply).
    SendBatch(Batch<T>),
    /// Request one page of the stream's shards, and pass it to
    /// [`Producer::handle_shards`](crate::Producer::handle_shards).
    ListShards(ListShardsRequest),
    /// Request the stream's summary, and pass it to
    /// [`Producer::handle_stream_summary`](crate::Producer::handle_stream_summary).
    DescribeStream(DescribeStreamRequest),
    /// Return the results of user records to the callers with these tickets. There is one action for all user records
    /// of a Kinesis record, which may be thousands.
    Resolve(Resolution<T>),
    /// Retry puts for this shard: it has room again after a put was refused (see [`Full::Shard`](crate::Full::Shard)).
    ///
    /// There is no such action for [`Full::Producer`](crate::Full::Producer): retry those puts after a
    /// [`Resolve`](Self::Resolve). After a close, retry all refused puts: they return
    /// [`PutError::Closed`](crate::PutError::Closed).
    RoomFreed(ShardName),
    /// Complete this flush: all records that were put before it are resolved.
    FlushDone(FlushId),
    /// Cancel all requests in flight, because the deadline of a close has passed. Pass their batches to
    /// [`Producer::handle_reply`](crate::Producer::handle_reply) as
    /// [`Delivery::Unanswered`](crate::Delivery::Unanswered).
    CancelRequests,
    /// Export the metrics observed since the last export. Comes at the end of each `metrics_upload_interval` with
    /// observations, and when the producer is drained.
    ExportMetrics(Box<MetricsSnapshot>),
    /// Write this event to the log.
    Log(LogEvent),
}

/// A request for one page of ListShards.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListShardsRequest {
    /// The stream's name or ARN. With a `next_token`, it is not part of the request to the service.
    pub stream: Arc<str>,
    /// The token from the previous page. If set, the request to the service has no other parameters.
    pub next_token: Option<String>,
    /// Whether the list includes closed shards (no filter), or only open ones (`AT_LATEST`).
    pub include_closed: bool,
}

/// A request for DescribeStreamSummary.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DescribeStreamRequest {
    /// The stream's name or ARN.
    pub stream: Arc<str>,
}

/// An event for the operator's log. Events come per change of the stream or per reply, never per record. The driver
/// limits how often it logs an event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogEvent {
    /// A new shard list was applied.
    ShardMapRefreshed {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// The number of open shards.
        open: usize,
        /// The number of shards that have closed since the last list, or have another range because the stream was
        /// created again.
        closed: usize,
        /// The number of user records that waited for such a shard, or for an unknown one, and were routed again.
        moved: usize,
    },
    /// A request for the stream's shards or description failed.
    RefreshFailed {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// The operation.
        operation: &'static str,
        /// The error code: the service's, the driver's, or `No Shards` or `Too Many Pages` for a list that cannot be
        /// used.
        code: Box<str>,
        /// The error message.
        message: Box<str>,
        /// The time until the retry; `None` if there is none.
        retry_in: Option<Duration>,
    },
    /// The stream's first records are sent without its shard list: it was refused for good, or did not come within
    /// `start_timeout`. They are aggregated by hash key at most, and one rate limit applies to the whole stream. Logged
    /// once per stream.
    WithoutShardList {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// The code of the last error, or `Timeout`.
        code: Box<str>,
        /// The message of the last error.
        message: Box<str>,
        /// Whether records are aggregated by hash key. They are not if the description is unknown, too: the stream may
        /// ignore keys.
        aggregated: bool,
        /// Whether the list was refused because a permission is missing.
        denied: bool,
    },
    /// The stream was described.
    StreamDescribed {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// The maximum size of a record in bytes.
        max_record_size: usize,
        /// Whether the stream ignores keys. If so, records are not aggregated.
        auto_distribution: bool,
    },
    /// The service throttled records. Logged once per reply.
    Throttled {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// The number of Kinesis records.
        kinesis_records: usize,
    },
    /// Records were stored on other shards than predicted: the shard map is out of date. Logged once per reply.
    WrongShard {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// The number of Kinesis records.
        kinesis_records: usize,
    },
    /// Records were not stored, and are retried. Logged once per reply and error code.
    Retried {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// The error code.
        code: Box<str>,
        /// The error's message.
        message: Box<str>,
        /// The number of user records.
        user_records: usize,
    },
    /// Records failed without a retry because of the reply. Logged once per reply and error code.
    Failed {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// The error code.
        code: Box<str>,
        /// The error's message.
        message: Box<str>,
        /// The number of user records.
        user_records: usize,
    },
    /// Records failed because their `record_ttl` has passed.
    Expired {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// The number of user records.
        user_records: usize,
        /// The last error of the last of these records, as code and message; `None` if it was never sent.
        last_error: Option<Box<str>>,
    },
}

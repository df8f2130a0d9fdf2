//! What the state machine wants done.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::time::Duration;

use crate::full::ShardName;
use crate::metrics::MetricsSnapshot;
use crate::outstanding::FlushId;
use crate::record::kinesis_record::Batch;
use crate::record::result::Resolution;

/// An effect for the driver to carry out, from [`Producer::poll_action`](crate::Producer::poll_action).
#[derive(Debug)]
#[must_use = "an action that is not carried out loses records"]
pub enum Action<T> {
    /// Send these records with PutRecords, and give the batch back with the reply
    /// ([`Producer::handle_reply`](crate::Producer::handle_reply)), whatever happens.
    SendBatch(Batch<T>),
    /// Ask for one page of the stream's shards ([`Producer::handle_shards`](crate::Producer::handle_shards)).
    ListShards(ListShardsRequest),
    /// Ask for the stream's summary ([`Producer::handle_stream_summary`](crate::Producer::handle_stream_summary)).
    DescribeStream(DescribeStreamRequest),
    /// Tell the callers with these tickets what became of their records: all of one Kinesis record at once, since there
    /// may be thousands in it.
    Resolve(Resolution<T>),
    /// The shard has room again, after a put for it was refused: see [`Full::Shard`](crate::Full::Shard). Other reasons for
    /// which a put may succeed again are a resolved record and a close.
    RoomFreed(ShardName),
    /// Everything that was put before this flush is resolved.
    FlushDone(FlushId),
    /// The deadline of a close has passed: give back every batch under way now, as
    /// [`Delivery::Unanswered`](crate::Delivery::Unanswered).
    CancelRequests,
    /// Give these metrics to whoever wants them: all that was observed since the last time. Comes every
    /// `metrics_upload_interval` in which something was observed, and when the producer is drained.
    ExportMetrics(Box<MetricsSnapshot>),
    /// Write this to the operator's log.
    Log(LogEvent),
}

/// One page of ListShards to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListShardsRequest {
    /// The stream's name or ARN. With a `next_token`, the service wants neither.
    pub stream: Arc<str>,
    /// Continues an earlier page. Everything else then stays out of the request.
    pub next_token: Option<String>,
    /// Whether shards that were split or merged away are wanted too (no filter); else only open ones (`AT_LATEST`).
    pub include_closed: bool,
}

/// A DescribeStreamSummary to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DescribeStreamRequest {
    /// The stream's name or ARN.
    pub stream: Arc<str>,
}

/// Something an operator should know. Notices come per event of the stream or per reply, never per record; the driver
/// limits how often it writes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogEvent {
    /// The stream's shards are known, or known anew.
    ShardMapRefreshed {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// Shards that take records now.
        open: usize,
        /// Shards that took records before and do no more.
        closed: usize,
        /// User records that waited for a closed shard and were given to another.
        moved: usize,
    },
    /// The stream's shards, or its description, could not be had.
    RefreshFailed {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// The operation.
        operation: &'static str,
        /// The service's or the driver's error code.
        code: Box<str>,
        /// In words.
        message: Box<str>,
        /// When it is tried again; `None` if it is not.
        retry_in: Option<Duration>,
    },
    /// The stream's first records are sent without its shard list: it was refused for good, or did not come within
    /// `start_timeout`. They are aggregated by hash key at most, and the stream is paced as a whole. Logged once per stream.
    WithoutShardList {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// The code of the last error, or `Timeout`.
        code: Box<str>,
        /// The message of the last error.
        message: Box<str>,
        /// Whether records are aggregated by hash key. They are not if it is unknown whether the stream ignores keys, because its
        /// description is not known either.
        aggregated: bool,
    },
    /// The stream was described.
    StreamDescribed {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// Most bytes in a record.
        max_record_size: usize,
        /// Whether Kinesis ignores keys, so that nothing is aggregated.
        auto_distribution: bool,
    },
    /// The service throttled records.
    Throttled {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// Kinesis records of one reply.
        kinesis_records: usize,
    },
    /// Aggregates landed on other shards than predicted; the shard map is out of date.
    WrongShard {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// Kinesis records of one reply.
        kinesis_records: usize,
    },
    /// Records were not stored, and are sent again. Comes once per reply and error code.
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
    /// Records failed for good by the service's or the endpoint's answer. Comes once per reply and error code.
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
    /// Records failed because their time-to-live ran out.
    Expired {
        /// The stream's name or ARN.
        stream: Arc<str>,
        /// The number of user records.
        user_records: usize,
        /// Why the last attempt of the last of them failed, as code and message; `None` if it was never sent.
        last_error: Option<Box<str>>,
    },
}

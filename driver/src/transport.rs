//! The interface between the drive loop and a service.

use std::future::Future;

use kpl_core::{Batch, DescribeStreamRequest, ListShardsRequest, Reply, RequestError, ShardPage, StreamSummary};

/// Sends requests to the service and returns the replies. [`AwsTransport`](crate::AwsTransport) sends them to Kinesis.
///
/// Its futures may panic and may be dropped at any time: the caller keeps the records of a request.
///
/// A service that accepts all records:
///
/// ```
/// use kpl_driver::core::{
///     Batch, DescribeStreamRequest, ListShardsRequest, RecordReply, Reply, RequestError, ShardPage, StreamSummary,
/// };
/// use kpl_driver::Transport;
///
/// struct AcceptsAll;
///
/// impl Transport for AcceptsAll {
///     async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
///         let stored = |_| RecordReply::stored("shardId-000000000000", "49590338271490256608559692538361571095");
///         Reply::Records(batch.records().iter().map(stored).collect())
///     }
///
///     async fn list_shards(&self, _: &ListShardsRequest) -> Result<ShardPage, RequestError> {
///         // No shards: records wait up to `start_timeout`, then are aggregated by hash key.
///         Ok(ShardPage::default())
///     }
///
///     async fn describe_stream(&self, _: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
///         Ok(StreamSummary::default())
///     }
/// }
/// ```
pub trait Transport: Send + Sync + 'static {
    /// Sends the batch with PutRecords. Encodes it, too ([`KinesisRecord::data`](kpl_core::KinesisRecord::data)): in
    /// the request's task, outside the lock.
    ///
    /// The reply has one result for each record, in the order of the batch. If it has more or fewer, all records fail
    /// with the code `Record Count Mismatch`, as ambiguous, without a retry.
    ///
    /// If the request fails as a whole, return [`Reply::Failed`] with a [`Delivery`](kpl_core::Delivery):
    ///
    /// - [`NotSent`](kpl_core::Delivery::NotSent) if it is certain that nothing was sent. The records are retried.
    /// - [`Refused`](kpl_core::Delivery::Refused) if the service replied that it stored no record, usually with a 4xx.
    ///   The error code decides whether the records are retried.
    /// - [`Unanswered`](kpl_core::Delivery::Unanswered) in all other cases: no reply, a 5xx, or a reply that cannot be
    ///   read. The records are retried, and the attempt is ambiguous.
    fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> impl Future<Output = Reply> + Send;

    /// Requests one page of a stream's shards. An error is retried, with any [`Delivery`](kpl_core::Delivery).
    fn list_shards(&self, request: &ListShardsRequest) -> impl Future<Output = Result<ShardPage, RequestError>> + Send;

    /// Requests a stream's summary. An error is retried, unless it is [`Refused`](kpl_core::Delivery::Refused) with a
    /// permanent code, such as `AccessDeniedException`.
    fn describe_stream(
        &self,
        request: &DescribeStreamRequest,
    ) -> impl Future<Output = Result<StreamSummary, RequestError>> + Send;
}

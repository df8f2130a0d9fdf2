//! What the drive loop needs of a service.

use std::future::Future;

use kpl_core::{Batch, DescribeStreamRequest, ListShardsRequest, Reply, RequestError, ShardPage, StreamSummary};

/// Carries requests to the service and replies back. [`AwsTransport`](crate::AwsTransport) is the real one.
///
/// Its futures may panic and may be dropped at any time; the records of a request are safe with the caller.
///
/// A service that takes everything:
///
/// ```
/// use kpl_driver::core::{
///     Batch, DescribeStreamRequest, ListShardsRequest, RecordReply, Reply, RequestError, ShardPage, StreamSummary,
/// };
/// use kpl_driver::Transport;
///
/// struct TakesAll;
///
/// impl Transport for TakesAll {
///     async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
///         let stored = |_| RecordReply::stored("shardId-000000000000", "49590338271490256608559692538361571095");
///         Reply::Records(batch.records().iter().map(stored).collect())
///     }
///
///     async fn list_shards(&self, _: &ListShardsRequest) -> Result<ShardPage, RequestError> {
///         Ok(ShardPage::default()) // nothing is known of shards: records go singly
///     }
///
///     async fn describe_stream(&self, _: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
///         Ok(StreamSummary::default())
///     }
/// }
/// ```
pub trait Transport: Send + Sync + 'static {
    /// Sends the batch with PutRecords. Encoding ([`KinesisRecord::data`](kpl_core::KinesisRecord::data)) is part of
    /// it, and happens beside the drive loop, outside the lock.
    fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> impl Future<Output = Reply> + Send;

    /// Asks for one page of a stream's shards.
    fn list_shards(&self, request: &ListShardsRequest) -> impl Future<Output = Result<ShardPage, RequestError>> + Send;

    /// Asks for a stream's summary.
    fn describe_stream(
        &self,
        request: &DescribeStreamRequest,
    ) -> impl Future<Output = Result<StreamSummary, RequestError>> + Send;
}

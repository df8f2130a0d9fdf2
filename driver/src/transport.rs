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
///         Ok(ShardPage::default()) // no shards are known: records are not aggregated
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
    fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> impl Future<Output = Reply> + Send;

    /// Requests one page of a stream's shards.
    fn list_shards(&self, request: &ListShardsRequest) -> impl Future<Output = Result<ShardPage, RequestError>> + Send;

    /// Requests a stream's summary.
    fn describe_stream(
        &self,
        request: &DescribeStreamRequest,
    ) -> impl Future<Output = Result<StreamSummary, RequestError>> + Send;
}

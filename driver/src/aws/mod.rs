//! The real service, through the AWS SDK.

mod errors;
mod mapping;

use std::error::Error;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::StalledStreamProtectionConfig;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::types::{ShardFilter, ShardFilterType};
use kpl_core::{Batch, DescribeRequest, ListShardsRequest, Reply, RequestError, ShardPage, StreamSummary};

use crate::transport::Transport;

/// PutRecords, ListShards and DescribeStreamSummary of an [`aws_sdk_kinesis::Client`].
#[derive(Clone, Debug)]
pub struct AwsTransport {
    client: Client,
    never_connected: NeverConnected,
}

/// Whether an error of the HTTP client says that no connection came about.
pub(crate) type NeverConnected = fn(&(dyn Error + 'static)) -> bool;

impl AwsTransport {
    /// Takes region, endpoint, credentials and HTTP client from `client`, and sees to retries and time-outs itself.
    ///
    /// `never_connected` tells of an error of the client's HTTP client whether nothing was sent; see
    /// [`AwsRuntime::never_connected`](crate::AwsRuntime::never_connected).
    pub fn new(client: Client, request_timeout: Duration, never_connected: NeverConnected) -> Self {
        let timeouts = TimeoutConfig::builder().operation_timeout(request_timeout).build();
        let config = client
            .config()
            .to_builder()
            // A retry by the SDK would send the records again without telling anybody.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            // It fails slow links that get along; the one time-out bounds them.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        Self { client: Client::from_conf(config), never_connected }
    }
}

impl Transport for AwsTransport {
    async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
        let entries = match mapping::entries(batch) {
            Ok(entries) => entries,
            Err(error) => return Reply::Failed(error),
        };
        let (name, arn) = mapping::target(batch.stream());
        let request = self.client.put_records().set_stream_name(name).set_stream_arn(arn).set_records(Some(entries));
        match request.send().await {
            Ok(output) => Reply::Records(mapping::record_replies(output)),
            Err(error) => Reply::Failed(errors::request_error(&error, self.never_connected)),
        }
    }

    async fn list_shards(&self, request: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        let call = self.client.list_shards();
        let call = match &request.next_token {
            // The service refuses a token together with anything else.
            Some(token) => call.next_token(token),
            None => {
                let (name, arn) = mapping::target(&request.stream);
                let open = ShardFilter::builder().r#type(ShardFilterType::AtLatest).build().ok();
                let filter = if request.include_closed { None } else { open };
                call.set_stream_name(name).set_stream_arn(arn).set_shard_filter(filter)
            }
        };
        let output = call.send().await.map_err(|error| errors::request_error(&error, self.never_connected))?;
        Ok(mapping::shard_page(output))
    }

    async fn describe_stream(&self, request: &DescribeRequest) -> Result<StreamSummary, RequestError> {
        let (name, arn) = mapping::target(&request.stream);
        let call = self.client.describe_stream_summary().set_stream_name(name).set_stream_arn(arn);
        let output = call.send().await.map_err(|error| errors::request_error(&error, self.never_connected))?;
        Ok(mapping::stream_summary(&output))
    }
}

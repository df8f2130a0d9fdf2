//! The transport to Kinesis, with the AWS SDK.

mod body;
mod credentials;
pub(crate) mod errors;
mod fresh_pool;
mod late_timers;
mod mapping;
mod sent_flag;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::StalledStreamProtectionConfig;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::types::{ShardFilter, ShardFilterType};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use kpl_core::{Batch, DescribeStreamRequest, ListShardsRequest, Reply, RequestError, ShardPage, StreamSummary};

use self::body::Body;
use self::errors::NeverConnected;
use self::late_timers::LenientSleep;
use self::sent_flag::SentFlag;
use crate::runtime::AwsRuntime;
use crate::transport::Transport;

pub(crate) use self::credentials::with_containers_by_name;
pub use self::fresh_pool::fresh_pool_after_timeout;

/// Creates a client. If the config has no sleep, the client has the runtime's: without one, the SDK panics.
pub(crate) fn client<R: AwsRuntime>(sdk_config: &SdkConfig) -> Client {
    let mut config = aws_sdk_kinesis::config::Builder::from(sdk_config);
    config.set_sleep_impl(Some(sdk_config.sleep_impl().unwrap_or_else(R::sleep_impl)));
    Client::from_conf(config.build())
}

/// A transport that sends requests with an [`aws_sdk_kinesis::Client`]: PutRecords, ListShards and
/// DescribeStreamSummary.
///
/// ```no_run
/// # use kpl_driver::{AwsRuntime, AwsTransport, Producer, core::Config};
/// # fn example<R: AwsRuntime>(client: &aws_sdk_kinesis::Client) {
/// let config = Config::default();
/// let transport = AwsTransport::new::<R>(client, config.request_timeout());
/// let producer = Producer::with_transport(R::default(), transport, config); // as `Producer::new` does
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AwsTransport {
    client: Client,
    never_connected: NeverConnected,
}

impl AwsTransport {
    /// Creates a transport with the region, endpoint, credentials and HTTP client of `client`. If it has no HTTP
    /// client, the runtime's is used. Disables the client's retries and sets its timeouts.
    ///
    /// A request takes at most `request_timeout` in total, and connecting at most half of it. So a failed connection is
    /// distinguished from a missing reply. If the process stood still at the end of a timeout, the timeout ends up to 1 s
    /// later, so that a reply that has arrived is read.
    pub fn new<R: AwsRuntime>(client: &Client, request_timeout: Duration) -> Self {
        let timeouts = TimeoutConfig::builder()
            .operation_timeout(request_timeout)
            .connect_timeout(request_timeout / 2)
            // Ends requests that HTTP clients continue after the SDK has dropped them.
            .read_timeout(request_timeout)
            .build();
        let mut config = client
            .config()
            .to_builder()
            // The producer would not know of a retry by the SDK, which may store the records twice.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .sleep_impl(LenientSleep(R::sleep_impl()))
            // It fails requests on slow connections that make progress. The timeout limits these.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if client.config().http_client().is_none()
            && let Ok(http_client) = R::http_client(None)
        {
            config.set_http_client(Some(http_client));
        }
        Self { client: Client::from_conf(config.build()), never_connected: R::never_connected }
    }

    /// Returns the client, with its settings.
    #[cfg(feature = "conformance")]
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Maps the error of a request that `sent` observed.
    fn request_error<E>(&self, error: &SdkError<E, HttpResponse>, sent: &SentFlag) -> RequestError
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        errors::request_error(error, sent.is_set(), self.never_connected)
    }
}

impl Transport for AwsTransport {
    async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
        // The SDK gets no records. `Body` replaces its body by this one, which is encoded in one pass.
        let body = Body(body::put_records(batch));
        let (name, arn) = mapping::target(batch.stream());
        let call = self.client.put_records().set_stream_name(name).set_stream_arn(arn).set_records(Some(Vec::new()));
        let sent = SentFlag::default();
        match call.customize().interceptor(sent.clone()).interceptor(body).send().await {
            Ok(output) => Reply::Records(mapping::record_replies(output)),
            Err(error) => Reply::Failed(self.request_error(&error, &sent)),
        }
    }

    async fn list_shards(&self, request: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        let call = self.client.list_shards();
        let call = match &request.next_token {
            // The service refuses a token together with other parameters.
            Some(token) => call.next_token(token),
            None => {
                let (name, arn) = mapping::target(&request.stream);
                let open = ShardFilter::builder().r#type(ShardFilterType::AtLatest).build().ok();
                let filter = if request.include_closed { None } else { open };
                call.set_stream_name(name).set_stream_arn(arn).set_shard_filter(filter)
            }
        };
        let sent = SentFlag::default();
        let output = call.customize().interceptor(sent.clone()).send().await;
        output.map(mapping::shard_page).map_err(|error| self.request_error(&error, &sent))
    }

    async fn describe_stream(&self, request: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
        let (name, arn) = mapping::target(&request.stream);
        let call = self.client.describe_stream_summary().set_stream_name(name).set_stream_arn(arn);
        let sent = SentFlag::default();
        let output = call.customize().interceptor(sent.clone()).send().await;
        output.map(|output| mapping::stream_summary(&output)).map_err(|error| self.request_error(&error, &sent))
    }
}

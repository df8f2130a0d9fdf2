//! The transport to Kinesis, with the AWS SDK.

mod body;
mod credentials;
pub(crate) mod errors;
mod fresh_pool;
mod late_timers;
mod mapping;
mod reply;
mod request_trace;
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
use self::credentials::CredentialsCache;
use self::errors::NeverConnected;
use self::late_timers::LenientSleep;
use self::reply::Results;
use self::request_trace::RequestTrace;
use crate::runtime::AwsRuntime;
use crate::transport::Transport;

pub(crate) use self::credentials::with_containers_by_name;
pub use self::credentials::with_current_profile;
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
/// let runtime = R::default();
/// let transport = AwsTransport::new(&runtime, client, config.request_timeout());
/// let producer = Producer::with_transport(runtime, transport, config); // as `Producer::new` does
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AwsTransport {
    client: Client,
    credentials: CredentialsCache,
    never_connected: NeverConnected,
}

impl AwsTransport {
    /// Creates a transport with the region, endpoint, credentials and HTTP client of `client`. If it has no HTTP
    /// client, the runtime's is used. Disables the client's retries and sets its timeouts.
    ///
    /// A request takes at most `request_timeout` in total, and connecting at most half of it. So a failed connection is
    /// distinguished from a missing reply. If the process stood still at the end of a timeout, the timeout ends up to 1 s
    /// later, so that a reply that has arrived is read.
    ///
    /// Credentials are loaded in a task of `runtime`, one load at a time, for up to 60 s: `request_timeout` does not
    /// apply to them. The client's identity cache is not used.
    pub fn new<R: AwsRuntime>(runtime: &R, client: &Client, request_timeout: Duration) -> Self {
        let timeouts = TimeoutConfig::builder()
            .operation_timeout(request_timeout)
            .connect_timeout(request_timeout / 2)
            // Ends requests that HTTP clients continue after the SDK has dropped them.
            .read_timeout(request_timeout)
            .build();
        let credentials = CredentialsCache::new(runtime, client.config().time_source().unwrap_or_default());
        let mut config = client
            .config()
            .to_builder()
            // The producer would not know of a retry by the SDK, which may store the records twice.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts)
            .sleep_impl(LenientSleep(R::sleep_impl()))
            .identity_cache(credentials.clone())
            // It fails requests on slow connections that make progress. The timeout limits these.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if client.config().http_client().is_none()
            && let Ok(http_client) = R::http_client(None)
        {
            config.set_http_client(Some(http_client));
        }
        Self { client: Client::from_conf(config.build()), credentials, never_connected: R::never_connected }
    }

    /// Returns the client, with its settings.
    #[cfg(feature = "conformance")]
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Maps the error of a request. After an authentication error, the credentials are loaded again.
    fn request_error<E>(&self, error: &SdkError<E, HttpResponse>, trace: &RequestTrace) -> RequestError
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        let mut mapped = errors::request_error(error, trace.is_sent(), self.never_connected);
        if errors::is_authentication_error(&mapped.code) {
            self.credentials.refuse(trace.credentials());
        }
        if !trace.is_sent()
            && matches!(error, SdkError::TimeoutError(_))
            && let Some(time) = self.credentials.loading_time()
        {
            mapped.message = format!("credentials: still loading after {time:.0?}").into();
        }
        mapped
    }
}

impl Transport for AwsTransport {
    async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
        // The SDK gets no records. `Body` replaces its body by this one, which is encoded in one pass.
        let body = Body(body::put_records(batch));
        let (name, arn) = mapping::target(batch.stream());
        let call = self.client.put_records().set_stream_name(name).set_stream_arn(arn).set_records(Some(Vec::new()));
        let (trace, results) = (RequestTrace::default(), Results::default());
        let call = call.customize().interceptor(trace.clone()).interceptor(body).interceptor(results.clone());
        match call.send().await {
            Ok(output) => Reply::Records(results.take().unwrap_or_else(|| mapping::record_replies(output))),
            Err(error) => Reply::Failed(self.request_error(&error, &trace)),
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
        let trace = RequestTrace::default();
        let output = call.customize().interceptor(trace.clone()).send().await;
        output.map(mapping::shard_page).map_err(|error| self.request_error(&error, &trace))
    }

    async fn describe_stream(&self, request: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
        let (name, arn) = mapping::target(&request.stream);
        let call = self.client.describe_stream_summary().set_stream_name(name).set_stream_arn(arn);
        let trace = RequestTrace::default();
        let output = call.customize().interceptor(trace.clone()).send().await;
        output.map(|output| mapping::stream_summary(&output)).map_err(|error| self.request_error(&error, &trace))
    }
}

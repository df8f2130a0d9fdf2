//! AWS SDK clients for a server on this machine.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::config::{
    BehaviorVersion, Config, Credentials, Region, SharedAsyncSleep, StalledStreamProtectionConfig,
};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};

/// The region of every stand-in for Kinesis.
pub const REGION: &str = "us-east-1";

/// A client for `url`, which may be `http` or `https`; the latter trusts `ca_pem` and nothing else.
///
/// Its credentials are invented. It does not retry: a test wants to see the first answer. A call that takes 30 s
/// fails, so that a test that hangs says where. It needs a tokio runtime when it is called, not here.
///
/// ```
/// let client = kpl_suite::client::new("http://127.0.0.1:4568", None);
/// assert_eq!(client.config().region().unwrap().as_ref(), "us-east-1");
/// ```
///
/// # Panics
///
/// If `ca_pem` is no certificate.
#[must_use]
pub fn new(url: &str, ca_pem: Option<&str>) -> Client {
    // Never the machine's own roots: reading them costs 100 ms a client, and no test may depend on them.
    let mut trusted = TrustStore::empty();
    if let Some(pem) = ca_pem {
        trusted.add_pem_certificate(pem);
    }
    let tls = TlsContext::builder().with_trust_store(trusted).build().expect("a PEM certificate");
    let http_client = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(tls).build_https();
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new("AKIDTEST", "secret", None, None, "kpl-suite"))
        .endpoint_url(url)
        .http_client(http_client)
        .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
        .retry_config(RetryConfig::disabled())
        .timeout_config(TimeoutConfig::builder().operation_timeout(Duration::from_secs(30)).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .build();
    Client::from_conf(config)
}

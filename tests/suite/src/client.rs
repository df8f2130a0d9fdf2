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

/// The region of the services that replace Kinesis in tests.
pub const REGION: &str = "us-east-1";

/// Creates a client for `url`, which may be `http` or `https`. For `https`, it trusts only `ca_pem`.
///
/// Its credentials are fake. It does not retry, so that a test sees the first answer. A call fails after 30 s, so that
/// a test that hangs reports where. The client's calls need a tokio runtime; its creation does not.
///
/// ```
/// let client = kpl_suite::client::new("http://127.0.0.1:4568", None);
/// assert_eq!(client.config().region().unwrap().as_ref(), "us-east-1");
/// ```
///
/// # Panics
///
/// If `ca_pem` is not a PEM certificate.
#[must_use]
pub fn new(url: &str, ca_pem: Option<&str>) -> Client {
    // Never the machine's own roots: reading them takes 100 ms per client, and no test may depend on them.
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

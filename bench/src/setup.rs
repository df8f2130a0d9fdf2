//! What all runs share: the stream, the client, the settings, and the form of the results.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use kpl_core::{Config, ConfigBuilder};
use kpl_driver::AwsRuntime;
use serde::{Deserialize, Serialize};

use crate::subjects::held::Held;
use crate::usage::Usage;

/// The stream of every run.
pub(crate) const STREAM: &str = "bench";

/// What a child prints for its parent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) usage: Usage,
    /// Records that were stored.
    pub(crate) stored: u64,
    /// From put to receipt: median, 99 %, 99.9 %, in microseconds. With a rate only: flat out, it is the queue's length.
    pub(crate) latency: Option<[u64; 3]>,
    /// The same of requests, signing and encoding included.
    pub(crate) requests: Option<[u64; 3]>,
    /// Bytes that were outstanding at most, data and keys.
    pub(crate) outstanding: Option<u64>,
    /// What memory held of records that were held back.
    pub(crate) held: Option<Held>,
}

pub(crate) fn client<R: AwsRuntime>(url: &str) -> anyhow::Result<Client> {
    let http_client = R::http_client(None).map_err(|error| anyhow::anyhow!("{error}"))?;
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("AKIDBENCH", "secret", None, None, "bench"))
        .endpoint_url(url)
        .http_client(http_client)
        .sleep_impl(R::sleep_impl())
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    Ok(Client::from_conf(config.build()))
}

/// Defaults, but for shards that take what comes: what is measured is the producer.
pub(crate) fn config() -> ConfigBuilder {
    Config::builder().rate_limit_records_per_shard(1_000_000).rate_limit_bytes_per_shard(1 << 30)
}

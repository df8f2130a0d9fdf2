//! The stream, the client, the config, and the type of the results of all runs.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use kpl_core::{Config, ConfigBuilder};
use kpl_driver::AwsRuntime;
use serde::{Deserialize, Serialize};

use crate::subjects::held::Held;
use crate::usage::Usage;
use crate::work::Work;

/// The results that a child process prints for its parent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) usage: Usage,
    /// The number of records that were stored.
    pub(crate) stored: u64,
    /// Time from put to receipt: median, 99 %, 99.9 %, in microseconds. Only with a rate: at full speed, it depends on
    /// the queue's length.
    pub(crate) latency: Option<[u64; 3]>,
    /// Time of requests, including encoding and signing, as for `latency`; also at full speed.
    pub(crate) requests: Option<[u64; 3]>,
    /// The maximum of outstanding bytes, data and keys.
    pub(crate) outstanding: Option<u64>,
    /// The memory of outstanding records, with `--hold`.
    pub(crate) held: Option<Held>,
}

/// The emulator's address.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) url: String,
    /// The certificate authority to trust, with TLS.
    pub(crate) ca_pem: Option<String>,
}

pub(crate) fn client<R: AwsRuntime>(endpoint: &Endpoint) -> anyhow::Result<Client> {
    let http_client =
        R::http_client(endpoint.ca_pem.as_ref().map(String::as_bytes)).map_err(|error| anyhow::anyhow!("{error}"))?;
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("AKIDBENCH", "secret", None, None, "bench"))
        .endpoint_url(&endpoint.url)
        .http_client(http_client)
        .sleep_impl(R::sleep_impl())
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    Ok(Client::from_conf(config.build()))
}

/// Returns the config of a run: the defaults, with enough room, and without rate limits of shards unless they are to be
/// applied.
pub(crate) fn config(work: &Work) -> ConfigBuilder {
    // So that no put waits.
    let outstanding = work.outstanding_max() as usize + 10_000;
    let config = Config::builder()
        .aggregation_enabled(work.aggregation_enabled)
        .max_outstanding_records(outstanding.max(Config::default().max_outstanding_records()));
    if work.shard_limits {
        config
    } else {
        config.rate_limit_records_per_shard(1_000_000).rate_limit_bytes_per_shard(1 << 30)
    }
}

//! Converts `kpl.Config` into the settings of the producer and of the AWS SDK.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use kpl_core::metrics::{MetricsGranularity, MetricsLevel};
use kpl_core::{Config, ConfigError, Consumers, Ordering, RecordDistribution};
use kpl_driver::AwsRuntime;
use kpl_tokio::Tokio;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The fields of `kpl.Config`.
#[derive(FromPyObject)]
pub(crate) struct Fields {
    region: Option<String>,
    aggregation_enabled: bool,
    aggregation_max_count: usize,
    aggregation_max_size: usize,
    record_max_buffered_time_ms: f64,
    record_ttl_ms: f64,
    collection_max_count: usize,
    collection_max_size: usize,
    rate_limit_records_per_sec_per_shard: f64,
    rate_limit_bytes_per_sec_per_shard: f64,
    fail_if_throttled: bool,
    max_outstanding_records: usize,
    endpoint_url: Option<String>,
    verify_ssl: bool,
    aws_access_key_id: Option<String>,
    aws_secret_access_key: Option<String>,
    aws_session_token: Option<String>,
    metrics_upload_interval_ms: f64,
    max_outstanding_bytes: usize,
    max_in_flight_requests: usize,
    request_timeout_ms: f64,
    ordering: String,
    consumers: String,
    start_timeout_ms: f64,
    max_shard_backlog_ms: Option<f64>,
    max_record_size: Option<usize>,
    record_distribution: String,
    retry_if_denied: bool,
    profile: Option<String>,
}

fn invalid(error: &ConfigError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn milliseconds(field: &str, value: f64) -> PyResult<Duration> {
    if value.is_infinite() && value > 0.0 {
        return Ok(Duration::MAX);
    }
    Duration::try_from_secs_f64(value / 1e3)
        .map_err(|_| PyValueError::new_err(format!("{field} is {value}, but must be a number of milliseconds from 0")))
}

fn choice<T: Copy>(field: &str, value: &str, choices: &[(&str, T)]) -> PyResult<T> {
    let found = choices.iter().find(|(name, _)| *name == value);
    found.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
        PyValueError::new_err(format!("{field} is {value:?}, but must be {}", names.join(" or ")))
    })
}

fn whole(field: &str, value: f64) -> PyResult<u64> {
    if value.is_finite() && (1.0..=1e15).contains(&value) {
        return Ok(value as u64);
    }
    Err(PyValueError::new_err(format!("{field} is {value}, but must be a number from 1")))
}

impl Fields {
    /// Returns the settings of the producer.
    pub(crate) fn config(&self, level: MetricsLevel) -> PyResult<Config> {
        let config = Config::builder()
            .aggregation_enabled(self.aggregation_enabled)
            .aggregation_max_count(self.aggregation_max_count)
            .aggregation_max_size(self.aggregation_max_size)
            .record_max_buffered_time(milliseconds("record_max_buffered_time_ms", self.record_max_buffered_time_ms)?)
            .record_ttl(milliseconds("record_ttl_ms", self.record_ttl_ms)?)
            .collection_max_count(self.collection_max_count)
            .collection_max_size(self.collection_max_size)
            .rate_limit_records_per_shard(whole(
                "rate_limit_records_per_sec_per_shard",
                self.rate_limit_records_per_sec_per_shard,
            )?)
            .rate_limit_bytes_per_shard(whole(
                "rate_limit_bytes_per_sec_per_shard",
                self.rate_limit_bytes_per_sec_per_shard,
            )?)
            .fail_if_throttled(self.fail_if_throttled)
            .max_outstanding_records(self.max_outstanding_records)
            .max_outstanding_bytes(self.max_outstanding_bytes)
            .max_in_flight_requests(self.max_in_flight_requests)
            .request_timeout(milliseconds("request_timeout_ms", self.request_timeout_ms)?)
            .ordering(choice("ordering", &self.ordering, &[("none", Ordering::None), ("per-key", Ordering::PerKey)])?)
            .consumers(choice(
                "consumers",
                &self.consumers,
                &[("kcl", Consumers::Kcl), ("any-shard", Consumers::AnyShard)],
            )?)
            .start_timeout(milliseconds("start_timeout_ms", self.start_timeout_ms)?)
            .max_shard_backlog(
                self.max_shard_backlog_ms.map(|value| milliseconds("max_shard_backlog_ms", value)).transpose()?,
            )
            .max_record_size(self.max_record_size)
            .record_distribution(choice(
                "record_distribution",
                &self.record_distribution,
                &[
                    ("detect", RecordDistribution::Detect),
                    ("by-key", RecordDistribution::ByKey),
                    ("auto", RecordDistribution::Auto),
                ],
            )?)
            .retry_if_denied(self.retry_if_denied)
            .metrics_level(level)
            // As in aiokpl, a summary has no shards.
            .metrics_granularity(match level {
                MetricsLevel::Detailed => MetricsGranularity::Shard,
                _ => MetricsGranularity::Stream,
            })
            .metrics_upload_interval(milliseconds("metrics_upload_interval_ms", self.metrics_upload_interval_ms)?);
        config.build().map_err(|error| invalid(&error))
    }

    /// Loads the settings of the AWS SDK: those that are set, and for the others its default chain. May need requests.
    pub(crate) async fn sdk_config(&self) -> PyResult<SdkConfig> {
        let http_client = if self.verify_ssl {
            let ca_pem = std::env::var("AWS_CA_BUNDLE").ok().filter(|path| !path.is_empty()).map(std::fs::read);
            let ca_pem =
                ca_pem.transpose().map_err(|error| PyValueError::new_err(format!("AWS_CA_BUNDLE: {error}")))?;
            Tokio::http_client(ca_pem.as_deref()).map_err(|error| PyValueError::new_err(error.to_string()))?
        } else {
            kpl_tokio::http_client::dangerous_without_certificate_verification()
        };
        let mut loader =
            aws_config::defaults(BehaviorVersion::latest()).http_client(http_client).sleep_impl(Tokio::sleep_impl());
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(url) = &self.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        let keys = self.aws_access_key_id.as_ref().zip(self.aws_secret_access_key.as_ref());
        if let Some((id, secret)) = keys {
            let token = self.aws_session_token.clone();
            loader = loader.credentials_provider(Credentials::new(id, secret, token, None, "kpl.Config"));
        }
        let config = loader.load().await;
        if config.region().is_none_or(|region| region.as_ref().is_empty()) {
            return Err(PyValueError::new_err(
                "no AWS region is set: set region, AWS_REGION, or region in the profile",
            ));
        }
        Ok(if keys.is_some() { config } else { kpl_tokio::with_current_profile(config, self.profile.as_deref()) })
    }
}

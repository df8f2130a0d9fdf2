//! The producer's metrics for the progress, the summary, and Prometheus.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use kpl_core::Config;
use kpl_tokio::Producer;
use kpl_tokio::metrics::{Metric, MetricsFacadeSink, MetricsGranularity, MetricsLevel, MetricsReport};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use metrics_util::MetricKindMask;

use crate::exit;

/// The interval at which the metrics are exported.
const EXPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The time after which a gauge that was not set is dropped.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The upper bounds of the latency buckets, in seconds.
const BUCKETS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Parses the address at which metrics are served: a port on loopback, or an IP address with a port.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<u16>().map(|port| (Ipv4Addr::LOCALHOST, port).into());
    let address = address.or_else(|_| text.parse::<SocketAddr>());
    let address = address.ok().filter(|address| address.port() > 0);
    address.ok_or_else(|| {
        "it is neither a port from 1 to 65535, nor an IP address with a port such as 0.0.0.0:9400".into()
    })
}

/// Returns the config with all metrics enabled: per shard if they are served, otherwise global.
pub(super) fn enable(config: &Config, are_served: bool) -> anyhow::Result<Config> {
    let granularity = if are_served { MetricsGranularity::Shard } else { MetricsGranularity::Global };
    let builder = config.to_builder().metrics_level(MetricsLevel::Detailed).metrics_granularity(granularity);
    Ok(builder.metrics_upload_interval(EXPORT_INTERVAL).build()?)
}

/// Serves Prometheus text until the process ends.
pub(super) fn serve(producer: &Producer, address: SocketAddr) -> anyhow::Result<()> {
    PrometheusBuilder::new()
        .with_http_listener(address)
        // Gauges of files that are gone are not set any more. Those of the producer are, with each export.
        .idle_timeout(MetricKindMask::GAUGE, Some(IDLE_TIMEOUT))
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)?
        .install()
        .with_context(|| format!("cannot serve metrics on {address} (--metrics-port)"))?;
    producer.export_metrics_to(MetricsFacadeSink::new());
    exit::print_message(&format!("metrics are at http://{address}/metrics"));
    Ok(())
}

/// The counts of the progress and the summary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) kinesis_records: u64,
    pub(super) requests: u64,
    pub(super) retries: u64,
    pub(super) throttled: u64,
}

impl Counts {
    pub(super) fn new(metrics: &MetricsReport) -> Self {
        let sum = |metric| metrics.global(metric).sum as u64;
        let ended = metrics.global(Metric::UserRecordsPut);
        Self {
            succeeded: ended.sum as u64,
            failed: ended.count - ended.sum as u64,
            kinesis_records: sum(Metric::KinesisRecordsPut),
            requests: metrics.global(Metric::RequestTime).count,
            retries: sum(Metric::RetriesPerRecord),
            throttled: metrics.errors("ProvisionedThroughputExceededException").count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_metrics() {
        for (text, address) in [
            ("9400", "127.0.0.1:9400"),
            ("0.0.0.0:9400", "0.0.0.0:9400"),
            ("[::1]:1", "[::1]:1"),
            ("65535", "127.0.0.1:65535"),
        ] {
            assert_eq!(parse_address(text), Ok(address.parse().unwrap()));
        }
        for text in ["", "0", "65536", "-1", "0.0.0.0", "0.0.0.0:0", "localhost:9400", ":9400", "::1"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}

//! The sink for DogStatsD, the protocol of the Datadog agent, over UDP.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cadence::prelude::*;
use cadence::{BufferedUdpMetricSink, MetricBuilder, StatsdClient};
use kpl_core::metrics::{Metric, MetricsReport};

use super::counters::{self, COUNTERS};
use super::finest::{FinestDatum, finest_data, finest_latencies, pending_changes};
use super::sampling::seconds;
use super::{BoxFuture, MetricsSink, SinkError, stream_name};

/// The maximum size of a datagram in bytes, as in Datadog's clients for UDP (`OptimalUDPPayloadSize` of datadog-go): it
/// fits an MTU of 1,500. The agent reads up to 8,192 (`dogstatsd_buffer_size`).
const DATAGRAM_MAX: usize = 1_432;

/// The interval of DNS lookups, if the agent's host is a name.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(60);

/// Sends metrics to a Datadog agent, or another DogStatsD server, over UDP. UDP does not block and does not report
/// whether a server listens.
///
/// ```no_run
/// # fn example<R: kpl_driver::Runtime>(producer: kpl_driver::Producer<R>) -> std::io::Result<()> {
/// producer.export_metrics_to(kpl_driver::metrics::DogStatsdSink::from_env()?);
/// # Ok(()) }
/// ```
///
/// The names follow the prefix `kinesis_producer.`, which [`prefix`](DogStatsdBuilder::prefix) changes:
///
/// | metric of the KPL | name | type | unit | tags |
/// |---|---|---|---|---|
/// | `UserRecordsReceived` (detailed) | `user_records.received` | count | record | `stream` |
/// | `UserRecordsPut` | `user_records.put` | count | record | `stream`, `shard` |
/// | `UserRecordsPut`, those with value 0 | `user_records.failed` | count | record | `stream`, `shard` |
/// | `UserRecordsDataPut` (detailed) | `user_records.data_put_bytes` | count | byte | `stream`, `shard` |
/// | `UserRecordExpired` | `user_records.expired` | count | record | `stream`, `shard` |
/// | `RetriesPerRecord` (detailed) | `user_records.retries` | count | attempt | `stream`, `shard` |
/// | `BufferingTime`, its count | `user_records.attempts` | count | attempt | `stream`, `shard` |
/// | `BufferingTime`, its sum | `user_records.waiting_time_microseconds` | count | microsecond | `stream`, `shard` |
/// | `UserRecordsPerKinesisRecord`, its sum (detailed) | `user_records.sent` | count | record | `stream`, `shard` |
/// | `UserRecordsPerKinesisRecord`, its count (detailed) | `kinesis_records.sent` | count | record | `stream`, `shard` |
/// | `KinesisRecordsPut` | `kinesis_records.put` | count | record | `stream`, `shard` |
/// | `KinesisRecordsPut`, those with value 0 | `kinesis_records.refused` | count | record | `stream`, `shard` |
/// | `KinesisRecordsDataPut` (detailed) | `kinesis_records.data_put_bytes` | count | byte | `stream`, `shard` |
/// | `ErrorsByCode`, whose sum is `AllErrors` | `errors` | count | error | `stream`, `shard`, `error_code` |
/// | `RequestTime`, its count (detailed) | `requests` | count | request | `stream` |
/// | `RequestTime`, its sum (detailed) | `request_time_microseconds` | count | microsecond | `stream` |
/// | `RequestTime`, its maximum in the last report (detailed) | `request_time_max_seconds` | gauge | second | `stream` |
/// | `UserRecordsReceived` minus resolved user records (detailed) | `user_records.pending` | gauge | record | `stream` |
/// | latencies: put to acknowledgement | `put_to_ack_seconds` | distribution | second | `stream` |
/// | latencies: buffering | `buffering_seconds` | distribution | second | `stream` |
///
/// `KinesisRecordsPerPutRecordsRequest` is `kinesis_records.sent` divided by `requests`, and
/// `UserRecordsPerPutRecordsRequest` is `user_records.sent` divided by `requests`.
///
/// Each observation counts once, at the finest granularity of the config, because Datadog adds over tags. Observations
/// without a shard, such as a failed request, have no tag `shard`.
///
/// Distributions are complete: a bucket of the producer's histogram is one value with the count as its sample rate. So
/// percentiles over all hosts are accurate to 1/16, like the producer's own.
///
/// Several metrics share a datagram of up to 1,432 bytes. Datagrams that do not fit the socket buffer, or reach no
/// agent, are lost. A report with thousands of shards is a burst that may exceed the capacity of an agent. With
/// `metrics_granularity` stream, it is a few datagrams.
#[derive(Debug)]
pub struct DogStatsdSink {
    client: StatsdClient,
    /// The number of outstanding user records per stream, summed here because the protocol has no changes of a gauge.
    pending: Mutex<HashMap<Option<Arc<str>>, i64>>,
}

/// The settings of a [`DogStatsdSink`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DogStatsdBuilder {
    host: String,
    port: u16,
    prefix: String,
    tags: Vec<(String, String)>,
}

impl Default for DogStatsdBuilder {
    /// Returns the defaults: 127.0.0.1:8125, the prefix `kinesis_producer`, and no tags.
    fn default() -> Self {
        let prefix = "kinesis_producer".to_owned();
        Self { host: "127.0.0.1".to_owned(), port: 8_125, prefix, tags: Vec::new() }
    }
}

impl DogStatsdBuilder {
    /// Reads the environment: host and port from `DD_AGENT_HOST` and `DD_DOGSTATSD_PORT`, and the tags `env`, `service`
    /// and `version` from `DD_ENV`, `DD_SERVICE` and `DD_VERSION`.
    ///
    /// # Errors
    ///
    /// If `DD_DOGSTATSD_PORT` is not a port.
    pub fn from_env() -> io::Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> io::Result<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut builder = Self::default();
        if let Some(host) = variable("DD_AGENT_HOST") {
            builder = builder.host(host);
        }
        if let Some(port) = variable("DD_DOGSTATSD_PORT") {
            let invalid_port = |_| invalid(format!("DD_DOGSTATSD_PORT is {port:?}, which is not a port"));
            builder = builder.port(port.parse().map_err(invalid_port)?);
        }
        for (name, tag) in [("DD_ENV", "env"), ("DD_SERVICE", "service"), ("DD_VERSION", "version")] {
            if let Some(value) = variable(name) {
                builder = builder.tag(tag, value);
            }
        }
        Ok(builder)
    }

    /// Sets the host of the agent: a name or an IP address.
    #[must_use]
    pub fn host(self, host: impl Into<String>) -> Self {
        Self { host: host.into(), ..self }
    }

    /// Sets the port of the agent.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Sets the prefix of the names, without the dot that follows it.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// Adds a tag to every metric.
    #[must_use]
    pub fn tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.push((name.into(), value.into()));
        self
    }

    /// Creates the sink. If the host is a name, this blocks for a DNS lookup; later lookups take place once per minute
    /// in a separate thread.
    ///
    /// # Errors
    ///
    /// If the host has no address, or a socket cannot be opened.
    pub fn build(self) -> io::Result<DogStatsdSink> {
        let agent = (self.host.clone(), self.port);
        let first = agent.to_socket_addrs()?.next();
        let first = first.ok_or_else(|| invalid(format!("{} has no address", self.host)))?;
        let any: SocketAddr = match first {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        let sink = BufferedUdpMetricSink::builder().with_capacity(DATAGRAM_MAX);
        let sink = match self.host.parse::<IpAddr>() {
            Ok(_) => sink.build(first, socket),
            Err(_) => sink.with_resolver_period(LOOK_UP_INTERVAL).build(agent, socket),
        };
        let mut client = StatsdClient::builder(&self.prefix, sink.map_err(io::Error::other)?);
        for (name, value) in &self.tags {
            client = client.with_tag(clean(name), clean(value));
        }
        Ok(DogStatsdSink { client: client.build(), pending: Mutex::default() })
    }
}

impl DogStatsdSink {
    /// Creates a sink from the environment: see [`DogStatsdBuilder::from_env`].
    ///
    /// # Errors
    ///
    /// Those of [`DogStatsdBuilder::from_env`] and [`DogStatsdBuilder::build`].
    pub fn from_env() -> io::Result<Self> {
        DogStatsdBuilder::from_env()?.build()
    }

    /// Returns a builder for host, port, prefix and tags.
    pub fn builder() -> DogStatsdBuilder {
        DogStatsdBuilder::default()
    }

    fn count(&self, finest: &FinestDatum<'_>) {
        let (stream, shard) = (finest.stream.map(stream_tag), finest.shard.map(clean));
        let code = finest.error_code.map(clean);
        let tags = [("stream", &stream), ("shard", &shard), ("error_code", &code)];
        for spec in COUNTERS.iter().filter(|spec| spec.metric == finest.metric) {
            let name = format!("{}{}", spec.name, spec.suffix());
            send(self.client.count_with_tags(&name, spec.integer(&finest.statistics)), &tags);
        }
        if finest.metric == Metric::RequestTime {
            let name = format!("{}_seconds", counters::REQUEST_TIME_MAX);
            send(self.client.gauge_with_tags(&name, finest.statistics.max / 1e3), &tags);
        }
    }

    fn export_report(&self, report: &MetricsReport) {
        let finest_data = finest_data(report);
        finest_data.iter().for_each(|finest| self.count(finest));
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for (stream, change) in pending_changes(&finest_data) {
            let pending = pending.entry(stream.cloned()).or_default();
            *pending += change;
            // It is negative only if the sink was added after the first put.
            let value = u64::try_from(*pending).unwrap_or(0);
            send(self.client.gauge_with_tags(counters::PENDING, value), &[("stream", &stream.map(stream_tag))]);
        }
        drop(pending);
        for latency in finest_latencies(report) {
            let stream = latency.stream.as_ref().map(stream_tag);
            self.send_distribution(counters::PUT_TO_ACK, &stream, &latency.put_to_ack);
            self.send_distribution(counters::BUFFERING, &stream, &latency.buffering);
        }
        // An error here would repeat the whole report, including the part that was sent.
        if let Err(error) = self.client.flush() {
            tracing::debug!("metrics were not sent: {error}");
        }
    }

    fn send_distribution(&self, name: &str, stream: &Option<String>, histogram: &super::Histogram) {
        let name = format!("{name}_seconds");
        for (seconds, count) in seconds(histogram) {
            let metric = self.client.distribution_with_tags(&name, seconds);
            send(
                if count == 1 { metric } else { metric.with_sampling_rate(sample_rate(count)) },
                &[("stream", stream)],
            );
        }
    }
}

impl MetricsSink for DogStatsdSink {
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async {
            self.export_report(report);
            Ok(())
        })
    }

    fn name(&self) -> &str {
        "DogStatsD"
    }
}

/// Returns the sample rate that the agent converts to `count`. The agent truncates 1 / rate to an integer, so the rate
/// is slightly too small.
fn sample_rate(count: u64) -> f64 {
    1.0 / (count as f64 * (1.0 + 1e-12))
}

fn send<'m, T>(metric: MetricBuilder<'m, '_, T>, tags: &[(&'m str, &'m Option<String>)])
where
    T: cadence::Metric + From<String>,
{
    let tags = tags.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    // Metrics that the socket does not accept now are lost.
    let _ = tags.fold(metric, |metric, (name, value)| metric.with_tag(name, value)).try_send();
}

/// Replaces the characters with a meaning in the protocol.
fn clean(text: impl AsRef<str>) -> String {
    text.as_ref().replace(['|', ',', '#', '\n', '\r'], "_")
}

fn stream_tag(stream: impl AsRef<str>) -> String {
    clean(stream_name(stream.as_ref()))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> io::Result<DogStatsdBuilder> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        DogStatsdBuilder::from_variables(|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn host_port_and_tags_come_from_the_environment() {
        assert_eq!(from(&[]).unwrap(), DogStatsdBuilder::default());
        let builder =
            from(&[("DD_AGENT_HOST", "10.0.0.7"), ("DD_DOGSTATSD_PORT", "18125"), ("DD_ENV", "prod")]).unwrap();
        let expected = DogStatsdSink::builder().host("10.0.0.7").port(18_125).tag("env", "prod");
        assert_eq!(builder, expected);
        assert_eq!(from(&[("DD_AGENT_HOST", ""), ("DD_DOGSTATSD_PORT", "")]).unwrap(), DogStatsdBuilder::default());
        let error = from(&[("DD_DOGSTATSD_PORT", "statsd")]).unwrap_err();
        assert_eq!(error.to_string(), "DD_DOGSTATSD_PORT is \"statsd\", which is not a port");
    }

    #[test]
    fn the_agent_computes_the_exact_count_from_the_sample_rate() {
        // The agent parses a decimal number and truncates 1 / rate.
        for count in (2..5_000).chain([99_999, 1_000_003, 123_456_789]) {
            let rate: f64 = sample_rate(count).to_string().parse().unwrap();
            assert_eq!((1.0 / rate) as u64, count);
        }
    }

    #[test]
    fn tags_have_no_characters_of_the_protocol() {
        assert_eq!(clean("Some|Code,\nof #1"), "Some_Code__of _1");
    }

    #[test]
    fn a_host_without_an_address_is_an_error() {
        DogStatsdSink::builder().host("not a host").build().unwrap_err();
    }
}

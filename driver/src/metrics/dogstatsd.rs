//! DogStatsD, the protocol of the Datadog agent, over UDP.

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

/// Bytes of a datagram: what Datadog's own clients take for UDP (`OptimalUDPPayloadSize` of datadog-go), since it fits an
/// MTU of 1,500. The agent reads up to 8,192 (`dogstatsd_buffer_size`).
const DATAGRAM_MAX: usize = 1_432;

/// How often the agent's name, if it is not an address, is looked up again.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(60);

/// Sends metrics to a Datadog agent, or whatever understands DogStatsD: by UDP, which neither waits nor knows whether
/// somebody listens.
///
/// ```no_run
/// # fn example<R: kpl_driver::Runtime>(producer: kpl_driver::Producer<R>) -> std::io::Result<()> {
/// producer.export_metrics_to(kpl_driver::metrics::DogStatsdSink::from_env()?);
/// # Ok(()) }
/// ```
///
/// What each metric is called, all of them with `kinesis_producer.` before, unless there is another
/// [`prefix`](DogStatsdBuilder::prefix):
///
/// | metric of the KPL | name | type | unit | tags |
/// |---|---|---|---|---|
/// | `UserRecordsReceived` (detailed) | `user_records.received` | count | record | `stream` |
/// | `UserRecordsPut` | `user_records.put` | count | record | `stream`, `shard` |
/// | `UserRecordsPut`, those that are 0 | `user_records.failed` | count | record | `stream`, `shard` |
/// | `UserRecordsDataPut` (detailed) | `user_records.data_put_bytes` | count | byte | `stream`, `shard` |
/// | `UserRecordExpired` | `user_records.expired` | count | record | `stream`, `shard` |
/// | `RetriesPerRecord` (detailed) | `user_records.retries` | count | attempt | `stream`, `shard` |
/// | `BufferingTime`, its count | `user_records.attempts` | count | attempt | `stream`, `shard` |
/// | `BufferingTime`, its sum | `user_records.waiting_time_microseconds` | count | microsecond | `stream`, `shard` |
/// | `UserRecordsPerKinesisRecord`, its sum (detailed) | `user_records.sent` | count | record | `stream`, `shard` |
/// | `UserRecordsPerKinesisRecord`, its count (detailed) | `kinesis_records.sent` | count | record | `stream`, `shard` |
/// | `KinesisRecordsPut` | `kinesis_records.put` | count | record | `stream`, `shard` |
/// | `KinesisRecordsPut`, those that are 0 | `kinesis_records.refused` | count | record | `stream`, `shard` |
/// | `KinesisRecordsDataPut` (detailed) | `kinesis_records.data_put_bytes` | count | byte | `stream`, `shard` |
/// | `ErrorsByCode`, which add up to `AllErrors` | `errors` | count | error | `stream`, `shard`, `error_code` |
/// | `RequestTime`, its count (detailed) | `requests` | count | request | `stream` |
/// | `RequestTime`, its sum (detailed) | `request_time_microseconds` | count | microsecond | `stream` |
/// | `RequestTime`, its maximum in the last report (detailed) | `request_time_max_seconds` | gauge | second | `stream` |
/// | `UserRecordsReceived` less those that ended (detailed) | `user_records.pending` | gauge | record | `stream` |
/// | latencies: put to acknowledgement | `put_to_ack_seconds` | distribution | second | `stream` |
/// | latencies: buffering | `buffering_seconds` | distribution | second | `stream` |
///
/// `KinesisRecordsPerPutRecordsRequest` is `kinesis_records.sent` by `requests`, and
/// `UserRecordsPerPutRecordsRequest` is `user_records.sent` by `requests`.
///
/// Each observation counts once, at the finest granularity that the config has: Datadog adds up over tags. What belongs to
/// no shard, a request that failed as a whole for instance, has no tag `shard`.
///
/// Distributions are complete: a bucket of the producer's histogram is one value whose sample rate says how often it
/// occurred, so that percentiles over all hosts are right, within the sixteenth that the producer's own are.
///
/// Several metrics share a datagram of up to 1,432 bytes. What does not fit the socket, or reaches no agent, is lost. A
/// report of thousands of shards is a burst that an agent may not take in whole: with `metrics_granularity` stream, it is a
/// few datagrams.
#[derive(Debug)]
pub struct DogStatsdSink {
    client: StatsdClient,
    /// User records pending by stream: the protocol has no changes of a gauge.
    pending: Mutex<HashMap<Option<Arc<str>>, i64>>,
}

/// How a [`DogStatsdSink`] is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DogStatsdBuilder {
    host: String,
    port: u16,
    prefix: String,
    tags: Vec<(String, String)>,
}

impl Default for DogStatsdBuilder {
    /// To 127.0.0.1:8125, with the prefix `kinesis_producer` and no tags.
    fn default() -> Self {
        let prefix = "kinesis_producer".to_owned();
        Self { host: "127.0.0.1".to_owned(), port: 8_125, prefix, tags: Vec::new() }
    }
}

impl DogStatsdBuilder {
    /// By the environment: `DD_AGENT_HOST` and `DD_DOGSTATSD_PORT`, and `DD_ENV`, `DD_SERVICE` and `DD_VERSION` as tags.
    ///
    /// # Errors
    ///
    /// If `DD_DOGSTATSD_PORT` is not a port.
    pub fn from_env() -> io::Result<Self> {
        Self::by(|name| std::env::var(name).ok())
    }

    fn by(variable: impl Fn(&str) -> Option<String>) -> io::Result<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let mut builder = Self::default();
        if let Some(host) = variable("DD_AGENT_HOST") {
            builder = builder.host(host);
        }
        if let Some(port) = variable("DD_DOGSTATSD_PORT") {
            let no_port = |_| invalid(format!("DD_DOGSTATSD_PORT is {port:?}, which is not a port"));
            builder = builder.port(port.parse().map_err(no_port)?);
        }
        for (name, tag) in [("DD_ENV", "env"), ("DD_SERVICE", "service"), ("DD_VERSION", "version")] {
            if let Some(value) = variable(name) {
                builder = builder.tag(tag, value);
            }
        }
        Ok(builder)
    }

    /// Where the agent is: a name or an address.
    #[must_use]
    pub fn host(self, host: impl Into<String>) -> Self {
        Self { host: host.into(), ..self }
    }

    /// On which port it listens.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// What names begin with, a dot following.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..self }
    }

    /// A tag of every metric.
    #[must_use]
    pub fn tag(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.push((name.into(), value.into()));
        self
    }

    /// Makes the sink. A name is looked up here, waiting for it, and later once a minute in a thread of its own.
    ///
    /// # Errors
    ///
    /// If the host has no address, or there is no socket to be had.
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
    /// As the environment says: see [`DogStatsdBuilder::from_env`].
    ///
    /// # Errors
    ///
    /// Those of [`DogStatsdBuilder::from_env`] and [`DogStatsdBuilder::build`].
    pub fn from_env() -> io::Result<Self> {
        DogStatsdBuilder::from_env()?.build()
    }

    /// To set host, port, prefix and tags.
    pub fn builder() -> DogStatsdBuilder {
        DogStatsdBuilder::default()
    }

    fn count(&self, finest: &FinestDatum<'_>) {
        let (stream, shard) = (finest.stream.map(name_of), finest.shard.map(clean));
        let code = finest.error_code.map(clean);
        let tags = [("stream", &stream), ("shard", &shard), ("error_code", &code)];
        for spec in COUNTERS.iter().filter(|spec| spec.metric == finest.metric) {
            let name = format!("{}{}", spec.name, spec.suffix());
            send(self.client.count_with_tags(&name, spec.whole(&finest.statistics)), &tags);
        }
        if finest.metric == Metric::RequestTime {
            let name = format!("{}_seconds", counters::REQUEST_TIME_MAX);
            send(self.client.gauge_with_tags(&name, finest.statistics.max / 1e3), &tags);
        }
    }

    fn tell(&self, report: &MetricsReport) {
        let finest_data = finest_data(report);
        finest_data.iter().for_each(|finest| self.count(finest));
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for (stream, change) in pending_changes(&finest_data) {
            let pending = pending.entry(stream.cloned()).or_default();
            *pending += change;
            // Below 0 only if the sink was added after the first put.
            let value = u64::try_from(*pending).unwrap_or(0);
            send(self.client.gauge_with_tags(counters::PENDING, value), &[("stream", &stream.map(name_of))]);
        }
        drop(pending);
        for latency in finest_latencies(report) {
            let stream = latency.stream.as_ref().map(name_of);
            self.distribute(counters::PUT_TO_ACK, &stream, &latency.put_to_ack);
            self.distribute(counters::BUFFERING, &stream, &latency.buffering);
        }
        // UDP promises nothing, and what has been sent must not be sent again.
        if let Err(error) = self.client.flush() {
            tracing::debug!("metrics were not sent: {error}");
        }
    }

    fn distribute(&self, name: &str, stream: &Option<String>, histogram: &super::Histogram) {
        let name = format!("{name}_seconds");
        for (seconds, times) in seconds(histogram) {
            let metric = self.client.distribution_with_tags(&name, seconds);
            send(if times == 1 { metric } else { metric.with_sampling_rate(rate(times)) }, &[("stream", stream)]);
        }
    }
}

impl MetricsSink for DogStatsdSink {
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async {
            self.tell(report);
            Ok(())
        })
    }

    fn name(&self) -> &str {
        "DogStatsD"
    }
}

/// The sample rate of which the agent makes `times`: it cuts off what 1 by the rate has behind the point.
fn rate(times: u64) -> f64 {
    1.0 / (times as f64 * (1.0 + 1e-12))
}

fn send<'m, T>(metric: MetricBuilder<'m, '_, T>, tags: &[(&'m str, &'m Option<String>)])
where
    T: cadence::Metric + From<String>,
{
    let tags = tags.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    // What the socket does not take now is lost.
    let _ = tags.fold(metric, |metric, (name, value)| metric.with_tag(name, value)).try_send();
}

/// A tag without what the protocol gives a meaning.
fn clean(text: impl AsRef<str>) -> String {
    text.as_ref().replace(['|', ',', '#', '\n', '\r'], "_")
}

fn name_of(stream: impl AsRef<str>) -> String {
    clean(stream_name(stream.as_ref()))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(variables: &[(&str, &str)]) -> io::Result<DogStatsdBuilder> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        DogStatsdBuilder::by(|name| variables.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn the_environment_says_where_the_agent_is() {
        assert_eq!(by(&[]).unwrap(), DogStatsdBuilder::default());
        let told = by(&[("DD_AGENT_HOST", "10.0.0.7"), ("DD_DOGSTATSD_PORT", "18125"), ("DD_ENV", "prod")]).unwrap();
        let wanted = DogStatsdSink::builder().host("10.0.0.7").port(18_125).tag("env", "prod");
        assert_eq!(told, wanted);
        assert_eq!(by(&[("DD_AGENT_HOST", ""), ("DD_DOGSTATSD_PORT", "")]).unwrap(), DogStatsdBuilder::default());
        let error = by(&[("DD_DOGSTATSD_PORT", "statsd")]).unwrap_err();
        assert_eq!(error.to_string(), "DD_DOGSTATSD_PORT is \"statsd\", which is not a port");
    }

    #[test]
    fn a_sample_rate_says_exactly_how_often() {
        // As the agent reads it: a decimal number, 1 by which is cut off.
        for times in (2..5_000).chain([99_999, 1_000_003, 123_456_789]) {
            let told: f64 = rate(times).to_string().parse().unwrap();
            assert_eq!((1.0 / told) as u64, times);
        }
    }

    #[test]
    fn tags_have_nothing_of_the_protocol() {
        assert_eq!(clean("Some|Code,\nof #1"), "Some_Code__of _1");
    }

    #[test]
    fn a_host_without_an_address_is_told() {
        DogStatsdSink::builder().host("not a host").build().unwrap_err();
    }
}

//! Metrics to Amazon CloudWatch, as the C++ KPL sends them.

mod dimensions;

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::error::ProvideErrorMetadata;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{MetricDatum, StandardUnit, StatisticSet};
use kpl_core::Instant;
use kpl_core::metrics::{Datum, MetricsGranularity, MetricsReport, Unit};

use self::dimensions::Dimensions;
use super::{BoxFuture, MetricsSink, Progress, SinkError, one_line};
use crate::runtime::AwsRuntime;

/// The KPL's.
const NAMESPACE: &str = "KinesisProducerLibrary";

/// Of a namespace, by the API reference of PutMetricData.
const NAMESPACE_CHARS_MAX: usize = 255;

/// Of a call of PutMetricData, by its API reference.
const DATA_MAX: usize = 1_000;

/// Of a call of PutMetricData, before it is compressed; the API reference says "1 MB", and this is less in any case.
const BYTES_MAX: usize = 1_000_000;

/// More than what all that is fixed in a call takes, in CBOR, and in a datum, and in a dimension.
const BYTES_OF_CALL: usize = 512;
const BYTES_OF_DATUM: usize = 256;
const BYTES_OF_DIMENSION: usize = 32;

/// Sends metrics to Amazon CloudWatch, by `PutMetricData`, with the names, units and dimensions of the C++ KPL: its
/// dashboards and alarms go on working.
///
/// - Each datum of a report is a statistic set (`SampleCount`, `Sum`, `Minimum`, `Maximum`) with its unit (`Count`, `Bytes`
///   or `Milliseconds`) and the time at which the report ends. What was not observed is not sent. Latency histograms are
///   not sent; `BufferingTime` and `RequestTime` are.
/// - The namespace is `KinesisProducerLibrary`, unless [`namespace`](Self::namespace) says otherwise.
/// - The dimensions are, in this order: `ErrorCode` (of `ErrorsByCode`), `StreamName`, `ShardId`, as far as
///   `metrics_granularity` goes. A stream that is put to by ARN goes by the name in it. `ErrorsByCode` without a code is
///   there for all streams together, not by stream: `AllErrors` is. [`dimension`](Self::dimension) adds others.
/// - A call has at most 1,000 data and 1 MB before compression; what is more goes out in further calls. The SDK compresses
///   calls of more than 10 KB.
/// - What CloudWatch has confirmed is not sent again when the rest of its report is. A call whose answer was lost is: so
///   it may count twice.
/// - Calls are retried by the SDK as its config says; a report has 10 s, retries included, and is offered again.
///
/// The limits are those of the API references of `PutMetricData` and `Dimension`. It takes the permission
/// `cloudwatch:PutMetricData`. CloudWatch bills by metric, which is name and dimensions: every shard has up to nine, and every
/// error code one in each shard. `metrics_granularity` bounds that.
///
/// ```no_run
/// # fn example<R: kpl_driver::AwsRuntime>(
/// #     sdk_config: &aws_config::SdkConfig,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// use kpl_driver::core::Config;
/// use kpl_driver::metrics::{CloudWatchSink, MetricsGranularity, MetricsLevel};
///
/// let config = Config::builder().metrics_level(MetricsLevel::Detailed).build()?;
/// let producer = kpl_driver::Producer::<R>::from_sdk_config(sdk_config, config); // a driver says what R is
/// let sink = CloudWatchSink::from_sdk_config::<R>(sdk_config)
///     .namespace("Orders/Kinesis")?
///     .dimension("Service", "orders", MetricsGranularity::Global)?;
/// producer.export_metrics_to(sink);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct CloudWatchSink {
    client: Client,
    namespace: String,
    dimensions: Dimensions,
    progress: Progress,
}

/// A setting that CloudWatch would refuse with every call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CloudWatch: {field} is {value:?}, but must {limit}")]
#[non_exhaustive]
pub struct CloudWatchSettingError {
    /// What was set.
    pub field: &'static str,
    /// What it was set to, cut after 200 characters.
    pub value: String,
    /// What it must be.
    pub limit: &'static str,
}

impl CloudWatchSettingError {
    fn new(field: &'static str, value: &str, limit: &'static str) -> Self {
        Self { field, value: value.chars().take(200).collect(), limit }
    }
}

impl CloudWatchSink {
    /// A sink over a client of the AWS SDK, as it is.
    pub fn new(client: Client) -> Self {
        let (dimensions, progress) = (Dimensions::default(), Progress::default());
        Self { client, namespace: NAMESPACE.into(), dimensions, progress }
    }

    /// A sink by an SDK config, the producer's for instance. Where it has no sleep, or no HTTP client, the runtime's is
    /// taken.
    pub fn from_sdk_config<R: AwsRuntime>(sdk_config: &SdkConfig) -> Self {
        let mut config = aws_sdk_cloudwatch::config::Builder::from(sdk_config);
        config.set_sleep_impl(Some(sdk_config.sleep_impl().unwrap_or_else(R::sleep_impl)));
        if sdk_config.http_client().is_none()
            && let Ok(http_client) = R::http_client(None)
        {
            config.set_http_client(Some(http_client));
        }
        Self::new(Client::from_conf(config.build()))
    }

    /// Sends to another namespace than `KinesisProducerLibrary`.
    ///
    /// # Errors
    ///
    /// [`CloudWatchSettingError`] unless it has 1 to 255 printable ASCII characters, not all blank, and does not begin with
    /// `:` or `AWS/`.
    pub fn namespace(self, namespace: impl Into<String>) -> Result<Self, CloudWatchSettingError> {
        let namespace = namespace.into();
        if !dimensions::is_valid(&namespace, NAMESPACE_CHARS_MAX) || namespace.starts_with(':') {
            let limit = "have 1 to 255 printable ASCII characters, not all blank, and not begin with a colon";
            return Err(CloudWatchSettingError::new("namespace", &namespace, limit));
        }
        if namespace.starts_with("AWS/") {
            return Err(CloudWatchSettingError::new(
                "namespace",
                &namespace,
                "not begin with AWS/, which is AWS's own",
            ));
        }
        Ok(Self { namespace, ..self })
    }

    /// Adds a dimension of your own, the host's name for instance, as the KPL's `additional_metrics_dims` do:
    ///
    /// - [`Global`](MetricsGranularity::Global): to every metric, before the stream. Metrics by stream are only there
    ///   with it.
    /// - [`Stream`](MetricsGranularity::Stream): to the metrics of streams and shards, after the stream.
    /// - [`Shard`](MetricsGranularity::Shard): to the metrics of shards, after the shard.
    ///
    /// CloudWatch does not add up over dimensions, so a metric is also sent without the dimensions that were added at its
    /// own granularity, as the KPL does: `StreamName` alone is the stream over all hosts, `StreamName` and `Host` is the
    /// stream by host. That makes more metrics.
    ///
    /// # Errors
    ///
    /// [`CloudWatchSettingError`]: the name must have 1 to 255 printable ASCII characters, not all blank, not begin with `:`,
    /// and be no other dimension's; the value 1 to 1,024, not all blank; and there may be 27, since a metric has at most 30
    /// and three are the sink's.
    pub fn dimension(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
        granularity: MetricsGranularity,
    ) -> Result<Self, CloudWatchSettingError> {
        self.dimensions.add(name.into(), value.into(), granularity)?;
        Ok(self)
    }

    /// What is to be sent of a report, in a fixed order: it counts for what has been taken.
    fn data<'a>(&'a self, report: &'a MetricsReport) -> impl Iterator<Item = (usize, MetricDatum)> + 'a {
        let timestamp = report.end.map(timestamp);
        report.data.iter().flat_map(move |datum| {
            self.dimensions.of(datum).into_iter().map(move |dimensions| {
                let dimension_bytes = dimensions.iter().map(|dimension| {
                    let chars = [dimension.name(), dimension.value()].into_iter().flatten().map(str::len);
                    BYTES_OF_DIMENSION + chars.sum::<usize>()
                });
                let bytes = BYTES_OF_DATUM + dimension_bytes.sum::<usize>();
                let metric = MetricDatum::builder()
                    .metric_name(datum.metric.name())
                    .set_dimensions(Some(dimensions))
                    .set_timestamp(timestamp)
                    .statistic_values(statistics(datum))
                    .unit(unit(datum.metric.unit()));
                (bytes, metric.build())
            })
        })
    }

    /// Sends what CloudWatch has not taken yet of a report, call by call.
    async fn send(&self, report: &MetricsReport) -> Result<(), SinkError> {
        let mut sent = self.progress.of(report);
        let mut data = self.data(report).skip(sent).peekable();
        loop {
            let (mut call, mut bytes) = (Vec::new(), BYTES_OF_CALL);
            while call.len() < DATA_MAX
                && let Some((more, datum)) = data.next_if(|(more, _)| bytes + more <= BYTES_MAX)
            {
                bytes += more;
                call.push(datum);
            }
            if call.is_empty() {
                self.progress.complete(report);
                return Ok(());
            }
            let data_in_call = call.len();
            let output =
                self.client.put_metric_data().namespace(&self.namespace).set_metric_data(Some(call)).send().await;
            output.map_err(|error| match (error.code(), error.message()) {
                (Some(code), Some(message)) => format!("CloudWatch refused PutMetricData: {code}: {message}"),
                _ => format!("PutMetricData failed: {}", one_line(&error)),
            })?;
            sent += data_in_call;
            self.progress.set(report, sent);
        }
    }
}

impl MetricsSink for CloudWatchSink {
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(self.send(report))
    }

    fn name(&self) -> &str {
        "CloudWatch"
    }
}

fn statistics(datum: &Datum) -> StatisticSet {
    let of = &datum.statistics;
    StatisticSet::builder().sample_count(of.count as f64).sum(of.sum).minimum(of.min).maximum(of.max).build()
}

fn unit(unit: Unit) -> StandardUnit {
    StandardUnit::from(unit.name())
}

/// Instants of a producer are nanoseconds since the Unix epoch. CloudWatch keeps milliseconds.
fn timestamp(instant: Instant) -> DateTime {
    let millis = instant.as_nanos() / 1_000_000;
    DateTime::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
}

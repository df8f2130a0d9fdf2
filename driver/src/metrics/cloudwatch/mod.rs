//! The sink for Amazon CloudWatch. It sends what the C++ KPL sends.

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

/// The default namespace, as in the KPL.
const NAMESPACE: &str = "KinesisProducerLibrary";

/// The maximum length of a namespace (API reference of PutMetricData).
const NAMESPACE_CHARS_MAX: usize = 255;

/// The maximum number of data points in a call of PutMetricData (API reference).
const DATA_MAX: usize = 1_000;

/// The maximum size of a call of PutMetricData before compression. The API reference says "1 MB"; this is the smaller
/// reading of it.
const BYTES_MAX: usize = 1_000_000;

/// Upper bounds of the CBOR overhead of a call, a data point and a dimension.
const CALL_OVERHEAD_BYTES: usize = 512;
const DATUM_OVERHEAD_BYTES: usize = 256;
const DIMENSION_OVERHEAD_BYTES: usize = 32;

/// Sends metrics to Amazon CloudWatch with `PutMetricData`. Names, units and dimensions are those of the C++ KPL, so
/// dashboards and alarms for the KPL keep working.
///
/// - Each data point of a report is a statistic set (`SampleCount`, `Sum`, `Minimum`, `Maximum`) with its unit
///   (`Count`, `Bytes` or `Milliseconds`) and the end time of the report. Metrics without observations are not sent.
///   Latency histograms are not sent; `BufferingTime` and `RequestTime` are.
/// - The namespace is `KinesisProducerLibrary` by default; [`namespace`](Self::namespace) changes it.
/// - The dimensions are, in this order: `ErrorCode` (of `ErrorsByCode`), `StreamName`, `ShardId`, down to
///   `metrics_granularity`. For a stream given by ARN, `StreamName` is the name in the ARN. `ErrorsByCode` without a
///   code is sent for all streams together only; `AllErrors` is sent per stream, too. [`dimension`](Self::dimension)
///   adds more.
/// - A call has at most 1,000 data points and 1 MB before compression; a larger report takes several calls. The SDK
///   compresses calls of more than 10 KB.
/// - Data points that CloudWatch has confirmed are not sent again with the rest of their report. A call whose reply was
///   lost is sent again, so its data points may count twice.
/// - The SDK retries calls according to its config. A report has 10 s, retries included; then it is offered again.
///
/// The limits are those of the API references of `PutMetricData` and `Dimension`. The sink needs the permission
/// `cloudwatch:PutMetricData`. CloudWatch charges per metric, which is a name with its dimensions: each shard has up to
/// nine, and one more per error code. `metrics_granularity` limits their number.
///
/// ```no_run
/// # fn example<R: kpl_driver::AwsRuntime>(
/// #     sdk_config: &aws_config::SdkConfig,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// use kpl_driver::core::Config;
/// use kpl_driver::metrics::{CloudWatchSink, MetricsGranularity, MetricsLevel};
///
/// let config = Config::builder().metrics_level(MetricsLevel::Detailed).build()?;
/// let producer = kpl_driver::Producer::<R>::from_sdk_config(sdk_config, config); // a driver defines R
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

/// A setting with which CloudWatch would refuse every call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CloudWatch: {field} is {value:?}, but must {limit}")]
#[non_exhaustive]
pub struct CloudWatchSettingError {
    /// The name of the setting.
    pub field: &'static str,
    /// The value, cut after 200 characters.
    pub value: String,
    /// What the value must satisfy.
    pub limit: &'static str,
}

impl CloudWatchSettingError {
    fn new(field: &'static str, value: &str, limit: &'static str) -> Self {
        Self { field, value: value.chars().take(200).collect(), limit }
    }
}

impl CloudWatchSink {
    /// Creates a sink that uses a client of the AWS SDK unchanged.
    pub fn new(client: Client) -> Self {
        let (dimensions, progress) = (Dimensions::default(), Progress::default());
        Self { client, namespace: NAMESPACE.into(), dimensions, progress }
    }

    /// Creates a sink from an SDK config, for example the producer's. If the config has no sleep or no HTTP client, the
    /// sink uses the runtime's.
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

    /// Sets the namespace. The default is `KinesisProducerLibrary`.
    ///
    /// # Errors
    ///
    /// [`CloudWatchSettingError`] unless the namespace has 1 to 255 printable ASCII characters, not all blank, and does
    /// not begin with `:` or `AWS/`.
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

    /// Adds a dimension, for example the host name, like the KPL's `additional_metrics_dims`:
    ///
    /// - [`Global`](MetricsGranularity::Global): to every metric, before the stream. Metrics of streams and shards
    ///   always have it.
    /// - [`Stream`](MetricsGranularity::Stream): to the metrics of streams and shards, after the stream.
    /// - [`Shard`](MetricsGranularity::Shard): to the metrics of shards, after the shard.
    ///
    /// CloudWatch does not add over dimensions. So a metric is also sent without the dimensions that were added at its
    /// own granularity, as in the KPL: `StreamName` alone is the stream over all hosts, `StreamName` and `Host` is the
    /// stream per host. This increases the number of metrics.
    ///
    /// # Errors
    ///
    /// [`CloudWatchSettingError`]: the name must have 1 to 255 printable ASCII characters, not all blank, must not
    /// begin with `:`, and must differ from all other dimensions; the value must have 1 to 1,024, not all blank; there
    /// may be at most 27 dimensions, since a metric has at most 30 and the sink uses three.
    pub fn dimension(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
        granularity: MetricsGranularity,
    ) -> Result<Self, CloudWatchSettingError> {
        self.dimensions.add(name.into(), value.into(), granularity)?;
        Ok(self)
    }

    /// Returns the data points to send for a report, each with an upper bound of its size in bytes. The order is fixed,
    /// because progress is a position in it.
    fn data<'a>(&'a self, report: &'a MetricsReport) -> impl Iterator<Item = (usize, MetricDatum)> + 'a {
        let timestamp = report.end.map(timestamp);
        report.data.iter().flat_map(move |datum| {
            self.dimensions.lists(datum).into_iter().map(move |dimensions| {
                let dimension_bytes = dimensions.iter().map(|dimension| {
                    let chars = [dimension.name(), dimension.value()].into_iter().flatten().map(str::len);
                    DIMENSION_OVERHEAD_BYTES + chars.sum::<usize>()
                });
                let bytes = DATUM_OVERHEAD_BYTES + dimension_bytes.sum::<usize>();
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

    /// Sends the data points of a report that CloudWatch has not accepted yet, call by call.
    async fn send(&self, report: &MetricsReport) -> Result<(), SinkError> {
        let mut sent = self.progress.of(report);
        let mut data = self.data(report).skip(sent).peekable();
        loop {
            let (mut call, mut bytes) = (Vec::new(), CALL_OVERHEAD_BYTES);
            while call.len() < DATA_MAX
                && let Some((size, datum)) = data.next_if(|(size, _)| bytes + size <= BYTES_MAX)
            {
                bytes += size;
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
    let set = &datum.statistics;
    StatisticSet::builder().sample_count(set.count as f64).sum(set.sum).minimum(set.min).maximum(set.max).build()
}

fn unit(unit: Unit) -> StandardUnit {
    StandardUnit::from(unit.name())
}

/// Converts an instant, in nanoseconds since the Unix epoch. CloudWatch keeps milliseconds.
fn timestamp(instant: Instant) -> DateTime {
    let millis = instant.as_nanos() / 1_000_000;
    DateTime::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
}

//! Metrics: what the producer measures, and the sinks that receive it.
//!
//! The producer keeps metrics if [`metrics_level`](kpl_core::ConfigBuilder::metrics_level) is summary or detailed.
//! [`Producer::metrics`](crate::Producer::metrics) returns them at any time. Every
//! [`metrics_upload_interval`](kpl_core::ConfigBuilder::metrics_upload_interval), a report goes to the sinks that were
//! added with [`Producer::export_metrics_to`](crate::Producer::export_metrics_to).
//!
//! A sink that fails, hangs or panics delays no record: it runs in a separate task, an export may take at most
//! [`EXPORT_TIMEOUT`], and failures are logged at most once per minute. Reports that a sink did not accept are offered
//! again with the next report; up to [`REPORTS_KEPT`] are kept.

#[cfg(feature = "cloudwatch")]
mod cloudwatch;
#[cfg(any(feature = "dogstatsd", feature = "metrics-facade", feature = "opentelemetry"))]
mod counters;
#[cfg(feature = "dogstatsd")]
mod dogstatsd;
mod exporter;
#[cfg(feature = "metrics-facade")]
mod facade;
mod finest;
mod in_memory;
#[cfg(feature = "opentelemetry")]
mod opentelemetry;
mod progress;
#[cfg(any(feature = "dogstatsd", feature = "metrics-facade", feature = "opentelemetry"))]
mod sampling;

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "cloudwatch")]
pub use self::cloudwatch::{CloudWatchSettingError, CloudWatchSink};
#[cfg(feature = "dogstatsd")]
pub use self::dogstatsd::{DogStatsdBuilder, DogStatsdSink};
pub(crate) use self::exporter::Exporter;
#[cfg(feature = "metrics-facade")]
pub use self::facade::MetricsFacadeSink;
#[doc(hidden)]
pub use self::finest::{FinestDatum, finest_data, finest_latencies};
pub use self::in_memory::{InMemorySink, NullSink};
#[cfg(feature = "opentelemetry")]
pub use self::opentelemetry::OpenTelemetrySink;
#[doc(hidden)]
pub use self::progress::Progress;
#[doc(hidden)]
pub use crate::aws::errors::one_line;

pub use kpl_core::metrics::{
    Datum, Histogram, Latency, Metric, MetricsGranularity, MetricsLevel, MetricsReport, StatisticSet, Unit,
};

/// The time limit of one export.
pub const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of reports that are kept for a sink that does not accept them. Above it, the oldest is dropped.
pub const REPORTS_KEPT: usize = 15;

/// A boxed future, which makes [`MetricsSink`] object-safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The reason why a sink did not accept a report.
pub type SinkError = Box<dyn Error + Send + Sync>;

/// A destination of metrics.
///
/// ```
/// use kpl_driver::metrics::{BoxFuture, Metric, MetricsReport, MetricsSink, SinkError};
///
/// struct Print;
///
/// impl MetricsSink for Print {
///     fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
///         Box::pin(async move {
///             println!("{} user records were stored", report.global(Metric::UserRecordsPut).sum);
///             Ok(())
///         })
///     }
/// }
/// ```
pub trait MetricsSink: Send + Sync + 'static {
    /// Exports a report: the observations since the last report, rolled up, without empty metrics. After an error, or
    /// after [`EXPORT_TIMEOUT`], the same report is offered again with the next one.
    ///
    /// After [`EXPORT_TIMEOUT`], the future is dropped. So it must be cancel safe: whenever it waits, the sink must be
    /// able to export again.
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>>;

    /// Returns the sink's name, for the log.
    fn name(&self) -> &str {
        std::any::type_name::<Self>()
    }
}

impl<S: MetricsSink + ?Sized> MetricsSink for Arc<S> {
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        S::export(self, report)
    }

    fn name(&self) -> &str {
        S::name(self)
    }
}

/// Returns the name of a stream that is given by name or ARN. Of an ARN, it is the part after `stream/`.
///
/// ```
/// use kpl_driver::metrics::stream_name;
///
/// assert_eq!(stream_name("arn:aws:kinesis:eu-central-1:123456789012:stream/orders"), "orders");
/// assert_eq!(stream_name("orders"), "orders");
/// ```
pub fn stream_name(stream: &str) -> &str {
    match stream.split_once(":stream/") {
        Some((arn, name)) if arn.starts_with("arn:") => name,
        _ => stream,
    }
}

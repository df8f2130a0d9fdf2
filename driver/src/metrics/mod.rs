//! Metrics: what the producer measures, and where it is sent.
//!
//! With [`metrics_level`](kpl_core::ConfigBuilder::metrics_level) summary or detailed the producer measures;
//! [`Producer::metrics`](crate::Producer::metrics) shows it at any time, and every
//! [`metrics_upload_interval`](kpl_core::ConfigBuilder::metrics_upload_interval) it is given to the sinks that
//! [`Producer::export_metrics_to`](crate::Producer::export_metrics_to) has added.
//!
//! A sink that fails, hangs or panics holds up no record: it runs beside, gets [`EXPORT_TIMEOUT`], is logged at most once a
//! minute, and what it did not take is offered again with the next report, up to [`REPORTS_KEPT`] of them.

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

/// How long a sink may take for one report.
pub const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// How many reports are kept for a sink that does not take them; then the oldest is dropped.
pub const REPORTS_KEPT: usize = 15;

/// A future in a box, so that sinks can be kept side by side.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a sink did not take a report.
pub type SinkError = Box<dyn Error + Send + Sync>;

/// Takes metrics to where they are looked at.
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
    /// Takes what was observed since the last report, rolled up; nothing in it is empty. After an error, or when it takes
    /// too long, the same report comes again with the next one.
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>>;

    /// The sink's name, for the log.
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

/// The name of a stream that is given by name or ARN: of an ARN, what follows `stream/`.
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

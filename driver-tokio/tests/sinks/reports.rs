//! Reports for the tests, built from the data of a producer's first report.

use kpl_tokio::{Config, Instant, UserRecord};

use kpl_driver::core;
use kpl_tokio::metrics::{Datum, Latency, Metric, MetricsLevel, MetricsReport, StatisticSet};

pub(crate) const START: Instant = Instant::from_nanos(1_699_999_940_000_000_000);
pub(crate) const END: Instant = Instant::from_nanos(1_700_000_000_123_456_789);

pub(crate) const ARN: &str = "arn:aws:kinesis:eu-central-1:123456789012:stream/orders";

/// Returns a report without data.
pub(crate) fn report() -> MetricsReport {
    let mut report = MetricsReport::default();
    (report.start, report.end) = (Some(START), Some(END));
    report
}

fn template() -> MetricsReport {
    let config = Config::builder().metrics_level(MetricsLevel::Detailed).build().unwrap();
    let mut producer = core::Producer::new(config, START);
    producer.put(START, UserRecord::new("s", "k", "d").prepare().unwrap(), ()).unwrap();
    producer.metrics(START, core::metrics::MetricsWindow::Total).roll_up()
}

/// Returns a datum with one observation.
pub(crate) fn datum(metric: Metric) -> Datum {
    let mut datum = template().data[0].clone();
    (datum.metric, datum.error_code, datum.stream, datum.shard) = (metric, None, None, None);
    datum.statistics = set(&[1.0]);
    datum
}

/// Returns a datum with its dimensions: error code, stream, shard.
pub(crate) fn datum_of(metric: Metric, [code, stream, shard]: [Option<&str>; 3], values: &[f64]) -> Datum {
    let mut datum = datum(metric);
    datum.error_code = code.map(Into::into);
    datum.stream = stream.map(Into::into);
    datum.shard = shard.map(Into::into);
    datum.statistics = set(values);
    datum
}

#[cfg_attr(not(feature = "datadog"), expect(dead_code, reason = "the sink for CloudWatch sends none"))]
pub(crate) fn latency(stream: Option<&str>) -> Latency {
    let mut latency = template().latencies[0].clone();
    latency.stream = stream.map(Into::into);
    (latency.put_to_ack, latency.buffering) = Default::default();
    latency
}

fn set(values: &[f64]) -> StatisticSet {
    let mut set = StatisticSet::EMPTY;
    values.iter().for_each(|value| set.observe(*value));
    set
}

//! A check of the data that each sink exports, by the sinks' common names.

use std::collections::{BTreeMap, BTreeSet};

use kpl_driver::metrics::{Histogram, Metric, MetricsReport, StatisticSet};

/// A data point at a backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Point {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
    /// The number of observations, for a histogram; `value` is their sum.
    pub(crate) count: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Unit {
    Items,
    Bytes,
    Millis,
}

type Part = fn(&StatisticSet) -> f64;

const SUM: Part = |set| set.sum;
const COUNT: Part = |set| set.count as f64;
const ZEROS: Part = |set| set.count as f64 - set.sum;

const COUNTERS: [(&str, Unit, Metric, Part); 15] = [
    ("user_records.received", Unit::Items, Metric::UserRecordsReceived, SUM),
    ("user_records.put", Unit::Items, Metric::UserRecordsPut, SUM),
    ("user_records.failed", Unit::Items, Metric::UserRecordsPut, ZEROS),
    ("user_records.data_put", Unit::Bytes, Metric::UserRecordsDataPut, SUM),
    ("user_records.expired", Unit::Items, Metric::UserRecordExpired, SUM),
    ("user_records.retries", Unit::Items, Metric::RetriesPerRecord, SUM),
    ("user_records.attempts", Unit::Items, Metric::BufferingTime, COUNT),
    ("user_records.waiting_time", Unit::Millis, Metric::BufferingTime, SUM),
    ("user_records.sent", Unit::Items, Metric::UserRecordsPerKinesisRecord, SUM),
    ("kinesis_records.sent", Unit::Items, Metric::UserRecordsPerKinesisRecord, COUNT),
    ("kinesis_records.put", Unit::Items, Metric::KinesisRecordsPut, SUM),
    ("kinesis_records.data_put", Unit::Bytes, Metric::KinesisRecordsDataPut, SUM),
    ("kinesis_records.refused", Unit::Items, Metric::KinesisRecordsPut, ZEROS),
    ("requests", Unit::Items, Metric::RequestTime, COUNT),
    ("request_time", Unit::Millis, Metric::RequestTime, SUM),
];

/// The names and units of a backend.
pub(crate) struct Naming {
    /// Returns the name of a counter.
    pub(crate) counter: fn(&str, Unit) -> String,
    /// Returns the name of a metric in seconds.
    pub(crate) seconds: fn(&str) -> String,
    pub(crate) pending: &'static str,
    /// The unit of time counters, in milliseconds.
    pub(crate) millis: f64,
    pub(crate) error_code: &'static str,
}

/// Checks that a backend has the values of the report, in total, per stream and per shard, and no other metrics.
pub(crate) fn check(points: &[Point], naming: &Naming, report: &MetricsReport) {
    let mut names = BTreeSet::new();
    for (name, unit, metric, part) in COUNTERS {
        let name = (naming.counter)(name, unit);
        let unit = if unit == Unit::Millis { naming.millis } else { 1.0 };
        let exported = |labels: &[(&str, &str)]| sum(points, &name, labels).unwrap_or_default() * unit;
        assert_same(&name, exported(&[]), part(&report.global(metric)));
        for datum in report.data.iter().filter(|datum| datum.metric == metric) {
            let mut labels: Vec<_> = datum.stream.iter().map(|stream| ("stream", &**stream)).collect();
            labels.extend(datum.shard.iter().map(|shard| ("shard", &**shard)));
            assert_same(&format!("{name} {labels:?}"), exported(&labels), part(&datum.statistics));
        }
        assert!(part(&report.global(metric)) > 0.0, "{name} has no observations");
        names.insert(name);
    }
    let errors = (naming.counter)("errors", Unit::Items);
    let exported = |labels: &[(&str, &str)]| sum(points, &errors, labels).unwrap_or_default();
    assert_same(&errors, exported(&[]), report.global(Metric::AllErrors).sum);
    for code in ["ProvisionedThroughputExceededException", "ConnectFailure", "AccessDeniedException"] {
        assert!(report.errors(code).sum > 0.0, "{code} has no observations");
        assert_same(code, exported(&[(naming.error_code, code)]), report.errors(code).sum);
    }
    let max = (naming.seconds)("request_time_max");
    for latency in report.latencies.iter().filter(|latency| latency.stream.is_some()) {
        let stream = latency.stream.as_deref().unwrap();
        let labels = [("stream", stream)];
        assert_same("pending", sum(points, naming.pending, &labels).expect("no pending records"), 0.0);
        let longest = points.iter().filter(|point| point.name == max && point.labels["stream"] == stream);
        let longest = longest.map(|point| point.value * 1e3).fold(0.0, f64::max);
        assert!(longest > 0.0 && longest <= report.stream(Metric::RequestTime, stream).max, "{longest}");
        for (name, histogram) in [("put_to_ack", &latency.put_to_ack), ("buffering", &latency.buffering)] {
            let name = (naming.seconds)(name);
            let count: u64 = matching(points, &name, &labels).filter_map(|point| point.count).sum();
            assert_eq!(count, histogram.count(), "{name}");
            // A bucket may end above the maximum of one report, but below the maximum of all.
            let (exported, upper) = (sum(points, &name, &labels).expect("no histogram"), sum_of(histogram));
            assert!(exported <= upper * 1.000_001 && exported >= upper / 1.07, "{name}: {exported} of {upper}");
            names.insert(name);
        }
    }
    names.extend([errors, max, naming.pending.to_owned()]);
    for point in points {
        assert!(names.contains(&point.name), "unknown metric: {point:?}");
    }
}

fn matching<'a>(points: &'a [Point], name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &'a Point> {
    let has =
        |point: &Point| labels.iter().all(|(key, value)| point.labels.get(*key).is_some_and(|label| label == value));
    points.iter().filter(move |point| point.name == name && has(point))
}

/// Returns the sum of the matching points; `None` if there are none.
fn sum(points: &[Point], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    matching(points, name, labels).map(|point| point.value).reduce(|a, b| a + b)
}

fn sum_of(histogram: &Histogram) -> f64 {
    histogram.buckets().map(|(end, times)| end.as_secs_f64() * times as f64).sum()
}

fn assert_same(name: &str, exported: f64, expected: f64) {
    // Times are exported in whole microseconds, per report and shard.
    assert!((exported - expected).abs() <= 0.05 + expected * 1e-9, "{name}: {exported} instead of {expected}");
}

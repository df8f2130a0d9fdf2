//! What every one of these sinks tells, by the sinks' common names.

use std::collections::{BTreeMap, BTreeSet};

use kpl_driver::metrics::{Histogram, Metric, MetricsReport, StatisticSet};

/// A number at a backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Point {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
    /// Of a histogram: observations, of which `value` is the sum.
    pub(crate) count: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Unit {
    Things,
    Bytes,
    Millis,
}

type Part = fn(&StatisticSet) -> f64;

const SUM: Part = |set| set.sum;
const COUNT: Part = |set| set.count as f64;
const ZEROS: Part = |set| set.count as f64 - set.sum;

const COUNTERS: [(&str, Unit, Metric, Part); 15] = [
    ("user_records.received", Unit::Things, Metric::UserRecordsReceived, SUM),
    ("user_records.put", Unit::Things, Metric::UserRecordsPut, SUM),
    ("user_records.failed", Unit::Things, Metric::UserRecordsPut, ZEROS),
    ("user_records.data_put", Unit::Bytes, Metric::UserRecordsDataPut, SUM),
    ("user_records.expired", Unit::Things, Metric::UserRecordExpired, SUM),
    ("user_records.retries", Unit::Things, Metric::RetriesPerRecord, SUM),
    ("user_records.attempts", Unit::Things, Metric::BufferingTime, COUNT),
    ("user_records.waiting_time", Unit::Millis, Metric::BufferingTime, SUM),
    ("user_records.sent", Unit::Things, Metric::UserRecordsPerKinesisRecord, SUM),
    ("kinesis_records.sent", Unit::Things, Metric::UserRecordsPerKinesisRecord, COUNT),
    ("kinesis_records.put", Unit::Things, Metric::KinesisRecordsPut, SUM),
    ("kinesis_records.data_put", Unit::Bytes, Metric::KinesisRecordsDataPut, SUM),
    ("kinesis_records.refused", Unit::Things, Metric::KinesisRecordsPut, ZEROS),
    ("requests", Unit::Things, Metric::RequestTime, COUNT),
    ("request_time", Unit::Millis, Metric::RequestTime, SUM),
];

/// How a backend names and measures.
pub(crate) struct Naming {
    /// The name of a counter.
    pub(crate) counter: fn(&str, Unit) -> String,
    /// The name of what is measured in seconds.
    pub(crate) seconds: fn(&str) -> String,
    pub(crate) pending: &'static str,
    /// So many milliseconds are 1 of a counter.
    pub(crate) millis: f64,
    pub(crate) error_code: &'static str,
}

/// What a backend has is what the report says: in all, by stream, by shard; and it has nothing else.
pub(crate) fn check(points: &[Point], naming: &Naming, report: &MetricsReport) {
    let mut names = BTreeSet::new();
    for (name, unit, metric, part) in COUNTERS {
        let name = (naming.counter)(name, unit);
        let unit = if unit == Unit::Millis { naming.millis } else { 1.0 };
        let told = |labels: &[(&str, &str)]| sum(points, &name, labels).unwrap_or_default() * unit;
        same(&name, told(&[]), part(&report.global(metric)));
        for datum in report.data.iter().filter(|datum| datum.metric == metric) {
            let mut labels: Vec<_> = datum.stream.iter().map(|stream| ("stream", &**stream)).collect();
            labels.extend(datum.shard.iter().map(|shard| ("shard", &**shard)));
            same(&format!("{name} {labels:?}"), told(&labels), part(&datum.statistics));
        }
        assert!(part(&report.global(metric)) > 0.0, "{name} is not tested");
        names.insert(name);
    }
    let errors = (naming.counter)("errors", Unit::Things);
    let told = |labels: &[(&str, &str)]| sum(points, &errors, labels).unwrap_or_default();
    same(&errors, told(&[]), report.global(Metric::AllErrors).sum);
    for code in ["ProvisionedThroughputExceededException", "ConnectFailure", "ResourceNotFoundException"] {
        assert!(report.errors(code).sum > 0.0, "{code} is not tested");
        same(code, told(&[(naming.error_code, code)]), report.errors(code).sum);
    }
    let max = (naming.seconds)("request_time_max");
    for latency in report.latencies.iter().filter(|latency| latency.stream.is_some()) {
        let stream = latency.stream.as_deref().unwrap();
        let labels = [("stream", stream)];
        same("pending", sum(points, naming.pending, &labels).expect("it is told"), 0.0);
        let longest = points.iter().filter(|point| point.name == max && point.labels["stream"] == stream);
        let longest = longest.map(|point| point.value * 1e3).fold(0.0, f64::max);
        assert!(longest > 0.0 && longest <= report.stream(Metric::RequestTime, stream).max, "{longest}");
        for (name, histogram) in [("put_to_ack", &latency.put_to_ack), ("buffering", &latency.buffering)] {
            let name = (naming.seconds)(name);
            let count: u64 = of(points, &name, &labels).filter_map(|point| point.count).sum();
            assert_eq!(count, histogram.count(), "{name}");
            // A bucket may end beyond the longest of a report and not of all.
            let (told, most) = (sum(points, &name, &labels).expect("it is told"), sum_of(histogram));
            assert!(told <= most * 1.000_001 && told >= most / 1.07, "{name}: {told} of {most}");
            names.insert(name);
        }
    }
    names.extend([errors, max, naming.pending.to_owned()]);
    for point in points {
        assert!(names.contains(&point.name), "unknown: {point:?}");
    }
}

fn of<'a>(points: &'a [Point], name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &'a Point> {
    let has = |point: &Point| labels.iter().all(|(key, value)| point.labels.get(*key).is_some_and(|v| v == value));
    points.iter().filter(move |point| point.name == name && has(point))
}

/// `None` if there is nothing.
fn sum(points: &[Point], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    of(points, name, labels).map(|point| point.value).reduce(|a, b| a + b)
}

fn sum_of(histogram: &Histogram) -> f64 {
    histogram.buckets().map(|(end, times)| end.as_secs_f64() * times as f64).sum()
}

fn same(what: &str, told: f64, wanted: f64) {
    // Times are told in whole microseconds, for each report and shard.
    assert!((told - wanted).abs() <= 0.05 + wanted * 1e-9, "{what}: {told} instead of {wanted}");
}

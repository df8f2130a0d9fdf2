//! The real SDK, with an exporter that keeps everything.

use std::collections::BTreeMap;

use kpl_driver::metrics::OpenTelemetrySink;
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};

use crate::drive;
use crate::instruments::{Naming, Point, Unit, check};

const NAMING: Naming = Naming {
    counter: |name, _| format!("kinesis.producer.{name}"),
    seconds: |name| format!("kinesis.producer.{name}"),
    pending: "kinesis.producer.user_records.pending",
    millis: 1e3,
    error_code: "error.code",
};

struct Seen {
    points: Vec<Point>,
    units: BTreeMap<String, String>,
}

fn provider() -> (InMemoryMetricExporter, SdkMeterProvider) {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).build();
    (exporter, SdkMeterProvider::builder().with_reader(reader).build())
}

/// What the exporter has got, after the last collection.
fn seen(exporter: &InMemoryMetricExporter, provider: &SdkMeterProvider) -> Seen {
    exporter.reset();
    provider.force_flush().unwrap();
    let mut seen = Seen { points: vec![], units: BTreeMap::new() };
    for metrics in exporter.get_finished_metrics().unwrap() {
        for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
            assert!(!metric.description().is_empty(), "{}", metric.name());
            seen.units.insert(metric.name().to_owned(), metric.unit().to_owned());
            seen.points.extend(points(metric.name(), metric.data()));
        }
    }
    seen
}

fn points(name: &str, data: &AggregatedMetrics) -> Vec<Point> {
    match data {
        AggregatedMetrics::U64(MetricData::Sum(sum)) => {
            assert!(sum.is_monotonic());
            sum.data_points().map(|point| self::point(name, point.attributes(), point.value() as f64, None)).collect()
        }
        AggregatedMetrics::I64(MetricData::Sum(sum)) => {
            assert!(!sum.is_monotonic());
            sum.data_points().map(|point| self::point(name, point.attributes(), point.value() as f64, None)).collect()
        }
        AggregatedMetrics::F64(MetricData::Sum(sum)) => {
            assert!(sum.is_monotonic());
            sum.data_points().map(|point| self::point(name, point.attributes(), point.value(), None)).collect()
        }
        AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
            gauge.data_points().map(|point| self::point(name, point.attributes(), point.value(), None)).collect()
        }
        AggregatedMetrics::F64(MetricData::Histogram(histogram)) => histogram
            .data_points()
            .map(|point| {
                assert_eq!(point.bounds().count(), 17, "the sink's own buckets");
                self::point(name, point.attributes(), point.sum(), Some(point.count()))
            })
            .collect(),
        other => panic!("{name} is {other:?}"),
    }
}

fn point<'a>(name: &str, attributes: impl Iterator<Item = &'a KeyValue>, value: f64, count: Option<u64>) -> Point {
    let labels = attributes.map(|pair| (pair.key.to_string(), pair.value.to_string())).collect();
    Point { name: name.to_owned(), labels, value, count }
}

#[tokio::test(start_paused = true)]
async fn what_the_sdk_collects_is_what_the_producer_says() {
    let (exporter, provider) = provider();
    let report = drive(OpenTelemetrySink::with_meter(&provider.meter("a test"))).await;
    let seen = seen(&exporter, &provider);
    check(&seen.points, &NAMING, &report);
    let units = [
        ("user_records.put", "{record}"),
        ("kinesis_records.data_put", "By"),
        ("request_time", "s"),
        ("errors", "{error}"),
        ("user_records.pending", "{record}"),
        ("put_to_ack", "s"),
    ];
    for (name, unit) in units {
        assert_eq!(seen.units[&(NAMING.counter)(name, Unit::Things)], unit, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_global_meter_is_taken_when_there_is_no_other_and_histograms_can_be_thinned() {
    let (exporter, provider) = provider();
    opentelemetry::global::set_meter_provider(provider.clone());
    let report = drive(OpenTelemetrySink::new().with_most_observations(1)).await;
    let seen = seen(&exporter, &provider);
    let histograms: Vec<_> = seen.points.iter().filter(|point| point.count.is_some()).collect();
    let count: u64 = histograms.iter().filter_map(|point| point.count).sum();
    let all = report.latency().unwrap();
    let all = all.put_to_ack.count() + all.buffering.count();
    assert!(!histograms.is_empty() && count * 5 < all, "one a report and histogram: {count} of {all}");
    let put = (NAMING.counter)("user_records.put", Unit::Things);
    let put: f64 = seen.points.iter().filter(|point| point.name == put).map(|point| point.value).sum();
    assert_eq!(put, report.global(kpl_driver::metrics::Metric::UserRecordsPut).sum, "counters are not thinned");
}

//! The OpenTelemetry sink with the real SDK and an in-memory exporter.

use std::collections::BTreeMap;

use kpl_driver::metrics::OpenTelemetrySink;
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};

use crate::instruments::{Naming, Point, Unit, check};
use crate::run_producer;

const NAMING: Naming = Naming {
    counter: |name, _| format!("kinesis.producer.{name}"),
    seconds: |name| format!("kinesis.producer.{name}"),
    pending: "kinesis.producer.user_records.pending",
    millis: 1e3,
    error_code: "error.code",
};

struct Collected {
    points: Vec<Point>,
    units: BTreeMap<String, String>,
}

fn provider() -> (InMemoryMetricExporter, SdkMeterProvider) {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).build();
    (exporter, SdkMeterProvider::builder().with_reader(reader).build())
}

/// Collects the current data of all instruments.
fn collect(exporter: &InMemoryMetricExporter, provider: &SdkMeterProvider) -> Collected {
    exporter.reset();
    provider.force_flush().unwrap();
    let mut collected = Collected { points: vec![], units: BTreeMap::new() };
    for metrics in exporter.get_finished_metrics().unwrap() {
        for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
            assert!(!metric.description().is_empty(), "{}", metric.name());
            collected.units.insert(metric.name().to_owned(), metric.unit().to_owned());
            collected.points.extend(points(metric.name(), metric.data()));
        }
    }
    collected
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
                assert_eq!(point.bounds().count(), 17, "the buckets of the sink");
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
async fn the_sdk_collects_the_metrics_of_the_producer() {
    let (exporter, provider) = provider();
    let report = run_producer(OpenTelemetrySink::with_meter(&provider.meter("a test"))).await;
    let collected = collect(&exporter, &provider);
    check(&collected.points, &NAMING, &report);
    let units = [
        ("user_records.put", "{record}"),
        ("kinesis_records.data_put", "By"),
        ("request_time", "s"),
        ("errors", "{error}"),
        ("user_records.pending", "{record}"),
        ("put_to_ack", "s"),
    ];
    for (name, unit) in units {
        assert_eq!(collected.units[&(NAMING.counter)(name, Unit::Items)], unit, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_global_meter_is_the_default_and_histograms_can_be_sampled() {
    let (exporter, provider) = provider();
    opentelemetry::global::set_meter_provider(provider.clone());
    let report = run_producer(OpenTelemetrySink::new().with_most_observations(1)).await;
    let collected = collect(&exporter, &provider);
    let histograms: Vec<_> = collected.points.iter().filter(|point| point.count.is_some()).collect();
    let count: u64 = histograms.iter().filter_map(|point| point.count).sum();
    let latency = report.latency().unwrap();
    let total = latency.put_to_ack.count() + latency.buffering.count();
    assert!(!histograms.is_empty() && count * 5 < total, "one per report and histogram: {count} of {total}");
    let put = (NAMING.counter)("user_records.put", Unit::Items);
    let put: f64 = collected.points.iter().filter(|point| point.name == put).map(|point| point.value).sum();
    assert_eq!(put, report.global(kpl_driver::metrics::Metric::UserRecordsPut).sum, "counters are not sampled");
}

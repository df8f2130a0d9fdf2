//! The sink for OpenTelemetry, through its API crate only.

use std::sync::Arc;

use kpl_core::metrics::{Metric, MetricsReport};
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter};
use opentelemetry::{KeyValue, global};

use super::counters::{self, COUNTERS, CounterSpec, Counts};
use super::finest::{FinestDatum, finest_data, finest_latencies, pending_changes};
use super::sampling::{OBSERVATIONS_MAX, Sampling};
use super::{BoxFuture, MetricsSink, SinkError, stream_name};

/// The upper bounds of the histograms' buckets, in seconds, unless a view of the application sets others.
const BOUNDS_SECONDS: [f64; 17] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Records metrics with OpenTelemetry. The application chooses the SDK and the exporter.
///
/// ```no_run
/// # fn example<R: kpl_driver::Runtime>(producer: kpl_driver::Producer<R>) {
/// producer.export_metrics_to(kpl_driver::metrics::OpenTelemetrySink::new());
/// # }
/// ```
///
/// The application must set its meter provider first. The names of the instruments follow the prefix
/// `kinesis.producer.`:
///
/// | metric of the KPL | instrument | kind | unit | attributes |
/// |---|---|---|---|---|
/// | `UserRecordsReceived` (detailed) | `user_records.received` | counter | `{record}` | `stream` |
/// | `UserRecordsPut` | `user_records.put` | counter | `{record}` | `stream`, `shard` |
/// | `UserRecordsPut`, those with value 0 | `user_records.failed` | counter | `{record}` | `stream`, `shard` |
/// | `UserRecordsDataPut` (detailed) | `user_records.data_put` | counter | `By` | `stream`, `shard` |
/// | `UserRecordExpired` | `user_records.expired` | counter | `{record}` | `stream`, `shard` |
/// | `RetriesPerRecord` (detailed) | `user_records.retries` | counter | `{attempt}` | `stream`, `shard` |
/// | `BufferingTime`, its count | `user_records.attempts` | counter | `{attempt}` | `stream`, `shard` |
/// | `BufferingTime`, its sum | `user_records.waiting_time` | counter | `s` | `stream`, `shard` |
/// | `UserRecordsPerKinesisRecord`, its sum (detailed) | `user_records.sent` | counter | `{record}` | `stream`, `shard` |
/// | `UserRecordsPerKinesisRecord`, its count (detailed) | `kinesis_records.sent` | counter | `{record}` | `stream`, `shard` |
/// | `KinesisRecordsPut` | `kinesis_records.put` | counter | `{record}` | `stream`, `shard` |
/// | `KinesisRecordsPut`, those with value 0 | `kinesis_records.refused` | counter | `{record}` | `stream`, `shard` |
/// | `KinesisRecordsDataPut` (detailed) | `kinesis_records.data_put` | counter | `By` | `stream`, `shard` |
/// | `ErrorsByCode`, whose sum is `AllErrors` | `errors` | counter | `{error}` | `stream`, `shard`, `error.code` |
/// | `RequestTime`, its count (detailed) | `requests` | counter | `{request}` | `stream` |
/// | `RequestTime`, its sum (detailed) | `request_time` | counter | `s` | `stream` |
/// | `RequestTime`, its maximum in the last report (detailed) | `request_time_max` | gauge | `s` | `stream` |
/// | `UserRecordsReceived` minus resolved user records (detailed) | `user_records.pending` | up-down counter | `{record}` | `stream` |
/// | latencies: put to acknowledgement | `put_to_ack` | histogram | `s` | `stream` |
/// | latencies: buffering | `buffering` | histogram | `s` | `stream` |
///
/// `KinesisRecordsPerPutRecordsRequest` is `kinesis_records.sent` divided by `requests`, and
/// `UserRecordsPerPutRecordsRequest` is `user_records.sent` divided by `requests`.
///
/// Each observation counts once, at the finest granularity of the config, because backends add over attributes.
/// Observations without a shard, such as a failed request, have no attribute `shard`. By default, the SDK keeps at most
/// 2,000 sets of attributes per instrument; a view can change this. With more shards, use `metrics_granularity` stream.
///
/// The histograms can be merged, so quantiles over any number of producers are accurate to 1/16, like the producer's
/// own. The API accepts one observation at a time. Above 100,000 per report, observations are sampled evenly: the shape
/// of the histogram remains, its count does not; see [`with_most_observations`](Self::with_most_observations). Use the
/// counters for counts.
#[derive(Debug)]
pub struct OpenTelemetrySink {
    counters: Vec<(&'static CounterSpec, Instrument)>,
    pending: UpDownCounter<i64>,
    request_time_max: Gauge<f64>,
    put_to_ack: Histogram<f64>,
    buffering: Histogram<f64>,
    most_observations: u64,
}

#[derive(Debug)]
enum Instrument {
    Integer(Counter<u64>),
    Seconds(Counter<f64>),
}

impl OpenTelemetrySink {
    /// Creates a sink with the meter `kinesis-producer` of the global provider, which must be set first.
    pub fn new() -> Self {
        Self::with_meter(&global::meter("kinesis-producer"))
    }

    /// Creates a sink with a meter of the application.
    pub fn with_meter(meter: &Meter) -> Self {
        let histogram = |name, description: &'static str| {
            let histogram = meter.f64_histogram(full_name(name)).with_unit("s").with_description(description);
            histogram.with_boundaries(BOUNDS_SECONDS.to_vec()).build()
        };
        let pending = meter.i64_up_down_counter(full_name(counters::PENDING)).with_unit("{record}");
        let request_time_max = meter.f64_gauge(full_name(counters::REQUEST_TIME_MAX)).with_unit("s");
        Self {
            counters: COUNTERS.iter().map(|spec| (spec, instrument(meter, spec))).collect(),
            pending: pending.with_description(counters::PENDING_DESCRIPTION).build(),
            request_time_max: request_time_max.with_description(counters::REQUEST_TIME_MAX_DESCRIPTION).build(),
            put_to_ack: histogram(counters::PUT_TO_ACK, counters::PUT_TO_ACK_DESCRIPTION),
            buffering: histogram(counters::BUFFERING, counters::BUFFERING_DESCRIPTION),
            most_observations: OBSERVATIONS_MAX,
        }
    }

    /// Sets the maximum number of observations per histogram and report. The default is 100,000. The export task needs
    /// about 100 ms for a million.
    #[must_use]
    pub fn with_most_observations(self, most_observations: u64) -> Self {
        Self { most_observations, ..self }
    }

    fn count(&self, finest: &FinestDatum<'_>) {
        let attributes = attributes(finest);
        for (spec, instrument) in self.counters.iter().filter(|(spec, _)| spec.metric == finest.metric) {
            let value = spec.value(&finest.statistics);
            match instrument {
                Instrument::Integer(counter) => counter.add(value.round() as u64, &attributes),
                Instrument::Seconds(counter) => counter.add(value / 1e3, &attributes),
            }
        }
        if finest.metric == Metric::RequestTime {
            self.request_time_max.record(finest.statistics.max / 1e3, &attributes);
        }
    }

    fn export_report(&self, report: &MetricsReport) {
        let finest_data = finest_data(report);
        finest_data.iter().for_each(|finest| self.count(finest));
        for (stream, change) in pending_changes(&finest_data) {
            self.pending.add(change, &stream_attribute(stream));
        }
        let latencies = finest_latencies(report);
        let put_to_ack = latencies.clone().map(|latency| (&latency.stream, &latency.put_to_ack));
        self.record(&self.put_to_ack, put_to_ack);
        self.record(&self.buffering, latencies.map(|latency| (&latency.stream, &latency.buffering)));
    }

    fn record<'a>(
        &self,
        instrument: &Histogram<f64>,
        histograms: impl Iterator<Item = (&'a Option<Arc<str>>, &'a super::Histogram)> + Clone,
    ) {
        let mut sampling = Sampling::new(self.most_observations, histograms.clone().map(|(_, histogram)| histogram));
        for (stream, histogram) in histograms {
            let attributes = stream_attribute(stream.as_ref());
            for (seconds, count) in sampling.buckets(histogram) {
                (0..count).for_each(|_| instrument.record(seconds, &attributes));
            }
        }
    }
}

impl Default for OpenTelemetrySink {
    fn default() -> Self {
        Self::new()
    }
}

impl MetricsSink for OpenTelemetrySink {
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async {
            self.export_report(report);
            Ok(())
        })
    }

    fn name(&self) -> &str {
        "OpenTelemetry"
    }
}

fn full_name(name: &str) -> String {
    format!("kinesis.producer.{name}")
}

fn instrument(meter: &Meter, spec: &CounterSpec) -> Instrument {
    let integer = |unit: String| {
        let counter = meter.u64_counter(full_name(spec.name)).with_unit(unit).with_description(spec.description);
        Instrument::Integer(counter.build())
    };
    match spec.counts {
        Counts::Items(item) => integer(format!("{{{item}}}")),
        Counts::Bytes => integer("By".to_owned()),
        Counts::Time => {
            let counter = meter.f64_counter(full_name(spec.name)).with_unit("s").with_description(spec.description);
            Instrument::Seconds(counter.build())
        }
    }
}

fn stream_attribute(stream: Option<&Arc<str>>) -> Vec<KeyValue> {
    stream.map(|stream| KeyValue::new("stream", stream_name(stream).to_owned())).into_iter().collect()
}

fn attributes(finest: &FinestDatum<'_>) -> Vec<KeyValue> {
    let mut attributes = stream_attribute(finest.stream);
    attributes.extend(finest.shard.map(|shard| KeyValue::new("shard", shard.clone())));
    attributes.extend(finest.error_code.map(|code| KeyValue::new("error.code", code.clone())));
    attributes
}

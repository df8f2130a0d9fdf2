//! OpenTelemetry, by its API alone.

use std::sync::Arc;

use kpl_core::metrics::{Metric, MetricsReport};
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter};
use opentelemetry::{KeyValue, global};

use super::counters::{self, COUNTERS, CounterSpec, Counts};
use super::finest::{FinestDatum, finest_data, finest_latencies, pending_changes};
use super::sampling::{OBSERVATIONS_MAX, Sampling};
use super::{BoxFuture, MetricsSink, SinkError, stream_name};

/// Upper bounds of the histograms' buckets, unless a view of the application says otherwise.
const SECONDS: [f64; 17] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Gives metrics to OpenTelemetry. SDK and exporter are the application's, which may choose any.
///
/// ```no_run
/// # fn example<R: kpl_driver::Runtime>(producer: kpl_driver::Producer<R>) {
/// producer.export_metrics_to(kpl_driver::metrics::OpenTelemetrySink::new());
/// # }
/// ```
///
/// The application's meter provider must be set before. What each instrument is made of, all of them below
/// `kinesis.producer.`:
///
/// | metric of the KPL | instrument | kind | unit | attributes |
/// |---|---|---|---|---|
/// | `UserRecordsReceived` (detailed) | `user_records.received` | counter | `{record}` | `stream` |
/// | `UserRecordsPut` | `user_records.put` | counter | `{record}` | `stream`, `shard` |
/// | `UserRecordsPut`, those that are 0 | `user_records.failed` | counter | `{record}` | `stream`, `shard` |
/// | `UserRecordsDataPut` (detailed) | `user_records.data_put` | counter | `By` | `stream`, `shard` |
/// | `UserRecordExpired` | `user_records.expired` | counter | `{record}` | `stream`, `shard` |
/// | `RetriesPerRecord` (detailed) | `user_records.retries` | counter | `{attempt}` | `stream`, `shard` |
/// | `BufferingTime`, its count | `user_records.attempts` | counter | `{attempt}` | `stream`, `shard` |
/// | `BufferingTime`, its sum | `user_records.waiting_time` | counter | `s` | `stream`, `shard` |
/// | `UserRecordsPerKinesisRecord`, its sum (detailed) | `user_records.sent` | counter | `{record}` | `stream`, `shard` |
/// | `UserRecordsPerKinesisRecord`, its count (detailed) | `kinesis_records.sent` | counter | `{record}` | `stream`, `shard` |
/// | `KinesisRecordsPut` | `kinesis_records.put` | counter | `{record}` | `stream`, `shard` |
/// | `KinesisRecordsPut`, those that are 0 | `kinesis_records.refused` | counter | `{record}` | `stream`, `shard` |
/// | `KinesisRecordsDataPut` (detailed) | `kinesis_records.data_put` | counter | `By` | `stream`, `shard` |
/// | `ErrorsByCode`, which add up to `AllErrors` | `errors` | counter | `{error}` | `stream`, `shard`, `error.code` |
/// | `RequestTime`, its count (detailed) | `requests` | counter | `{request}` | `stream` |
/// | `RequestTime`, its sum (detailed) | `request_time` | counter | `s` | `stream` |
/// | `RequestTime`, its maximum in the last report (detailed) | `request_time_max` | gauge | `s` | `stream` |
/// | `UserRecordsReceived` less those that ended (detailed) | `user_records.pending` | up-down counter | `{record}` | `stream` |
/// | latencies: put to acknowledgement | `put_to_ack` | histogram | `s` | `stream` |
/// | latencies: buffering | `buffering` | histogram | `s` | `stream` |
///
/// `KinesisRecordsPerPutRecordsRequest` is `kinesis_records.sent` by `requests`, and
/// `UserRecordsPerPutRecordsRequest` is `user_records.sent` by `requests`.
///
/// Each observation counts once, at the finest granularity that the config has: backends add up over attributes. What
/// belongs to no shard, a request that failed as a whole for instance, has no attribute `shard`. The SDK tells 2,000 sets of
/// attributes apart, unless a view says otherwise: with more shards than that, `metrics_granularity` stream is better.
///
/// The histograms are real ones, so that quantiles over any number of producers are right, within the sixteenth that the
/// producer's own are. The API takes one observation at a time: beyond 100,000 in a report they are thinned evenly, which
/// keeps their shape, but not their count; see [`with_most_observations`](Self::with_most_observations). Counts are the
/// counters' business.
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
    Whole(Counter<u64>),
    Seconds(Counter<f64>),
}

impl OpenTelemetrySink {
    /// With the meter `kinesis-producer` of the global provider, which must have been set.
    pub fn new() -> Self {
        Self::with_meter(&global::meter("kinesis-producer"))
    }

    /// With a meter of the application's.
    pub fn with_meter(meter: &Meter) -> Self {
        let histogram = |name, about: &'static str| {
            let histogram = meter.f64_histogram(full(name)).with_unit("s").with_description(about);
            histogram.with_boundaries(SECONDS.to_vec()).build()
        };
        let pending = meter.i64_up_down_counter(full(counters::PENDING)).with_unit("{record}");
        let request_time_max = meter.f64_gauge(full(counters::REQUEST_TIME_MAX)).with_unit("s");
        Self {
            counters: COUNTERS.iter().map(|spec| (spec, instrument(meter, spec))).collect(),
            pending: pending.with_description(counters::PENDING_ABOUT).build(),
            request_time_max: request_time_max.with_description(counters::REQUEST_TIME_MAX_ABOUT).build(),
            put_to_ack: histogram(counters::PUT_TO_ACK, counters::PUT_TO_ACK_ABOUT),
            buffering: histogram(counters::BUFFERING, counters::BUFFERING_ABOUT),
            most_observations: OBSERVATIONS_MAX,
        }
    }

    /// Gives each histogram at most so many observations for a report, 100,000 by default. A million takes about a tenth of
    /// a second of the task that exports.
    #[must_use]
    pub fn with_most_observations(self, most: u64) -> Self {
        Self { most_observations: most, ..self }
    }

    fn count(&self, finest: &FinestDatum<'_>) {
        let attributes = attributes(finest);
        for (spec, instrument) in self.counters.iter().filter(|(spec, _)| spec.metric == finest.metric) {
            let value = spec.of(&finest.statistics);
            match instrument {
                Instrument::Whole(counter) => counter.add(value.round() as u64, &attributes),
                Instrument::Seconds(counter) => counter.add(value / 1e3, &attributes),
            }
        }
        if finest.metric == Metric::RequestTime {
            self.request_time_max.record(finest.statistics.max / 1e3, &attributes);
        }
    }

    fn tell(&self, report: &MetricsReport) {
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
            for (seconds, times) in sampling.buckets(histogram) {
                (0..times).for_each(|_| instrument.record(seconds, &attributes));
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
            self.tell(report);
            Ok(())
        })
    }

    fn name(&self) -> &str {
        "OpenTelemetry"
    }
}

fn full(name: &str) -> String {
    format!("kinesis.producer.{name}")
}

fn instrument(meter: &Meter, spec: &CounterSpec) -> Instrument {
    let whole = |unit: String| {
        let counter = meter.u64_counter(full(spec.name)).with_unit(unit).with_description(spec.about);
        Instrument::Whole(counter.build())
    };
    match spec.counts {
        Counts::Things(thing) => whole(format!("{{{thing}}}")),
        Counts::Bytes => whole("By".to_owned()),
        Counts::Time => {
            let counter = meter.f64_counter(full(spec.name)).with_unit("s").with_description(spec.about);
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

//! The `metrics` facade, whose recorders go to Prometheus and elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kpl_core::metrics::{Metric, MetricsReport};
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, Unit, with_recorder};

use super::counters::{self, COUNTERS, CounterSpec, Counts};
use super::finest::{FinestDatum, finest_data, finest_latencies, pending_changes};
use super::sampling::{OBSERVATIONS_MAX, Sampling};
use super::{BoxFuture, MetricsSink, SinkError, stream_name};

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// Gives metrics to the recorder of the `metrics` crate: `metrics-exporter-prometheus` for instance.
///
/// ```no_run
/// # fn example<R: kpl_driver::Runtime>(producer: kpl_driver::Producer<R>) {
/// producer.export_metrics_to(kpl_driver::metrics::MetricsFacadeSink::new());
/// # }
/// ```
///
/// The recorder is the one that is installed when a report is made; descriptions go out with the first report. What each
/// metric is called, all of them with `kinesis_producer_` before:
///
/// | metric of the KPL | name | type | labels |
/// |---|---|---|---|
/// | `UserRecordsReceived` (detailed) | `user_records_received_total` | counter | `stream` |
/// | `UserRecordsPut` | `user_records_put_total` | counter | `stream`, `shard` |
/// | `UserRecordsPut`, those that are 0 | `user_records_failed_total` | counter | `stream`, `shard` |
/// | `UserRecordsDataPut` (detailed) | `user_records_data_put_bytes_total` | counter | `stream`, `shard` |
/// | `UserRecordExpired` | `user_records_expired_total` | counter | `stream`, `shard` |
/// | `RetriesPerRecord` (detailed) | `user_records_retries_total` | counter | `stream`, `shard` |
/// | `BufferingTime`, its count | `user_records_attempts_total` | counter | `stream`, `shard` |
/// | `BufferingTime`, its sum | `user_records_waiting_time_microseconds_total` | counter | `stream`, `shard` |
/// | `UserRecordsPerKinesisRecord`, its sum (detailed) | `user_records_sent_total` | counter | `stream`, `shard` |
/// | `UserRecordsPerKinesisRecord`, its count (detailed) | `kinesis_records_sent_total` | counter | `stream`, `shard` |
/// | `KinesisRecordsPut` | `kinesis_records_put_total` | counter | `stream`, `shard` |
/// | `KinesisRecordsPut`, those that are 0 | `kinesis_records_refused_total` | counter | `stream`, `shard` |
/// | `KinesisRecordsDataPut` (detailed) | `kinesis_records_data_put_bytes_total` | counter | `stream`, `shard` |
/// | `ErrorsByCode`, which add up to `AllErrors` | `errors_total` | counter | `stream`, `shard`, `error_code` |
/// | `RequestTime`, its count (detailed) | `requests_total` | counter | `stream` |
/// | `RequestTime`, its sum (detailed) | `request_time_microseconds_total` | counter | `stream` |
/// | `RequestTime`, its maximum in the last report (detailed) | `request_time_max_seconds` | gauge | `stream` |
/// | `UserRecordsReceived` less those that ended (detailed) | `user_records_pending` | gauge | `stream` |
/// | latencies: put to acknowledgement | `put_to_ack_seconds` | histogram | `stream` |
/// | latencies: buffering | `buffering_seconds` | histogram | `stream` |
///
/// Times that are added up are in microseconds, since the facade's counters hold whole numbers.
/// `KinesisRecordsPerPutRecordsRequest` is `kinesis_records_sent_total` by `requests_total`, and
/// `UserRecordsPerPutRecordsRequest` is `user_records_sent_total` by `requests_total`. In Grafana:
///
/// ```text
/// sum by (stream) (rate(kinesis_producer_user_records_put_total[5m]))
/// sum by (error_code) (rate(kinesis_producer_errors_total[5m]))
/// histogram_quantile(0.99, sum by (le) (rate(kinesis_producer_put_to_ack_seconds_bucket[5m])))
/// ```
///
/// The last one wants buckets: without `PrometheusBuilder::set_buckets_for_metric`, the exporter makes quantiles, which
/// cannot be added up over producers.
///
/// Each observation counts once, at the finest granularity that the config has: Prometheus adds up over labels. What belongs
/// to no shard, a request that failed as a whole for instance, has no label `shard`.
///
/// The facade takes one observation of a histogram at a time: beyond 100,000 in a report they are thinned evenly, which
/// keeps their shape, but not their count; see [`with_most_observations`](Self::with_most_observations). Counts are the
/// counters' business.
#[derive(Debug)]
pub struct MetricsFacadeSink {
    counters: Vec<(&'static CounterSpec, KeyName)>,
    pending: KeyName,
    request_time_max: KeyName,
    put_to_ack: KeyName,
    buffering: KeyName,
    most_observations: u64,
    is_described: AtomicBool,
}

impl MetricsFacadeSink {
    /// With the recorder that is installed when a report is made.
    pub fn new() -> Self {
        let counter = |spec: &'static CounterSpec| (spec, full(spec.name, spec.suffix(), "_total"));
        Self {
            counters: COUNTERS.iter().map(counter).collect(),
            pending: full(counters::PENDING, "", ""),
            request_time_max: full(counters::REQUEST_TIME_MAX, "_seconds", ""),
            put_to_ack: full(counters::PUT_TO_ACK, "_seconds", ""),
            buffering: full(counters::BUFFERING, "_seconds", ""),
            most_observations: OBSERVATIONS_MAX,
            is_described: AtomicBool::new(false),
        }
    }

    /// Gives each histogram at most so many observations for a report, 100,000 by default. Recorders may keep each of them
    /// until they are asked: in Prometheus's, one takes 16 bytes.
    #[must_use]
    pub fn with_most_observations(self, most: u64) -> Self {
        Self { most_observations: most, ..self }
    }

    fn describe(&self, recorder: &dyn Recorder) {
        for (spec, name) in &self.counters {
            let unit = match spec.counts {
                Counts::Things(_) => Unit::Count,
                Counts::Bytes => Unit::Bytes,
                Counts::Time => Unit::Microseconds,
            };
            recorder.describe_counter(name.clone(), Some(unit), spec.about.into());
        }
        recorder.describe_gauge(self.pending.clone(), Some(Unit::Count), counters::PENDING_ABOUT.into());
        let (seconds, about) = (Some(Unit::Seconds), counters::REQUEST_TIME_MAX_ABOUT);
        recorder.describe_gauge(self.request_time_max.clone(), seconds, about.into());
        recorder.describe_histogram(self.put_to_ack.clone(), seconds, counters::PUT_TO_ACK_ABOUT.into());
        recorder.describe_histogram(self.buffering.clone(), seconds, counters::BUFFERING_ABOUT.into());
    }

    fn count(&self, recorder: &dyn Recorder, finest: &FinestDatum<'_>) {
        for (spec, name) in self.counters.iter().filter(|(spec, _)| spec.metric == finest.metric) {
            let counter = recorder.register_counter(&key(name, labels(finest)), &METADATA);
            counter.increment(spec.whole(&finest.statistics));
        }
        if finest.metric == Metric::RequestTime {
            let gauge = recorder.register_gauge(&key(&self.request_time_max, labels(finest)), &METADATA);
            gauge.set(finest.statistics.max / 1e3);
        }
    }

    fn tell(&self, recorder: &dyn Recorder, report: &MetricsReport) {
        if !self.is_described.swap(true, Ordering::Relaxed) {
            self.describe(recorder);
        }
        let finest_data = finest_data(report);
        finest_data.iter().for_each(|finest| self.count(recorder, finest));
        for (stream, change) in pending_changes(&finest_data) {
            recorder.register_gauge(&key(&self.pending, stream_label(stream)), &METADATA).increment(change as f64);
        }
        let latencies = finest_latencies(report);
        let put_to_ack = latencies.clone().map(|latency| (&latency.stream, &latency.put_to_ack));
        self.record(recorder, &self.put_to_ack, put_to_ack);
        let buffering = latencies.map(|latency| (&latency.stream, &latency.buffering));
        self.record(recorder, &self.buffering, buffering);
    }

    fn record<'a>(
        &self,
        recorder: &dyn Recorder,
        name: &KeyName,
        histograms: impl Iterator<Item = (&'a Option<Arc<str>>, &'a super::Histogram)> + Clone,
    ) {
        let mut sampling = Sampling::new(self.most_observations, histograms.clone().map(|(_, histogram)| histogram));
        for (stream, histogram) in histograms {
            let told = recorder.register_histogram(&key(name, stream_label(stream.as_ref())), &METADATA);
            for (seconds, times) in sampling.buckets(histogram) {
                told.record_many(seconds, usize::try_from(times).unwrap_or(usize::MAX));
            }
        }
    }
}

impl Default for MetricsFacadeSink {
    fn default() -> Self {
        Self::new()
    }
}

impl MetricsSink for MetricsFacadeSink {
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async {
            with_recorder(|recorder| self.tell(recorder, report));
            Ok(())
        })
    }

    fn name(&self) -> &str {
        "metrics facade"
    }
}

fn full(name: &str, unit: &str, kind: &str) -> KeyName {
    format!("kinesis_producer_{}{unit}{kind}", name.replace('.', "_")).into()
}

fn key(name: &KeyName, labels: Vec<Label>) -> Key {
    Key::from_parts(name.clone(), labels)
}

fn stream_label(stream: Option<&Arc<str>>) -> Vec<Label> {
    stream.map(|stream| Label::new("stream", stream_name(stream).to_owned())).into_iter().collect()
}

fn labels(finest: &FinestDatum<'_>) -> Vec<Label> {
    let mut labels = stream_label(finest.stream);
    labels.extend(finest.shard.map(|shard| Label::new("shard", shard.clone())));
    labels.extend(finest.error_code.map(|code| Label::new("error_code", code.clone())));
    labels
}

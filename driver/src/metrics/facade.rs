//! The sink for the `metrics` facade, which has recorders for Prometheus and others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kpl_core::metrics::{Metric, MetricsReport};
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, Unit, with_recorder};

use super::counters::{self, COUNTERS, CounterSpec, Counts};
use super::finest::{FinestDatum, finest_data, finest_latencies, pending_changes};
use super::sampling::{OBSERVATIONS_MAX, Sampling};
use super::{BoxFuture, MetricsSink, SinkError, stream_name};

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// Passes metrics to the recorder of the `metrics` crate, for example `metrics-exporter-prometheus`.
///
/// ```no_run
/// # fn example<R: kpl_driver::Runtime>(producer: kpl_driver::Producer<R>) {
/// producer.export_metrics_to(kpl_driver::metrics::MetricsFacadeSink::new());
/// # }
/// ```
///
/// Each report goes to the recorder that is installed at that time; the first report also has the descriptions. The
/// names follow the prefix `kinesis_producer_`:
///
/// | metric of the KPL | name | type | labels |
/// |---|---|---|---|
/// | `UserRecordsReceived` (detailed) | `user_records_received_total` | counter | `stream` |
/// | `UserRecordsPut` | `user_records_put_total` | counter | `stream`, `shard` |
/// | `UserRecordsPut`, those with value 0 | `user_records_failed_total` | counter | `stream`, `shard` |
/// | `UserRecordsDataPut` (detailed) | `user_records_data_put_bytes_total` | counter | `stream`, `shard` |
/// | `UserRecordExpired` | `user_records_expired_total` | counter | `stream`, `shard` |
/// | `RetriesPerRecord` (detailed) | `user_records_retries_total` | counter | `stream`, `shard` |
/// | `BufferingTime`, its count | `user_records_attempts_total` | counter | `stream`, `shard` |
/// | `BufferingTime`, its sum | `user_records_waiting_time_microseconds_total` | counter | `stream`, `shard` |
/// | `UserRecordsPerKinesisRecord`, its sum (detailed) | `user_records_sent_total` | counter | `stream`, `shard` |
/// | `UserRecordsPerKinesisRecord`, its count (detailed) | `kinesis_records_sent_total` | counter | `stream`, `shard` |
/// | `KinesisRecordsPut` | `kinesis_records_put_total` | counter | `stream`, `shard` |
/// | `KinesisRecordsPut`, those with value 0 | `kinesis_records_refused_total` | counter | `stream`, `shard` |
/// | `KinesisRecordsDataPut` (detailed) | `kinesis_records_data_put_bytes_total` | counter | `stream`, `shard` |
/// | `ErrorsByCode`, whose sum is `AllErrors` | `errors_total` | counter | `stream`, `shard`, `error_code` |
/// | `RequestTime`, its count (detailed) | `requests_total` | counter | `stream` |
/// | `RequestTime`, its sum (detailed) | `request_time_microseconds_total` | counter | `stream` |
/// | `RequestTime`, its maximum in the last report (detailed) | `request_time_max_seconds` | gauge | `stream` |
/// | `UserRecordsReceived` minus resolved user records (detailed) | `user_records_pending` | gauge | `stream` |
/// | latencies: put to acknowledgement | `put_to_ack_seconds` | histogram | `stream` |
/// | latencies: buffering | `buffering_seconds` | histogram | `stream` |
///
/// Sums of times are in microseconds, because the facade's counters are integers. `KinesisRecordsPerPutRecordsRequest`
/// is `kinesis_records_sent_total` divided by `requests_total`, and `UserRecordsPerPutRecordsRequest` is
/// `user_records_sent_total` divided by `requests_total`. Queries for Grafana:
///
/// ```text
/// sum by (stream) (rate(kinesis_producer_user_records_put_total[5m]))
/// sum by (error_code) (rate(kinesis_producer_errors_total[5m]))
/// histogram_quantile(0.99, sum by (le) (rate(kinesis_producer_put_to_ack_seconds_bucket[5m])))
/// ```
///
/// The last query needs buckets: without `PrometheusBuilder::set_buckets_for_metric`, the exporter computes quantiles,
/// which cannot be added over producers.
///
/// Each observation counts once, at the finest granularity of the config, because Prometheus adds over labels.
/// Observations without a shard, such as a failed request, have no label `shard`.
///
/// The facade accepts one observation of a histogram at a time. Above 100,000 per report, observations are sampled
/// evenly: the shape of the histogram remains, its count does not; see
/// [`with_most_observations`](Self::with_most_observations). Use the counters for counts.
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
    /// Creates a sink that uses the recorder installed at the time of each report.
    pub fn new() -> Self {
        let counter = |spec: &'static CounterSpec| (spec, full_name(spec.name, spec.suffix(), "_total"));
        Self {
            counters: COUNTERS.iter().map(counter).collect(),
            pending: full_name(counters::PENDING, "", ""),
            request_time_max: full_name(counters::REQUEST_TIME_MAX, "_seconds", ""),
            put_to_ack: full_name(counters::PUT_TO_ACK, "_seconds", ""),
            buffering: full_name(counters::BUFFERING, "_seconds", ""),
            most_observations: OBSERVATIONS_MAX,
            is_described: AtomicBool::new(false),
        }
    }

    /// Sets the maximum number of observations per histogram and report. The default is 100,000. A recorder may keep
    /// each observation until it is scraped; Prometheus's takes 16 bytes for one.
    #[must_use]
    pub fn with_most_observations(self, most_observations: u64) -> Self {
        Self { most_observations, ..self }
    }

    fn describe(&self, recorder: &dyn Recorder) {
        for (spec, name) in &self.counters {
            let unit = match spec.counts {
                Counts::Items(_) => Unit::Count,
                Counts::Bytes => Unit::Bytes,
                Counts::Time => Unit::Microseconds,
            };
            recorder.describe_counter(name.clone(), Some(unit), spec.description.into());
        }
        recorder.describe_gauge(self.pending.clone(), Some(Unit::Count), counters::PENDING_DESCRIPTION.into());
        let (seconds, description) = (Some(Unit::Seconds), counters::REQUEST_TIME_MAX_DESCRIPTION);
        recorder.describe_gauge(self.request_time_max.clone(), seconds, description.into());
        recorder.describe_histogram(self.put_to_ack.clone(), seconds, counters::PUT_TO_ACK_DESCRIPTION.into());
        recorder.describe_histogram(self.buffering.clone(), seconds, counters::BUFFERING_DESCRIPTION.into());
    }

    fn count(&self, recorder: &dyn Recorder, finest: &FinestDatum<'_>) {
        for (spec, name) in self.counters.iter().filter(|(spec, _)| spec.metric == finest.metric) {
            let counter = recorder.register_counter(&key(name, labels(finest)), &METADATA);
            counter.increment(spec.integer(&finest.statistics));
        }
        if finest.metric == Metric::RequestTime {
            let gauge = recorder.register_gauge(&key(&self.request_time_max, labels(finest)), &METADATA);
            gauge.set(finest.statistics.max / 1e3);
        }
    }

    fn export_report(&self, recorder: &dyn Recorder, report: &MetricsReport) {
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
            let recorded = recorder.register_histogram(&key(name, stream_label(stream.as_ref())), &METADATA);
            for (seconds, count) in sampling.buckets(histogram) {
                recorded.record_many(seconds, usize::try_from(count).unwrap_or(usize::MAX));
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
            with_recorder(|recorder| self.export_report(recorder, report));
            Ok(())
        })
    }

    fn name(&self) -> &str {
        "metrics facade"
    }
}

fn full_name(name: &str, unit: &str, kind: &str) -> KeyName {
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

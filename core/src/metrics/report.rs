//! Metrics reports: observations rolled up from shards to streams, and from streams to all streams.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::histogram::Histogram;
use super::recorder::{Counters, SHARD_SETS, STREAM_SETS, Shard, StreamMetrics};
use super::series::{self, Series, WINDOW_SECONDS_MAX};
use super::{Metric, MetricsGranularity, StatisticSet};
use crate::time::Instant;

/// The time window of a [`MetricsReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricsWindow {
    /// The time since the producer was created.
    Total,
    /// The last seconds, including the current one. Only 60 are kept, so a larger number counts as 60, and 0 is empty.
    /// Such a report has no latencies.
    Seconds(u64),
}

/// A data point: a metric of a shard, of a stream or of all streams. Reports have only data points with observations.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Datum {
    /// The metric.
    pub metric: Metric,
    /// The error code of [`Metric::ErrorsByCode`]; `None` means all codes together. Other metrics have `None`.
    pub error_code: Option<Arc<str>>,
    /// The stream's name or ARN, as it was put; `None` means all streams.
    pub stream: Option<Arc<str>>,
    /// The shard's ID; `None` means the whole stream, including observations that belong to no shard.
    pub shard: Option<Arc<str>>,
    /// The observations.
    pub statistics: StatisticSet,
}

/// Latencies of user records, of a stream or of all streams.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latency {
    /// The stream's name or ARN, as it was put; `None` means all streams.
    pub stream: Option<Arc<str>>,
    /// The time from the put to the reply that confirmed the record, retries included.
    pub put_to_ack: Histogram,
    /// The time from the put, or the end of the previous attempt, to the request: for each attempt.
    pub buffering: Histogram,
}

/// Metrics of a period of time.
///
/// Each observation is in up to three data points: of all streams, of its stream, and of its shard, depending on
/// `metrics_granularity`. So do not add up data points: the report contains the sums.
///
/// The getters return an empty set if there is no such value: nothing was observed, or the metric is not kept at this
/// `metrics_level` or `metrics_granularity`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MetricsReport {
    /// The start of the period; `None` for [`MetricsWindow::Total`].
    pub start: Option<Instant>,
    /// The end of the period.
    pub end: Option<Instant>,
    /// The data points, sorted by metric, error code, stream and shard; `None` is first.
    pub data: Vec<Datum>,
    /// The latencies: first those of all streams, then those of each stream.
    pub latencies: Vec<Latency>,
}

impl MetricsReport {
    /// Returns a metric of all streams together; empty if there is no such value.
    pub fn global(&self, metric: Metric) -> StatisticSet {
        self.find(metric, None, None, None)
    }

    /// Returns a metric of a stream, given by name or ARN as it was put; empty if there is no such value.
    pub fn stream(&self, metric: Metric, stream: &str) -> StatisticSet {
        self.find(metric, None, Some(stream), None)
    }

    /// Returns a metric of a shard. The stream is given by name or ARN as it was put, the shard by its ID. Empty if
    /// there is no such value.
    pub fn shard(&self, metric: Metric, stream: &str, shard: &str) -> StatisticSet {
        self.find(metric, None, Some(stream), Some(shard))
    }

    /// Returns the errors with a code, of all streams together; empty if there is no such value.
    pub fn errors(&self, error_code: &str) -> StatisticSet {
        self.find(Metric::ErrorsByCode, Some(error_code), None, None)
    }

    /// Returns the latencies of all streams together; `None` if the report has no latencies.
    pub fn latency(&self) -> Option<&Latency> {
        self.latencies.first()
    }

    /// Whether there are no observations.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Returns the statistics of a data point; an empty set if there is no such data point.
    fn find(&self, metric: Metric, code: Option<&str>, stream: Option<&str>, shard: Option<&str>) -> StatisticSet {
        let found = self.data.iter().find(|datum| {
            datum.metric == metric
                && datum.error_code.as_deref() == code
                && datum.stream.as_deref() == stream
                && datum.shard.as_deref() == shard
        });
        found.map(|datum| datum.statistics).unwrap_or_default()
    }
}

/// A way to read a series.
trait ReadSeries {
    fn read<const N: usize>(&mut self, series: &mut Series<N>) -> [StatisticSet; N];
}

/// Reads what is not reported yet, and marks it as reported.
struct Unreported(Instant);

impl ReadSeries for Unreported {
    fn read<const N: usize>(&mut self, series: &mut Series<N>) -> [StatisticSet; N] {
        series.report(self.0)
    }
}

/// Reads a window, without a change of the series.
struct Window(Instant, MetricsWindow);

impl ReadSeries for Window {
    fn read<const N: usize>(&mut self, series: &mut Series<N>) -> [StatisticSet; N] {
        match self.1 {
            MetricsWindow::Total => series.total(),
            MetricsWindow::Seconds(seconds) => series.window(self.0, seconds.min(WINDOW_SECONDS_MAX)),
        }
    }
}

/// Copies of the sets of a shard, of a stream or of all streams, to be rolled up without a lock.
#[derive(Clone, Debug)]
struct Sets {
    shard: Option<Arc<str>>,
    sets: Vec<StatisticSet>,
    errors: Vec<(usize, StatisticSet)>,
}

impl Sets {
    fn of<const N: usize>(shard: Option<&Arc<str>>, counters: &mut Counters<N>, reader: &mut impl ReadSeries) -> Self {
        let errors = counters.errors.iter_mut().map(|(code, series)| (*code, reader.read(series)[0]));
        let errors = errors.filter(|(_, set)| !set.is_empty()).collect();
        Self { shard: shard.cloned(), sets: reader.read(&mut counters.series).to_vec(), errors }
    }

    fn is_empty(&self) -> bool {
        self.errors.is_empty() && self.sets.iter().all(StatisticSet::is_empty)
    }
}

/// Copies of the sets of one stream, not rolled up.
#[derive(Clone, Debug)]
struct StreamSets {
    /// The stream's name; `None` for streams that are counted together.
    name: Option<Arc<str>>,
    own: Sets,
    shards: Vec<Sets>,
    codes: Vec<Arc<str>>,
    latency: Option<(Histogram, Histogram)>,
}

/// A copy of the state machine's metrics. [`roll_up`](Self::roll_up) converts it to a report.
#[derive(Clone, Debug)]
pub struct MetricsSnapshot {
    start: Option<Instant>,
    end: Instant,
    granularity: MetricsGranularity,
    streams: Vec<StreamSets>,
}

impl MetricsSnapshot {
    pub(crate) fn new(start: Option<Instant>, end: Instant, granularity: MetricsGranularity) -> Self {
        Self { start, end, granularity, streams: Vec::new() }
    }

    /// Adds what the stream has not reported yet, and marks it as reported.
    pub(crate) fn report(&mut self, now: Instant, name: &Arc<str>, metrics: &mut StreamMetrics) {
        metrics.drop_old_shards(now);
        let latency = core::mem::take(&mut metrics.latency.put_to_ack[0]);
        let buffering = core::mem::take(&mut metrics.latency.buffering[0]);
        metrics.latency.put_to_ack[1].merge(&latency);
        metrics.latency.buffering[1].merge(&buffering);
        metrics.is_dirty = false;
        self.streams.push(metrics.copy_sets(Some(name), &mut Unreported(now), Some((latency, buffering))));
    }

    /// Adds a window of the stream's metrics. Marks nothing as reported.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        name: Option<&Arc<str>>,
        metrics: &mut StreamMetrics,
        window: MetricsWindow,
    ) {
        let merged = |[new, old]: &[Histogram; 2]| {
            let mut merged = new.clone();
            merged.merge(old);
            merged
        };
        let latency = (window == MetricsWindow::Total)
            .then(|| (merged(&metrics.latency.put_to_ack), merged(&metrics.latency.buffering)));
        self.streams.push(metrics.copy_sets(name, &mut Window(now, window), latency));
    }

    /// Creates a report: adds shards up to streams, and streams to all streams.
    pub fn roll_up(self) -> MetricsReport {
        let mut data: Vec<Datum> = Vec::new();
        let mut global = Sets { shard: None, sets: alloc::vec![StatisticSet::EMPTY; STREAM_SETS], errors: Vec::new() };
        let mut global_codes: Vec<Arc<str>> = Vec::new();
        let mut latencies: Vec<Latency> = Vec::new();
        let mut all: Option<(Histogram, Histogram)> = None;
        let by_stream = self.granularity >= MetricsGranularity::Stream;
        for StreamSets { name, mut own, mut shards, codes, latency } in self.streams {
            // Shards with the same name come from a stream that was recreated.
            shards.sort_unstable_by(|a, b| a.shard.cmp(&b.shard));
            shards.dedup_by(|other, kept| {
                let is_same = other.shard == kept.shard;
                if is_same {
                    add(kept, other, |code| code);
                }
                is_same
            });
            for shard in &shards {
                add(&mut own, shard, |code| code);
                if self.granularity >= MetricsGranularity::Shard && name.is_some() {
                    push_data(&mut data, name.as_ref(), shard, &codes);
                }
            }
            add(&mut global, &own, |code| number(&mut global_codes, &codes[code]));
            if by_stream && name.is_some() {
                push_data(&mut data, name.as_ref(), &own, &codes);
            }
            if let Some((put_to_ack, buffering)) = latency {
                let all = all.get_or_insert_with(Default::default);
                all.0.merge(&put_to_ack);
                all.1.merge(&buffering);
                if by_stream && name.is_some() {
                    latencies.push(Latency { stream: name, put_to_ack, buffering });
                }
            }
        }
        push_data(&mut data, None, &global, &global_codes);
        if let Some((put_to_ack, buffering)) = all {
            latencies.insert(0, Latency { stream: None, put_to_ack, buffering });
        }
        data.sort_unstable_by(|a, b| {
            (a.metric, &a.error_code, &a.stream, &a.shard).cmp(&(b.metric, &b.error_code, &b.stream, &b.shard))
        });
        MetricsReport { start: self.start, end: Some(self.end), data, latencies }
    }
}

impl StreamMetrics {
    fn copy_sets(
        &mut self,
        name: Option<&Arc<str>>,
        reader: &mut impl ReadSeries,
        latency: Option<(Histogram, Histogram)>,
    ) -> StreamSets {
        let own = Sets::of(None, &mut self.own, reader);
        let shards = self.shards.iter_mut().flatten().chain(self.others.values_mut());
        let mut sets_of = |shard: &mut Box<Shard>| Sets::of(Some(&shard.id), &mut shard.counters, reader);
        let shards = shards.map(&mut sets_of).filter(|sets| !sets.is_empty()).collect();
        StreamSets { name: name.cloned(), own, shards, codes: self.codes.clone(), latency }
    }

    /// Drops shards without a slot that need no report of their own any more. Their totals are added to the stream.
    fn drop_old_shards(&mut self, now: Instant) {
        let Self { own, others, .. } = self;
        others.retain(|_, shard| {
            let errors_have_only_totals = shard.counters.errors.iter().all(|(_, series)| series.has_only_totals(now));
            if !shard.counters.series.has_only_totals(now) || !errors_have_only_totals {
                return true;
            }
            own.series.absorb(&shard.counters.series.total());
            for (code, series) in &shard.counters.errors {
                own.errors_of(*code).absorb(&series.total());
            }
            false
        });
    }
}

/// Adds `from` to `into`. `number` converts the numbers of error codes.
fn add(into: &mut Sets, from: &Sets, mut number: impl FnMut(usize) -> usize) {
    series::merge(&mut into.sets, &from.sets);
    for (code, set) in &from.errors {
        let code = number(*code);
        match into.errors.iter_mut().find(|(known, _)| *known == code) {
            Some((_, sum)) => sum.merge(set),
            None => into.errors.push((code, *set)),
        }
    }
}

/// Returns the number of an error code, and adds the code if it is new.
fn number(codes: &mut Vec<Arc<str>>, code: &Arc<str>) -> usize {
    codes.iter().position(|known| known == code).unwrap_or_else(|| {
        codes.push(code.clone());
        codes.len() - 1
    })
}

/// Appends a data point for each set that is not empty.
fn push_data(data: &mut Vec<Datum>, stream: Option<&Arc<str>>, sets: &Sets, codes: &[Arc<str>]) {
    let mut push = |metric: Metric, error_code: Option<&Arc<str>>, statistics: StatisticSet| {
        if !statistics.is_empty() {
            let (error_code, stream, shard) = (error_code.cloned(), stream.cloned(), sets.shard.clone());
            data.push(Datum { metric, error_code, stream, shard, statistics });
        }
    };
    for (metric, set) in Metric::ALL.into_iter().zip(&sets.sets) {
        if metric != Metric::ErrorsByCode {
            push(metric, None, *set);
        }
    }
    let mut all = StatisticSet::EMPTY;
    for (code, set) in &sets.errors {
        all.merge(set);
        push(Metric::ErrorsByCode, codes.get(*code), *set);
    }
    push(Metric::ErrorsByCode, None, all);
}

const _: () = assert!(SHARD_SETS < STREAM_SETS);

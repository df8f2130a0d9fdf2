//! What is told of what was observed: rolled up, from shards to streams to all.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::histogram::Histogram;
use super::recorder::{Place, SHARD_SETS, STREAM_SETS, Shard, StreamMetrics};
use super::series::{self, Series, WINDOW_SECONDS_MAX};
use super::{Metric, MetricsGranularity, StatisticSet};
use crate::time::Instant;

/// What a [`MetricsReport`] covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricsWindow {
    /// Since the producer was made.
    Total,
    /// The last so many seconds, the current one included; at most 60 are kept. Latencies are not kept by second.
    Seconds(u64),
}

/// One metric in one place. A report has no empty ones.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Datum {
    /// Which metric.
    pub metric: Metric,
    /// Of which error code: for [`Metric::ErrorsByCode`] it may be `None`, which is all codes together.
    pub error_code: Option<Arc<str>>,
    /// Of which stream (its name or ARN, as it was put); `None` is all of them.
    pub stream: Option<Arc<str>>,
    /// Of which shard; `None` is all of the stream's, with what belongs to none.
    pub shard: Option<Arc<str>>,
    /// What was observed.
    pub statistics: StatisticSet,
}

/// Latencies of user records, of a stream or of all.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latency {
    /// Of which stream; `None` is all of them.
    pub stream: Option<Arc<str>>,
    /// From put to the reply that stored the record, retries included.
    pub put_to_ack: Histogram,
    /// From put, or from the end of the attempt before, to the request: for each attempt.
    pub buffering: Histogram,
}

/// Metrics at a point in time, or of a span of time.
///
/// Each observation is in up to three data: of all streams, of its stream, and of its shard, as far as
/// `metrics_granularity` goes. Add none of them up: the sum is there.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct MetricsReport {
    /// When what is in it begins; `None` for [`MetricsWindow::Total`].
    pub start: Option<Instant>,
    /// When it ends.
    pub end: Option<Instant>,
    /// In the order of metrics; of each, first that of all streams, then by stream, by shard.
    pub data: Vec<Datum>,
    /// First that of all streams, then by stream.
    pub latencies: Vec<Latency>,
}

impl MetricsReport {
    /// A metric over all streams.
    pub fn global(&self, metric: Metric) -> StatisticSet {
        self.find(metric, None, None, None)
    }

    /// A metric of a stream.
    pub fn stream(&self, metric: Metric, stream: &str) -> StatisticSet {
        self.find(metric, None, Some(stream), None)
    }

    /// A metric of a shard.
    pub fn shard(&self, metric: Metric, stream: &str, shard: &str) -> StatisticSet {
        self.find(metric, None, Some(stream), Some(shard))
    }

    /// Errors of a code over all streams.
    pub fn errors(&self, error_code: &str) -> StatisticSet {
        self.find(Metric::ErrorsByCode, Some(error_code), None, None)
    }

    /// Latencies over all streams.
    pub fn latency(&self) -> Option<&Latency> {
        self.latencies.first()
    }

    /// Whether nothing was observed.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Empty if there is no such datum.
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

/// A way to look at a series.
trait Look {
    fn at<const N: usize>(&mut self, series: &mut Series<N>) -> [StatisticSet; N];
}

/// Takes what has not been reported yet.
struct Unreported(Instant);

impl Look for Unreported {
    fn at<const N: usize>(&mut self, series: &mut Series<N>) -> [StatisticSet; N] {
        series.report(self.0)
    }
}

/// Changes nothing.
struct Window(Instant, MetricsWindow);

impl Look for Window {
    fn at<const N: usize>(&mut self, series: &mut Series<N>) -> [StatisticSet; N] {
        match self.1 {
            MetricsWindow::Total => series.total(),
            MetricsWindow::Seconds(seconds) => series.window(self.0, seconds.min(WINDOW_SECONDS_MAX)),
        }
    }
}

/// The sets of one place, as they were looked at: plain copies, to be rolled up outside any lock.
#[derive(Clone, Debug)]
struct Sets {
    shard: Option<Arc<str>>,
    sets: Vec<StatisticSet>,
    errors: Vec<(usize, StatisticSet)>,
}

impl Sets {
    fn of<const N: usize>(shard: Option<&Arc<str>>, place: &mut Place<N>, look: &mut impl Look) -> Self {
        let errors = place.errors.iter_mut().map(|(code, series)| (*code, look.at(series)[0]));
        let errors = errors.filter(|(_, set)| !set.is_empty()).collect();
        Self { shard: shard.cloned(), sets: look.at(&mut place.series).to_vec(), errors }
    }

    fn is_empty(&self) -> bool {
        self.errors.is_empty() && self.sets.iter().all(StatisticSet::is_empty)
    }
}

/// What one stream has to say, not yet rolled up: making it copies what is there, and no more.
#[derive(Clone, Debug)]
struct StreamSets {
    /// `None` for streams that are counted together.
    name: Option<Arc<str>>,
    own: Sets,
    shards: Vec<Sets>,
    codes: Vec<Arc<str>>,
    latency: Option<(Histogram, Histogram)>,
}

/// What was observed, as it was copied out of the state machine. [`roll_up`](Self::roll_up) makes a report of it.
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

    /// Takes what the stream has not reported yet.
    pub(crate) fn report(&mut self, now: Instant, name: &Arc<str>, metrics: &mut StreamMetrics) {
        metrics.forget_old(now);
        let latency = core::mem::take(&mut metrics.latency.put_to_ack[0]);
        let buffering = core::mem::take(&mut metrics.latency.buffering[0]);
        metrics.latency.put_to_ack[1].merge(&latency);
        metrics.latency.buffering[1].merge(&buffering);
        metrics.is_dirty = false;
        self.streams.push(metrics.look(Some(name), &mut Unreported(now), Some((latency, buffering))));
    }

    /// Looks at the stream.
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
        self.streams.push(metrics.look(name, &mut Window(now, window), latency));
    }

    /// Adds up: shards to streams, streams to all.
    pub fn roll_up(self) -> MetricsReport {
        let mut data: Vec<Datum> = Vec::new();
        let mut global = Sets { shard: None, sets: alloc::vec![StatisticSet::EMPTY; STREAM_SETS], errors: Vec::new() };
        let mut global_codes: Vec<Arc<str>> = Vec::new();
        let mut latencies: Vec<Latency> = Vec::new();
        let mut all: Option<(Histogram, Histogram)> = None;
        let by_stream = self.granularity >= MetricsGranularity::Stream;
        for StreamSets { name, mut own, mut shards, codes, latency } in self.streams {
            // Two of one name are of a stream that was made anew.
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
                    tell(&mut data, name.as_ref(), shard, &codes);
                }
            }
            add(&mut global, &own, |code| number(&mut global_codes, &codes[code]));
            if by_stream && name.is_some() {
                tell(&mut data, name.as_ref(), &own, &codes);
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
        tell(&mut data, None, &global, &global_codes);
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
    fn look(&mut self, name: Option<&Arc<str>>, look: &mut impl Look, latency: Option<(Histogram, Histogram)>) -> StreamSets {
        let own = Sets::of(None, &mut self.own, look);
        let shards = self.shards.iter_mut().flatten().chain(self.others.values_mut());
        let mut sets_of = |shard: &mut Box<Shard>| Sets::of(Some(&shard.id), &mut shard.place, look);
        let shards = shards.map(&mut sets_of).filter(|sets| !sets.is_empty()).collect();
        StreamSets { name: name.cloned(), own, shards, codes: self.codes.clone(), latency }
    }

    /// Forgets shards without a slot of which nothing more is to be told; their totals become the stream's.
    fn forget_old(&mut self, now: Instant) {
        let Self { own, others, .. } = self;
        others.retain(|_, shard| {
            let errors_are_over = shard.place.errors.iter().all(|(_, series)| series.is_over(now));
            if !shard.place.series.is_over(now) || !errors_are_over {
                return true;
            }
            own.series.absorb(&shard.place.series.total());
            for (code, series) in &shard.place.errors {
                own.errors_of(*code).absorb(&series.total());
            }
            false
        });
    }
}

/// Adds one place to another, whose error codes have other numbers.
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

fn number(codes: &mut Vec<Arc<str>>, code: &Arc<str>) -> usize {
    codes.iter().position(|known| known == code).unwrap_or_else(|| {
        codes.push(code.clone());
        codes.len() - 1
    })
}

/// Makes data of what is not empty in one place.
fn tell(data: &mut Vec<Datum>, stream: Option<&Arc<str>>, place: &Sets, codes: &[Arc<str>]) {
    let mut tell = |metric: Metric, error_code: Option<&Arc<str>>, statistics: StatisticSet| {
        if !statistics.is_empty() {
            let (error_code, stream, shard) = (error_code.cloned(), stream.cloned(), place.shard.clone());
            data.push(Datum { metric, error_code, stream, shard, statistics });
        }
    };
    for (metric, set) in Metric::ALL.into_iter().zip(&place.sets) {
        if metric != Metric::ErrorsByCode {
            tell(metric, None, *set);
        }
    }
    let mut all = StatisticSet::EMPTY;
    for (code, set) in &place.errors {
        all.merge(set);
        tell(Metric::ErrorsByCode, codes.get(*code), *set);
    }
    tell(Metric::ErrorsByCode, None, all);
}

const _: () = assert!(SHARD_SETS < STREAM_SETS);

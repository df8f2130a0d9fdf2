//! The metrics of one stream, which its pipeline records.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use super::histogram::Histogram;
use super::series::{self, Series};
use super::{Metric, MetricsGranularity, MetricsLevel, StatisticSet};
use crate::record::kinesis_record::{KinesisRecord, Pending, ShardRef};
use crate::time::Instant;

/// The number of metrics of a shard: the first ones of [`Metric::ALL`], without `ErrorsByCode`.
pub(super) const SHARD_SETS: usize = Metric::ErrorsByCode as usize;
/// The number of metrics of a stream. The set of `ErrorsByCode` is not used.
pub(super) const STREAM_SETS: usize = Metric::ALL.len();

/// The maximum number of error codes that a stream distinguishes. The service has about twenty. Further codes count as
/// [`OTHER`].
const CODES_MAX: usize = 64;
const OTHER: &str = "Other";

/// The metrics of one stream. Shards are found by the number of their slot.
///
/// An observation that belongs to a shard is counted at the shard only; a report adds it to the stream.
#[derive(Debug)]
pub(crate) struct StreamMetrics {
    is_detailed: bool,
    by_shard: bool,
    /// The counters of the stream, without those of its shards.
    pub(super) own: Counters<STREAM_SETS>,
    /// The shards, by the slot that the shard map assigns.
    pub(super) shards: Vec<Option<Box<Shard>>>,
    /// Shards without a slot: they no longer exist, or only replies have named them.
    pub(super) others: BTreeMap<Arc<str>, Box<Shard>>,
    pub(super) codes: Vec<Arc<str>>,
    pub(super) latency: Latencies,
    /// The number of user records that are accepted and not yet resolved.
    pending: u64,
    /// Whether something has been observed since the last report.
    pub(super) is_dirty: bool,
}

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) id: Arc<str>,
    pub(super) counters: Counters<SHARD_SETS>,
}

/// The counters of a shard, or of a stream without its shards.
#[derive(Debug, Default)]
pub(super) struct Counters<const N: usize> {
    pub(super) series: Series<N>,
    /// The series of `ErrorsByCode`, with the number of each code.
    pub(super) errors: Vec<(usize, Series<1>)>,
}

impl<const N: usize> Counters<N> {
    fn error(&mut self, second: u64, code: usize) {
        self.errors_of(code).at(second)[0].observe(1.0);
    }

    pub(super) fn errors_of(&mut self, code: usize) -> &mut Series<1> {
        let position = self.errors.iter().position(|(known, _)| *known == code);
        let position = position.unwrap_or_else(|| {
            self.errors.push((code, Series::default()));
            self.errors.len() - 1
        });
        &mut self.errors[position].1
    }

    fn merge(&mut self, other: Self) {
        self.series.merge(other.series);
        for (code, series) in other.errors {
            self.errors_of(code).merge(series);
        }
    }
}

/// Latencies. The first histogram has those since the last report, the second one has the earlier ones.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    pub(super) put_to_ack: [Histogram; 2],
    pub(super) buffering: [Histogram; 2],
}

impl StreamMetrics {
    /// Creates the metrics of a stream. Returns `None` if the level is `None`.
    pub(crate) fn new(level: MetricsLevel, granularity: MetricsGranularity) -> Option<Box<Self>> {
        if level == MetricsLevel::None {
            return None;
        }
        Some(Box::new(Self {
            is_detailed: level == MetricsLevel::Detailed,
            by_shard: granularity == MetricsGranularity::Shard,
            own: Counters::default(),
            shards: Vec::new(),
            others: BTreeMap::new(),
            codes: Vec::new(),
            latency: Latencies::default(),
            pending: 0,
            is_dirty: false,
        }))
    }

    /// Creates empty metrics with the same settings.
    pub(crate) fn empty(&self) -> Self {
        Self {
            is_detailed: self.is_detailed,
            by_shard: self.by_shard,
            own: Counters::default(),
            shards: Vec::new(),
            others: BTreeMap::new(),
            codes: Vec::new(),
            latency: Latencies::default(),
            pending: 0,
            is_dirty: false,
        }
    }

    /// Adds the totals of another stream, all of which are reported.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.own.series.absorb(&other.own.series.total());
        let shards = other.shards.iter().flatten().chain(other.others.values());
        for shard in shards.clone() {
            self.own.series.absorb(&shard.counters.series.total());
        }
        let errors = shards.flat_map(|shard| &shard.counters.errors).chain(&other.own.errors);
        for (code, series) in errors {
            let code = self.code(&other.codes[*code]);
            self.own.errors_of(code).absorb(&series.total());
        }
        for latency in &other.latency.put_to_ack {
            self.latency.put_to_ack[1].merge(latency);
        }
        for latency in &other.latency.buffering {
            self.latency.buffering[1].merge(latency);
        }
    }

    /// Whether something has been observed since the last report.
    pub(crate) fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// Counts an accepted user record.
    #[inline]
    pub(crate) fn received(&mut self, now: Instant) {
        self.pending += 1;
        self.is_dirty = true;
        if self.is_detailed {
            self.own(now)[Metric::UserRecordsReceived as usize].observe(1.0);
        }
    }

    /// Counts a request that ended, with or without a reply. `error` is the code of the error if the whole request
    /// failed.
    pub(crate) fn request_ended<T>(
        &mut self,
        now: Instant,
        sent: Instant,
        records: &[KinesisRecord<T>],
        error: Option<&str>,
    ) {
        let second = series::second(now);
        if self.is_detailed {
            let mut user_records = 0;
            for record in records {
                user_records += record.user_records();
                let size = record.user_records() as f64;
                self.observe(second, record.shard.as_ref(), Metric::UserRecordsPerKinesisRecord, size);
            }
            let own = self.own(now);
            own[Metric::RequestTime as usize].observe(millis(now.saturating_since(sent)));
            own[Metric::KinesisRecordsPerPutRecordsRequest as usize].observe(records.len() as f64);
            own[Metric::UserRecordsPerPutRecordsRequest as usize].observe(user_records as f64);
        }
        if let Some(code) = error {
            self.own(now)[Metric::AllErrors as usize].observe(1.0);
            let code = self.code(code);
            self.own.error(second, code);
        }
    }

    /// Counts a Kinesis record that was stored.
    pub(crate) fn stored<T>(&mut self, now: Instant, record: &KinesisRecord<T>) {
        let is_detailed = self.is_detailed;
        let size = record.data_size() as f64;
        let sets = self.sets(series::second(now), record.shard.as_ref());
        sets[Metric::KinesisRecordsPut as usize].observe(1.0);
        sets[Metric::AllErrors as usize].observe(0.0);
        if is_detailed {
            sets[Metric::KinesisRecordsDataPut as usize].observe(size);
        }
    }

    /// Counts a Kinesis record that was refused, while others of its request may have been stored.
    pub(crate) fn refused<T>(&mut self, now: Instant, record: &KinesisRecord<T>, code: &str) {
        let second = series::second(now);
        let sets = self.sets(second, record.shard.as_ref());
        sets[Metric::KinesisRecordsPut as usize].observe(0.0);
        sets[Metric::AllErrors as usize].observe(1.0);
        let code = self.code(code);
        match record.shard.as_ref().filter(|_| self.by_shard) {
            Some(shard) => self.shard(shard).counters.error(second, code),
            None => self.own.error(second, code),
        }
    }

    /// Returns a recorder for user records that the same request stored on a shard. The shard has a name and, if the
    /// shard map has it, a slot.
    pub(crate) fn successes(
        &mut self,
        end: Instant,
        sent: Instant,
        shard: Option<&ShardRef>,
        shard_id: &Arc<str>,
    ) -> Successes<'_> {
        self.is_dirty = true;
        let second = series::second(end);
        let Self { is_detailed, by_shard, own, shards, others, latency, pending, .. } = self;
        let sets: &mut [StatisticSet] = match shard {
            _ if !*by_shard => own.series.at(second),
            Some(shard) => shard_in_slot(shards, others, shard).counters.series.at(second),
            None => shard_named(others, shard_id).counters.series.at(second),
        };
        Successes { is_detailed: *is_detailed, sent, end, sets, latency, pending }
    }

    /// Counts a user record that failed. `shard` is its predicted shard, if that is known.
    pub(crate) fn failed<T>(&mut self, now: Instant, user: &Pending<T>, shard: Option<&ShardRef>, has_expired: bool) {
        self.pending = self.pending.saturating_sub(1);
        let is_detailed = self.is_detailed;
        let mut waits = StatisticSet::EMPTY;
        user.failed.observe_waits(user.put_at, |wait| {
            self.latency.buffering[0].observe(wait);
            waits.observe(millis(wait));
        });
        let sets = self.sets(series::second(now), shard);
        sets[Metric::UserRecordsPut as usize].observe(0.0);
        sets[Metric::BufferingTime as usize].merge(&waits);
        if has_expired {
            sets[Metric::UserRecordExpired as usize].observe(1.0);
        }
        if is_detailed {
            sets[Metric::RetriesPerRecord as usize].observe(user.failed.len().saturating_sub(1) as f64);
        }
    }

    /// Frees these slots, which the shard map may assign to other shards.
    pub(crate) fn forget(&mut self, slots: &[u32]) {
        for slot in slots {
            if let Some(shard) = self.shards.get_mut(*slot as usize).and_then(Option::take) {
                retire(&mut self.others, shard);
            }
        }
    }

    /// Returns the stream's own sets. The first call in a second samples the number of pending user records.
    #[inline]
    fn own(&mut self, now: Instant) -> &mut [StatisticSet; STREAM_SETS] {
        self.is_dirty = true;
        let second = series::second(now);
        let is_new = self.own.series.is_new(second);
        let pending = self.pending as f64;
        let sets = self.own.series.at(second);
        if is_new && self.is_detailed {
            sets[Metric::UserRecordsPending as usize].observe(pending);
        }
        sets
    }

    /// Returns the sets of a shard, or the stream's own if the shard is unknown or shards are not distinguished.
    #[inline]
    fn sets(&mut self, second: u64, shard: Option<&ShardRef>) -> &mut [StatisticSet] {
        self.is_dirty = true;
        match shard.filter(|_| self.by_shard) {
            Some(shard) => self.shard(shard).counters.series.at(second),
            None => self.own.series.at(second),
        }
    }

    fn observe(&mut self, second: u64, shard: Option<&ShardRef>, metric: Metric, value: f64) {
        self.sets(second, shard)[metric as usize].observe(value);
    }

    #[inline]
    fn shard(&mut self, shard: &ShardRef) -> &mut Shard {
        shard_in_slot(&mut self.shards, &mut self.others, shard)
    }

    /// Returns the number of an error code.
    fn code(&mut self, code: &str) -> usize {
        if let Some(number) = self.codes.iter().position(|known| **known == *code) {
            return number;
        }
        let is_full = self.codes.len() >= CODES_MAX;
        if is_full && let Some(number) = self.codes.iter().position(|known| **known == *OTHER) {
            return number;
        }
        self.codes.push(if is_full { OTHER } else { code }.into());
        self.codes.len() - 1
    }
}

/// A recorder for user records that the same request stored.
pub(crate) struct Successes<'a> {
    is_detailed: bool,
    sent: Instant,
    end: Instant,
    sets: &'a mut [StatisticSet],
    latency: &'a mut Latencies,
    pending: &'a mut u64,
}

impl Successes<'_> {
    /// Counts one user record.
    #[inline]
    pub(crate) fn add<T, K>(&mut self, user: &Pending<T, K>) {
        *self.pending = self.pending.saturating_sub(1);
        self.latency.put_to_ack[0].observe(self.end.saturating_since(user.put_at));
        let last = user.failed.observe_waits(user.put_at, |wait| self.observe_wait(wait));
        self.observe_wait(self.sent.saturating_since(last));
        self.sets[Metric::UserRecordsPut as usize].observe(1.0);
        if self.is_detailed {
            self.sets[Metric::UserRecordsDataPut as usize].observe(user.entry.data.len() as f64);
            self.sets[Metric::RetriesPerRecord as usize].observe(user.failed.len() as f64);
        }
    }

    #[inline]
    fn observe_wait(&mut self, wait: Duration) {
        self.latency.buffering[0].observe(wait);
        self.sets[Metric::BufferingTime as usize].observe(millis(wait));
    }
}

/// Returns the metrics of a shard that has a slot. A slot is reused for another shard a while after its shard is gone.
#[inline]
fn shard_in_slot<'a>(
    shards: &'a mut Vec<Option<Box<Shard>>>,
    others: &mut BTreeMap<Arc<str>, Box<Shard>>,
    shard: &ShardRef,
) -> &'a mut Shard {
    let slot = shard.slot as usize;
    if slot >= shards.len() {
        shards.resize_with(slot + 1, || None);
    }
    let entry = &mut shards[slot];
    if entry.as_ref().is_none_or(|entry| entry.id != shard.id) {
        // Replies may have named the shard before the shard map had it.
        let new = others.remove(&shard.id).unwrap_or_else(|| Shard::new(&shard.id));
        if let Some(old) = entry.take() {
            retire(others, old);
        }
        *entry = Some(new);
    }
    entry.as_mut().unwrap_or_else(|| unreachable!("the slot was filled above"))
}

/// Returns the metrics of a shard that has no slot.
fn shard_named<'a>(others: &'a mut BTreeMap<Arc<str>, Box<Shard>>, id: &Arc<str>) -> &'a mut Shard {
    others.entry(id.clone()).or_insert_with(|| Shard::new(id))
}

/// Moves a shard that lost its slot to `others`. There may be another shard with its name, if the stream was recreated.
fn retire(others: &mut BTreeMap<Arc<str>, Box<Shard>>, shard: Box<Shard>) {
    match others.get_mut(&shard.id) {
        Some(other) => other.counters.merge(shard.counters),
        None => drop(others.insert(shard.id.clone(), shard)),
    }
}

impl Shard {
    fn new(id: &Arc<str>) -> Box<Self> {
        Box::new(Self { id: id.clone(), counters: Counters::default() })
    }
}

pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{MetricsSnapshot, MetricsWindow};
    use crate::testing::ms;

    fn metrics() -> Box<StreamMetrics> {
        StreamMetrics::new(MetricsLevel::Detailed, MetricsGranularity::Shard).unwrap()
    }

    /// Returns the number of user records stored on a shard, by the metrics.
    fn stored(metrics: &mut StreamMetrics, shard: &str) -> u64 {
        let mut snapshot = MetricsSnapshot::new(None, ms(9_000), MetricsGranularity::Shard);
        snapshot.look(ms(9_000), Some(&"s".into()), metrics, MetricsWindow::Total);
        snapshot.roll_up().shard(Metric::UserRecordsPut, "s", shard).count
    }

    #[test]
    fn shards_with_the_same_name_are_merged_wherever_they_are() {
        // The stream is recreated: the shard with the same name has another slot, while earlier requests still use the
        // old slot.
        let mut metrics = metrics();
        let code = metrics.code("InternalFailure");
        for (second, slot) in [(1, 0), (2, 1), (3, 0)] {
            let shard = ShardRef { slot, id: "a".into() };
            metrics.sets(second, Some(&shard))[Metric::UserRecordsPut as usize].observe(1.0);
            metrics.shard(&shard).counters.error(second, code);
        }
        assert_eq!(stored(&mut metrics, "a"), 3, "one datum for both slots");
        shard_named(&mut metrics.others, &"a".into()).counters.series.at(4)[Metric::UserRecordsPut as usize]
            .observe(1.0);
        metrics.forget(&[0, 1, 2]);
        assert_eq!(metrics.others.len(), 1);
        assert_eq!(stored(&mut metrics, "a"), 4);
        let counters = &mut metrics.others.get_mut("a").unwrap().counters;
        assert_eq!(counters.errors_of(code).total()[0].count, 3);
        let last = counters.series.window(ms(4_999), 2)[Metric::UserRecordsPut as usize];
        assert_eq!(last.count, 2, "the window covers both slots");
        // The shard gets a slot again and keeps all its counts.
        metrics.sets(5, Some(&ShardRef { slot: 0, id: "a".into() }))[Metric::UserRecordsPut as usize].observe(1.0);
        assert_eq!((metrics.others.len(), stored(&mut metrics, "a")), (0, 5));
    }

    #[test]
    fn the_number_of_error_codes_is_bounded() {
        let mut metrics = metrics();
        for n in 0..1_000 {
            let code = metrics.code(&alloc::format!("code {n}"));
            assert_eq!(code, n.min(CODES_MAX));
        }
        assert_eq!((&*metrics.codes[CODES_MAX], metrics.codes.len()), (OTHER, CODES_MAX + 1));
        assert_eq!(metrics.code("code 3"), 3);
    }
}

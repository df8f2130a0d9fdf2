//! Outstanding records: accepted and not yet resolved. Their number, bytes and age, and which of them a flush covers.

use alloc::collections::{BTreeMap, VecDeque};
use core::time::Duration;

use crate::config::Config;
use crate::time::Instant;

/// The id of a flush: see [`Producer::flush`](crate::Producer::flush).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlushId(pub(crate) u64);

/// The longest time span of a generation: the resolution of [`Outstanding::oldest`].
const GENERATION_SPAN: Duration = Duration::from_millis(10);

/// Counts of outstanding records by generation: the records put between two flushes, or within [`GENERATION_SPAN`]. The
/// table has only generations with outstanding records, so it stays small even with many records.
#[derive(Debug, Default)]
pub(crate) struct Outstanding {
    records: usize,
    bytes: usize,
    current: Generation,
    current_id: u64,
    older: BTreeMap<u64, Generation>,
    flushes: VecDeque<FlushId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Generation {
    since: Option<Instant>,
    records: usize,
}

impl Outstanding {
    pub(crate) fn records(&self) -> usize {
        self.records
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns when the oldest outstanding record was put, at most [`GENERATION_SPAN`] too early.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.older.first_key_value().map_or(self.current.since, |(_, generation)| generation.since)
    }

    /// Whether there is room for a record of `size` bytes. A record larger than the limit fits if it is the only one.
    pub(crate) fn has_room(&self, size: usize, config: &Config) -> bool {
        self.records < config.max_outstanding_records()
            && (self.records == 0 || self.bytes.saturating_add(size) <= config.max_outstanding_bytes())
    }

    /// Counts a new record. Returns its generation.
    pub(crate) fn admit(&mut self, now: Instant, size: usize) -> u64 {
        if self.current.since.is_some_and(|since| now.saturating_since(since) > GENERATION_SPAN) {
            self.start_generation();
        }
        self.records += 1;
        self.bytes += size;
        self.current.records += 1;
        self.current.since.get_or_insert(now);
        self.current_id
    }

    /// Stops counting a record that is resolved.
    pub(crate) fn release(&mut self, generation: u64, size: usize) {
        self.records -= 1;
        self.bytes -= size;
        if generation == self.current_id {
            self.current.records -= 1;
            if self.current.records == 0 {
                self.current.since = None;
            }
        } else if let Some(older) = self.older.get_mut(&generation) {
            older.records -= 1;
            if older.records == 0 {
                self.older.remove(&generation);
            }
        }
    }

    /// Starts a flush of all outstanding records.
    pub(crate) fn flush(&mut self) -> FlushId {
        let flush = FlushId(self.current_id);
        self.start_generation();
        self.flushes.push_back(flush);
        flush
    }

    /// Whether a flush covers `generation`.
    pub(crate) fn is_flushed(&self, generation: u64) -> bool {
        self.flushes.back().is_some_and(|flush| generation <= flush.0)
    }

    /// Removes and returns a flush whose records are all resolved.
    pub(crate) fn pop_flushed(&mut self) -> Option<FlushId> {
        let flush = *self.flushes.front()?;
        if self.older.first_key_value().is_some_and(|(oldest, _)| *oldest <= flush.0) {
            return None;
        }
        self.flushes.pop_front()
    }

    fn start_generation(&mut self) {
        if self.current.records > 0 {
            self.older.insert(self.current_id, self.current);
        }
        self.current = Generation::default();
        self.current_id += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ms;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Admit { size: usize },
        Release(prop::sample::Index),
        Flush,
        Pass { millis: u64 },
    }

    #[derive(Clone, Copy)]
    struct Record {
        generation: u64,
        put_at: Instant,
        size: usize,
        /// The number of flushes before the put.
        flushes_before: usize,
    }

    proptest! {
        #[test]
        fn counts_ages_and_flushes_match_a_plain_list(
            steps in proptest::collection::vec(
                prop_oneof![
                    5 => (0..2_000_usize).prop_map(|size| Step::Admit { size }),
                    4 => any::<prop::sample::Index>().prop_map(Step::Release),
                    1 => Just(Step::Flush),
                    3 => (0..30_u64).prop_map(|millis| Step::Pass { millis }),
                ],
                0..100,
            ),
        ) {
            let config = Config::builder().max_outstanding_records(8).max_outstanding_bytes(4_000).build().unwrap();
            let mut outstanding = Outstanding::default();
            let mut list: Vec<Record> = Vec::new();
            let mut flushes: Vec<FlushId> = Vec::new();
            let mut done = 0;
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Admit { size } => {
                        let bytes: usize = list.iter().map(|record| record.size).sum();
                        let room = list.is_empty() || list.len() < 8 && bytes + size <= 4_000;
                        prop_assert_eq!(outstanding.has_room(size, &config), room);
                        let generation = outstanding.admit(ms(now), size);
                        list.push(Record { generation, put_at: ms(now), size, flushes_before: flushes.len() });
                    }
                    Step::Release(index) if !list.is_empty() => {
                        let record = list.swap_remove(index.index(list.len()));
                        outstanding.release(record.generation, record.size);
                    }
                    Step::Release(_) => {}
                    Step::Flush => flushes.push(outstanding.flush()),
                    Step::Pass { millis } => now += millis,
                }
                while let Some(flush) = outstanding.pop_flushed() {
                    prop_assert_eq!(flush, flushes[done], "flushes complete in order");
                    done += 1;
                }
                // A flush waits for the records put before it, so flushes complete in order.
                let waits_for = |flush: usize| list.iter().any(|record| record.flushes_before <= flush);
                prop_assert_eq!(done, (0..flushes.len()).find(|flush| waits_for(*flush)).unwrap_or(flushes.len()));
                for record in &list {
                    prop_assert_eq!(outstanding.is_flushed(record.generation), record.flushes_before < flushes.len());
                }
                prop_assert_eq!(outstanding.records(), list.len());
                prop_assert_eq!(outstanding.bytes(), list.iter().map(|record| record.size).sum::<usize>());
                let oldest = list.iter().map(|record| record.put_at).min();
                prop_assert_eq!(outstanding.oldest().is_some(), oldest.is_some());
                if let (Some(found), Some(oldest)) = (outstanding.oldest(), oldest) {
                    prop_assert!(found <= oldest && oldest <= found + GENERATION_SPAN, "{:?} for {:?}", found, oldest);
                }
            }
        }
    }

    #[test]
    fn a_flush_waits_only_for_records_put_before_it() {
        let mut outstanding = Outstanding::default();
        let before = outstanding.admit(ms(0), 1);
        let flush = outstanding.flush();
        let after = outstanding.admit(ms(0), 1);
        assert!(outstanding.is_flushed(before) && !outstanding.is_flushed(after));
        assert_eq!(outstanding.pop_flushed(), None);
        outstanding.release(before, 1);
        assert_eq!(outstanding.pop_flushed(), Some(flush));
        let flush = outstanding.flush();
        assert_eq!(outstanding.pop_flushed(), None);
        outstanding.release(after, 1);
        assert_eq!(outstanding.pop_flushed(), Some(flush));
        let flush = outstanding.flush();
        assert_eq!(outstanding.pop_flushed(), Some(flush), "nothing outstanding: completes at once");
    }

    #[test]
    fn the_oldest_record_is_known_within_the_resolution() {
        let mut outstanding = Outstanding::default();
        assert_eq!(outstanding.oldest(), None);
        let generations: Vec<_> = (0..100).map(|i| outstanding.admit(ms(i), 1)).collect();
        assert_eq!(outstanding.oldest(), Some(ms(0)));
        for generation in &generations[..50] {
            outstanding.release(*generation, 1);
        }
        let oldest = outstanding.oldest().unwrap();
        assert!(oldest <= ms(50) && oldest + GENERATION_SPAN >= ms(50), "{oldest:?}");
        for generation in &generations[50..] {
            outstanding.release(*generation, 1);
        }
        assert_eq!((outstanding.oldest(), outstanding.records(), outstanding.bytes()), (None, 0, 0));
    }
}

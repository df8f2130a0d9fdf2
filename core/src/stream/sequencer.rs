//! Keeps the order of the records of each hash key: of all Kinesis records that may have a user record of a hash key, at
//! most one is in doubt, and the others wait.
//!
//! A Kinesis record is in doubt from when it is passed on until its user records are resolved or come back to be sent
//! again: while it waits for the rate limit or for a request, is in flight, backs off, or is stored but not verified. What
//! comes back waits in front of what is newer.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use hashbrown::HashMap;

use crate::record::kinesis_record::KinesisRecord;
use crate::stream::limiter::Backlog;
use crate::time::Instant;

/// The records that stay in order together: those of a shard, or of one hash key. The sequences of a stream do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    /// The first and the last hash key.
    pub(crate) range: (u128, u128),
    /// The limiter's slot.
    pub(crate) slot: u32,
}

/// The place of a waiting record: the first hash key of its sequence, and its position there.
pub(crate) type Place = (u128, i64);

/// The Kinesis records of a stream that are in doubt, and those that wait for them.
#[derive(Debug)]
pub(crate) struct Sequencer<T> {
    /// The records in doubt, by the first hash key of their sequences. They do not overlap, but a sequence of a new shard may
    /// overlap with several of them.
    in_doubt: BTreeMap<u128, Doubt>,
    /// The records that wait. The first of each sequence is to be sent next.
    waiting: BTreeMap<Place, Waiting<T>>,
    /// The earliest expiry of each waiting record.
    expiries: BTreeSet<(Instant, Place)>,
    /// The amount of waiting records by the limiter's slot.
    backlogs: HashMap<u32, Backlog>,
    /// The number of waiting records of each sequence, by its first hash key.
    lengths: HashMap<u128, u32>,
    /// The number of sequences of each slot and length.
    sequences_of_length: BTreeMap<(u32, u32), u32>,
    /// The time for which a record of each slot is in doubt: the longest of the last times, an average if they get
    /// shorter.
    times_in_doubt: HashMap<u32, Duration>,
    /// The position after the last one.
    back: i64,
    /// The position of the first one.
    front: i64,
}

/// A record in doubt.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// The last hash key of its sequence.
    last: u128,
    slot: u32,
    since: Instant,
}

/// A record that waits.
#[derive(Debug)]
struct Waiting<T> {
    sequence: Sequence,
    record: KinesisRecord<T>,
}

/// The assumed time for which a record is in doubt, before the first reply.
const ASSUMED_TIME_IN_DOUBT: Duration = Duration::from_millis(250);

impl<T> Default for Sequencer<T> {
    fn default() -> Self {
        Self {
            in_doubt: BTreeMap::new(),
            waiting: BTreeMap::new(),
            expiries: BTreeSet::new(),
            backlogs: HashMap::new(),
            lengths: HashMap::new(),
            sequences_of_length: BTreeMap::new(),
            times_in_doubt: HashMap::new(),
            back: 0,
            front: 0,
        }
    }
}

impl<T> Sequencer<T> {
    /// Accepts the newest record of a sequence. Returns it if it may be sent, and is in doubt from now on.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        sequence: Sequence,
        record: KinesisRecord<T>,
    ) -> Option<KinesisRecord<T>> {
        if !self.is_in_doubt(sequence.range) {
            self.begin_doubt(now, sequence);
            return Some(record);
        }
        let position = self.back;
        self.back += 1;
        self.insert((sequence.range.0, position), sequence, record);
        None
    }

    /// Takes a record back in front of all others of its sequence.
    pub(crate) fn put_back(&mut self, sequence: Sequence, record: KinesisRecord<T>) {
        self.front -= 1;
        self.insert((sequence.range.0, self.front), sequence, record);
    }

    fn begin_doubt(&mut self, now: Instant, sequence: Sequence) {
        let Sequence { range: (first, last), slot } = sequence;
        self.in_doubt.insert(first, Doubt { last, slot, since: now });
    }

    /// Ends the doubt about the record that has this hash key. Returns the hash keys for which records may be
    /// [ready](Self::pop_ready) now; `None` if there was no doubt.
    pub(crate) fn end_doubt(&mut self, now: Instant, hash_key: u128) -> Option<(u128, u128)> {
        let (first, doubt) = self.in_doubt.range(..=hash_key).next_back()?;
        let (first, Doubt { last, slot, since }) = (*first, *doubt);
        if last < hash_key {
            return None;
        }
        self.in_doubt.remove(&first);
        let usual = self.times_in_doubt.entry(slot).or_insert(ASSUMED_TIME_IN_DOUBT);
        let time = now.saturating_since(since);
        *usual = time.max(*usual / 4 * 3 + time / 4);
        Some((first, last))
    }

    /// Forgets a slot that is to be reused.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.times_in_doubt.remove(&slot);
    }

    /// Returns the place from which [`pop_ready`](Self::pop_ready) searches for records with hash keys in `range`.
    pub(crate) fn first_place(&self, range: (u128, u128)) -> Place {
        // The sequence may begin before the range.
        (self.sequence_at(range.0).unwrap_or(range.0), i64::MIN)
    }

    /// Removes and returns the next record from `from` on that may be sent and has hash keys up to `last`. It is in doubt
    /// from now on. Moves `from` behind it.
    pub(crate) fn pop_ready(
        &mut self,
        now: Instant,
        from: &mut Place,
        last: u128,
    ) -> Option<(Sequence, KinesisRecord<T>)> {
        let (place, sequence) = loop {
            let (place, Waiting { sequence, .. }) = self.waiting.range(*from..=(last, i64::MAX)).next()?;
            let (place, sequence) = (*place, *sequence);
            *from = (sequence.range.0, i64::MAX);
            if !self.is_in_doubt(sequence.range) {
                break (place, sequence);
            }
        };
        let record = self.remove(place)?.record;
        self.begin_doubt(now, sequence);
        Some((sequence, record))
    }

    /// Whether a record in doubt may have hash keys in `range`. Where records wait, there is one.
    pub(crate) fn is_in_doubt(&self, range: (u128, u128)) -> bool {
        self.in_doubt.range(..=range.1).next_back().is_some_and(|(_, doubt)| doubt.last >= range.0)
    }

    /// Returns the first hash key of the sequence with waiting records that contains `hash_key`, or is the last one before it.
    fn sequence_at(&self, hash_key: u128) -> Option<u128> {
        self.waiting.range(..=(hash_key, i64::MAX)).next_back().map(|((first, _), _)| *first)
    }

    /// Returns the amount of waiting records of a slot. They are sent one after the other, so the longest sequence decides
    /// how long they take.
    pub(crate) fn backlog(&self, slot: u32) -> Backlog {
        let Some(backlog) = self.backlogs.get(&slot) else { return Backlog::default() };
        let longest = self.sequences_of_length.range((slot, 0)..=(slot, u32::MAX)).next_back();
        let length = longest.map_or(0, |((_, length), _)| *length);
        let time = self.times_in_doubt.get(&slot).copied().unwrap_or(ASSUMED_TIME_IN_DOUBT);
        Backlog { longest: length as usize, time: time_of(time, length), ..*backlog }
    }

    /// Changes the number of waiting records of a sequence by one.
    fn change_length(&mut self, sequence: Sequence, change: impl Fn(u32) -> u32) {
        let length = self.lengths.entry(sequence.range.0).or_default();
        let (before, after) = (*length, change(*length));
        *length = after;
        if after == 0 {
            self.lengths.remove(&sequence.range.0);
        } else {
            *self.sequences_of_length.entry((sequence.slot, after)).or_default() += 1;
        }
        if let Some(sequences) = self.sequences_of_length.get_mut(&(sequence.slot, before)) {
            *sequences -= 1;
            if *sequences == 0 {
                self.sequences_of_length.remove(&(sequence.slot, before));
            }
        }
    }

    /// Makes the deadlines of all waiting records `now` at the latest.
    pub(crate) fn expedite(&mut self, now: Instant) {
        for Waiting { record, .. } in self.waiting.values_mut() {
            record.deadline = record.deadline.min(now);
        }
    }

    /// Returns the earliest time at which a waiting user record expires.
    pub(crate) fn next_expiry(&self) -> Instant {
        self.expiries.first().map_or(Instant::NEVER, |(at, _)| *at)
    }

    /// Removes and returns a waiting record of which a user record has expired, with its place.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<(Place, Sequence, KinesisRecord<T>)> {
        let place = self.expiries.first().filter(|(at, _)| *at <= now)?.1;
        let Waiting { sequence, record } = self.remove(place)?;
        Some((place, sequence, record))
    }

    /// Puts what is left of an expired record in its place.
    pub(crate) fn restore(&mut self, place: Place, sequence: Sequence, record: KinesisRecord<T>) {
        self.insert(place, sequence, record);
    }

    /// Removes and returns the waiting records of the slots for which `is_wanted` returns true, each sequence in order.
    pub(crate) fn take(&mut self, is_wanted: impl Fn(u32) -> bool) -> Vec<KinesisRecord<T>> {
        let wanted = self.waiting.iter().filter(|(_, waiting)| is_wanted(waiting.sequence.slot));
        let places: Vec<Place> = wanted.map(|(place, _)| *place).collect();
        places.into_iter().filter_map(|place| Some(self.remove(place)?.record)).collect()
    }

    fn insert(&mut self, place: Place, sequence: Sequence, record: KinesisRecord<T>) {
        let backlog = self.backlogs.entry(sequence.slot).or_default();
        backlog.kinesis_records += 1;
        backlog.user_records += record.user_records();
        backlog.bytes += record.size();
        self.change_length(sequence, |length| length + 1);
        self.expiries.insert((record.expiry, place));
        self.waiting.insert(place, Waiting { sequence, record });
    }

    fn remove(&mut self, place: Place) -> Option<Waiting<T>> {
        let waiting = self.waiting.remove(&place)?;
        self.expiries.remove(&(waiting.record.expiry, place));
        self.change_length(waiting.sequence, |length| length - 1);
        if let Some(backlog) = self.backlogs.get_mut(&waiting.sequence.slot) {
            backlog.kinesis_records -= 1;
            backlog.user_records -= waiting.record.user_records();
            backlog.bytes -= waiting.record.size();
            if backlog.kinesis_records == 0 {
                self.backlogs.remove(&waiting.sequence.slot);
            }
        }
        Some(waiting)
    }
}

/// Returns the time that `length` records take if each is sent after the one before, and none has been sent yet.
pub(super) fn assumed_time_of(length: u32) -> Duration {
    time_of(ASSUMED_TIME_IN_DOUBT, length)
}

/// The time may get longer, so it counts twice.
fn time_of(time_in_doubt: Duration, length: u32) -> Duration {
    time_in_doubt.saturating_mul(2).saturating_mul(length)
}

#[cfg(test)]
mod tests {
    use alloc::collections::VecDeque;
    use alloc::string::ToString;

    use proptest::prelude::*;

    use super::*;
    use crate::record::kinesis_record::Pending;
    use crate::stream::aggregator::Aggregate;
    use crate::testing::{ms, user};

    const HASH_KEYS: u128 = 12;

    #[derive(Clone, Debug)]
    enum Step {
        /// Records of these hash keys are put.
        Put(Vec<u128>),
        /// A record in doubt is stored or not, and then is resolved or comes back, whole or in halves.
        End { which: usize, is_stored: bool, comes_back: bool, in_halves: bool },
        /// The shards change: each number is the first hash key of one.
        Reshard(BTreeSet<u128>),
        /// The oldest waiting records expire.
        Expire,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let put = proptest::collection::vec(0..HASH_KEYS, 1..4).prop_map(Step::Put);
        let end = (any::<usize>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(which, is_stored, comes_back, in_halves)| Step::End { which, is_stored, comes_back, in_halves },
        );
        let reshard = proptest::collection::btree_set(0..HASH_KEYS, 0..4).prop_map(Step::Reshard);
        let step = prop_oneof![8 => put, 8 => end, 2 => reshard, 1 => Just(Step::Expire)];
        proptest::collection::vec(step, 0..120)
    }

    /// A stream that uses a sequencer, and what its service has stored.
    struct Rig {
        sequencer: Sequencer<usize>,
        /// The first hash keys of the shards.
        shards: BTreeSet<u128>,
        /// The records in doubt.
        in_doubt: VecDeque<KinesisRecord<usize>>,
        /// The hash key of each user record, by ticket.
        hash_keys: Vec<u128>,
        stored: Vec<usize>,
        resolved: BTreeSet<usize>,
        expired: BTreeSet<usize>,
    }

    impl Rig {
        fn sequence(&self, hash_key: u128) -> Sequence {
            let first = self.shards.range(..=hash_key).next_back().copied().unwrap_or(0);
            let next = self.shards.range(hash_key + 1..).next().copied().unwrap_or(HASH_KEYS);
            Sequence { range: (first, next - 1), slot: first as u32 }
        }

        /// Returns one record for each sequence of these user records.
        fn aggregate(&self, users: impl IntoIterator<Item = Pending<usize>>) -> Vec<(Sequence, KinesisRecord<usize>)> {
            let mut sequences: BTreeMap<u128, (Sequence, Aggregate<usize>)> = BTreeMap::new();
            for user in users {
                let sequence = self.sequence(user.entry.hash_key());
                let open = sequences.entry(sequence.range.0).or_insert_with(|| (sequence, Aggregate::new(None)));
                let expiry = ms(user.ticket as u64);
                open.1.push(user, ms(0), expiry);
            }
            sequences.into_values().filter_map(|(sequence, open)| Some((sequence, open.close()?))).collect()
        }

        fn push(&mut self, users: Vec<Pending<usize>>) {
            for (sequence, record) in self.aggregate(users) {
                self.in_doubt.extend(self.sequencer.push(ms(0), sequence, record));
            }
        }

        fn put(&mut self, hash_keys: &[u128]) {
            let mut users = Vec::new();
            for hash_key in hash_keys {
                users.push(user(self.hash_keys.len(), &hash_key.to_string(), Some(*hash_key), 1));
                self.hash_keys.push(*hash_key);
            }
            self.push(users);
        }

        fn end(&mut self, record: KinesisRecord<usize>, is_stored: bool, comes_back: bool, in_halves: bool) {
            let hash_key = record.hash_key();
            let mut users: Vec<Pending<usize>> = record.into_users().collect();
            if is_stored {
                self.stored.extend(users.iter().map(|user| user.ticket));
            }
            if comes_back {
                let second = if in_halves { users.split_off(users.len() / 2) } else { Vec::new() };
                for users in [second, users] {
                    for (sequence, record) in self.aggregate(users) {
                        self.sequencer.put_back(sequence, record);
                    }
                }
            } else {
                self.resolved.extend(users.iter().map(|user| user.ticket));
            }
            let range = self.sequencer.end_doubt(ms(0), hash_key);
            let range = range.expect("the record is in doubt");
            let mut from = self.sequencer.first_place(range);
            while let Some((_, record)) = self.sequencer.pop_ready(ms(0), &mut from, range.1) {
                self.in_doubt.push_back(record);
            }
        }

        fn reshard(&mut self, shards: BTreeSet<u128>) {
            self.shards = shards;
            for record in self.sequencer.take(|_| true) {
                self.push(record.into_users().collect());
            }
        }

        /// Lets the oldest waiting user record expire.
        fn expire(&mut self) {
            let Some((place, sequence, record)) = self.sequencer.pop_expired(self.sequencer.next_expiry()) else {
                return;
            };
            let mut users: Vec<Pending<usize>> = record.into_users().collect();
            users.sort_by_key(|user| user.ticket);
            self.expired.insert(users.remove(0).ticket);
            for (_, record) in self.aggregate(users) {
                self.sequencer.restore(place, sequence, record);
            }
        }

        fn check(&self) {
            let in_doubt = self.in_doubt.iter().flat_map(|record| {
                record.users.iter().map(|packed| packed.user.entry.hash_key()).collect::<BTreeSet<u128>>()
            });
            let in_doubt: Vec<u128> = in_doubt.collect();
            let distinct: BTreeSet<u128> = in_doubt.iter().copied().collect();
            assert_eq!(in_doubt.len(), distinct.len(), "a hash key is in doubt in one Kinesis record at most");
            let waiting = self.sequencer.waiting.values();
            let counts = (0..HASH_KEYS as u32).map(|slot| self.sequencer.backlog(slot).kinesis_records);
            let counted: usize = counts.sum();
            assert_eq!(counted, waiting.len());
            let length: u32 =
                self.sequencer.sequences_of_length.iter().map(|((_, length), sequences)| length * sequences).sum();
            assert_eq!(length as usize, counted);
            let next_expiry = self.sequencer.waiting.values().map(|waiting| waiting.record.expiry).min();
            assert_eq!(self.sequencer.next_expiry(), next_expiry.unwrap_or(Instant::NEVER));
        }

        /// Whether of two records with the same hash key, the one that was put first is stored first for the first and
        /// for the last time.
        fn check_order(&self) {
            let first = |ticket: &usize| self.stored.iter().position(|stored| stored == ticket);
            let last = |ticket: &usize| self.stored.iter().rposition(|stored| stored == ticket);
            for hash_key in 0..HASH_KEYS {
                let tickets: Vec<usize> = (0..self.hash_keys.len())
                    .filter(|ticket| self.hash_keys[*ticket] == hash_key && !self.expired.contains(ticket))
                    .collect();
                assert!(tickets.is_sorted_by_key(first), "{:?}", self.stored);
                assert!(tickets.is_sorted_by_key(last), "{:?}", self.stored);
            }
        }
    }

    proptest! {
        #[test]
        fn each_hash_key_is_stored_in_order_whatever_comes_back(steps in steps()) {
            let mut rig = Rig {
                sequencer: Sequencer::default(),
                shards: BTreeSet::new(),
                in_doubt: VecDeque::new(),
                hash_keys: Vec::new(),
                stored: Vec::new(),
                resolved: BTreeSet::new(),
                expired: BTreeSet::new(),
            };
            for step in steps {
                match step {
                    Step::Put(hash_keys) => rig.put(&hash_keys),
                    Step::End { which, is_stored, comes_back, in_halves } => {
                        let which = which.checked_rem(rig.in_doubt.len());
                        if let Some(record) = which.and_then(|which| rig.in_doubt.remove(which)) {
                            // What is resolved, is stored.
                            rig.end(record, is_stored || !comes_back, comes_back, in_halves);
                        }
                    }
                    Step::Reshard(shards) => rig.reshard(shards),
                    Step::Expire => rig.expire(),
                }
                rig.check();
            }
            while let Some(record) = rig.in_doubt.pop_front() {
                rig.end(record, true, false, false);
                rig.check();
            }
            prop_assert!(rig.sequencer.in_doubt.is_empty());
            prop_assert_eq!(rig.resolved.len() + rig.expired.len(), rig.hash_keys.len(), "nothing waits for ever");
            rig.check_order();
        }
    }

    #[test]
    fn the_longest_sequence_of_a_slot_decides_how_long_its_backlog_takes() {
        let mut sequencer = Sequencer::default();
        let mut push = |hash_key: u128, ticket| {
            let sequence = Sequence { range: (hash_key, hash_key), slot: 1 };
            let record = KinesisRecord::single(user(ticket, "k", Some(hash_key), 1), None, ms(0), ms(9));
            sequencer.push(ms(0), sequence, record)
        };
        assert!(push(1, 0).is_some() && push(2, 1).is_some());
        assert!((2..5).all(|ticket| push(1, ticket).is_none()) && push(2, 5).is_none());
        let Backlog { kinesis_records, user_records, time, .. } = sequencer.backlog(1);
        assert_eq!((kinesis_records, user_records), (4, 4));
        assert_eq!(time, assumed_time_of(3), "before the first reply");

        assert_eq!(sequencer.end_doubt(ms(2_000), 1), Some((1, 1)));
        assert!(sequencer.pop_ready(ms(2_000), &mut (1, i64::MIN), 1).is_some());
        assert_eq!(sequencer.backlog(1).time, 2 * 2 * Duration::from_secs(2), "a reply took two seconds");
        assert_eq!(sequencer.backlog(7).time, Duration::ZERO);
    }
}

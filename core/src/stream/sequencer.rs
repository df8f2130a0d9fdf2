//! Keeps the order of the records of each hash key: of all Kinesis records that may have a user record of a hash key, at
//! most one is in doubt, and the others wait.
//!
//! A Kinesis record is in doubt from when it is passed on until its user records are resolved or come back to be sent
//! again: while it waits for the rate limit or for a request, is in flight, backs off, or is stored but not verified. What
//! comes back waits in front of what is newer.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use hashbrown::HashMap;

use super::Stream;
use crate::action::LogEvent;
use crate::config::Config;
use crate::context::Context;
use crate::limits;
use crate::record::attempt::{AttemptError, code};
use crate::record::kinesis_record::{KinesisRecord, Pending, ShardRef};
use crate::stream::aggregator::Aggregate;
use crate::stream::limiter::{Backlog, WHOLE_STREAM};
use crate::stream::metadata::Metadata;
use crate::time::Instant;

/// The records that stay in order together: those of a shard, or of one hash key. The lanes of a stream do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    /// The first and the last hash key.
    pub(crate) range: (u128, u128),
    /// The limiter's slot.
    pub(crate) slot: u32,
}

/// The place of a waiting record: the first hash key of its lane, and its position there.
pub(crate) type Place = (u128, i64);

/// The Kinesis records of a stream that are in doubt, and those that wait for them.
#[derive(Debug)]
pub(crate) struct Sequencer<T> {
    /// The records in doubt, by the first hash key of their lanes. They do not overlap, but a lane of a new shard may
    /// overlap with several of them.
    in_doubt: BTreeMap<u128, Doubt>,
    /// The records that wait. The first of each lane is to be sent next.
    waiting: BTreeMap<Place, Waiting<T>>,
    /// The earliest expiry of each waiting record.
    expiries: BTreeSet<(Instant, Place)>,
    /// The amount of waiting records by the limiter's slot.
    backlogs: HashMap<u32, Backlog>,
    /// The number of waiting records of each lane, by its first hash key.
    lengths: HashMap<u128, u32>,
    /// The number of lanes of each slot and length.
    lanes_of_length: BTreeMap<(u32, u32), u32>,
    /// The time for which a record is in doubt: the longest of the last times, an average if they get shorter.
    turn: Duration,
    /// The position after the last one.
    back: i64,
    /// The position of the first one.
    front: i64,
}

/// A record in doubt.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// The last hash key of its lane.
    last: u128,
    since: Instant,
}

/// A record that waits.
#[derive(Debug)]
struct Waiting<T> {
    lane: Lane,
    record: KinesisRecord<T>,
}

/// The assumed time for which a record is in doubt, before the first reply.
pub(super) const FIRST_TURN: Duration = Duration::from_millis(250);

impl<T> Default for Sequencer<T> {
    fn default() -> Self {
        Self {
            in_doubt: BTreeMap::new(),
            waiting: BTreeMap::new(),
            expiries: BTreeSet::new(),
            backlogs: HashMap::new(),
            lengths: HashMap::new(),
            lanes_of_length: BTreeMap::new(),
            turn: FIRST_TURN,
            back: 0,
            front: 0,
        }
    }
}

impl<T> Sequencer<T> {
    /// Accepts the newest record of a lane. Returns it if it may be sent, and is in doubt from now on.
    pub(crate) fn push(&mut self, now: Instant, lane: Lane, record: KinesisRecord<T>) -> Option<KinesisRecord<T>> {
        if !self.is_held(lane.range) {
            self.in_doubt.insert(lane.range.0, Doubt { last: lane.range.1, since: now });
            return Some(record);
        }
        let position = self.back;
        self.back += 1;
        self.insert((lane.range.0, position), lane, record);
        None
    }

    /// Takes a record back in front of all others of its lane.
    pub(crate) fn put_back(&mut self, lane: Lane, record: KinesisRecord<T>) {
        self.front -= 1;
        self.insert((lane.range.0, self.front), lane, record);
    }

    /// Ends the doubt about the record that has this hash key. Returns the hash keys for which records may be
    /// [ready](Self::pop_ready) now; `None` if there was no doubt.
    pub(crate) fn end_doubt(&mut self, now: Instant, hash_key: u128) -> Option<(u128, u128)> {
        let (first, Doubt { last, since }) =
            self.in_doubt.range(..=hash_key).next_back().map(|(first, doubt)| (*first, *doubt))?;
        if last < hash_key {
            return None;
        }
        self.in_doubt.remove(&first);
        let turn = now.saturating_since(since);
        self.turn = turn.max(self.turn / 8 * 7 + turn / 8);
        Some((first, last))
    }

    /// Removes and returns a record that may be sent and has hash keys in `range`. It is in doubt from now on.
    pub(crate) fn pop_ready(&mut self, now: Instant, range: (u128, u128)) -> Option<(Lane, KinesisRecord<T>)> {
        let mut from = (self.lane_at(range.0).unwrap_or(range.0), i64::MIN);
        let (place, lane) = loop {
            let (place, Waiting { lane, .. }) = self.waiting.range(from..=(range.1, i64::MAX)).next()?;
            if !self.is_in_doubt(lane.range) {
                break (*place, *lane);
            }
            from = (lane.range.0, i64::MAX);
        };
        let record = self.remove(place)?.record;
        self.in_doubt.insert(lane.range.0, Doubt { last: lane.range.1, since: now });
        Some((lane, record))
    }

    /// Whether a new record of a lane with this range has to wait.
    pub(crate) fn is_held(&self, range: (u128, u128)) -> bool {
        self.is_in_doubt(range) || self.lane_at(range.1).is_some_and(|first| first >= range.0)
    }

    /// Whether a record in doubt may have hash keys in `range`.
    fn is_in_doubt(&self, range: (u128, u128)) -> bool {
        self.in_doubt.range(..=range.1).next_back().is_some_and(|(_, doubt)| doubt.last >= range.0)
    }

    /// Returns the first hash key of the lane with waiting records that contains `hash_key`, or is the last one before it.
    fn lane_at(&self, hash_key: u128) -> Option<u128> {
        self.waiting.range(..=(hash_key, i64::MAX)).next_back().map(|((first, _), _)| *first)
    }

    /// Returns the amount of waiting records of a slot. They are sent one after the other, so the longest lane decides
    /// how long they take.
    pub(crate) fn backlog(&self, slot: u32) -> Backlog {
        let Some(backlog) = self.backlogs.get(&slot) else { return Backlog::default() };
        let longest = self.lanes_of_length.range((slot, 0)..=(slot, u32::MAX)).next_back();
        let length = longest.map_or(0, |((_, length), _)| *length);
        Backlog { time: turns(self.turn, length), ..*backlog }
    }

    /// Changes the number of waiting records of a lane by one.
    fn change_length(&mut self, lane: Lane, change: impl Fn(u32) -> u32) {
        let length = self.lengths.entry(lane.range.0).or_default();
        let (before, after) = (*length, change(*length));
        *length = after;
        if after == 0 {
            self.lengths.remove(&lane.range.0);
        } else {
            *self.lanes_of_length.entry((lane.slot, after)).or_default() += 1;
        }
        if let Some(lanes) = self.lanes_of_length.get_mut(&(lane.slot, before)) {
            *lanes -= 1;
            if *lanes == 0 {
                self.lanes_of_length.remove(&(lane.slot, before));
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
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<(Place, Lane, KinesisRecord<T>)> {
        let place = self.expiries.first().filter(|(at, _)| *at <= now)?.1;
        let Waiting { lane, record } = self.remove(place)?;
        Some((place, lane, record))
    }

    /// Puts what is left of an expired record in its place.
    pub(crate) fn restore(&mut self, place: Place, lane: Lane, record: KinesisRecord<T>) {
        self.insert(place, lane, record);
    }

    /// Removes and returns the waiting records of the slots for which `is_wanted` returns true, each lane in order.
    pub(crate) fn take(&mut self, is_wanted: impl Fn(u32) -> bool) -> Vec<KinesisRecord<T>> {
        let wanted = self.waiting.iter().filter(|(_, waiting)| is_wanted(waiting.lane.slot));
        let places: Vec<Place> = wanted.map(|(place, _)| *place).collect();
        places.into_iter().filter_map(|place| Some(self.remove(place)?.record)).collect()
    }

    fn insert(&mut self, place: Place, lane: Lane, record: KinesisRecord<T>) {
        let backlog = self.backlogs.entry(lane.slot).or_default();
        backlog.kinesis_records += 1;
        backlog.user_records += record.user_records();
        backlog.bytes += record.size();
        self.change_length(lane, |length| length + 1);
        self.expiries.insert((record.expiry, place));
        self.waiting.insert(place, Waiting { lane, record });
    }

    fn remove(&mut self, place: Place) -> Option<Waiting<T>> {
        let waiting = self.waiting.remove(&place)?;
        self.expiries.remove(&(waiting.record.expiry, place));
        self.change_length(waiting.lane, |length| length - 1);
        if let Some(backlog) = self.backlogs.get_mut(&waiting.lane.slot) {
            backlog.kinesis_records -= 1;
            backlog.user_records -= waiting.record.user_records();
            backlog.bytes -= waiting.record.size();
            if backlog.kinesis_records == 0 {
                self.backlogs.remove(&waiting.lane.slot);
            }
        }
        Some(waiting)
    }
}

/// Returns the time that `length` records take if each is sent after the one before. `turn` may get longer, so it counts
/// twice.
pub(super) fn turns(turn: Duration, length: u32) -> Duration {
    turn.saturating_mul(2).saturating_mul(length)
}

/// An aggregate that waits for the one before may grow to this part of what its shard takes in a second: 256 KiB at the
/// default rate limit. A larger one would be throttled often if other producers use the shard, too.
const HELD_PART: u64 = 4;

/// Returns the maximum size of an aggregate that waits for the one before.
pub(super) fn size_max(config: &Config) -> usize {
    let part = usize::try_from(config.rate_limit_bytes_per_shard() / HELD_PART).unwrap_or(usize::MAX);
    part.min(limits::RECORD_SIZE_DEFAULT).max(config.aggregation_max_size())
}

/// Accepts the newest record of a lane, and returns it if it may be sent. Without [`Ordering::PerKey`], it always may.
///
/// [`Ordering::PerKey`]: crate::Ordering::PerKey
pub(super) fn pass<T>(
    sequencer: &mut Option<Box<Sequencer<T>>>,
    now: Instant,
    lane: Option<Lane>,
    record: KinesisRecord<T>,
) -> Option<KinesisRecord<T>> {
    match (sequencer, lane) {
        (Some(sequencer), Some(lane)) => sequencer.push(now, lane, record),
        _ => Some(record),
    }
}

/// Whether the open aggregate of a shard waits for earlier records of its hash keys.
pub(super) fn waits_in_order<T>(sequencer: Option<&Sequencer<T>>, metadata: &Metadata, open: &Aggregate<T>) -> bool {
    sequencer.is_some_and(|sequencer| {
        let hash_key = open.hash_key();
        sequencer.is_held(metadata.map.open_range(hash_key).unwrap_or((hash_key, hash_key)))
    })
}

impl<T> Stream<T> {
    /// Returns the lane of a hash key: its shard; if records are not aggregated or the shard is not known, the hash key
    /// alone.
    pub(super) fn lane(&self, hash_key: u128, config: &Config) -> Lane {
        let shard = self.metadata.shard(hash_key);
        let slot = shard.map_or(WHOLE_STREAM, |shard| shard.slot);
        let range = shard.filter(|shard| self.metadata.can_aggregate(Some(shard), config));
        let range = range.and_then(|_| self.metadata.map.open_range(hash_key));
        Lane { range: range.unwrap_or((hash_key, hash_key)), slot }
    }

    /// Whether the open aggregate of a shard waits for earlier records of its hash keys.
    pub(super) fn waits_in_order(&self, open: &Aggregate<T>) -> bool {
        waits_in_order(self.sequencer.as_deref(), &self.metadata, open)
    }

    /// Takes the user records of a Kinesis record back, in front of newer ones.
    pub(super) fn put_back(&mut self, now: Instant, users: Vec<Pending<T>>, context: &mut Context<T>) {
        if users.is_empty() {
            return;
        }
        if self.is_order_impossible() {
            return self.fail_unordered(now, users, context);
        }
        // After a reshard, they may be of several lanes.
        let mut lanes: BTreeMap<u128, (Lane, Option<ShardRef>, Vec<Pending<T>>)> = BTreeMap::new();
        for user in users {
            let hash_key = user.entry.hash_key();
            let lane = self.lane(hash_key, &context.config);
            let new_lane = || (lane, self.metadata.shard(hash_key).cloned(), Vec::new());
            lanes.entry(lane.range.0).or_insert_with(new_lane).2.push(user);
        }
        for (lane, shard, users) in lanes.into_values() {
            if self.metadata.can_aggregate(shard.as_ref(), &context.config) {
                let record = Self::aggregate(users, shard, now, context);
                self.put_record_back(lane, record);
            } else {
                for user in users.into_iter().rev() {
                    let expiry = context.expiry(&user);
                    self.put_record_back(lane, Some(KinesisRecord::single(user, shard.clone(), now, expiry)));
                }
            }
            self.count_upstream(now, lane.slot);
        }
    }

    fn put_record_back(&mut self, lane: Lane, record: Option<KinesisRecord<T>>) {
        if let (Some(sequencer), Some(record)) = (&mut self.sequencer, record) {
            sequencer.put_back(lane, record);
        }
    }

    fn aggregate(
        users: impl IntoIterator<Item = Pending<T>>,
        shard: Option<ShardRef>,
        deadline: Instant,
        context: &Context<T>,
    ) -> Option<KinesisRecord<T>> {
        let mut aggregate = Aggregate::new(shard);
        for user in users {
            let expiry = context.expiry(&user);
            aggregate.push(user, deadline, expiry);
        }
        aggregate.close()
    }

    /// Ends the doubt about a record with this hash key, and sends what waited for it.
    pub(super) fn end_doubt(&mut self, now: Instant, hash_key: Option<u128>, context: &mut Context<T>) {
        let ended = |sequencer: &mut Box<Sequencer<T>>| sequencer.end_doubt(now, hash_key?);
        if let Some(range) = self.sequencer.as_mut().and_then(ended) {
            self.send_ready(now, range, context);
        }
    }

    /// Sends what no longer waits for a record in doubt with hash keys in `range`.
    pub(super) fn send_ready(&mut self, now: Instant, range: (u128, u128), context: &mut Context<T>) {
        while let Some((lane, record)) = self.sequencer.as_mut().and_then(|sequencer| sequencer.pop_ready(now, range)) {
            self.count_upstream(now, lane.slot);
            self.pass_to_limiter(now, lane.slot, record, context);
        }
        if !context.config.aggregation_enabled() {
            return;
        }
        let slots: Vec<u32> = self.metadata.map.slots_in(range).collect();
        for slot in slots {
            match self.aggregator.get(slot) {
                Some(open) if self.waits_in_order(open) => {}
                Some(open) if open.size() >= context.config.aggregation_max_size() => {
                    self.close(now, slot, context);
                }
                _ => self.aggregator.resume(slot),
            }
        }
    }

    /// Ends the doubt about `records`, which were taken out of the limiter, and adds those of these slots that wait.
    /// Returns the hash keys for which records may be ready.
    pub(super) fn take_sequenced(
        &mut self,
        now: Instant,
        slots: &[u32],
        records: &mut Vec<KinesisRecord<T>>,
    ) -> Vec<(u128, u128)> {
        let Some(sequencer) = &mut self.sequencer else { return Vec::new() };
        let ended = records.iter().filter_map(|record| sequencer.end_doubt(now, record.hash_key())).collect();
        let slots: BTreeSet<u32> = slots.iter().copied().collect();
        records.extend(sequencer.take(|slot| slots.contains(&slot)));
        for slot in slots {
            self.count_upstream(now, slot);
        }
        ended
    }

    /// Fails the waiting user records that have expired.
    pub(super) fn expire_sequenced(&mut self, now: Instant, context: &mut Context<T>) {
        while let Some((place, lane, record)) = self.sequencer.as_mut().and_then(|sequencer| sequencer.pop_expired(now))
        {
            let (shard, deadline) = (record.shard.clone(), record.deadline);
            let (expired, left): (Vec<_>, Vec<_>) = record.into_users().partition(|user| context.expiry(user) <= now);
            for user in expired {
                self.fail_expired(now, user, context);
            }
            let left = Self::aggregate(left, shard, deadline, context);
            if let (Some(sequencer), Some(record)) = (&mut self.sequencer, left) {
                sequencer.restore(place, lane, record);
            }
            self.count_upstream(now, lane.slot);
        }
    }

    /// Whether records cannot be kept in order, because the stream ignores keys.
    pub(super) fn is_order_impossible(&self) -> bool {
        self.sequencer.is_some() && self.metadata.ignores_keys()
    }

    /// Fails records because their order cannot be kept.
    pub(super) fn fail_unordered(
        &mut self,
        now: Instant,
        users: impl IntoIterator<Item = Pending<T>>,
        context: &mut Context<T>,
    ) {
        let (code, message) = (code::ORDER_IMPOSSIBLE, "ordering is PerKey, but the stream ignores keys (AUTO)");
        let mut user_records = 0;
        for user in users {
            user_records += 1;
            self.fail(now, user, AttemptError::new(code, message), context);
        }
        if user_records > 0 {
            let stream = self.name.clone();
            context.log(LogEvent::Failed { stream, code: code.into(), message: message.into(), user_records });
        }
    }

    /// Fails all records that are not under way yet, after it became known that the stream ignores keys.
    pub(super) fn fail_all_unordered(&mut self, now: Instant, context: &mut Context<T>) {
        let mut records = Vec::new();
        for slot in self.limiter.slots() {
            self.take_waiting(now, slot, &mut records, context);
        }
        let slots: Vec<u32> = self.limiter.slots().collect();
        self.take_sequenced(now, &slots, &mut records);
        records.extend(self.take_unlimited(now));
        self.fail_unordered(now, records.into_iter().flat_map(KinesisRecord::into_users), context);
    }
}

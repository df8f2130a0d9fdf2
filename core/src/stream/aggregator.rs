//! Packs user records of one shard into one Kinesis record, until it is full or due.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;

use crate::codec::{FRAME_SIZE, KeyTables, message_size_max};
use crate::record::kinesis_record::{Keys, KinesisRecord, Packed, Pending, ShardRef, Users};
use crate::record::user_record::Entry;
use crate::time::Instant;
use crate::time::timers::Timers;

/// The limits of one aggregate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AggregateLimits {
    pub(crate) count: usize,
    /// The bytes of the data, including framing.
    pub(crate) size: usize,
    /// Whether a record that is too large to be aggregated closes the open aggregate, so that it does not overtake it.
    pub(crate) in_order: bool,
}

/// What the caller has to do after a record was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FollowUp {
    /// Nothing: the record was added to an open aggregate, and nothing is due earlier than before.
    None,
    /// Send the requests that are due, and update the stream's timer: something may be due, or due earlier than before.
    Send,
}

/// The times of an open aggregate: when it is due, and when its first user record expires.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) deadline: Instant,
    pub(crate) expiry: Instant,
}

/// An aggregate that is still open.
///
/// While it is far from full, an upper bound of its size is enough, so a put looks up no keys. All keys are looked up
/// at once when the upper bound reaches the limit, or when the aggregate is closed.
#[derive(Debug)]
pub(crate) struct Aggregate<T> {
    shard: Option<ShardRef>,
    users: Vec<Packed<T>>,
    keys: Keys,
    /// The bytes of the message; without key tables, an upper bound.
    message_size: usize,
    /// The key tables, once the keys have been looked up.
    tables: Option<Box<KeyTables>>,
    hasher: DefaultHashBuilder,
    deadline: Instant,
    expiry: Instant,
    oldest: Instant,
}

impl<T> Aggregate<T> {
    pub(crate) fn new(shard: Option<ShardRef>) -> Self {
        Self::with_capacity(shard, 0, 0)
    }

    fn with_capacity(shard: Option<ShardRef>, users: usize, keys: usize) -> Self {
        Self {
            shard,
            users: Vec::with_capacity(users),
            keys: Keys::with_capacity(keys),
            message_size: 0,
            tables: None,
            hasher: DefaultHashBuilder::default(),
            deadline: Instant::NEVER,
            expiry: Instant::NEVER,
            oldest: Instant::NEVER,
        }
    }

    /// Returns the number of its user records.
    pub(crate) fn user_records(&self) -> usize {
        self.users.len()
    }

    /// Returns its bytes, or an upper bound.
    pub(crate) fn size(&self) -> usize {
        FRAME_SIZE + self.message_size
    }

    /// Returns the hash key of its first user record.
    pub(crate) fn hash_key(&self) -> u128 {
        self.users.first().map_or(0, |packed| packed.user.entry.hash_key())
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Returns when its first user record expires.
    pub(crate) fn expiry(&self) -> Instant {
        self.expiry
    }

    /// Appends a user record.
    ///
    /// # Errors
    ///
    /// Returns the user record if it does not fit.
    fn try_push(
        &mut self,
        user: Pending<T>,
        deadline: Instant,
        expiry: Instant,
        limits: AggregateLimits,
        spare: &mut Spare,
    ) -> Result<FollowUp, Pending<T>> {
        if self.users.len() >= limits.count {
            return Err(user);
        }
        let Entry { partition_key, data, .. } = &user.entry;
        let (explicit, data_len, put_at) = (user.entry.explicit_hash_key(), data.len(), user.put_at);
        let hash = self.hasher.hash_one(partition_key) as u32;
        let size_max = message_size_max(self.users.len(), partition_key, explicit.is_some(), data_len);
        if self.tables.is_none() && !limits.allow(self.message_size + size_max) {
            self.look_up_keys(spare.take());
        }
        let (packed, size) = match &mut self.tables {
            None => (Packed::new(user, hash, &mut self.keys), size_max),
            Some(tables) => {
                let (users, keys) = (&self.users, &self.keys);
                let placement =
                    tables.place(partition_key, hash, explicit, data_len, |position| users[position].keys(keys));
                if !limits.allow(self.message_size + placement.message_size) {
                    return Err(user);
                }
                tables.append(users.len(), hash, explicit, placement);
                (Packed::new(user, hash, &mut self.keys).placed(placement), placement.message_size)
            }
        };
        let joined = deadline >= self.deadline && expiry >= self.expiry;
        self.users.push(packed);
        self.message_size += size;
        self.deadline = self.deadline.min(deadline);
        self.expiry = self.expiry.min(expiry);
        self.oldest = self.oldest.min(put_at);
        Ok(if joined { FollowUp::None } else { FollowUp::Send })
    }

    /// Appends a user record of any size.
    pub(crate) fn push(&mut self, user: Pending<T>, deadline: Instant, expiry: Instant) {
        let everything = AggregateLimits { count: usize::MAX, size: usize::MAX, in_order: false };
        // Without limits, it always fits.
        let _ = self.try_push(user, deadline, expiry, everything, &mut Spare::default());
    }

    /// Looks up the keys of all records, which makes the size exact.
    fn look_up_keys(&mut self, mut tables: Box<KeyTables>) {
        self.message_size = 0;
        for position in 0..self.users.len() {
            let (packed, users, keys) = (&self.users[position], &self.users, &self.keys);
            let (hash, (partition_key, explicit)) = (packed.hash(), packed.keys(keys));
            let data_len = packed.user.entry.data.len();
            let placement =
                tables.place(partition_key, hash, explicit, data_len, |position| users[position].keys(keys));
            tables.append(position, hash, explicit, placement);
            self.users[position].set_place(placement);
            self.message_size += placement.message_size;
        }
        self.tables = Some(tables);
    }

    /// Returns the Kinesis record; `None` if the aggregate is empty.
    pub(crate) fn close(self) -> Option<KinesisRecord<T>> {
        self.close_with(&mut Spare::default())
    }

    fn close_with(mut self, spare: &mut Spare) -> Option<KinesisRecord<T>> {
        if self.tables.is_none() && self.users.len() > 1 {
            self.look_up_keys(spare.take());
        }
        let Self { shard, users, keys, message_size, deadline, expiry, oldest, tables, .. } = self;
        tables.into_iter().for_each(|tables| spare.give(tables));
        Users::new(users).map(|users| KinesisRecord::new(users, keys, message_size, shard, deadline, expiry, oldest))
    }
}

impl AggregateLimits {
    fn allow(&self, message_size: usize) -> bool {
        FRAME_SIZE.saturating_add(message_size) <= self.size
    }
}

/// Unused key tables: empty, with their capacity. Few are in use at once.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "aggregates have them as pointers, since most have none")]
struct Spare(Vec<Box<KeyTables>>);

impl Spare {
    const MAX: usize = 4;

    fn take(&mut self) -> Box<KeyTables> {
        self.0.pop().unwrap_or_default()
    }

    fn give(&mut self, mut tables: Box<KeyTables>) {
        if self.0.len() < Self::MAX {
            tables.clear();
            self.0.push(tables);
        }
    }
}

/// The open aggregates of a stream, at most one per shard. An idle shard costs 16 bytes and no processing time.
#[derive(Debug)]
pub(crate) struct Aggregator<T> {
    /// The shards by slot.
    shards: Vec<Shard<T>>,
    timers: Timers,
    spare: Spare,
}

#[derive(Debug)]
struct Shard<T> {
    open: Option<Box<Aggregate<T>>>,
    /// The number of user records and the bytes of their keys in the last aggregate, as an estimate for the next one.
    last: (u32, u32),
}

impl<T> Default for Aggregator<T> {
    fn default() -> Self {
        Self { shards: Vec::new(), timers: Timers::default(), spare: Spare::default() }
    }
}

impl<T> Shard<T> {
    fn close(&mut self, spare: &mut Spare) -> Option<KinesisRecord<T>> {
        let open = self.open.take()?;
        self.last = (open.users.len() as u32, open.keys.size() as u32);
        open.close_with(spare)
    }
}

impl<T> Aggregator<T> {
    /// Adds a user record to its shard's aggregate. Passes closed aggregates to `closed`, and the record itself if it
    /// is too large to be aggregated.
    pub(crate) fn add(
        &mut self,
        user: Pending<T>,
        slot: u32,
        shard: Option<&ShardRef>,
        times: Times,
        limits: AggregateLimits,
        mut closed: impl FnMut(KinesisRecord<T>),
    ) -> FollowUp {
        let Times { deadline, expiry } = times;
        let index = slot as usize;
        if index >= self.shards.len() {
            self.shards.resize_with(index + 1, || Shard { open: None, last: (0, 0) });
        }
        let Self { shards, timers, spare } = self;
        let place = &mut shards[index];
        let mut user = user;
        if let Some(open) = &mut place.open {
            match open.try_push(user, deadline, expiry, limits, spare) {
                Ok(FollowUp::None) if open.users.len() < limits.count => return FollowUp::None,
                Ok(_) => {
                    if open.users.len() >= limits.count {
                        place.close(spare).into_iter().for_each(closed);
                    } else {
                        timers.arm(slot, open.deadline);
                    }
                    return FollowUp::Send;
                }
                Err(refused) => user = refused,
            }
        }
        // No aggregate is open, or the record does not fit into it.
        let (users, keys) = (place.last.0 as usize, place.last.1 as usize);
        let users = (users + users / 8).min(limits.count);
        if FRAME_SIZE + user.entry.data.len() <= limits.size {
            let mut fresh = Aggregate::with_capacity(shard.cloned(), users, keys + keys / 8);
            match fresh.try_push(user, deadline, expiry, limits, spare) {
                Ok(_) => {
                    place.close(spare).into_iter().for_each(&mut closed);
                    place.open = Some(Box::new(fresh));
                    if limits.count > 1 {
                        timers.arm(slot, deadline);
                    } else {
                        place.close(spare).into_iter().for_each(closed);
                    }
                    return FollowUp::Send;
                }
                Err(refused) => user = refused, // its key and fields make it too large
            }
        }
        if limits.in_order {
            place.close(spare).into_iter().for_each(&mut closed);
        }
        closed(KinesisRecord::single(user, shard.cloned(), deadline, expiry));
        FollowUp::Send
    }

    /// Closes a shard's aggregate, if one is open.
    pub(crate) fn close(&mut self, slot: u32) -> Option<KinesisRecord<T>> {
        self.shards.get_mut(slot as usize)?.close(&mut self.spare)
    }

    /// Returns the earliest time at which an aggregate may be due.
    pub(crate) fn next_timer(&self) -> Instant {
        self.timers.next()
    }

    /// Removes and returns a slot whose aggregate is due by `horizon`, and arms the timers of slots that are not due
    /// again.
    ///
    /// A shard with a backlog can send nothing anyway: `late_until` returns until when its aggregate stays open. When the
    /// backlog is cleared, [`resume`](Self::resume) the aggregate.
    pub(crate) fn pop_due(
        &mut self,
        horizon: Instant,
        late_until: impl Fn(u32, &Aggregate<T>) -> Option<Instant>,
    ) -> Option<u32> {
        let mut later: Vec<(u32, Instant)> = Vec::new();
        let due = loop {
            let Some(slot) = self.timers.pop_due(horizon) else { break None };
            let Some(open) = self.shards.get(slot as usize).and_then(|shard| shard.open.as_ref()) else { continue };
            let due = late_until(slot, open).unwrap_or(open.deadline);
            if due <= horizon {
                break Some(slot);
            }
            later.push((slot, due));
        };
        for (slot, at) in later {
            self.timers.arm(slot, at);
        }
        due
    }

    /// Makes the slot's aggregate due at `now`, once the shard has no backlog.
    pub(crate) fn expedite(&mut self, slot: u32, now: Instant) {
        if let Some(open) = self.shards.get_mut(slot as usize).and_then(|shard| shard.open.as_mut()) {
            open.deadline = open.deadline.min(now);
        }
    }

    /// Closes and returns all aggregates, except those for which `waits` returns true: they are due at `now`, once they no
    /// longer wait, and take more records until then.
    pub(crate) fn flush(
        &mut self,
        now: Instant,
        waits: impl Fn(&Aggregate<T>) -> bool,
    ) -> Vec<(u32, KinesisRecord<T>)> {
        let open: Vec<(u32, bool)> = self.open().map(|(slot, open)| (slot, waits(open))).collect();
        let mut closed = Vec::new();
        for (slot, waits) in open {
            if waits {
                self.expedite(slot, now);
            } else {
                closed.extend(self.close(slot).map(|record| (slot, record)));
            }
        }
        closed
    }

    /// Makes the slot's aggregate due at its deadline again, when the shard has no backlog.
    pub(crate) fn resume(&mut self, slot: u32) {
        if let Some(open) = self.shards.get(slot as usize).and_then(|shard| shard.open.as_ref()) {
            self.timers.arm(slot, open.deadline);
        }
    }

    /// Returns the open aggregate of a slot.
    pub(crate) fn get(&self, slot: u32) -> Option<&Aggregate<T>> {
        self.shards.get(slot as usize)?.open.as_deref()
    }

    /// Returns all open aggregates with their slots.
    pub(crate) fn open(&self) -> impl Iterator<Item = (u32, &Aggregate<T>)> {
        self.shards.iter().zip(0..).filter_map(|(shard, slot)| Some((slot, shard.open.as_deref()?)))
    }

    /// Returns the slots of all open aggregates.
    pub(crate) fn open_slots(&self) -> impl Iterator<Item = u32> {
        self.open().map(|(slot, _)| slot)
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::{BTreeMap, BTreeSet};
    use alloc::string::ToString;
    use alloc::vec;
    use core::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::codec::{AggregatedUserRecord, decode, encode};
    use crate::testing::{data_sizes, explicit_hash_keys, ms, partition_keys, shard, tickets, user};

    /// Returns the user record as the codec decodes it.
    fn plain(user: &Pending<usize>) -> AggregatedUserRecord {
        AggregatedUserRecord {
            partition_key: (*user.entry.partition_key).into(),
            explicit_hash_key: user.entry.explicit_hash_key(),
            data: user.entry.data.clone(),
        }
    }

    fn aggregate(users: impl IntoIterator<Item = Pending<usize>>) -> KinesisRecord<usize> {
        let mut aggregate = Aggregate::new(Some(shard(0)));
        for user in users {
            aggregate.push(user, ms(1), ms(2));
        }
        aggregate.close().expect("not empty")
    }

    fn encoded_size(record: &KinesisRecord<usize>) -> usize {
        record.data().len() + record.partition_key().len()
    }

    proptest! {
        #[test]
        fn the_size_is_the_encoded_size(
            users in proptest::collection::vec((partition_keys(), explicit_hash_keys(), data_sizes()), 1..50),
        ) {
            let users = users.into_iter().enumerate().map(|(n, (key, explicit, size))| user(n, &key, explicit, size));
            let record = aggregate(users);
            prop_assert_eq!(record.size(), encoded_size(&record));
            if record.is_aggregated() {
                let data = record.data();
                let plain: Vec<_> = record.into_users().map(|user| plain(&user)).collect();
                prop_assert_eq!(&encode(&plain)[..], &data[..]);
                prop_assert_eq!(decode(data), Ok(plain));
            }
        }
    }

    #[test]
    fn sizes_are_exact_where_lengths_take_another_byte() {
        for size in (100..150).chain(16_350..16_400).chain([2_097_140, 2_097_151, 2_097_152]) {
            let record = aggregate((0..2).map(|n| user(n, "k", Some(7), size)));
            assert_eq!(record.size(), encoded_size(&record), "data of {size} bytes");
        }
        for keys in [127, 128, 129, 16_383, 16_384, 16_385] {
            let record = aggregate((0..keys).map(|n| user(n, &n.to_string(), Some(n as u128), 0)));
            assert_eq!(record.size(), encoded_size(&record), "{keys} keys of each kind");
        }
        for chars in [127, 128, 256] {
            let record = aggregate((0..2).map(|n| user(n, &"k".repeat(chars), None, 0)));
            assert_eq!(record.size(), encoded_size(&record), "a key of {chars} characters");
        }
    }

    #[test]
    fn an_aggregate_may_reach_its_limits() {
        let users = || (0..3).map(|n| user(n, "key", Some(n as u128), 10));
        let size = aggregate(users()).data().len();
        let closed_by_third = |limits| {
            let mut aggregator = Aggregator::default();
            let mut closed = Vec::new();
            for user in users() {
                aggregator.add(user, 0, Some(&shard(0)), Times { deadline: ms(1), expiry: ms(2) }, limits, |record| {
                    closed.push(record.user_records());
                });
            }
            closed
        };
        assert_eq!(closed_by_third(AggregateLimits { count: 4, size, in_order: false }), [0; 0]);
        assert_eq!(closed_by_third(AggregateLimits { count: 4, size: size - 1, in_order: false }), [2]);
        assert_eq!(closed_by_third(AggregateLimits { count: 3, size, in_order: false }), [3], "closed when full");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add { slot: u32, key: u8, explicit: Option<u128>, size: usize, buffered: u64, ttl: u64 },
        Pass { millis: u64, backlogged: BTreeSet<u32> },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let size = prop_oneof![4 => 0..60_usize, 1 => 100..400_usize];
        let add = (0..4_u32, 0..4_u8, explicit_hash_keys(), size, 0..100_u64, 0..200_u64).prop_map(
            |(slot, key, explicit, size, buffered, ttl)| Step::Add { slot, key, explicit, size, buffered, ttl },
        );
        let pass = (0..60_u64, proptest::collection::btree_set(0..4_u32, 0..3))
            .prop_map(|(millis, backlogged)| Step::Pass { millis, backlogged });
        proptest::collection::vec(prop_oneof![3 => add, 1 => pass], 0..120)
    }

    /// A user record that should be in an open aggregate.
    #[derive(Debug)]
    struct Kept {
        ticket: usize,
        plain: AggregatedUserRecord,
        deadline: Instant,
        expiry: Instant,
    }

    /// A model that keeps aggregates as lists, and encodes them to check whether they are full.
    struct Model {
        limits: AggregateLimits,
        open: BTreeMap<u32, Vec<Kept>>,
    }

    impl Model {
        /// Adds a user record. Returns the tickets of closed aggregates.
        fn add(&mut self, slot: u32, new: Kept) -> Vec<usize> {
            let users = self.open.entry(slot).or_default();
            if encode(core::slice::from_ref(&new.plain)).len() > self.limits.size {
                return vec![new.ticket];
            }
            let mut out = Vec::new();
            let all: Vec<_> = users.iter().map(|kept| &kept.plain).chain([&new.plain]).cloned().collect();
            if encode(&all).len() > self.limits.size {
                out.extend(users.drain(..).map(|kept| kept.ticket));
            }
            users.push(new);
            if users.len() == self.limits.count {
                out.extend(users.drain(..).map(|kept| kept.ticket));
            }
            out
        }

        fn is_due(&self, slot: u32, now: Instant, backlogged: &BTreeSet<u32>) -> bool {
            let due = |kept: &Kept| if backlogged.contains(&slot) { kept.expiry } else { kept.deadline };
            self.open.get(&slot).into_iter().flatten().any(|kept| due(kept) <= now)
        }

        /// Checks the record of a closed aggregate. Returns its tickets.
        fn close(&mut self, slot: u32, record: &KinesisRecord<usize>) -> Vec<usize> {
            let users = self.open.remove(&slot).unwrap_or_default();
            let kept: Vec<usize> = users.iter().map(|kept| kept.ticket).collect();
            assert_eq!(tickets([record]), kept, "in the order of the puts");
            assert_eq!(Some(record.deadline), users.iter().map(|kept| kept.deadline).min());
            assert_eq!(Some(record.expiry), users.iter().map(|kept| kept.expiry).min());
            assert_eq!(record.shard.as_ref().map(|shard| shard.slot), Some(slot));
            kept
        }
    }

    proptest! {
        #[test]
        fn aggregates_keep_limits_order_and_deadlines_without_loss(
            steps in steps(),
            count in 1..6_usize,
            size in 64..300_usize,
        ) {
            let limits = AggregateLimits { count, size, in_order: false };
            let mut model = Model { limits, open: BTreeMap::new() };
            let mut aggregator = Aggregator::default();
            let mut now = ms(0);
            let mut put = 0;
            let mut out: Vec<usize> = Vec::new();
            for step in steps {
                match step {
                    Step::Add { slot, key, explicit, size, buffered, ttl } => {
                        let user = user(put, &key.to_string(), explicit, size);
                        let deadline = now + Duration::from_millis(buffered);
                        let expiry = deadline + Duration::from_millis(ttl);
                        let expected = model.add(slot, Kept { ticket: put, plain: plain(&user), deadline, expiry });
                        let mut closed = Vec::new();
                        aggregator.add(user, slot, Some(&shard(slot)), Times { deadline, expiry }, limits, |record| closed.push(record));
                        prop_assert_eq!(tickets(&closed), &expected[..]);
                        out.extend(expected);
                        put += 1;
                    }
                    Step::Pass { millis, backlogged } => {
                        now = now + Duration::from_millis(millis);
                        while let Some(slot) = aggregator.pop_due(now, |slot, open| backlogged.contains(&slot).then_some(open.expiry())) {
                            prop_assert!(model.is_due(slot, now, &backlogged));
                            let record = aggregator.close(slot).expect("a due aggregate is open");
                            out.extend(model.close(slot, &record));
                        }
                        prop_assert!(model.open.keys().all(|slot| !model.is_due(*slot, now, &backlogged)));
                        prop_assert!(aggregator.next_timer() > now, "no busy loop");
                        // The backlog ends.
                        backlogged.iter().for_each(|slot| aggregator.resume(*slot));
                    }
                }
                model.open.retain(|_, users| !users.is_empty());
                let open: Vec<u32> = aggregator.open_slots().collect();
                prop_assert_eq!(&open, &model.open.keys().copied().collect::<Vec<_>>());
                let first = model.open.values().flatten().map(|kept| kept.deadline).min();
                prop_assert!(aggregator.next_timer() <= first.unwrap_or(Instant::NEVER), "no timer is late");
            }
            for slot in aggregator.open_slots().collect::<Vec<_>>() {
                let record = aggregator.close(slot).expect("open");
                out.extend(model.close(slot, &record));
            }
            out.sort_unstable();
            prop_assert_eq!(out, (0..put).collect::<Vec<_>>(), "each record once");
        }
    }
}

//! Keeps Kinesis records until their shard's rate limit allows them. The oldest are released first.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core::ops::Add;
use core::time::Duration;

use crate::config::Config;
use crate::put_buffer::Room;
use crate::record::kinesis_record::KinesisRecord;
use crate::stream::shard_rate::{RateLimit, ShardRate};
use crate::time::Instant;
use crate::time::deadline_queue::DeadlineQueue;
use crate::time::timers::Timers;

/// Records that wait for their shard's rate limit, or for the end of a backoff, are released at multiples of this
/// interval, so that all shards share wake-ups and requests.
pub(crate) const RELEASE_INTERVAL: Duration = Duration::from_millis(10);

/// The slot of the stream as a whole, for records whose shard is not known.
pub(crate) const WHOLE_STREAM: u32 = 0;

/// The rate limit of each shard of a stream, and the records that wait for it.
#[derive(Debug)]
pub(crate) struct Limiter<T> {
    /// The shards by slot; `None` before a shard's first record.
    shards: Vec<Option<Box<ShardLimiter<T>>>>,
    timers: Timers,
    /// Slots of shards whose records wait because no more requests may be in flight.
    deferred: Vec<u32>,
    /// Slots of shards for which a put was refused, until they have room again.
    refused: Vec<u32>,
    shard_limit: RateLimit,
    /// The number of shards by which a shard's rate limit is multiplied to get that of the whole stream.
    stream_shards: u64,
    backlog_limit: Duration,
    /// The number of shards with a long backlog.
    long_backlogs: usize,
}

#[derive(Debug)]
struct ShardLimiter<T> {
    rate: ShardRate,
    /// The backlog, ordered by when the oldest user record was put. So a retried record is sent before newer records.
    waiting: DeadlineQueue<KinesisRecord<T>>,
    /// The number of user records in `waiting`.
    user_records: usize,
    /// The number of bytes in `waiting`.
    bytes: usize,
    /// The records that wait in the stages before.
    upstream: Backlog,
    is_deferred: bool,
    /// Whether the backlog is so long that puts are checked against the limit.
    has_long_backlog: bool,
    /// Set when a put is refused, until the shard has room again.
    refused: Option<Refused>,
}

/// An amount of records to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) kinesis_records: usize,
    pub(crate) user_records: usize,
    pub(crate) bytes: usize,
    /// The number of Kinesis records of the longest sequence. One shard takes them all, also if the shards are not known yet.
    pub(crate) longest: usize,
    /// The time that they take at least, whatever the rate limit.
    pub(crate) time: Duration,
}

impl Add for Backlog {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            kinesis_records: self.kinesis_records + other.kinesis_records,
            user_records: self.user_records + other.user_records,
            bytes: self.bytes + other.bytes,
            longest: self.longest.max(other.longest),
            time: self.time.max(other.time),
        }
    }
}

/// A shard for which a put was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The shard's ID; `None` for the stream as a whole.
    pub(crate) shard_id: Option<Arc<str>>,
}

impl<T> ShardLimiter<T> {
    fn push(&mut self, record: KinesisRecord<T>) {
        self.user_records += record.user_records();
        self.bytes += record.size();
        self.waiting.push(record.oldest, record.expiry, record);
    }

    fn pop(&mut self) -> Option<KinesisRecord<T>> {
        let record = self.waiting.pop();
        self.uncount(record)
    }

    fn pop_expired(&mut self, now: Instant) -> Option<KinesisRecord<T>> {
        let record = self.waiting.pop_expired(now);
        self.uncount(record)
    }

    fn uncount(&mut self, record: Option<KinesisRecord<T>>) -> Option<KinesisRecord<T>> {
        if let Some(record) = &record {
            self.user_records -= record.user_records();
            self.bytes -= record.size();
        }
        record
    }

    /// Returns how long the backlog takes at half the current rate: other producers may use the other half. `limit` is that of
    /// the slot, and `shard_limit` that of one shard.
    fn backlog(&self, now: Instant, limit: RateLimit, shard_limit: RateLimit) -> Duration {
        let Backlog { kinesis_records, bytes, longest, time, .. } = self.amount();
        let all = self.rate.time_for(now, kinesis_records, bytes, limit);
        // Of about the same size as the others.
        let longest_bytes = (bytes as u128 * longest as u128 / kinesis_records.max(1) as u128) as usize;
        let longest = self.rate.time_for(now, longest, longest_bytes, shard_limit);
        all.max(longest).saturating_mul(2).max(time)
    }

    /// Returns the amount of records that wait, including those in the stages before.
    fn amount(&self) -> Backlog {
        let Self { waiting, user_records, bytes, upstream, .. } = self;
        let (user_records, bytes) = (*user_records, *bytes);
        *upstream + Backlog { kinesis_records: waiting.len(), user_records, bytes, ..Backlog::default() }
    }

    /// Whether more user records or bytes wait than there is room for.
    fn exceeds(&self, room: Room) -> bool {
        let Backlog { user_records, bytes, .. } = self.amount();
        user_records > room.records || bytes > room.bytes
    }
}

impl<T> Limiter<T> {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            shards: Vec::new(),
            timers: Timers::default(),
            deferred: Vec::new(),
            refused: Vec::new(),
            shard_limit: RateLimit::of_shard(config),
            stream_shards: 1,
            backlog_limit: config.backlog_limit(),
            long_backlogs: 0,
        }
    }

    /// Passes a record on if the shard's rate limit allows it and another request may be in flight (`can_release`).
    /// Otherwise the record waits.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        slot: u32,
        record: KinesisRecord<T>,
        can_release: bool,
        mut passed: impl FnMut(KinesisRecord<T>),
    ) {
        let rate_limit = self.rate_limit(slot);
        let shard = self.shard_mut(slot);
        if can_release && shard.waiting.is_empty() && shard.rate.try_take(now, record.size(), rate_limit).is_ok() {
            passed(record);
            return;
        }
        shard.push(record);
        self.release(now, slot, can_release, passed);
    }

    /// Releases the records that the rate limit allows at `now`, and arms the shard's timer for the others.
    ///
    /// If no more requests may be in flight (`can_release` is false), the records are deferred. Otherwise they would
    /// gather in the collector, and all be sent at once later, regardless of the rate limit.
    pub(crate) fn release(
        &mut self,
        now: Instant,
        slot: u32,
        can_release: bool,
        mut passed: impl FnMut(KinesisRecord<T>),
    ) {
        let rate_limit = self.rate_limit(slot);
        let shard = self.shard_mut(slot);
        let mut is_newly_deferred = false;
        let wake = loop {
            let Some(first) = shard.waiting.first() else { break Instant::NEVER };
            if !can_release {
                is_newly_deferred = !mem::replace(&mut shard.is_deferred, true);
                break shard.waiting.next_expiry();
            }
            if let Err(ready) = shard.rate.try_take(now, first.size(), rate_limit) {
                break ready.round_up(RELEASE_INTERVAL).min(shard.waiting.next_expiry());
            }
            passed(shard.pop().unwrap_or_else(|| unreachable!("the first record was just read")));
        };
        if is_newly_deferred {
            self.deferred.push(slot);
        }
        self.timers.arm(slot, wake);
        self.update_backlog(now, slot);
    }

    /// Makes the deadline of all waiting records `now` at the latest, so that they are sent as soon as they are
    /// released.
    pub(crate) fn expedite(&mut self, now: Instant) {
        for shard in self.shards.iter_mut().flatten() {
            let mut waiting = mem::take(&mut shard.waiting);
            while let Some(mut record) = waiting.pop() {
                record.deadline = record.deadline.min(now);
                shard.waiting.push(record.oldest, record.expiry, record);
            }
        }
    }

    /// Removes and returns the deferred slots for which `are_ready` returns true.
    pub(crate) fn take_deferred(&mut self, are_ready: impl Fn(u32) -> bool) -> Vec<u32> {
        let ready: Vec<u32> = self.deferred.extract_if(.., |slot| are_ready(*slot)).collect();
        for slot in &ready {
            self.shard_mut(*slot).is_deferred = false;
        }
        ready
    }

    /// Removes and returns a record of which a user record has expired.
    pub(crate) fn pop_expired(&mut self, now: Instant, slot: u32) -> Option<KinesisRecord<T>> {
        self.shard_mut(slot).pop_expired(now)
    }

    /// Removes and returns all records that wait for the shard, in order, and its refusal if a put was refused.
    pub(crate) fn take_all(&mut self, now: Instant, slot: u32) -> (Vec<KinesisRecord<T>>, Option<Refused>) {
        let Some(Some(shard)) = self.shards.get_mut(slot as usize) else { return (Vec::new(), None) };
        let records = core::iter::from_fn(|| shard.pop()).collect();
        let refused = shard.refused.take();
        self.refused.retain(|other| *other != slot);
        self.update_backlog(now, slot);
        (records, refused)
    }

    /// Whether records wait for the shard's rate limit.
    pub(crate) fn is_backlogged(&self, slot: u32) -> bool {
        self.shard(slot).is_some_and(|shard| !shard.waiting.is_empty())
    }

    /// Sets the amount of records of the slot that wait in the stages before. The open aggregate of a shard does not count:
    /// it takes a quarter of a second at most.
    pub(crate) fn set_upstream(&mut self, now: Instant, slot: u32, upstream: Backlog) {
        self.shard_mut(slot).upstream = upstream;
        self.update_backlog(now, slot);
    }

    /// Refuses a put for the shard if its backlog takes longer than the limit, or has more user records or bytes than
    /// the producer still accepts: the rest is left to other shards. Returns how long the backlog takes if the put is
    /// refused.
    pub(crate) fn refuse(
        &mut self,
        now: Instant,
        slot: u32,
        shard_id: Option<&Arc<str>>,
        room: Room,
    ) -> Option<Duration> {
        let (rate_limit, backlog_limit) = (self.rate_limit(slot), self.backlog_limit);
        let shard = self.shard(slot).filter(|shard| shard.has_long_backlog)?;
        let backlog = shard.backlog(now, rate_limit, self.shard_limit);
        let is_full = backlog > backlog_limit || shard.exceeds(room);
        is_full.then(|| self.note_refused(now, slot, shard_id))
    }

    /// Records that a put for the shard was refused. Returns how long the shard's backlog takes.
    pub(crate) fn note_refused(&mut self, now: Instant, slot: u32, shard_id: Option<&Arc<str>>) -> Duration {
        let (rate_limit, shard_limit) = (self.rate_limit(slot), self.shard_limit);
        let shard = self.shard_mut(slot);
        let backlog = shard.backlog(now, rate_limit, shard_limit);
        if shard.refused.is_none() {
            shard.refused = Some(Refused { shard_id: shard_id.cloned() });
            self.refused.push(slot);
        }
        backlog
    }

    /// Removes and returns a shard that refused a put and has room again: no long backlog any more, or an eighth of each
    /// limit, so that waiting puts are woken in groups.
    pub(crate) fn pop_freed(&mut self, now: Instant, room: Room) -> Option<Refused> {
        let position = self.refused.iter().position(|slot| {
            let rate_limit = self.rate_limit(*slot);
            self.shard(*slot).is_none_or(|shard| {
                !shard.has_long_backlog
                    || shard.backlog(now, rate_limit, self.shard_limit) <= self.backlog_limit / 8 * 7
                        && !shard.exceeds(Room { records: room.records / 8 * 7, bytes: room.bytes / 8 * 7 })
            })
        })?;
        let slot = self.refused.swap_remove(position);
        self.shards.get_mut(slot as usize)?.as_mut()?.refused.take()
    }

    /// Returns the number of shards whose backlog is so long that puts are checked against the limit.
    pub(crate) fn long_backlogs(&self) -> usize {
        self.long_backlogs
    }

    /// Sets the number of shards by which a shard's rate limit is multiplied to get that of the whole stream.
    pub(crate) fn set_stream_shards(&mut self, shards: u64) {
        self.stream_shards = shards;
    }

    /// Reduces the shard's rate after the service throttled a record sent at `sent`.
    pub(crate) fn reduce_rate(&mut self, now: Instant, slot: u32, sent: Instant) {
        self.shard_mut(slot).rate.reduce(now, sent);
        self.update_backlog(now, slot);
    }

    /// Empties the shard's token buckets, so that no burst follows.
    pub(crate) fn end_burst(&mut self, now: Instant, slot: u32) {
        self.shard_mut(slot).rate.empty(now);
    }

    /// Removes a shard whose slot is to be reused.
    pub(crate) fn forget(&mut self, slot: u32) {
        if let Some(shard) = self.shards.get_mut(slot as usize)
            && let Some(forgotten) = shard.take()
        {
            self.long_backlogs -= usize::from(forgotten.has_long_backlog);
        }
    }

    pub(crate) fn next_timer(&self) -> Instant {
        self.timers.next()
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        self.timers.pop_due(now)
    }

    /// Returns the slots of all shards.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> + use<T> {
        0..self.shards.len() as u32
    }

    fn rate_limit(&self, slot: u32) -> RateLimit {
        if slot == WHOLE_STREAM { self.shard_limit.times(self.stream_shards) } else { self.shard_limit }
    }

    /// Updates whether puts for the shard are checked. They are from a quarter of the limit on: below that, the puts in
    /// the put buffers cannot make the backlog exceed the limit.
    fn update_backlog(&mut self, now: Instant, slot: u32) {
        let (rate_limit, shard_limit, backlog_limit) = (self.rate_limit(slot), self.shard_limit, self.backlog_limit);
        let shard = self.shard_mut(slot);
        let is_empty = shard.amount().kinesis_records == 0;
        let is_long = !is_empty && shard.backlog(now, rate_limit, shard_limit) > backlog_limit / 4;
        let was_long = mem::replace(&mut shard.has_long_backlog, is_long);
        self.long_backlogs = self.long_backlogs + usize::from(is_long) - usize::from(was_long);
    }

    fn shard(&self, slot: u32) -> Option<&ShardLimiter<T>> {
        self.shards.get(slot as usize)?.as_deref()
    }

    fn shard_mut(&mut self, slot: u32) -> &mut ShardLimiter<T> {
        let index = slot as usize;
        if index >= self.shards.len() {
            self.shards.resize_with(index + 1, || None);
        }
        self.shards[index].get_or_insert_with(|| {
            Box::new(ShardLimiter {
                rate: ShardRate::new(),
                waiting: DeadlineQueue::default(),
                user_records: 0,
                bytes: 0,
                upstream: Backlog::default(),
                is_deferred: false,
                has_long_backlog: false,
                refused: None,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{keeps_rate_limit, ms, single, tickets};

    #[derive(Clone, Debug)]
    enum Step {
        Push { slot: u32, size: usize, buffered: u64, ttl: u64 },
        Pass { millis: u64 },
        SlowDown { slot: u32 },
        PopAll { slot: u32 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let push = (0..2_u32, 1..3_000_usize, 0..100_u64, 0..3_000_u64)
            .prop_map(|(slot, size, buffered, ttl)| Step::Push { slot, size, buffered, ttl });
        let step = prop_oneof![
            12 => push,
            6 => (0..400_u64).prop_map(|millis| Step::Pass { millis }),
            1 => (0..2_u32).prop_map(|slot| Step::SlowDown { slot }),
            1 => (0..2_u32).prop_map(|slot| Step::PopAll { slot }),
        ];
        proptest::collection::vec(step, 0..120)
    }

    /// A limiter, driven as a stream drives it, and a list of the records that should wait.
    struct Rig {
        limiter: Limiter<usize>,
        config: Config,
        now: Instant,
        /// Deadline and ticket, which give the order of release; slot and expiry.
        waiting: Vec<(Instant, usize, u32, Instant)>,
        passed: Vec<(u32, Instant, usize)>,
        expired: usize,
        reduced: [bool; 2],
    }

    impl Rig {
        fn take_passed(&mut self, slot: u32, records: Vec<KinesisRecord<usize>>) {
            for record in records {
                let first = self.waiting.iter().filter(|waiting| waiting.2 == slot).min().copied();
                let ticket = tickets([&record])[0];
                assert_eq!(first.map(|waiting| waiting.1), Some(ticket), "the earliest deadline first");
                self.waiting.retain(|waiting| waiting.1 != ticket);
                self.passed.push((slot, self.now, record.size()));
            }
        }

        fn push(&mut self, ticket: usize, slot: u32, size: usize, deadline: Instant, expiry: Instant) {
            let mut passed = Vec::new();
            let record = single(ticket, Some(slot), size, deadline, expiry);
            self.waiting.push((deadline, ticket, slot, expiry));
            self.limiter.push(self.now, slot, record, true, |record| passed.push(record));
            self.take_passed(slot, passed);
        }

        /// Advances the clock, and handles what is due at each timer.
        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            loop {
                while let Some(slot) = self.limiter.pop_due(self.now) {
                    while let Some(record) = self.limiter.pop_expired(self.now, slot) {
                        let ticket = tickets([&record])[0];
                        let (.., expiry) = *self.waiting.iter().find(|waiting| waiting.1 == ticket).expect("waiting");
                        assert!(expiry <= self.now);
                        self.waiting.retain(|waiting| waiting.1 != ticket);
                        self.expired += 1;
                    }
                    let mut passed = Vec::new();
                    self.limiter.release(self.now, slot, true, |record| passed.push(record));
                    self.take_passed(slot, passed);
                }
                assert!(self.limiter.next_timer() > self.now, "no busy loop");
                self.check();
                self.now = self.limiter.next_timer().min(end);
                if self.now == end {
                    break;
                }
            }
        }

        fn check(&self) {
            let release = Instant::from_nanos(self.now.as_nanos() / 10_000_000 * 10_000_000);
            for slot in 0..2 {
                let waits = self.waiting.iter().any(|waiting| waiting.2 == slot);
                assert_eq!(self.limiter.is_backlogged(slot), waits);
                // A rate that recovers may allow a record earlier than it returned.
                if let Some(Some(shard)) = self.limiter.shards.get(slot as usize)
                    && !self.reduced[slot as usize]
                    && let Some(first) = shard.waiting.first()
                {
                    let mut rate = shard.rate;
                    let late = rate.try_take(release, first.size(), RateLimit::of_shard(&self.config)).is_ok();
                    assert!(!late || self.limiter.next_timer() <= self.now, "no allowed record waits on");
                }
            }
            assert!(self.waiting.iter().all(|waiting| waiting.3 > self.now), "no expired record waits");
        }
    }

    proptest! {
        #[test]
        fn rate_limits_hold_and_records_leave_by_deadline_without_loss(
            steps in steps(),
            records in 1..40_u64,
        ) {
            let config =
                Config::builder().rate_limit_records_per_shard(records).rate_limit_bytes_per_shard(2_048).build().unwrap();
            let (limiter, now) = (Limiter::new(&config), ms(1_000));
            let mut rig = Rig { limiter, config, now, waiting: Vec::new(), passed: Vec::new(), expired: 0, reduced: [false; 2] };
            let (mut put, mut popped) = (0, 0);
            for step in steps {
                match step {
                    Step::Push { slot, size, buffered, ttl } => {
                        let deadline = rig.now + Duration::from_millis(buffered);
                        rig.push(put, slot, size, deadline, deadline + Duration::from_millis(ttl + 1));
                        put += 1;
                    }
                    Step::Pass { millis } => rig.pass(Duration::from_millis(millis)),
                    Step::SlowDown { slot } => {
                        rig.limiter.reduce_rate(rig.now, slot, rig.now);
                        rig.reduced[slot as usize] = true;
                    }
                    Step::PopAll { slot } => {
                        let (mut gone, kept): (Vec<_>, Vec<_>) =
                            rig.waiting.into_iter().partition(|waiting| waiting.2 == slot);
                        rig.waiting = kept;
                        gone.sort_unstable();
                        let (records, _) = rig.limiter.take_all(rig.now, slot);
                        let order: Vec<usize> = gone.iter().map(|waiting| waiting.1).collect();
                        prop_assert_eq!(tickets(&records), order);
                        popped += records.len();
                    }
                }
            }
            for slot in 0..2 {
                let sent: Vec<(Instant, usize)> =
                    rig.passed.iter().filter(|passed| passed.0 == slot).map(|(_, at, size)| (*at, *size)).collect();
                prop_assert!(keeps_rate_limit(&sent, records, 2_048), "{:?}", sent);
            }
            rig.pass(Duration::from_secs(4));
            prop_assert!(rig.waiting.is_empty(), "neither released nor expired: {:?}", rig.waiting);
            prop_assert_eq!(rig.passed.len() + rig.expired + popped, put);
        }
    }

    #[test]
    fn deferred_records_are_released_at_the_shards_rate() {
        let config = Config::builder().rate_limit_records_per_shard(2).build().unwrap();
        let mut limiter = Limiter::new(&config);
        let passed = core::cell::Cell::new(0);
        let pass = |_| passed.set(passed.get() + 1);
        for ticket in 0..5 {
            limiter.push(ms(0), 3, single(ticket, Some(3), 10, ms(1), ms(60_000)), false, pass);
        }
        assert_eq!((passed.get(), limiter.next_timer()), (0, ms(60_000)), "the only timer is the expiry");
        assert!(limiter.take_deferred(|_| false).is_empty());
        assert_eq!(limiter.take_deferred(|_| true), alloc::vec![3], "a slot is deferred once");
        limiter.release(ms(50_000), 3, true, pass);
        assert_eq!((passed.get(), limiter.next_timer()), (2, ms(50_500)), "one second's records at once");
        assert!(limiter.take_deferred(|_| true).is_empty());
    }

    #[test]
    fn a_reused_slot_starts_with_full_token_buckets() {
        let config = Config::builder().rate_limit_records_per_shard(1).build().unwrap();
        let mut limiter = Limiter::new(&config);
        let push = |limiter: &mut Limiter<usize>, ticket| {
            let mut passed = 0;
            limiter.push(ms(0), 3, single(ticket, Some(3), 10, ms(1), ms(2)), true, |_| passed += 1);
            passed
        };
        assert_eq!((push(&mut limiter, 0), push(&mut limiter, 1)), (1, 0));
        assert_eq!(tickets(&limiter.take_all(ms(0), 3).0), [1]);
        limiter.forget(3);
        limiter.forget(100);
        assert_eq!(push(&mut limiter, 2), 1);
    }
}

//! Holds Kinesis records until their shard may take them, the oldest first.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use crate::config::Config;
use crate::put_buffer::Room;
use crate::record::kinesis_record::KinesisRecord;
use crate::stream::token_bucket::{Pace, Rate};
use crate::time::Instant;
use crate::time::deadline_queue::DeadlineQueue;
use crate::time::timers::Timers;

/// Records that wait for their shard's pace, or for the end of a backoff, are released at multiples of this interval, so
/// that those of all shards share wake-ups and requests.
pub(crate) const RELEASE_INTERVAL: Duration = Duration::from_millis(10);

/// The slot of the stream as a whole: records whose shard is not known are released at the stream's pace.
pub(crate) const WHOLE_STREAM: u32 = 0;

/// The pace of each shard of a stream, and the records that wait for it.
#[derive(Debug)]
pub(crate) struct Limiter<T> {
    /// By the shard's slot. A shard that nothing was sent to has none.
    shards: Vec<Option<Box<ShardLimiter<T>>>>,
    timers: Timers,
    /// Slots of shards that might release records, if a request were free to take them.
    deferred: Vec<u32>,
    /// Slots of shards that refused a put and have had no room since.
    refused: Vec<u32>,
    shard_rate: Rate,
    /// The number of shards that the rate of the stream as a whole is worth.
    stream_shards: u64,
    backlog_limit: Duration,
    /// The number of slow shards.
    slow: usize,
}

#[derive(Debug)]
struct ShardLimiter<T> {
    pace: Pace,
    /// By the time at which the oldest user record was put. So a retried record is not put behind the whole backlog.
    waiting: DeadlineQueue<KinesisRecord<T>>,
    /// The user records in `waiting`, and its bytes.
    user_records: usize,
    bytes: usize,
    /// What is still in open aggregates, as far as that may be much.
    in_aggregates: Backlog,
    is_deferred: bool,
    /// Whether the backlog is so long that puts have to be checked against the limit.
    is_slow: bool,
    /// A put was refused since the shard had room last.
    refused: Option<Refused>,
}

/// An amount of records that a shard has to take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) kinesis_records: usize,
    pub(crate) bytes: usize,
}

/// A put for a shard was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The shard's id; `None` for the stream as a whole.
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

    /// How long the backlog takes. Other producers may take half of the shard, so only half of the present pace counts.
    fn backlog(&self, now: Instant, rate: Rate) -> Duration {
        let Backlog { kinesis_records, bytes } = self.in_aggregates;
        let time = self.pace.time_for(now, kinesis_records + self.waiting.len(), bytes + self.bytes, rate);
        time.saturating_mul(2)
    }
}

impl<T> Limiter<T> {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            shards: Vec::new(),
            timers: Timers::default(),
            deferred: Vec::new(),
            refused: Vec::new(),
            shard_rate: Rate::of_shard(config),
            stream_shards: 1,
            backlog_limit: config.backlog_limit(),
            slow: 0,
        }
    }

    /// Passes a record to its shard's slot if the pace allows it and a request may take it (`can_release`); otherwise the
    /// record waits.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        slot: u32,
        record: KinesisRecord<T>,
        can_release: bool,
        mut passed: impl FnMut(KinesisRecord<T>),
    ) {
        let rate = self.rate(slot);
        let shard = self.shard_mut(slot);
        if can_release && shard.waiting.is_empty() && shard.pace.try_take(now, record.size(), rate).is_ok() {
            passed(record);
            return;
        }
        shard.push(record);
        self.release(now, slot, can_release, passed);
    }

    /// Releases the records that may go by now, and sets the shard's timer for the others. If no request is free
    /// (`can_release` is false), they are deferred: otherwise they would gather behind the limiter, and leave all at once
    /// later, whatever the shard's pace.
    pub(crate) fn release(
        &mut self,
        now: Instant,
        slot: u32,
        can_release: bool,
        mut passed: impl FnMut(KinesisRecord<T>),
    ) {
        let rate = self.rate(slot);
        let shard = self.shard_mut(slot);
        let mut is_newly_deferred = false;
        let wake = loop {
            let Some(first) = shard.waiting.first() else { break Instant::NEVER };
            if !can_release {
                is_newly_deferred = !mem::replace(&mut shard.is_deferred, true);
                break shard.waiting.next_expiry();
            }
            if let Err(ready) = shard.pace.try_take(now, first.size(), rate) {
                break ready.round_up(RELEASE_INTERVAL).min(shard.waiting.next_expiry());
            }
            passed(shard.pop().unwrap_or_else(|| unreachable!("the first record was just read")));
        };
        if is_newly_deferred {
            self.deferred.push(slot);
        }
        self.timers.arm(slot, wake);
        self.update_slow(now, slot);
    }

    /// Sets the deadline of all waiting records to `now` at the latest: once their shard may take them, they wait for nothing
    /// else.
    pub(crate) fn expedite(&mut self, now: Instant) {
        for shard in self.shards.iter_mut().flatten() {
            let mut waiting = mem::take(&mut shard.waiting);
            while let Some(mut record) = waiting.pop() {
                record.deadline = record.deadline.min(now);
                shard.waiting.push(record.oldest, record.expiry, record);
            }
        }
    }

    /// Takes the slots of deferred shards that `are_ready` now.
    pub(crate) fn take_deferred(&mut self, are_ready: impl Fn(u32) -> bool) -> Vec<u32> {
        let ready: Vec<u32> = self.deferred.extract_if(.., |slot| are_ready(*slot)).collect();
        for slot in &ready {
            self.shard_mut(*slot).is_deferred = false;
        }
        ready
    }

    /// Removes a record that has waited until one of its user records expired.
    pub(crate) fn pop_expired(&mut self, now: Instant, slot: u32) -> Option<KinesisRecord<T>> {
        self.shard_mut(slot).pop_expired(now)
    }

    /// Removes all records that wait for the shard, in order. Returns them, and whether a put for it was refused.
    pub(crate) fn take_all(&mut self, now: Instant, slot: u32) -> (Vec<KinesisRecord<T>>, Option<Refused>) {
        let Some(Some(shard)) = self.shards.get_mut(slot as usize) else { return (Vec::new(), None) };
        let records = core::iter::from_fn(|| shard.pop()).collect();
        let refused = shard.refused.take();
        self.refused.retain(|other| *other != slot);
        self.update_slow(now, slot);
        (records, refused)
    }

    /// Whether records wait for the shard's pace.
    pub(crate) fn is_backlogged(&self, slot: u32) -> bool {
        self.shard(slot).is_some_and(|shard| !shard.waiting.is_empty())
    }

    /// Sets what the shard's open aggregates have. Of a single one, it is too little to matter.
    pub(crate) fn set_in_aggregates(&mut self, now: Instant, slot: u32, in_aggregates: Backlog) {
        self.shard_mut(slot).in_aggregates = in_aggregates;
        self.update_slow(now, slot);
    }

    /// Returns how long the shard's backlog takes, if a put has to wait for that: it takes longer than the limit, or has more
    /// records or bytes than the producer's free room, which other shards need too.
    pub(crate) fn refuse(
        &mut self,
        now: Instant,
        slot: u32,
        shard_id: Option<&Arc<str>>,
        room: Room,
    ) -> Option<Duration> {
        let (rate, limit) = (self.rate(slot), self.backlog_limit);
        let shard = self.shard(slot).filter(|shard| shard.is_slow)?;
        let backlog = shard.backlog(now, rate);
        let is_full = backlog > limit || shard.user_records > room.records || shard.bytes > room.bytes;
        is_full.then(|| self.note_refused(now, slot, shard_id))
    }

    /// Notes that a put for the shard was refused. Returns how long the shard's backlog takes.
    pub(crate) fn note_refused(&mut self, now: Instant, slot: u32, shard_id: Option<&Arc<str>>) -> Duration {
        let rate = self.rate(slot);
        let shard = self.shard_mut(slot);
        let backlog = shard.backlog(now, rate);
        if shard.refused.is_none() {
            shard.refused = Some(Refused { shard_id: shard_id.cloned() });
            self.refused.push(slot);
        }
        backlog
    }

    /// Takes a shard that refused a put and has room again: an eighth of what it may have, so that waiting puts come in groups.
    pub(crate) fn pop_freed(&mut self, now: Instant, room: Room) -> Option<Refused> {
        let position = self.refused.iter().position(|slot| {
            let rate = self.rate(*slot);
            self.shard(*slot).is_none_or(|shard| {
                shard.backlog(now, rate) <= self.backlog_limit / 8 * 7
                    && shard.user_records <= room.records / 8 * 7
                    && shard.bytes <= room.bytes / 8 * 7
            })
        })?;
        let slot = self.refused.swap_remove(position);
        self.shards.get_mut(slot as usize)?.as_mut()?.refused.take()
    }

    /// The number of shards whose backlog is so long that puts have to be checked against the limit.
    pub(crate) fn slow_shards(&self) -> usize {
        self.slow
    }

    /// Sets how many shards the rate of the stream as a whole is worth.
    pub(crate) fn set_stream_shards(&mut self, shards: u64) {
        self.stream_shards = shards;
    }

    /// The service throttled what was sent to the shard at `sent`.
    pub(crate) fn slow_down(&mut self, now: Instant, slot: u32, sent: Instant) {
        self.shard_mut(slot).pace.slow_down(now, sent);
        self.update_slow(now, slot);
    }

    /// Releases no burst: from now on, records go at the shard's pace.
    pub(crate) fn end_burst(&mut self, now: Instant, slot: u32) {
        self.shard_mut(slot).pace.empty(now);
    }

    /// Forgets a shard, whose slot another one will have.
    pub(crate) fn forget(&mut self, slot: u32) {
        if let Some(shard) = self.shards.get_mut(slot as usize)
            && let Some(forgotten) = shard.take()
        {
            self.slow -= usize::from(forgotten.is_slow);
        }
    }

    pub(crate) fn next_timer(&self) -> Instant {
        self.timers.next()
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        self.timers.pop_due(now)
    }

    /// Slots of all shards that anything was ever sent to.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> + use<T> {
        0..self.shards.len() as u32
    }

    fn rate(&self, slot: u32) -> Rate {
        if slot == WHOLE_STREAM { self.shard_rate.times(self.stream_shards) } else { self.shard_rate }
    }

    /// Puts are checked from a quarter of the limit on: until then, those in a put buffer cannot exceed it.
    fn update_slow(&mut self, now: Instant, slot: u32) {
        let (rate, limit) = (self.rate(slot), self.backlog_limit);
        let shard = self.shard_mut(slot);
        let is_empty = shard.waiting.is_empty() && shard.in_aggregates.kinesis_records == 0;
        let is_slow = !is_empty && shard.backlog(now, rate) > limit / 4;
        let was_slow = mem::replace(&mut shard.is_slow, is_slow);
        self.slow = self.slow + usize::from(is_slow) - usize::from(was_slow);
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
                pace: Pace::new(),
                waiting: DeadlineQueue::default(),
                user_records: 0,
                bytes: 0,
                in_aggregates: Backlog::default(),
                is_deferred: false,
                is_slow: false,
                refused: None,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{keeps_pace, ms, single, tickets};

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

    /// A limiter, driven as a stream drives it, and a list of what should wait.
    struct Rig {
        limiter: Limiter<usize>,
        config: Config,
        now: Instant,
        /// Deadline and ticket, which is the order in which records go; slot, and expiry.
        waiting: Vec<(Instant, usize, u32, Instant)>,
        passed: Vec<(u32, Instant, usize)>,
        expired: usize,
        slowed: [bool; 2],
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

        /// Lets time pass, and does what is due at each wake.
        fn pass(&mut self, time: Duration) {
            let end = self.now + time;
            loop {
                while let Some(slot) = self.limiter.pop_due(self.now) {
                    while let Some(record) = self.limiter.pop_expired(self.now, slot) {
                        let ticket = tickets([&record])[0];
                        let (.., expiry) = *self.waiting.iter().find(|waiting| waiting.1 == ticket).expect("it waits");
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
                // A pace that recovers may be ready sooner than it said.
                if let Some(Some(shard)) = self.limiter.shards.get(slot as usize)
                    && !self.slowed[slot as usize]
                    && let Some(first) = shard.waiting.first()
                {
                    let mut pace = shard.pace;
                    let late = pace.try_take(release, first.size(), Rate::of_shard(&self.config)).is_ok();
                    assert!(!late || self.limiter.next_timer() <= self.now, "what may go goes at the next release");
                }
            }
            assert!(self.waiting.iter().all(|waiting| waiting.3 > self.now), "what expires does not wait any longer");
        }
    }

    proptest! {
        #[test]
        fn shards_keep_their_pace_the_earliest_deadline_goes_first_and_nothing_is_lost(
            steps in steps(),
            records in 1..40_u64,
        ) {
            let config =
                Config::builder().rate_limit_records_per_shard(records).rate_limit_bytes_per_shard(2_048).build().unwrap();
            let (limiter, now) = (Limiter::new(&config), ms(1_000));
            let mut rig = Rig { limiter, config, now, waiting: Vec::new(), passed: Vec::new(), expired: 0, slowed: [false; 2] };
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
                        rig.limiter.slow_down(rig.now, slot, rig.now);
                        rig.slowed[slot as usize] = true;
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
                prop_assert!(keeps_pace(&sent, records, 2_048), "{:?}", sent);
            }
            rig.pass(Duration::from_secs(4));
            prop_assert!(rig.waiting.is_empty(), "it has gone or expired by now: {:?}", rig.waiting);
            prop_assert_eq!(rig.passed.len() + rig.expired + popped, put);
        }
    }

    #[test]
    fn what_is_put_off_for_want_of_room_goes_at_the_shards_pace_when_there_is_some() {
        let config = Config::builder().rate_limit_records_per_shard(2).build().unwrap();
        let mut limiter = Limiter::new(&config);
        let passed = core::cell::Cell::new(0);
        let pass = |_| passed.set(passed.get() + 1);
        for ticket in 0..5 {
            limiter.push(ms(0), 3, single(ticket, Some(3), 10, ms(1), ms(60_000)), false, pass);
        }
        assert_eq!((passed.get(), limiter.next_timer()), (0, ms(60_000)), "woken only to expire");
        assert!(limiter.take_deferred(|_| false).is_empty());
        assert_eq!(limiter.take_deferred(|_| true), alloc::vec![3], "once, however often");
        limiter.release(ms(50_000), 3, true, pass);
        assert_eq!((passed.get(), limiter.next_timer()), (2, ms(50_500)), "a second's worth, and then what time gives");
        assert!(limiter.take_deferred(|_| true).is_empty());
    }

    #[test]
    fn a_slot_that_another_shard_has_now_starts_at_its_own_pace() {
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

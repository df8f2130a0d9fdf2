//! Holds Kinesis records until their shard may take them, the earliest deadline first.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use crate::config::Config;
use crate::record::kinesis_record::KinesisRecord;
use crate::stream::token_bucket::Pace;
use crate::time::Instant;
use crate::time::deadline_queue::DeadlineQueue;
use crate::time::timers::Timers;

/// What waits for its shard's pace, or for the end of a backoff, is let go at multiples of this interval: late records of
/// all shards share wake-ups and requests, instead of each one taking some for itself the moment that it may go.
pub(crate) const RELEASE_INTERVAL: Duration = Duration::from_millis(10);

/// The pace of each shard of a stream, and what waits for it.
#[derive(Debug)]
pub(crate) struct Limiter<T> {
    /// By the shard's slot. A shard that nothing was sent to has none.
    shards: Vec<Option<Box<ShardLimiter<T>>>>,
    timers: Timers,
    /// Slots of shards that might let something go, if there were a request to take it.
    deferred: Vec<u32>,
}

#[derive(Debug)]
struct ShardLimiter<T> {
    pace: Pace,
    waiting: DeadlineQueue<KinesisRecord<T>>,
    is_deferred: bool,
}

impl<T> Default for Limiter<T> {
    fn default() -> Self {
        Self { shards: Vec::new(), timers: Timers::default(), deferred: Vec::new() }
    }
}

impl<T> Limiter<T> {
    /// Lets a record of the shard in `slot` through, or keeps it until it may go: not before there `can_release` for it in
    /// what leaves next.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        slot: u32,
        record: KinesisRecord<T>,
        can_release: bool,
        config: &Config,
        mut passed: impl FnMut(KinesisRecord<T>),
    ) {
        let shard = self.shard_mut(slot);
        if can_release && shard.waiting.is_empty() && shard.pace.try_take(now, record.size(), config).is_ok() {
            passed(record);
            return;
        }
        shard.waiting.push(record.deadline, record.expiry, record);
        self.release(now, slot, can_release, config, passed);
    }

    /// Lets through what may go by now, and sets the shard's alarm for the rest. Without room, that is put off: were it
    /// let through to wait elsewhere, it would all leave at once later, whatever the shard's pace.
    pub(crate) fn release(
        &mut self,
        now: Instant,
        slot: u32,
        can_release: bool,
        config: &Config,
        mut passed: impl FnMut(KinesisRecord<T>),
    ) {
        let shard = self.shard_mut(slot);
        let wake = loop {
            let Some(first) = shard.waiting.first() else { break Instant::NEVER };
            if !can_release {
                let expiry = shard.waiting.next_expiry();
                if !core::mem::replace(&mut shard.is_deferred, true) {
                    self.deferred.push(slot);
                }
                break expiry;
            }
            if let Err(ready) = shard.pace.try_take(now, first.size(), config) {
                break ready.round_up(RELEASE_INTERVAL).min(shard.waiting.next_expiry());
            }
            passed(shard.waiting.pop().unwrap_or_else(|| unreachable!("the first record was just looked at")));
        };
        self.timers.arm(slot, wake);
    }

    /// Everything that waits is due at `now` at the latest: once its shard may take it, it waits for nothing else.
    pub(crate) fn expedite(&mut self, now: Instant) {
        for shard in self.shards.iter_mut().flatten() {
            let mut waiting = core::mem::take(&mut shard.waiting);
            while let Some(mut record) = waiting.pop() {
                record.deadline = record.deadline.min(now);
                shard.waiting.push(record.deadline, record.expiry, record);
            }
        }
    }

    /// Takes the slots that were put off and that `are_ready` now.
    pub(crate) fn take_deferred(&mut self, are_ready: impl Fn(u32) -> bool) -> Vec<u32> {
        let ready: Vec<u32> = self.deferred.extract_if(.., |slot| are_ready(*slot)).collect();
        for slot in &ready {
            self.shard_mut(*slot).is_deferred = false;
        }
        ready
    }

    /// Takes a record that has waited until one of its user records expired.
    pub(crate) fn pop_expired(&mut self, now: Instant, slot: u32) -> Option<KinesisRecord<T>> {
        self.shard_mut(slot).waiting.pop_expired(now)
    }

    /// Takes any record that waits for the shard, in order.
    pub(crate) fn pop(&mut self, slot: u32) -> Option<KinesisRecord<T>> {
        self.shards.get_mut(slot as usize)?.as_mut()?.waiting.pop()
    }

    pub(crate) fn is_backlogged(&self, slot: u32) -> bool {
        self.shards.get(slot as usize).and_then(Option::as_ref).is_some_and(|shard| !shard.waiting.is_empty())
    }

    /// The service throttled what was sent to the shard at `sent`.
    pub(crate) fn slow_down(&mut self, now: Instant, slot: u32, sent: Instant) {
        self.shard_mut(slot).pace.slow_down(now, sent);
    }

    /// Forgets a shard, whose slot another one will have.
    pub(crate) fn forget(&mut self, slot: u32) {
        if let Some(shard) = self.shards.get_mut(slot as usize) {
            *shard = None;
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

    fn shard_mut(&mut self, slot: u32) -> &mut ShardLimiter<T> {
        let index = slot as usize;
        if index >= self.shards.len() {
            self.shards.resize_with(index + 1, || None);
        }
        self.shards[index].get_or_insert_with(|| {
            Box::new(ShardLimiter { pace: Pace::new(), waiting: DeadlineQueue::default(), is_deferred: false })
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
            self.limiter.push(self.now, slot, record, true, &self.config, |record| passed.push(record));
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
                    self.limiter.release(self.now, slot, true, &self.config, |record| passed.push(record));
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
                    let late = pace.try_take(release, first.size(), &self.config).is_ok();
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
            let (limiter, now) = (Limiter::default(), ms(1_000));
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
                        let records: Vec<_> = core::iter::from_fn(|| rig.limiter.pop(slot)).collect();
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
        let mut limiter = Limiter::default();
        let config = Config::builder().rate_limit_records_per_shard(2).build().unwrap();
        let passed = core::cell::Cell::new(0);
        let pass = |_| passed.set(passed.get() + 1);
        for ticket in 0..5 {
            limiter.push(ms(0), 3, single(ticket, Some(3), 10, ms(1), ms(60_000)), false, &config, pass);
        }
        assert_eq!((passed.get(), limiter.next_timer()), (0, ms(60_000)), "woken only to expire");
        assert!(limiter.take_deferred(|_| false).is_empty());
        assert_eq!(limiter.take_deferred(|_| true), alloc::vec![3], "once, however often");
        limiter.release(ms(50_000), 3, true, &config, pass);
        assert_eq!((passed.get(), limiter.next_timer()), (2, ms(50_500)), "a second's worth, and then what time gives");
        assert!(limiter.take_deferred(|_| true).is_empty());
    }

    #[test]
    fn a_slot_that_another_shard_has_now_starts_at_its_own_pace() {
        let mut limiter = Limiter::default();
        let config = Config::builder().rate_limit_records_per_shard(1).build().unwrap();
        let push = |limiter: &mut Limiter<usize>, ticket| {
            let mut passed = 0;
            limiter.push(ms(0), 3, single(ticket, Some(3), 10, ms(1), ms(2)), true, &config, |_| passed += 1);
            passed
        };
        assert_eq!((push(&mut limiter, 0), push(&mut limiter, 1)), (1, 0));
        assert_eq!(limiter.pop(3).map(|record| tickets([&record])[0]), Some(1));
        limiter.forget(3);
        limiter.forget(100);
        assert_eq!(push(&mut limiter, 2), 1);
    }
}

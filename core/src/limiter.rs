//! Holds Kinesis records until their shard may take them, the earliest deadline first.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use crate::config::Config;
use crate::deadline_queue::DeadlineQueue;
use crate::kinesis_record::KinesisRecord;
use crate::time::Instant;
use crate::token_bucket::Pace;
use crate::wakes::Wakes;

/// What waits for its shard is let go at multiples of this interval: late records of all shards share requests, instead
/// of each one taking a request for itself the moment that it may go.
const RELEASE_INTERVAL: Duration = Duration::from_millis(10);

/// The pace of each shard of a stream, and what waits for it.
#[derive(Debug)]
pub(crate) struct Limiter<T> {
    /// By the shard's slot. A shard that nothing was sent to has none.
    shards: Vec<Option<Box<ShardLimiter<T>>>>,
    wakes: Wakes,
}

#[derive(Debug)]
struct ShardLimiter<T> {
    pace: Pace,
    waiting: DeadlineQueue<KinesisRecord<T>>,
}

impl<T> Default for Limiter<T> {
    fn default() -> Self {
        Self { shards: Vec::new(), wakes: Wakes::default() }
    }
}

impl<T> Limiter<T> {
    /// Lets a record of the shard in `slot` through, or keeps it until it may go.
    pub(crate) fn push(
        &mut self,
        now: Instant,
        slot: u32,
        record: KinesisRecord<T>,
        config: &Config,
        mut passed: impl FnMut(KinesisRecord<T>),
    ) {
        let shard = self.shard_mut(slot);
        if shard.waiting.is_empty() && shard.pace.try_take(now, record.size(), config).is_ok() {
            passed(record);
            return;
        }
        shard.waiting.push(record.deadline, record.expiry, record);
        self.release(now, slot, config, passed);
    }

    /// Lets through what may go by now, and sets the shard's alarm for the rest.
    pub(crate) fn release(
        &mut self,
        now: Instant,
        slot: u32,
        config: &Config,
        mut passed: impl FnMut(KinesisRecord<T>),
    ) {
        let shard = self.shard_mut(slot);
        let wake = loop {
            let Some(first) = shard.waiting.first() else { break Instant::NEVER };
            if let Err(ready) = shard.pace.try_take(now, first.size(), config) {
                break ready.round_up(RELEASE_INTERVAL).min(shard.waiting.next_expiry());
            }
            passed(shard.waiting.pop().unwrap_or_else(|| unreachable!("the first record was just looked at")));
        };
        self.wakes.arm(slot, wake);
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

    pub(crate) fn next_wake(&self) -> Instant {
        self.wakes.next()
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        self.wakes.pop_due(now)
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
        self.shards[index]
            .get_or_insert_with(|| Box::new(ShardLimiter { pace: Pace::new(), waiting: DeadlineQueue::default() }))
    }
}

//! What the reply to a request does to its records. What a code means stands in the retrier; what a shard means, here.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use super::{Stream, users_of};
use crate::action::Notice;
use crate::aggregator::Aggregate;
use crate::common::Common;
use crate::kinesis_record::{KinesisRecord, Packed, Pending};
use crate::outcome::{Attempt, AttemptError, code};
use crate::retrier::{Judgement, Verdict};
use crate::time::Instant;

/// An aggregate that is stored on a shard whose range is not known: whether consumers read its user records is open.
#[derive(Debug)]
pub(super) struct Held<T> {
    record: KinesisRecord<T>,
    shard_id: Arc<str>,
    sequence_number: Arc<str>,
    start: Instant,
    end: Instant,
}

/// What one reply had to tell the operator.
#[derive(Debug, Default)]
struct Tally {
    throttled: usize,
    wrong_shard: usize,
}

impl<T> Stream<T> {
    /// Takes the records of a request sent at `sent` back, with the judgement of their reply.
    pub(crate) fn on_reply(
        &mut self,
        now: Instant,
        sent: Instant,
        records: Vec<KinesisRecord<T>>,
        judgement: Judgement,
        common: &mut Common<T>,
    ) {
        let mut tally = Tally::default();
        match judgement {
            Judgement::Whole(Verdict::Divide(error)) if records.len() > 1 && !common.abandoned => {
                self.divide_request(now, sent, records, &error);
            }
            Judgement::Whole(verdict) => {
                for record in records {
                    self.settle(now, sent, record, verdict.clone(), &mut tally, common);
                }
            }
            Judgement::Each(verdicts) => {
                for (record, verdict) in records.into_iter().zip(verdicts) {
                    self.settle(now, sent, record, verdict, &mut tally, common);
                }
            }
        }
        common.stats.kinesis_records_throttled += tally.throttled as u64;
        if tally.throttled > 0 {
            common.notice(Notice::Throttled { stream: self.name.clone(), kinesis_records: tally.throttled });
        }
        if tally.wrong_shard > 0 {
            common.notice(Notice::WrongShard { stream: self.name.clone(), kinesis_records: tally.wrong_shard });
        }
        common.notice_expired(&self.name);
    }

    fn settle(
        &mut self,
        now: Instant,
        sent: Instant,
        mut record: KinesisRecord<T>,
        verdict: Verdict,
        tally: &mut Tally,
        common: &mut Common<T>,
    ) {
        let error = match &verdict {
            Verdict::Stored { .. } => None,
            Verdict::Throttled(error) | Verdict::Retry(error) | Verdict::Divide(error) | Verdict::Fail(error) => {
                Some(error)
            }
        };
        if let Some(error) = error {
            note_attempt(&mut record, now, sent, error);
        }
        match verdict {
            Verdict::Stored { shard_id, sequence_number } => {
                common.stats.kinesis_records += 1;
                let stored = Held { record, shard_id, sequence_number, start: sent, end: now };
                self.stored(now, stored, tally, common);
            }
            Verdict::Fail(error) => self.refused(now, sent, record, &error, common),
            Verdict::Divide(error) if !record.is_aggregated() => self.refused(now, sent, record, &error, common),
            _ if common.abandoned => {
                for user in users_of(record) {
                    common.fail_closed(&self.name, user);
                }
            }
            Verdict::Throttled(_) => {
                tally.throttled += 1;
                match record.shard.as_ref().and_then(|shard| self.knowledge.map.slot_of(shard)) {
                    Some(slot) => {
                        self.limiter.slow_down(now, slot, sent);
                        for user in users_of(record) {
                            self.retry(now, user, common);
                        }
                    }
                    // Without a shard there is no pace to slow down.
                    None => self.back_off(now, record, common),
                }
            }
            Verdict::Retry(_) => self.back_off(now, record, common),
            Verdict::Divide(_) => self.divide_aggregate(record),
        }
    }

    /// Decides what a stored Kinesis record means for each of its user records.
    fn stored(&mut self, now: Instant, stored: Held<T>, tally: &mut Tally, common: &mut Common<T>) {
        let as_predicted = stored.record.shard.as_ref().is_none_or(|shard| shard.id == stored.shard_id);
        if as_predicted {
            if stored.record.shard.is_none() {
                self.knowledge.saw_service(now);
            }
            return succeed_all(stored, common);
        }
        tally.wrong_shard += 1;
        self.knowledge.saw_wrong_shard(now, stored.start, common);
        if !stored.record.is_aggregated() {
            // Kinesis itself routed it: it is where its key belongs.
            return succeed_all(stored, common);
        }
        self.accept_by_range(now, stored, common);
    }

    /// Accepts an aggregate whose user records all lie in the shard's range; retries all of them if one does not. The
    /// KCL's code drops the whole aggregate then, also the user records that would belong to the shard
    /// (`AggregatorUtil.deaggregate` takes back those before the first stranger and ends there). If the range is not
    /// known, holds the aggregate: resending on ignorance would make duplicates.
    fn accept_by_range(&mut self, now: Instant, stored: Held<T>, common: &mut Common<T>) {
        let Some((first, last)) = self.knowledge.map.range(&stored.shard_id) else {
            if common.abandoned {
                return self.give_up_held(stored, common);
            }
            self.knowledge.saw_unknown_shard(now);
            return self.held.push(stored.record.expiry, Instant::NEVER, stored);
        };
        let in_range = |packed: &Packed<T>| (first..=last).contains(&packed.user.entry.hash_key);
        if stored.record.users.iter().all(in_range) {
            return succeed_all(stored, common);
        }
        let Held { mut record, shard_id, start, end, .. } = stored;
        let message = alloc::format!("stored on {shard_id} in an aggregate that does not lie in its range");
        note_attempt(&mut record, end, start, &Arc::new(AttemptError::new(code::WRONG_SHARD, message)));
        for user in users_of(record) {
            if common.abandoned {
                common.fail_closed(&self.name, user);
            } else {
                self.retry(now, user, common);
            }
        }
    }

    /// A new list of shards is there: decides what waited for it. If some still cannot be decided, asks again.
    pub(super) fn decide_held(&mut self, now: Instant, common: &mut Common<T>) {
        let undecided: Vec<Held<T>> = core::iter::from_fn(|| self.held.pop()).collect();
        for held in undecided {
            self.accept_by_range(now, held, common);
        }
        if !self.held.is_empty() {
            self.knowledge.want_shards_later(now, common);
        }
    }

    /// Fails what could not be decided within its time-to-live.
    pub(super) fn expire_held(&mut self, now: Instant, common: &mut Common<T>) {
        while let Some(held) = self.held.pop_due(now) {
            self.give_up_held(held, common);
        }
    }

    /// Fails an aggregate of which nobody knows whether consumers read it.
    pub(super) fn give_up_held(&mut self, held: Held<T>, common: &mut Common<T>) {
        let Held { mut record, shard_id, start, end, .. } = held;
        let message = alloc::format!("stored on {shard_id}, whose range could not be learned");
        let error = Arc::new(AttemptError::new(code::WRONG_SHARD, message).ambiguous());
        note_attempt(&mut record, end, start, &error);
        for user in users_of(record) {
            if common.abandoned {
                common.fail_closed(&self.name, user);
            } else {
                common.fail_expired(&self.name, user);
            }
        }
    }

    fn refused(
        &mut self,
        now: Instant,
        sent: Instant,
        record: KinesisRecord<T>,
        error: &Arc<AttemptError>,
        common: &mut Common<T>,
    ) {
        for user in users_of(record) {
            common.fail(&self.name, user, AttemptError::clone(error));
        }
        self.on_missing(now, sent, error, common);
    }

    /// Sends a record back to the start after exponential backoff with full jitter, or fails it when its time is up.
    fn back_off(&mut self, now: Instant, record: KinesisRecord<T>, common: &mut Common<T>) {
        let (expired, users): (Vec<Pending<T>>, Vec<Pending<T>>) =
            users_of(record).partition(|user| common.expiry(user) <= now);
        for user in expired {
            common.fail_expired(&self.name, user);
        }
        let Some(attempts) = users.iter().map(|user| user.failed.len()).max() else { return };
        let wait = common.rng.up_to(backoff(attempts, common));
        // When the first of them expires, that one fails and the others go on.
        let first_expiry = users.iter().map(|user| common.expiry(user)).min().unwrap_or(Instant::NEVER);
        let wake = first_expiry.min(now + wait);
        self.backing_off.push(wake, Instant::NEVER, users);
    }

    /// Sends each half of a refused request by itself.
    fn divide_request(
        &mut self,
        now: Instant,
        sent: Instant,
        mut records: Vec<KinesisRecord<T>>,
        error: &Arc<AttemptError>,
    ) {
        for record in &mut records {
            note_attempt(record, now, sent, error);
        }
        let second = records.split_off(records.len() / 2);
        self.divided.extend([records, second]);
    }

    /// Sends each half of a refused aggregate by itself.
    fn divide_aggregate(&mut self, record: KinesisRecord<T>) {
        let (shard, deadline, half) = (record.shard.clone(), record.deadline, record.users.len() / 2);
        let expiry = record.expiry;
        let mut halves = [Aggregate::new(shard.clone()), Aggregate::new(shard)];
        for (position, user) in users_of(record).enumerate() {
            halves[usize::from(position >= half)].push(user, deadline, expiry);
        }
        self.divided.extend(halves.into_iter().filter_map(Aggregate::close).map(|part| alloc::vec![part]));
    }
}

fn succeed_all<T>(stored: Held<T>, common: &mut Common<T>) {
    let Held { record, shard_id, sequence_number, start, end } = stored;
    let aggregated = record.is_aggregated();
    for (position, user) in users_of(record).enumerate() {
        let sub_sequence_number = aggregated.then_some(position as u64);
        let attempt = Attempt { start, end, error: None };
        common.succeed(user, shard_id.clone(), sequence_number.clone(), sub_sequence_number, attempt);
    }
}

fn note_attempt<T>(record: &mut KinesisRecord<T>, now: Instant, sent: Instant, error: &Arc<AttemptError>) {
    for packed in &mut record.users {
        packed.user.failed.push(Attempt { start: sent, end: now, error: Some(error.clone()) });
    }
}

/// The longest wait after so many failed attempts.
fn backoff<T>(attempts: usize, common: &Common<T>) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(31);
    common.config.retry_backoff_min().saturating_mul(1 << doublings).min(common.config.retry_backoff_max())
}

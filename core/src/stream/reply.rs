//! What the reply to a request does to its records. What a code means stands in the retrier; what a shard means, here.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use super::Stream;
use crate::action::Notice;
use crate::aggregator::Aggregate;
use crate::common::{Common, RELEASE_INTERVAL};
use crate::kinesis_record::{KinesisRecord, Pending, ShardRef};
use crate::outcome::{Attempt, AttemptError, Place, Resolution, code};
use crate::record::PartitionKey;
use crate::retrier::{Judgement, Verdict};
use crate::time::Instant;

/// A shard that takes records is listed within this time at the latest. The service names no time; its lists follow a
/// reshard within seconds.
const LISTED_WITHIN: Duration = Duration::from_secs(60);

/// A Kinesis record that the service took.
#[derive(Debug)]
struct Stored<T> {
    record: KinesisRecord<T>,
    place: Place,
}

/// An aggregate that is stored on another shard than predicted: whether consumers read it is to be decided.
#[derive(Debug)]
pub(super) struct Stray<T> {
    /// Its user records, with their positions, but for those that have expired.
    users: Vec<(u32, Pending<T>)>,
    /// The least and the largest hash key of all that are in it, expired or not: consumers look at all of them.
    span: (u128, u128),
    place: Place,
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
        if let Some(metrics) = &mut self.metrics {
            let error = match &judgement {
                Judgement::Whole(verdict) => verdict.error(),
                Judgement::Each(_) => None,
            };
            metrics.request_ended(now, sent, &records, error.map(|error| &*error.code));
        }
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
                    if let Some(metrics) = &mut self.metrics {
                        match verdict.error() {
                            None => metrics.stored(now, &record),
                            Some(error) => metrics.refused(now, &record, &error.code),
                        }
                    }
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
        if let Some(error) = verdict.error() {
            note_attempt(&mut record, now, sent, error);
        }
        match verdict {
            Verdict::Stored { shard_id, sequence_number } => {
                common.stats.kinesis_records += 1;
                let attempt = Attempt { start: sent, end: now, error: None };
                let place = Place { shard_id, sequence_number, attempt };
                self.stored(now, Stored { record, place }, tally, common);
            }
            Verdict::Fail(error) => self.refused(now, sent, record, &error, common),
            Verdict::Divide(error) if !record.is_aggregated() => self.refused(now, sent, record, &error, common),
            _ if common.abandoned => {
                for user in record.into_users() {
                    self.fail_closed(now, user, common);
                }
            }
            Verdict::Throttled(_) => {
                tally.throttled += 1;
                match record.shard.as_ref().and_then(|shard| self.knowledge.map.slot_of(shard)) {
                    Some(slot) => {
                        self.limiter.slow_down(now, slot, sent);
                        for user in record.into_users() {
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
    fn stored(&mut self, now: Instant, stored: Stored<T>, tally: &mut Tally, common: &mut Common<T>) {
        let as_predicted = stored.record.shard.as_ref().is_none_or(|shard| shard.id == stored.place.shard_id);
        if as_predicted {
            if stored.record.shard.is_none() {
                self.knowledge.saw_service(now);
            }
            return self.succeed(stored, common);
        }
        tally.wrong_shard += 1;
        self.knowledge.saw_wrong_shard(now, stored.place.attempt.start, common);
        if !stored.record.is_aggregated() {
            // Kinesis itself routed it: it is where its key belongs.
            return self.succeed(stored, common);
        }
        if let Err(stray) = self.accept_by_range(now, Stray::new(stored), common) {
            if common.abandoned {
                return self.give_up_held(now, stray, common);
            }
            self.knowledge.saw_unknown_shard(now);
            self.hold(stray, common);
        }
    }

    /// Accepts an aggregate whose user records all lie in the shard's range; retries all of them if one does not. The
    /// KCL's code drops the whole aggregate then, also the user records that would belong to the shard
    /// (`AggregatorUtil.deaggregate` takes back those before the first stranger and ends there).
    ///
    /// Gives the aggregate back if the range is not known: resending on ignorance would make duplicates.
    fn accept_by_range(&mut self, now: Instant, stray: Stray<T>, common: &mut Common<T>) -> Result<(), Stray<T>> {
        let Some((first, last)) = self.knowledge.map.range(&stray.place.shard_id) else { return Err(stray) };
        let Stray { users, span, place } = stray;
        if first <= span.0 && span.1 <= last {
            self.count_stored(&place, None, users.iter().map(|(_, user)| user), common);
            common.resolve(Resolution::strayed(place, users));
            return Ok(());
        }
        let message = alloc::format!("stored on {} in an aggregate that does not lie in its range", place.shard_id);
        let error = Arc::new(AttemptError::new(code::WRONG_SHARD, message));
        self.send_again(now, users, &place, &error, common);
        Ok(())
    }

    fn send_again(
        &mut self,
        now: Instant,
        users: Vec<(u32, Pending<T>)>,
        place: &Place,
        error: &Arc<AttemptError>,
        common: &mut Common<T>,
    ) {
        for (_, mut user) in users {
            place.note(&mut user, error);
            if common.abandoned {
                self.fail_closed(now, user, common);
            } else {
                self.retry(now, user, common);
            }
        }
    }

    fn succeed(&mut self, stored: Stored<T>, common: &mut Common<T>) {
        let Stored { record, place } = stored;
        let KinesisRecord { users, shard, .. } = record;
        self.count_stored(&place, shard, users.iter().map(|packed| &packed.user), common);
        common.resolve(Resolution::stored(place, users));
    }

    /// Counts user records that are stored together. `predicted` may be where.
    fn count_stored<'a, K: PartitionKey + 'a>(
        &mut self,
        place: &Place,
        predicted: Option<ShardRef>,
        users: impl Iterator<Item = &'a Pending<T, K>>,
        common: &mut Common<T>,
    ) where
        T: 'a,
    {
        let Self { metrics, knowledge, .. } = self;
        let mut successes = metrics.as_mut().map(|metrics| {
            // Nearly always it is as predicted, and no name is looked up.
            let shard = predicted.filter(|shard| shard.id == place.shard_id);
            let shard = shard.or_else(|| knowledge.map.by_name(&place.shard_id));
            metrics.successes(place.attempt.end, place.attempt.start, shard.as_ref(), &place.shard_id)
        });
        for user in users {
            if let Some(successes) = &mut successes {
                successes.add(user);
            }
            common.count_stored(user);
        }
    }

    /// Keeps an aggregate until its shard's range is known, or the first of its user records expires.
    fn hold(&mut self, stray: Stray<T>, common: &Common<T>) {
        let expiries = stray.users.iter().map(|(_, user)| common.expiry(user));
        self.held.push(expiries.min().unwrap_or(Instant::NEVER), Instant::NEVER, stray);
    }

    /// A new list of shards is there: decides what waited for it, and says whether that is all. `complete` says that the
    /// list has every shard of the stream, closed ones too.
    pub(super) fn decide_held(&mut self, now: Instant, complete: bool, common: &mut Common<T>) -> bool {
        let undecided: Vec<Stray<T>> = core::iter::from_fn(|| self.held.pop()).collect();
        for stray in undecided {
            let Err(stray) = self.accept_by_range(now, stray, common) else { continue };
            if complete && stray.place.attempt.end + LISTED_WITHIN <= now {
                // The shard is gone, with its stream.
                let error = stray.undecided();
                self.send_again(now, stray.users, &stray.place, &error, common);
            } else {
                self.hold(stray, common);
            }
        }
        self.held.is_empty()
    }

    /// Fails what could not be decided within its time-to-live; what came later in the same aggregate goes on waiting.
    pub(super) fn expire_held(&mut self, now: Instant, common: &mut Common<T>) {
        while let Some(mut stray) = self.held.pop_due(now) {
            let error = stray.undecided();
            let (expired, others): (Vec<_>, Vec<_>) =
                stray.users.into_iter().partition(|(_, user)| common.expiry(user) <= now);
            for (_, mut user) in expired {
                stray.place.note(&mut user, &error);
                self.fail_expired(now, user, common);
            }
            stray.users = others;
            if !stray.users.is_empty() {
                self.hold(stray, common);
            }
        }
    }

    /// Fails an aggregate of which nobody will know whether consumers read it: the deadline of a close has passed.
    pub(super) fn give_up_held(&mut self, now: Instant, stray: Stray<T>, common: &mut Common<T>) {
        let error = stray.undecided();
        for (_, mut user) in stray.users {
            stray.place.note(&mut user, &error);
            self.fail_closed(now, user, common);
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
        for user in record.into_users() {
            self.fail(now, user, AttemptError::clone(error), common);
        }
        self.on_missing(now, sent, error, common);
    }

    /// Sends a record back to the start after exponential backoff with full jitter, or fails it when its time is up.
    fn back_off(&mut self, now: Instant, record: KinesisRecord<T>, common: &mut Common<T>) {
        let (expired, users): (Vec<Pending<T>>, Vec<Pending<T>>) =
            record.into_users().partition(|user| common.expiry(user) <= now);
        for user in expired {
            self.fail_expired(now, user, common);
        }
        let Some(attempts) = users.iter().map(|user| user.failed.as_slice().len()).max() else { return };
        let wait = common.rng.up_to(backoff(attempts, common));
        // When the first of them expires, that one fails and the others go on.
        let first_expiry = users.iter().map(|user| common.expiry(user)).min().unwrap_or(Instant::NEVER);
        let wake = first_expiry.min((now + wait).round_down(RELEASE_INTERVAL).max(now));
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
        for (position, user) in record.into_users().enumerate() {
            halves[usize::from(position >= half)].push(user, deadline, expiry);
        }
        self.divided.extend(halves.into_iter().filter_map(Aggregate::close).map(|part| alloc::vec![part]));
    }
}

impl<T> Stray<T> {
    fn new(stored: Stored<T>) -> Self {
        let Stored { record, place } = stored;
        let hash_keys = || record.users.iter().map(|packed| packed.user.entry.hash_key());
        let span = (hash_keys().min().unwrap_or(0), hash_keys().max().unwrap_or(0));
        Self { users: (0..).zip(record.into_users()).collect(), span, place }
    }

    fn undecided(&self) -> Arc<AttemptError> {
        let message = alloc::format!("stored on {}, whose range could not be learned", self.place.shard_id);
        Arc::new(AttemptError::new(code::WRONG_SHARD, message).ambiguous())
    }
}

impl Place {
    /// Notes that the attempt which ended here was not good enough.
    fn note<T>(&self, user: &mut Pending<T>, error: &Arc<AttemptError>) {
        user.failed.push(Attempt { error: Some(error.clone()), ..self.attempt.clone() });
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

//! Handles replies (the KPL's retrier): success, retry, split or failure of each record. Error codes are classified in
//! [`classify`](super::classify).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use super::Stream;
use crate::action::LogEvent;
use crate::config::Consumers;
use crate::context::Context;
use crate::record::attempt::{Attempt, AttemptError, code};
use crate::record::kinesis_record::{KinesisRecord, Pending, ShardRef, Users};
use crate::record::result::{Resolution, StoredAt};
use crate::record::user_record::PartitionKey;
use crate::reply::Reply;
use crate::stream::aggregator::Aggregate;
use crate::stream::classify::{Classified, RESOURCE_NOT_FOUND, Rules, Verdict, classify_reply};
use crate::stream::limiter::{RELEASE_INTERVAL, WHOLE_STREAM};
use crate::time::{Instant, random_duration};

/// The time within which a new shard is listed. The service documents none; its lists follow a reshard within seconds.
const LISTED_WITHIN: Duration = Duration::from_secs(60);

/// A Kinesis record that the service stored.
#[derive(Debug)]
struct Stored<T> {
    record: KinesisRecord<T>,
    stored_at: StoredAt,
}

/// An aggregate that was stored on another shard than predicted. Consumers may drop it.
#[derive(Debug)]
pub(super) struct Misrouted<T> {
    /// The user records that have not expired, with their positions.
    users: Vec<(u32, Pending<T>)>,
    /// The smallest and the largest hash key of all its user records, including expired ones: consumers check all.
    span: (u128, u128),
    stored_at: StoredAt,
}

/// The counts of one reply for its log events.
#[derive(Debug, Default)]
struct Tally {
    throttled: usize,
    wrong_shard: usize,
    /// The number of retried user records per error.
    retried: Vec<(Arc<AttemptError>, usize)>,
    /// The number of failed user records per error.
    failed: Vec<(Arc<AttemptError>, usize)>,
}

impl Tally {
    fn count(errors: &mut Vec<(Arc<AttemptError>, usize)>, error: &Arc<AttemptError>, user_records: usize) {
        match errors.iter_mut().find(|(known, _)| known.code == error.code) {
            Some((_, count)) => *count += user_records,
            None => errors.push((error.clone(), user_records)),
        }
    }

    /// Whether records failed or are retried with this error code.
    fn has(&self, code: &str) -> bool {
        self.retried.iter().chain(&self.failed).any(|(error, _)| &*error.code == code)
    }

    fn log<T>(self, stream: &Arc<str>, context: &mut Context<T>) {
        let stream = || stream.clone();
        if self.throttled > 0 {
            context.log(LogEvent::Throttled { stream: stream(), kinesis_records: self.throttled });
        }
        if self.wrong_shard > 0 {
            context.log(LogEvent::WrongShard { stream: stream(), kinesis_records: self.wrong_shard });
        }
        for (error, user_records) in self.retried {
            let AttemptError { code, message, .. } = AttemptError::clone(&error);
            context.log(LogEvent::Retried { stream: stream(), code, message, user_records });
        }
        for (error, user_records) in self.failed {
            let AttemptError { code, message, .. } = AttemptError::clone(&error);
            context.log(LogEvent::Failed { stream: stream(), code, message, user_records });
        }
    }
}

impl<T> Stream<T> {
    /// Handles the reply to a request of `records`, sent at `sent`.
    pub(crate) fn handle_reply(
        &mut self,
        now: Instant,
        sent: Instant,
        records: Vec<KinesisRecord<T>>,
        reply: Reply,
        context: &mut Context<T>,
    ) {
        self.in_flight -= 1;
        self.last_used = now;
        let mut tally = Tally::default();
        let rules = Rules {
            fail_if_throttled: context.config.fail_if_throttled(),
            stream_exists: self.metadata.stream_exists(),
            retry_if_denied: context.config.retry_if_denied() && self.has_stored,
        };
        let classified = classify_reply(reply, records.len(), rules);
        if let Some(metrics) = &mut self.metrics {
            let error = match &classified {
                Classified::Request(verdict) => verdict.error(),
                Classified::Records(_) => None,
            };
            metrics.request_ended(now, sent, &records, error.map(|error| &*error.code));
        }
        match classified {
            Classified::Request(Verdict::Split(error)) if records.len() > 1 && !context.abandoned => {
                Tally::count(&mut tally.retried, &error, records.iter().map(KinesisRecord::user_records).sum());
                self.split_request(now, sent, records, &error);
            }
            Classified::Request(verdict) => {
                for record in records {
                    self.settle(now, sent, record, verdict.clone(), &mut tally, context);
                }
            }
            Classified::Records(verdicts) => {
                for (record, verdict) in records.into_iter().zip(verdicts) {
                    if let Some(metrics) = &mut self.metrics {
                        match verdict.error() {
                            None => metrics.stored(now, &record),
                            Some(error) => metrics.refused(now, &record, &error.code),
                        }
                    }
                    self.settle(now, sent, record, verdict, &mut tally, context);
                }
            }
        }
        context.resolve_singles();
        if tally.has(RESOURCE_NOT_FOUND) {
            self.on_stream_not_found(now, context);
        }
        context.stats.kinesis_records_throttled += tally.throttled as u64;
        tally.log(&self.name, context);
        context.log_expired(&self.name);
    }

    fn settle(
        &mut self,
        now: Instant,
        sent: Instant,
        mut record: KinesisRecord<T>,
        verdict: Verdict,
        tally: &mut Tally,
        context: &mut Context<T>,
    ) {
        if let Some(error) = verdict.error() {
            note_attempt(&mut record, now, sent, error);
        }
        let user_records = record.user_records();
        match verdict {
            Verdict::Stored { shard_id, sequence_number } => {
                context.stats.kinesis_records += 1;
                self.has_stored = true;
                // If the reply does not name the shard, nothing contradicts the prediction.
                let shard_id = match (&record.shard, shard_id) {
                    (Some(predicted), shard_id) if shard_id.as_ref().is_none_or(|id| **id == *predicted.id) => {
                        predicted.id.clone()
                    }
                    (_, shard_id) => self.metadata.map.id_of(&shard_id.unwrap_or_default()),
                };
                let attempt = Attempt { start: sent, end: now, error: None };
                let stored_at = StoredAt { shard_id, sequence_number: (&*sequence_number).into(), attempt };
                self.stored(now, Stored { record, stored_at }, tally, context);
            }
            Verdict::Fail(error) => {
                Tally::count(&mut tally.failed, &error, user_records);
                self.refused(now, record, &error, context);
            }
            Verdict::Split(error) if !record.is_aggregated() => {
                Tally::count(&mut tally.failed, &error, user_records);
                self.refused(now, record, &error, context);
            }
            _ if context.abandoned => {
                for user in record.into_users() {
                    self.fail_closed(now, user, context);
                }
            }
            Verdict::Throttled(_) => {
                tally.throttled += 1;
                let slot = match &record.shard {
                    Some(shard) => self.metadata.map.slot_of(shard),
                    None => Some(WHOLE_STREAM),
                };
                match slot {
                    Some(slot) => {
                        self.reduce_rate(now, slot, sent);
                        self.retry(now, record.into_users(), context);
                    }
                    // The shard is gone, and with it the limiter's state.
                    None => self.back_off(now, record.into_users(), context),
                }
            }
            Verdict::Retry(error) => {
                Tally::count(&mut tally.retried, &error, user_records);
                self.back_off(now, record.into_users(), context);
            }
            Verdict::Split(error) => {
                Tally::count(&mut tally.retried, &error, user_records);
                self.split_aggregate(now, record, context);
            }
        }
    }

    /// Reduces the rate of a slot after the service throttled a record sent at `sent`.
    fn reduce_rate(&mut self, now: Instant, slot: u32, sent: Instant) {
        if slot == WHOLE_STREAM && self.shard_count.note_throttled(now, sent) {
            self.limiter.set_stream_shards(self.shard_count.shards());
            self.limiter.end_burst(now, slot);
        } else {
            self.limiter.reduce_rate(now, slot, sent);
        }
    }

    /// Handles a stored Kinesis record: its user records succeed, are retried, or wait for the shard's range.
    fn stored(&mut self, now: Instant, stored: Stored<T>, tally: &mut Tally, context: &mut Context<T>) {
        if self.is_stored_as_predicted(&stored) {
            if stored.record.shard.is_none() {
                self.metadata.note_reachable(now);
            }
            return self.succeed(now, stored, context);
        }
        tally.wrong_shard += 1;
        self.metadata.note_misrouted(now, stored.stored_at.attempt.start, context);
        if !stored.record.is_aggregated() || context.config.consumers() == Consumers::AnyShard {
            // A single user record is on the right shard: Kinesis itself routed it.
            return self.succeed(now, stored, context);
        }
        if let Some(misrouted) = self.accept_by_range(now, Misrouted::new(stored), context) {
            if context.abandoned {
                return self.abandon_unverified(now, misrouted, context);
            }
            self.metadata.note_unknown_shard(now);
            self.keep_unverified(misrouted, context);
        }
    }

    fn is_stored_as_predicted(&self, stored: &Stored<T>) -> bool {
        let Stored { record, stored_at } = stored;
        let Some(predicted) = &record.shard else {
            // The user records have one hash key, so they are on the right shard, unless the stream ignores keys. The
            // range of the shard shows it. Without a shard list, it will never be known.
            let map = &self.metadata.map;
            let hash_key = record.users.first().map(|packed| packed.user.entry.hash_key()).unwrap_or_default();
            return !record.is_aggregated()
                || stored_at.shard_id.is_empty()
                || match map.range(stored_at.attempt.end, &stored_at.shard_id) {
                    Some((first, last)) => (first..=last).contains(&hash_key),
                    None => map.open_shards() == 0,
                };
        };
        predicted.id == stored_at.shard_id
    }

    /// Accepts an aggregate if all its user records are in the shard's range; otherwise retries all of them. If one is
    /// out of range, the KCL drops the whole aggregate, including the user records in range
    /// (`AggregatorUtil.deaggregate` removes those before the first one out of range, and stops there).
    ///
    /// Returns the aggregate if the range is not known: a retry might make duplicates.
    fn accept_by_range(
        &mut self,
        now: Instant,
        misrouted: Misrouted<T>,
        context: &mut Context<T>,
    ) -> Option<Misrouted<T>> {
        let Some((first, last)) = self.metadata.map.range(now, &misrouted.stored_at.shard_id) else {
            return Some(misrouted);
        };
        let Misrouted { users, span, stored_at } = misrouted;
        if first <= span.0 && span.1 <= last {
            self.count_stored(&stored_at, None, users.iter().map(|(_, user)| user), context);
            context.resolve(Resolution::misrouted(stored_at, users));
            self.end_doubt(now, Some(span.0), context);
            return None;
        }
        let message = alloc::format!("stored on {} in an aggregate that is not within its range", stored_at.shard_id);
        let error = Arc::new(AttemptError::new(code::WRONG_SHARD, message));
        self.resend(now, users, &stored_at, &error, context);
        None
    }

    fn resend(
        &mut self,
        now: Instant,
        users: Vec<(u32, Pending<T>)>,
        stored_at: &StoredAt,
        error: &Arc<AttemptError>,
        context: &mut Context<T>,
    ) {
        let mut users: Vec<Pending<T>> = users.into_iter().map(|(_, user)| user).collect();
        users.iter_mut().for_each(|user| stored_at.note_failed(user, error));
        if context.abandoned {
            users.into_iter().for_each(|user| self.fail_closed(now, user, context));
            return;
        }
        // After a reshard, one retry is enough. If not, the next shard list may be no better.
        let is_first = |user: &Pending<T>| user.failed.len() == 1;
        if self.sequencer.is_some() {
            // They stay together.
            return match users.iter().all(is_first) {
                true => self.retry(now, users, context),
                false => self.back_off(now, users, context),
            };
        }
        let (first, again): (Vec<_>, Vec<_>) = users.into_iter().partition(is_first);
        self.retry(now, first, context);
        self.back_off(now, again, context);
    }

    fn succeed(&mut self, now: Instant, stored: Stored<T>, context: &mut Context<T>) {
        let Stored { record, stored_at } = stored;
        let hash_key = record.hash_key();
        let KinesisRecord { users, shard, .. } = record;
        self.count_stored(&stored_at, shard, users.iter().map(|packed| &packed.user), context);
        match users {
            Users::Single(user) => context.resolve_single(stored_at, user),
            Users::Several(users) => context.resolve(Resolution::aggregate(stored_at, users)),
        }
        self.end_doubt(now, Some(hash_key), context);
    }

    /// Counts the stored user records of one Kinesis record. `predicted` is its predicted shard.
    fn count_stored<'a, K: PartitionKey + 'a>(
        &mut self,
        stored_at: &StoredAt,
        predicted: Option<ShardRef>,
        users: impl Iterator<Item = &'a Pending<T, K>>,
        context: &mut Context<T>,
    ) where
        T: 'a,
    {
        let Self { metrics, metadata, outstanding, .. } = self;
        let mut successes = metrics.as_mut().map(|metrics| {
            // Almost always the prediction is right, and no id is looked up.
            let shard = predicted.filter(|shard| shard.id == stored_at.shard_id);
            let shard = shard.or_else(|| metadata.map.by_name(&stored_at.shard_id));
            metrics.successes(stored_at.attempt.end, stored_at.attempt.start, shard.as_ref(), &stored_at.shard_id)
        });
        for user in users {
            if let Some(successes) = &mut successes {
                successes.add(user);
            }
            *outstanding -= 1;
            context.count_stored(user);
        }
    }

    /// Keeps an aggregate until its shard's range is known, or the first of its user records expires.
    fn keep_unverified(&mut self, misrouted: Misrouted<T>, context: &Context<T>) {
        let expiries = misrouted.users.iter().map(|(_, user)| context.expiry(user));
        self.unverified.push(expiries.min().unwrap_or(Instant::NEVER), Instant::NEVER, misrouted);
    }

    /// Verifies the misrouted aggregates against a new shard list. Returns whether none is left unverified.
    /// `is_complete` is true if the list has all shards of the stream, including closed ones.
    pub(super) fn verify_misrouted(&mut self, now: Instant, is_complete: bool, context: &mut Context<T>) -> bool {
        let unverified: Vec<Misrouted<T>> = core::iter::from_fn(|| self.unverified.pop()).collect();
        for misrouted in unverified {
            let Some(misrouted) = self.accept_by_range(now, misrouted, context) else { continue };
            if is_complete && misrouted.stored_at.attempt.end + LISTED_WITHIN <= now {
                // The shard no longer exists, so its stream was deleted.
                let error = misrouted.unverifiable();
                self.resend(now, misrouted.users, &misrouted.stored_at, &error, context);
            } else {
                self.keep_unverified(misrouted, context);
            }
        }
        self.unverified.is_empty()
    }

    /// Fails unverified user records that have expired. Later user records of the same aggregate continue to wait.
    pub(super) fn expire_unverified(&mut self, now: Instant, context: &mut Context<T>) {
        while let Some(mut misrouted) = self.unverified.pop_due(now) {
            let error = misrouted.unverifiable();
            let (expired, others): (Vec<_>, Vec<_>) =
                misrouted.users.into_iter().partition(|(_, user)| context.expiry(user) <= now);
            for (_, mut user) in expired {
                misrouted.stored_at.note_failed(&mut user, &error);
                self.fail_expired(now, user, context);
            }
            misrouted.users = others;
            if misrouted.users.is_empty() {
                self.end_doubt(now, Some(misrouted.span.0), context);
            } else {
                self.keep_unverified(misrouted, context);
            }
        }
    }

    /// Fails an unverified aggregate when the deadline of a close has passed.
    pub(super) fn abandon_unverified(&mut self, now: Instant, misrouted: Misrouted<T>, context: &mut Context<T>) {
        let error = misrouted.unverifiable();
        for (_, mut user) in misrouted.users {
            misrouted.stored_at.note_failed(&mut user, &error);
            self.fail_closed(now, user, context);
        }
    }

    fn refused(&mut self, now: Instant, record: KinesisRecord<T>, error: &Arc<AttemptError>, context: &mut Context<T>) {
        let hash_key = record.hash_key();
        for user in record.into_users() {
            self.fail(now, user, AttemptError::clone(error), context);
        }
        self.end_doubt(now, Some(hash_key), context);
    }

    /// Retries the user records of a Kinesis record after exponential backoff with full jitter. Fails those that have
    /// expired.
    fn back_off(&mut self, now: Instant, users: impl IntoIterator<Item = Pending<T>>, context: &mut Context<T>) {
        let (expired, users): (Vec<Pending<T>>, Vec<Pending<T>>) =
            users.into_iter().partition(|user| context.expiry(user) <= now);
        let hash_key = expired.first().map(|user| user.entry.hash_key());
        for user in expired {
            self.fail_expired(now, user, context);
        }
        let Some(attempts) = users.iter().map(|user| user.failed.len()).max() else {
            return self.end_doubt(now, hash_key, context);
        };
        let max = backoff_max(attempts, context);
        let wait = random_duration(&mut context.rng, max);
        // When the first user record expires, it fails and the others are retried.
        let first_expiry = users.iter().map(|user| context.expiry(user)).min().unwrap_or(Instant::NEVER);
        let wake = first_expiry.min((now + wait).round_down(RELEASE_INTERVAL).max(now));
        self.backing_off.push(wake, Instant::NEVER, users);
    }

    /// Sends each half of a refused request as its own request.
    fn split_request(
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
        self.split.extend([records, second]);
    }

    /// Sends each half of a refused aggregate as its own request, in order one after the other.
    fn split_aggregate(&mut self, now: Instant, record: KinesisRecord<T>, context: &mut Context<T>) {
        let (shard, deadline, half) = (record.shard.clone(), record.deadline, record.users.len() / 2);
        if self.sequencer.is_some() {
            let hash_key = record.hash_key();
            let mut first: Vec<Pending<T>> = record.into_users().collect();
            let second = first.split_off(half);
            self.put_back(now, second, context);
            self.put_back(now, first, context);
            return self.end_doubt(now, Some(hash_key), context);
        }
        let expiry = record.expiry;
        let mut halves = [Aggregate::new(shard.clone()), Aggregate::new(shard)];
        for (position, user) in record.into_users().enumerate() {
            halves[usize::from(position >= half)].push(user, deadline, expiry);
        }
        self.split.extend(halves.into_iter().filter_map(Aggregate::close).map(|part| alloc::vec![part]));
    }
}

impl<T> Misrouted<T> {
    fn new(stored: Stored<T>) -> Self {
        let Stored { record, stored_at } = stored;
        let hash_keys = || record.users.iter().map(|packed| packed.user.entry.hash_key());
        let span = (hash_keys().min().unwrap_or(0), hash_keys().max().unwrap_or(0));
        Self { users: (0..).zip(record.into_users()).collect(), span, stored_at }
    }

    fn unverifiable(&self) -> Arc<AttemptError> {
        let message = alloc::format!("stored on {}, whose hash key range is unknown", self.stored_at.shard_id);
        Arc::new(AttemptError::new(code::WRONG_SHARD, message).ambiguous())
    }
}

impl StoredAt {
    /// Records this attempt as failed, although the record was stored.
    fn note_failed<T>(&self, user: &mut Pending<T>, error: &Arc<AttemptError>) {
        user.failed.push(Attempt { error: Some(error.clone()), ..self.attempt.clone() });
    }
}

fn note_attempt<T>(record: &mut KinesisRecord<T>, now: Instant, sent: Instant, error: &Arc<AttemptError>) {
    for packed in record.users.iter_mut() {
        packed.user.failed.push(Attempt { start: sent, end: now, error: Some(error.clone()) });
    }
}

/// Returns the maximum backoff after `attempts` failed attempts.
fn backoff_max<T>(attempts: usize, context: &Context<T>) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(31);
    context.config.retry_backoff_min().saturating_mul(1 << doublings).min(context.config.retry_backoff_max())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_backoff_doubles_with_each_attempt_up_to_its_maximum() {
        let ms = Duration::from_millis;
        let config = Config::builder().retry_backoff_min(ms(50)).retry_backoff_max(ms(5_000)).build().unwrap();
        let context = Context::<()>::new(config);
        let maxima: Vec<u128> = (1..=9).map(|attempts| backoff_max(attempts, &context).as_millis()).collect();
        assert_eq!(maxima, [50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(backoff_max(usize::MAX, &context), ms(5_000));
    }
}

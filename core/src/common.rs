//! What all streams of a producer share.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::time::Duration;

use crate::action::{Action, Notice};
use crate::config::Config;
use crate::kinesis_record::Pending;
use crate::outcome::{AttemptError, PutFailure, Resolution, code};
use crate::outstanding::Outstanding;
use crate::record::PartitionKey;
use crate::rng::Rng;
use crate::time::Instant;

/// Time between two descriptions of streams: the service allows an account 20 a second, and other producers want some.
const DESCRIPTION_SPACING: Duration = Duration::from_millis(100);

/// What waits for its shard's pace, or for the end of a backoff, is let go at multiples of this interval: late records of
/// all shards share wake-ups and requests, instead of each one taking some for itself the moment that it may go.
pub(crate) const RELEASE_INTERVAL: Duration = Duration::from_millis(10);

/// Counts since the producer was made. Every one only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// User records accepted by `put`.
    pub user_records_put: u64,
    /// User records that got a receipt.
    pub user_records_succeeded: u64,
    /// User records that failed.
    pub user_records_failed: u64,
    /// User records whose attempt failed and that were tried again.
    pub user_records_retried: u64,
    /// PutRecords requests sent.
    pub requests: u64,
    /// Kinesis records that the service accepted.
    pub kinesis_records: u64,
    /// Kinesis records that the service throttled.
    pub kinesis_records_throttled: u64,
}

/// The part of the state machine that is not a stream's.
#[derive(Debug)]
pub(crate) struct Common<T> {
    pub(crate) config: Config,
    pub(crate) rng: Rng,
    pub(crate) outstanding: Outstanding,
    pub(crate) stats: Stats,
    pub(crate) actions: VecDeque<Action<T>>,
    /// The producer is being closed: nothing waits for company any more.
    pub(crate) closing: bool,
    /// The deadline of the close has passed: nothing is tried any more.
    pub(crate) abandoned: bool,
    next_description: Instant,
    /// User records that expired in this turn of the stream at work.
    expired: usize,
}

impl<T> Common<T> {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            rng: Rng::new(config.seed()),
            config,
            outstanding: Outstanding::default(),
            stats: Stats::default(),
            actions: VecDeque::new(),
            closing: false,
            abandoned: false,
            next_description: Instant::from_nanos(0),
            expired: 0,
        }
    }

    /// Whether a record is covered by a flush, or everything is.
    pub(crate) fn is_urgent<U>(&self, user: &Pending<U>) -> bool {
        self.closing || self.outstanding.is_flushed(user.generation)
    }

    pub(crate) fn expiry<U>(&self, user: &Pending<U>) -> Instant {
        user.put_at + self.config.record_ttl()
    }

    /// When the next description of a stream may be asked for.
    pub(crate) fn description_turn(&mut self, now: Instant) -> Instant {
        let turn = self.next_description.max(now);
        self.next_description = turn + DESCRIPTION_SPACING;
        turn
    }

    /// Counts a user record out that is stored.
    pub(crate) fn count_stored<U, K: PartitionKey>(&mut self, user: &Pending<U, K>) {
        self.outstanding.release(user.generation, user.entry.size());
        self.stats.user_records_succeeded += 1;
    }

    pub(crate) fn resolve(&mut self, resolution: Resolution<T>) {
        self.actions.push_back(Action::Resolve(resolution));
    }

    pub(crate) fn fail(&mut self, stream: &Arc<str>, user: Pending<T>, error: AttemptError) {
        self.outstanding.release(user.generation, user.entry.size());
        self.stats.user_records_failed += 1;
        let record = user.entry.into_user_record(stream.clone());
        let failure = PutFailure { record, error, attempts: user.failed.into_vec() };
        self.resolve(Resolution::failed(user.ticket, failure));
    }

    /// Counts a record whose time-to-live has run out, and says so.
    pub(crate) fn expired<U>(&mut self, user: &Pending<U>) -> AttemptError {
        self.expired += 1;
        let ttl = self.config.record_ttl();
        let message = match user.failed.as_slice().last().and_then(|attempt| attempt.error.as_ref()) {
            Some(last) => alloc::format!("not stored within record_ttl ({ttl:?}); last error: {last}"),
            None => alloc::format!("not sent within record_ttl ({ttl:?})"),
        };
        AttemptError::new(code::EXPIRED, message)
    }

    /// Says once for a turn how many records expired.
    pub(crate) fn notice_expired(&mut self, stream: &Arc<str>) {
        let user_records = core::mem::take(&mut self.expired);
        if user_records > 0 {
            self.notice(Notice::Expired { stream: stream.clone(), user_records });
        }
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.actions.push_back(Action::Notice(notice));
    }
}

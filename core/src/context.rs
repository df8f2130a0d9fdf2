//! The state that all streams of a producer share.

use alloc::collections::VecDeque;
use alloc::string::ToString;
use alloc::sync::Arc;
use core::time::Duration;

use crate::action::{Action, LogEvent};
use crate::config::Config;
use crate::outstanding::Outstanding;
use crate::put_buffer::Room;
use crate::record::attempt::{AttemptError, code};
use crate::record::kinesis_record::{Packed, Pending};
use crate::record::result::{PutFailure, Resolution, StoredAt, StoredSingles};
use crate::record::user_record::PartitionKey;
use crate::request_slots::RequestSlots;
use crate::stats::Stats;
use crate::time::Instant;

/// The time between two requests for descriptions of streams. The service allows 20 per second and account, and other
/// producers need some of them.
const DESCRIPTION_SPACING: Duration = Duration::from_millis(100);

/// The part of the state machine that all streams share.
#[derive(Debug)]
pub(crate) struct Context<T> {
    pub(crate) config: Config,
    pub(crate) rng: fastrand::Rng,
    pub(crate) outstanding: Outstanding,
    pub(crate) slots: RequestSlots,
    pub(crate) stats: Stats,
    pub(crate) actions: VecDeque<Action<T>>,
    /// Whether the producer is being closed: records no longer wait for others.
    pub(crate) closing: bool,
    /// Whether the deadline of the close has passed: nothing is sent or retried any more.
    pub(crate) abandoned: bool,
    /// The number of shards, over all streams, for which puts are checked against the backlog limit.
    pub(crate) long_backlogs: usize,
    /// The number of user records that one shard may have as backlog, before anything is known about them.
    pub(crate) records_per_backlog: usize,
    stored_singles: StoredSingles<T>,
    next_description: Instant,
    /// The number of expired user records that are not logged yet.
    expired: usize,
    /// The last error of the last of these records.
    last_error: Option<Arc<AttemptError>>,
}

impl<T> Context<T> {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            slots: RequestSlots::new(&config),
            rng: fastrand::Rng::with_seed(config.seed()),
            outstanding: Outstanding::default(),
            stats: Stats::default(),
            actions: VecDeque::new(),
            closing: false,
            abandoned: false,
            long_backlogs: 0,
            records_per_backlog: records_per_backlog(&config),
            stored_singles: StoredSingles::default(),
            next_description: Instant::from_nanos(0),
            expired: 0,
            last_error: None,
            config,
        }
    }

    /// Returns how many more records and bytes the producer accepts before it is full.
    pub(crate) fn room(&self) -> Room {
        let Self { outstanding, config, .. } = self;
        Room {
            records: config.max_outstanding_records().saturating_sub(outstanding.records()),
            bytes: config.max_outstanding_bytes().saturating_sub(outstanding.bytes()),
        }
    }

    /// Whether a flush or a close covers the record.
    pub(crate) fn is_urgent<U>(&self, user: &Pending<U>) -> bool {
        self.closing || self.outstanding.is_flushed(user.generation)
    }

    pub(crate) fn expiry<U>(&self, user: &Pending<U>) -> Instant {
        user.put_at + self.config.record_ttl()
    }

    /// Reserves the next time for a request of a description, and returns it.
    pub(crate) fn reserve_description(&mut self, now: Instant) -> Instant {
        let turn = self.next_description.max(now);
        self.next_description = turn + DESCRIPTION_SPACING;
        turn
    }

    /// Counts a stored user record, which is no longer outstanding.
    pub(crate) fn count_stored<U, K: PartitionKey>(&mut self, user: &Pending<U, K>) {
        self.outstanding.release(user.generation, user.entry.size());
        self.stats.user_records_succeeded += 1;
    }

    pub(crate) fn resolve(&mut self, resolution: Resolution<T>) {
        self.actions.push_back(Action::Resolve(resolution));
    }

    /// Resolves the user record of a Kinesis record that has no other. Call [`resolve_singles`](Self::resolve_singles)
    /// after the last one of a reply.
    pub(crate) fn resolve_single(&mut self, stored_at: StoredAt, user: Packed<T>) {
        let resolution = self.stored_singles.push(stored_at, user);
        resolution.into_iter().for_each(|resolution| self.resolve(resolution));
    }

    pub(crate) fn resolve_singles(&mut self) {
        let resolution = self.stored_singles.take();
        resolution.into_iter().for_each(|resolution| self.resolve(resolution));
    }

    pub(crate) fn fail(&mut self, stream: &Arc<str>, user: Pending<T>, error: AttemptError) {
        self.outstanding.release(user.generation, user.entry.size());
        self.stats.user_records_failed += 1;
        let record = user.entry.into_user_record(stream.clone());
        let failure = PutFailure { record, error, attempts: user.failed };
        self.resolve(Resolution::failed(user.ticket, failure));
    }

    /// Counts an expired record, and returns its error.
    pub(crate) fn expired<U>(&mut self, user: &Pending<U>) -> AttemptError {
        self.expired += 1;
        let ttl = self.config.record_ttl();
        self.last_error = user.failed.last().and_then(|attempt| attempt.error.clone());
        let message = match &self.last_error {
            Some(last) => alloc::format!("not stored within record_ttl ({ttl:?}); last error: {last}"),
            None => alloc::format!("not sent within record_ttl ({ttl:?})"),
        };
        AttemptError::new(code::EXPIRED, message)
    }

    /// Logs how many records expired since the last call.
    pub(crate) fn log_expired(&mut self, stream: &Arc<str>) {
        let user_records = core::mem::take(&mut self.expired);
        if user_records > 0 {
            let last_error = self.last_error.take().map(|error| error.to_string().into());
            self.log(LogEvent::Expired { stream: stream.clone(), user_records, last_error });
        }
    }

    pub(crate) fn log(&mut self, event: LogEvent) {
        self.actions.push_back(Action::Log(event));
    }
}

/// Returns the number of user records that a shard takes within the limit of its backlog, at half its rate, if each
/// Kinesis record has as few of them as possible.
fn records_per_backlog(config: &Config) -> usize {
    let kinesis_records =
        u128::from(config.rate_limit_records_per_shard()) * config.start_backlog_limit().as_millis() / 2_000;
    usize::try_from(kinesis_records).unwrap_or(usize::MAX).saturating_mul(user_records_per_kinesis_record(config))
}

/// Returns how many user records a Kinesis record has at least, as an estimate: with aggregation, each hash key may need one
/// of its own.
pub(crate) fn user_records_per_kinesis_record(config: &Config) -> usize {
    if config.aggregation_enabled() { 3 } else { 1 }
}

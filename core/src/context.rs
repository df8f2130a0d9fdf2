//! What all streams of a producer share.

use alloc::collections::VecDeque;
use alloc::string::ToString;
use alloc::sync::Arc;
use core::time::Duration;

use crate::action::{Action, LogEvent};
use crate::config::Config;
use crate::outstanding::Outstanding;
use crate::put_buffer::Room;
use crate::record::attempt::{AttemptError, code};
use crate::record::kinesis_record::Pending;
use crate::record::result::{PutFailure, Resolution};
use crate::record::user_record::PartitionKey;
use crate::stats::Stats;
use crate::time::Instant;

/// Time between two descriptions of streams: the service allows an account 20 a second, and other producers want some.
const DESCRIPTION_SPACING: Duration = Duration::from_millis(100);

/// The part of the state machine that is not a stream's.
#[derive(Debug)]
pub(crate) struct Context<T> {
    pub(crate) config: Config,
    pub(crate) rng: fastrand::Rng,
    pub(crate) outstanding: Outstanding,
    pub(crate) stats: Stats,
    pub(crate) actions: VecDeque<Action<T>>,
    /// The producer is being closed: nothing waits for company any more.
    pub(crate) closing: bool,
    /// The deadline of the close has passed: nothing is tried any more.
    pub(crate) abandoned: bool,
    /// The number of shards, of all streams, for which puts have to be checked against the limit on a backlog.
    pub(crate) slow_shards: usize,
    next_description: Instant,
    /// User records that expired in this turn of the stream at work.
    expired: usize,
    /// Why the last attempt of the last of them failed.
    last_error: Option<Arc<AttemptError>>,
}

impl<T> Context<T> {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(config.seed()),
            config,
            outstanding: Outstanding::default(),
            stats: Stats::default(),
            actions: VecDeque::new(),
            closing: false,
            abandoned: false,
            slow_shards: 0,
            next_description: Instant::from_nanos(0),
            expired: 0,
            last_error: None,
        }
    }

    /// How many more records and bytes the producer accepts before it is full.
    pub(crate) fn room(&self) -> Room {
        let Self { outstanding, config, .. } = self;
        Room {
            records: config.max_outstanding_records().saturating_sub(outstanding.records()),
            bytes: config.max_outstanding_bytes().saturating_sub(outstanding.bytes()),
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
        self.last_error = user.failed.as_slice().last().and_then(|attempt| attempt.error.clone());
        let message = match &self.last_error {
            Some(last) => alloc::format!("not stored within record_ttl ({ttl:?}); last error: {last}"),
            None => alloc::format!("not sent within record_ttl ({ttl:?})"),
        };
        AttemptError::new(code::EXPIRED, message)
    }

    /// Says once for a turn how many records expired.
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

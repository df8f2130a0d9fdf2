//! What the promises depend on: the actions of the world, and what they mean for each stream.

use std::collections::BTreeSet;
use std::time::Duration;

use kpl_core::Instant;

use crate::options::Options;

/// The actions of the world that the promises depend on.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(super) options: Options,
    /// The sum of all jumps of the clock and the maximum delay of sleeps.
    pub(crate) late: Duration,
    /// The error codes that the service has returned.
    pub(super) codes: BTreeSet<Box<str>>,
    /// Whether a reply was garbled: it may have too few or too many results.
    pub(crate) count_mismatch: bool,
    /// The maximum size of a record in bytes.
    pub(crate) record_size_max: usize,
    pub(crate) closing: bool,
    /// Whether a close takes effect before anything else happens, because there are no tasks.
    pub(crate) closes_at_once: bool,
    /// The deadline of the close.
    pub(crate) close_deadline: Instant,
    pub(crate) runtime_ended: bool,
    /// The time at which all faults ended, and the number of outstanding bytes at that time.
    pub(super) healed: Option<(Instant, usize)>,
    /// The number of PutRecords requests in flight.
    pub(crate) in_flight: usize,
    /// The number of metadata requests in flight; a list of several pages counts as one.
    pub(crate) metadata_in_flight: usize,
    /// The last time at which a put was refused because the whole producer was full.
    pub(super) refused_at: Option<Instant>,
    pub(super) streams: Vec<StreamFacts>,
    /// The number of outstanding records.
    pub(super) outstanding_records: usize,
    /// The size of the outstanding records.
    pub(super) outstanding_bytes: usize,
}

#[derive(Debug)]
pub(super) struct StreamFacts {
    /// The time of the last deletion.
    pub(super) deleted_at: Option<Instant>,
    /// The time of the first put, or of the first put after the stream was retired.
    pub(super) started_at: Instant,
    /// The number of times that the stream was started.
    pub(super) starts: u32,
    /// The time of the last put or result.
    pub(super) last_used: Instant,
    /// The number and the size of the outstanding records.
    pub(super) outstanding: (usize, usize),
    /// The initial values of `described_at`, `description_settled_at` and `list_settled_at`. Zero if the producer does not
    /// need the metadata.
    pub(super) metadata_at_start: [Instant; 3],
    /// The time of the first response to a request for the description, successful or not.
    pub(super) described_at: Instant,
    /// The time of the first description that says that the stream ignores keys, if no later one says that it does not.
    pub(super) auto_known_at: Instant,
    /// The times at which records were resolved.
    pub(super) resolves: Vec<Instant>,
    /// The time of the first description, or of the permanent error of such a request. Without a shard list, records
    /// wait for it.
    pub(super) description_settled_at: Instant,
    /// The time of the first shard list, or of the permanent error of such a request. Records wait for it.
    pub(super) list_settled_at: Instant,
    /// The time of the first shard list since the stream was started.
    pub(super) shards_known_at: Instant,
    /// Whether a reply did not find the stream, and no shard list has come since.
    pub(super) not_found: bool,
    /// The time of the first reply since the stream was started that says that a record is stored.
    pub(super) stored_at: Instant,
    /// The number of outstanding records that were due before the first shard list.
    pub(super) unpredicted: usize,
    /// Whether the service has throttled a record.
    pub(super) throttled: bool,
    /// Whether the producer's shards stay the same as the service's for the whole run.
    pub(super) steady: bool,
    /// Whether the stream has the same shards for the whole run, and the producer does not forget them.
    pub(super) has_fixed_shards: bool,
}

/// The time without a record after which a stream is retired. Its next record starts it again.
const RETIRED_AFTER: Duration = Duration::from_secs(300);

impl StreamFacts {
    /// Counts an accepted record.
    pub(super) fn used(&mut self, now: Instant, size: usize) {
        self.touched(now);
        self.last_used = now;
        self.outstanding = (self.outstanding.0 + 1, self.outstanding.1 + size);
    }

    /// Returns until when the first records wait for metadata: for the shard list; if it is refused, for the description
    /// or a later list.
    pub(super) fn metadata_settled_at(&self) -> Instant {
        self.list_settled_at.max(self.description_settled_at.min(self.shards_known_at))
    }

    /// Starts the stream for a put, accepted or not, if it is new or retired.
    pub(super) fn touched(&mut self, now: Instant) {
        let is_retired = self.outstanding.0 == 0 && now.saturating_since(self.last_used) >= RETIRED_AFTER;
        if is_retired || self.started_at == Instant::NEVER {
            self.started_at = now;
            self.starts += 1;
            [self.described_at, self.description_settled_at, self.list_settled_at] = self.metadata_at_start;
            (self.shards_known_at, self.stored_at) = (Instant::NEVER, Instant::NEVER);
            self.auto_known_at = Instant::NEVER;
            self.last_used = now;
        }
    }
}

impl Facts {
    /// Returns the maximum time for which records wait for the first shard list.
    pub(super) fn start_wait(&self) -> Duration {
        self.options.config.start_timeout.min(self.options.config.ttl / 2)
    }

    /// Returns the limit on the backlog of a shard.
    pub(super) fn backlog_limit(&self) -> Duration {
        let settings = &self.options.config;
        settings.max_shard_backlog.unwrap_or(match settings.ttl {
            Duration::MAX => Duration::from_secs(15),
            ttl => ttl / 2,
        })
    }

    /// Returns the limit on the backlog of records that wait for the first shard list.
    pub(super) fn start_backlog_limit(&self) -> Duration {
        let settings = &self.options.config;
        let after_the_wait = settings.ttl.saturating_sub(self.start_wait());
        settings.max_shard_backlog.unwrap_or(self.backlog_limit().min(after_the_wait / 5 * 3))
    }

    /// Whether a refused request or aggregate may be split. Its parts are sent at once.
    pub(super) fn may_split(&self) -> bool {
        let service = &self.options.service;
        service.record_kib.is_some() || service.request_size_max.is_some()
    }

    /// Returns whether records may be sent more than once, which uses the shards' rates.
    pub(super) fn has_retries(&self) -> bool {
        let (network, service) = (&self.options.network, &self.options.service);
        let rates = [
            network.not_sent,
            network.request_lost,
            network.reply_lost,
            network.http_500,
            network.garbled,
            service.internal_failure,
            service.refused,
        ];
        rates.into_iter().any(|rate| rate > 0)
            || self.options.callers.panics > 0
            || self.may_split()
            || !service.unknown_for.is_zero()
    }

    /// Whether nothing delays records but metadata and the shards' rate limits, and the shards stay the same.
    pub(super) fn is_calm(&self) -> bool {
        let (network, service) = (&self.options.network, &self.options.service);
        self.late.is_zero()
            && network.outages == 0
            && service.reshards == 0
            && service.recreations == 0
            && service.list_wrong == 0
            && service.auto_switches == 0
            && !self.has_retries()
    }

    /// Whether no more PutRecords requests may be sent.
    pub(super) fn are_requests_capped(&self) -> bool {
        let max = self.options.config.in_flight_max;
        self.in_flight >= max || self.in_flight + self.metadata_in_flight >= max.max(2)
    }

    /// Returns whether a shard of the stream may have so long a backlog that puts have to wait. The producer calculates
    /// with half of the shard's current rate, and checks puts from a quarter of the limit on.
    pub(super) fn has_long_backlog(&self, stream: usize) -> bool {
        let (settings, about) = (&self.options.config, &self.streams[stream]);
        let (records, bytes) = about.outstanding;
        // The aggregate's encoding adds up to 64 bytes per record.
        let seconds = (records as f64 / settings.records_per_second as f64)
            .max((bytes + 64 * records) as f64 / settings.bytes_per_second as f64);
        // With an order per key, each record may wait for all before it, and for as long as a request takes. Without
        // aggregation, it also waits for the shard's rate, with the records of other keys.
        let network = &self.options.network;
        let trip = 2 * (network.latency + network.jitter) + settings.buffered + Duration::from_millis(250);
        let queued = if settings.aggregation { 0.0 } else { seconds };
        let in_turn = 2.0 * records as f64 * (trip.as_secs_f64() + queued);
        let is_slow = !self.is_calm() || about.throttled || settings.in_flight_max < 24;
        if settings.ordering && records > 0 && (is_slow || in_turn > self.backlog_limit().as_secs_f64() / 4.0) {
            return true;
        }
        let slowdown = if about.throttled { 64.0 } else { 1.0 };
        // Records may wait for the description after the list has come.
        let has_started = about.shards_known_at < Instant::NEVER
            && (settings.description_given || about.described_at < Instant::NEVER);
        let limit = if has_started { self.backlog_limit() } else { self.start_backlog_limit() };
        2.0 * slowdown * seconds > limit.as_secs_f64() / 4.0
    }
}

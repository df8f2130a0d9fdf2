//! The state machine: events in, actions out.

mod lingering;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::time::Duration;

use self::lingering::LingeringCheck;
use crate::action::{Action, DescribeStreamRequest, ListShardsRequest};
use crate::config::Config;
use crate::context::Context;
use crate::full::{Full, ShardName};
use crate::metrics::{MetricsSnapshot, MetricsWindow, Reporter};
use crate::outstanding::FlushId;
use crate::put_buffer::{BufferDrain, Room};
use crate::record::attempt::FailedAttempts;
use crate::record::hash_key::HashKeyCache;
use crate::record::kinesis_record::{Batch, Pending};
use crate::record::user_record::{CheckedRecord, InvalidRecord, PreparedRecord};
use crate::reply::{Reply, RequestError, ShardPage, StreamSummary};
use crate::stats::Stats;
use crate::stream::{FollowUp, RELEASE_INTERVAL, Stream};
use crate::streams::Streams;
use crate::time::Instant;
use crate::time::timers::Timers;

/// The maximum difference between the times of two puts that is due to threads: a thread may be suspended between
/// reading the clock and locking the producer. A larger difference means that the clock was set.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(1);

/// The maximum number of streams freed in one tick, so that a driver does not keep its lock for long.
const RETIRED_PER_TURN_MAX: usize = 100;

/// A Kinesis producer as a state machine, without clock, sockets, threads or randomness.
///
/// `T` is the ticket: a value of the caller that comes back with the result of its record. Every ticket of an accepted
/// record comes back exactly once, in an [`Action::Resolve`], if every [`Action::SendBatch`] is answered.
///
/// # The contract
///
/// - **Events** change the state: [`put`](Self::put), [`tick`](Self::tick), [`handle_reply`](Self::handle_reply),
///   [`handle_shards`](Self::handle_shards), [`handle_stream_summary`](Self::handle_stream_summary),
///   [`flush`](Self::flush), [`close`](Self::close). Each takes the current time: read the clock after slow operations,
///   such as a blocking request. Time that goes backwards is allowed.
/// - **Actions** are what the driver carries out, in order. Call [`poll_action`](Self::poll_action) after each event
///   until it returns `None`.
/// - **Time**: call [`tick`](Self::tick) at [`next_tick`](Self::next_tick) or a bit later. An earlier call is allowed
///   and has no effect.
/// - **Getters**, such as [`outstanding_records`](Self::outstanding_records), change nothing.
///
/// The [crate's front page](crate) has a run loop.
#[derive(Debug)]
pub struct Producer<T> {
    context: Context<T>,
    streams: Streams<T>,
    /// The latest time of a put.
    latest_put: Instant,
    /// The bytes of all accepted records.
    bytes_put: u64,
    /// The timers of the streams, by number.
    timers: Timers,
    /// The queue of streams with records that wait because no more requests may be in flight.
    waiting_streams: VecDeque<u32>,
    /// The queue of streams with metadata requests that wait for the same reason.
    waiting_refreshes: VecDeque<u32>,
    /// Which of the two queues is served first.
    is_refresh_next: bool,
    close_at: Option<Instant>,
    reporter: Reporter,
    lingering_check: LingeringCheck,
}

/// The error of [`Producer::put`], with the record and its ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PutError<T> {
    /// The producer or the record's shard is full. Put the record again after a record was resolved, or after
    /// [`Action::RoomFreed`] for the shard.
    #[error("{full}")]
    Full {
        /// The reason.
        full: Full,
        /// The record.
        record: PreparedRecord,
        /// Its ticket.
        ticket: T,
    },
    /// The producer is being closed.
    #[error("the producer is closed")]
    Closed {
        /// The record.
        record: PreparedRecord,
        /// Its ticket.
        ticket: T,
    },
    /// The record is invalid.
    #[error("{reason}")]
    Invalid {
        /// The reason.
        reason: InvalidRecord,
        /// The record.
        record: PreparedRecord,
        /// Its ticket.
        ticket: T,
    },
}

impl<T> Producer<T> {
    /// Creates an idle producer.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            reporter: Reporter::new(config.metrics_level(), config.metrics_upload_interval(), now),
            context: Context::new(config),
            streams: Streams::default(),
            latest_put: now,
            timers: Timers::default(),
            waiting_streams: VecDeque::new(),
            waiting_refreshes: VecDeque::new(),
            is_refresh_next: true,
            close_at: None,
            bytes_put: 0,
            lingering_check: LingeringCheck::new(now),
        }
    }

    /// Accepts a record. The first record of a stream creates the stream's state.
    ///
    /// # Errors
    ///
    /// Returns the record and the ticket if the producer or the shard is full, the producer is closed, or the record is
    /// larger than the stream allows.
    #[expect(clippy::result_large_err, reason = "the record is returned without an allocation")]
    pub fn put(&mut self, now: Instant, record: PreparedRecord, ticket: T) -> Result<(), PutError<T>> {
        if self.context.closing {
            return Err(PutError::Closed { record, ticket });
        }
        let size = record.size();
        if let Some(full) = self.full(size) {
            self.lingering_check.note_refused(size);
            self.send_lingering_for_put(now);
            return Err(PutError::Full { full, record, ticket });
        }
        let index = self.stream_index(now, &record.stream);
        let stream = self.streams.get_mut(index);
        let limit = stream.max_record_size();
        if size > limit {
            return Err(PutError::Invalid { reason: InvalidRecord::TooLarge { size, limit }, record, ticket });
        }
        let (room, config) = (self.context.room(), &self.context.config);
        if self.context.long_backlogs > 0
            && let Some(full) = stream.full(now, record.entry.hash_key(), room, config)
        {
            return Err(PutError::Full { full, record, ticket });
        }
        self.admit(now, now, index, record, ticket);
        Ok(())
    }

    /// Puts the next record of a drain. Returns false if there is none.
    ///
    /// The buffer has accepted the record, so it is never refused. A record larger than its stream allows fails.
    ///
    /// Call this until the drain is empty before [`close`](Self::close). After a close it accepts the record, so
    /// [`is_drained`](Self::is_drained) may be false again, and the deadline of the close may not apply to it.
    pub fn put_drained(&mut self, now: Instant, drain: &mut BufferDrain<T>, keys: &mut HashKeyCache) -> bool {
        let Some((put_at, record, ticket)) = drain.pop(keys) else { return false };
        let index = self.stream_index(now, &record.stream);
        self.admit(now, put_at, index, record, ticket);
        true
    }

    /// Returns how many more records and bytes the producer accepts before it is full.
    pub fn room(&self) -> Room {
        self.context.room()
    }

    /// Returns the room for records that are put without a check, through put buffers or a drain. All of them may be for one
    /// shard, so it is at most what one shard may have as backlog. There is none while a shard has a long backlog, since
    /// each put is then checked against `max_shard_backlog`, and none after a close.
    pub fn buffer_room(&self) -> Room {
        if self.context.long_backlogs > 0 || self.context.closing {
            return Room::default();
        }
        let Room { records, bytes } = self.context.room();
        Room { records: records.min(self.context.records_per_backlog), bytes }
    }

    /// Returns how many of these records, from the first one on, may be [added to a drain](BufferDrain::add): those that
    /// are sure to be accepted, so that they need no check of their own. All records are of the same stream. Put the
    /// buffered records before this.
    pub fn fitting<'a>(&self, records: impl IntoIterator<Item = &'a CheckedRecord>) -> usize {
        let mut room = self.buffer_room();
        let mut records = records.into_iter().peekable();
        let Some(first) = records.peek() else { return 0 };
        let stream = self.streams.find(first.stream()).map(|index| self.streams.get(index));
        // Of an unknown stream, the config's limit is known.
        let limit = stream.map_or(self.context.config.max_record_size().unwrap_or(0), Stream::max_record_size);
        let fits = |record: &&CheckedRecord| {
            let size = record.size();
            let fits = room.records > 0 && size <= room.bytes && size <= limit;
            room = room.without(1, size);
            fits
        };
        records.take_while(fits).count()
    }

    fn admit(&mut self, now: Instant, put_at: Instant, index: u32, record: PreparedRecord, ticket: T) {
        let size = record.size();
        let (stream, context) = (self.streams.get_mut(index), &mut self.context);
        let max_wait = context.config.record_max_buffered_time();
        // Deadlines are in the order of the puts, so that no aggregate overtakes an earlier one.
        let put_at = if self.latest_put <= put_at + CLOCK_SKEW_MAX { self.latest_put.max(put_at) } else { put_at };
        self.latest_put = put_at;
        context.stats.user_records_put += 1;
        self.bytes_put += size as u64;
        self.lingering_check.note_accepted();
        let generation = context.outstanding.admit(put_at, size);
        let user = Pending { entry: record.entry, ticket, put_at, generation, failed: FailedAttempts::default() };
        let deadline = put_at + max_wait;
        if let Some(metrics) = stream.metrics() {
            metrics.received(now);
            self.reporter.observed(now);
        }
        if stream.accept(now, user, deadline, context) == FollowUp::Send {
            self.send(now, index);
        }
    }

    /// Handles everything that is due at `now`. A call before [`next_tick`](Self::next_tick) is allowed and has no
    /// effect.
    pub fn tick(&mut self, now: Instant) {
        let mut retired = 0;
        while let Some(index) = self.timers.pop_due(now) {
            // The timer of a retired stream may still be armed.
            if !self.streams.contains(index) {
                continue;
            }
            self.advance(now, index);
            if self.streams.get(index).idle_at() <= now {
                self.retire(now, index, &mut retired);
            }
        }
        if self.close_at.is_some_and(|close_at| close_at <= now) && !self.context.abandoned {
            self.abandon(now);
        }
        self.finish(now);
    }

    /// Handles the reply to a [`Batch`], or its error. Call this for every batch, also after a close.
    ///
    /// # Panics
    ///
    /// Panics, or makes the state of the producer invalid, if the batch is from another producer.
    pub fn handle_reply(&mut self, now: Instant, batch: Batch<T>, reply: Reply) {
        let Batch { stream_index, records, started, .. } = batch;
        self.context.slots.free_of_records();
        let stream = self.streams.get_mut(stream_index);
        stream.handle_reply(now, started, records, reply, &mut self.context);
        self.reporter.observed(now);
        self.advance(now, stream_index);
        self.serve_waiting(now);
        self.finish(now);
    }

    /// Handles a page of the stream's shards, or the error of the request.
    pub fn handle_shards(&mut self, now: Instant, request: &ListShardsRequest, reply: Result<ShardPage, RequestError>) {
        if let Some(index) = self.streams.find(&request.stream) {
            self.streams.get_mut(index).on_shards(now, reply, &mut self.context);
            self.advance(now, index);
            self.serve_waiting(now);
        }
        self.finish(now);
    }

    /// Handles the stream's summary, or the error of the request.
    pub fn handle_stream_summary(
        &mut self,
        now: Instant,
        request: &DescribeStreamRequest,
        reply: Result<StreamSummary, RequestError>,
    ) {
        if let Some(index) = self.streams.find(&request.stream) {
            self.streams.get_mut(index).on_description(now, reply, &mut self.context);
            self.advance(now, index);
            self.serve_waiting(now);
        }
        self.finish(now);
    }

    /// Sends all records put so far, without waiting for more. [`Action::FlushDone`] follows when all of them are
    /// resolved, independent of later records; at once if there are none. Allowed after a close.
    pub fn flush(&mut self, now: Instant) -> FlushId {
        let flush = self.context.outstanding.flush();
        self.flush_streams(now);
        self.finish(now);
        flush
    }

    /// Accepts no more records, and sends all records put so far. Records that are not resolved at `deadline` fail as
    /// `Closed`; with [`Instant::NEVER`], there is no deadline. If called again, the earliest deadline applies.
    ///
    /// After this, [`put`](Self::put) returns [`PutError::Closed`]. Continue the run loop until
    /// [`is_drained`](Self::is_drained) returns true and there are no more actions.
    pub fn close(&mut self, now: Instant, deadline: Instant) {
        self.close_at = Some(self.close_at.map_or(deadline, |earlier| earlier.min(deadline)));
        if !self.context.closing {
            self.context.closing = true;
            self.flush_streams(now);
        }
        self.tick(now);
    }

    /// Returns the next action to carry out.
    pub fn poll_action(&mut self) -> Option<Action<T>> {
        self.context.actions.pop_front()
    }

    /// Returns when to call [`tick`](Self::tick) next; `None` if nothing is scheduled. After a tick, this time is in
    /// the future.
    pub fn next_tick(&self) -> Option<Instant> {
        if self.is_drained() {
            return None;
        }
        let close_at = self.close_at.filter(|_| !self.context.abandoned).unwrap_or(Instant::NEVER);
        Some(self.timers.next().min(close_at).min(self.reporter.due())).filter(|at| *at != Instant::NEVER)
    }

    /// Whether [`poll_action`](Self::poll_action) returns an action.
    pub fn has_actions(&self) -> bool {
        !self.context.actions.is_empty()
    }

    /// Whether the producer is closed and every record is resolved.
    pub fn is_drained(&self) -> bool {
        self.context.closing && self.context.outstanding.records() == 0
    }

    /// Returns the number of user records accepted and not yet resolved.
    pub fn outstanding_records(&self) -> usize {
        self.context.outstanding.records()
    }

    /// Returns the number of bytes (data and keys) accepted and not yet resolved.
    pub fn outstanding_bytes(&self) -> usize {
        self.context.outstanding.bytes()
    }

    /// Returns when the oldest outstanding record was put, at most 10 ms too early and never too late.
    pub fn oldest_put(&self) -> Option<Instant> {
        self.context.outstanding.oldest()
    }

    /// Returns the shard of a hash key, if it is known and the stream does not ignore keys.
    pub fn shard(&self, stream: &str, hash_key: u128) -> Option<&Arc<str>> {
        self.streams.get(self.streams.find(stream)?).shard(hash_key)
    }

    /// Returns the shard that [`Full::Shard`] has for this record; `None` if the stream has no state: before its first
    /// put, or after it is retired.
    pub fn shard_name(&self, record: &PreparedRecord) -> Option<ShardName> {
        Some(self.streams.get(self.streams.find(&record.stream)?).shard_name(record.entry.hash_key()))
    }

    /// Refuses a record as if its shard were full. [`Action::RoomFreed`] follows. If the producer is full, returns that
    /// error instead.
    ///
    /// A driver calls this instead of [`put`](Self::put) while earlier records wait for the shard, so that the record
    /// does not overtake them when the shard has room again.
    pub fn refuse(&mut self, now: Instant, record: PreparedRecord, ticket: T) -> PutError<T> {
        let full = self.full(record.size()).unwrap_or_else(|| {
            let index = self.stream_index(now, &record.stream);
            self.streams.get_mut(index).refuse(now, record.entry.hash_key(), &self.context.config)
        });
        PutError::Full { full, record, ticket }
    }

    /// Returns [`Full::Producer`] if the producer has no room for a record of `size` bytes.
    fn full(&self, size: usize) -> Option<Full> {
        let Context { outstanding, config, .. } = &self.context;
        let full = || Full::Producer { records: outstanding.records(), bytes: outstanding.bytes() };
        (!outstanding.has_room(size, config)).then(full)
    }

    /// Returns the counters since the creation of the producer.
    pub fn stats(&self) -> Stats {
        self.context.stats
    }

    /// Returns the observations in `window`, to be summed up outside any lock. Empty with `metrics_level` none.
    pub fn metrics(&mut self, now: Instant, window: MetricsWindow) -> MetricsSnapshot {
        let start = match window {
            MetricsWindow::Total => None,
            MetricsWindow::Seconds(seconds) => {
                Some(Instant::from_nanos(now.as_nanos().saturating_sub(Duration::from_secs(seconds).as_nanos() as u64)))
            }
        };
        let mut snapshot = MetricsSnapshot::new(start, now, self.context.config.metrics_granularity());
        self.streams.read_metrics(now, window, &mut snapshot);
        snapshot
    }

    /// Returns the number of streams that use memory: those with a put in the last five minutes or outstanding records.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Returns the number of PutRecords requests in flight.
    pub fn requests_in_flight(&self) -> usize {
        self.context.slots.put_records()
    }

    /// Returns the settings.
    pub fn config(&self) -> &Config {
        &self.context.config
    }

    fn stream_index(&mut self, now: Instant, name: &Arc<str>) -> u32 {
        let (index, is_new) = self.streams.find_or_create(now, name, &mut self.context);
        if is_new {
            // Also arms the timer that retires the stream, in case no record is accepted.
            self.advance(now, index);
        }
        index
    }

    /// Frees an idle stream, unless many others were freed in this tick.
    fn retire(&mut self, now: Instant, index: u32, retired: &mut usize) {
        if *retired < RETIRED_PER_TURN_MAX {
            self.streams.retire(index);
            *retired += 1;
        } else {
            self.timers.arm(index, now + RELEASE_INTERVAL);
        }
    }

    /// Handles what is due in a stream, and sends its requests.
    fn advance(&mut self, now: Instant, index: u32) {
        self.streams.get_mut(index).handle_timeout(now, &mut self.context);
        self.send(now, index);
    }

    /// Sends a stream's requests, as far as `max_in_flight_requests` allows, and arms its timer.
    fn send(&mut self, now: Instant, index: u32) {
        let stream = self.streams.get_mut(index);
        if !*stream.awaits_request() {
            while self.context.slots.has_free_for_records() && Self::send_one(now, index, stream, &mut self.context) {}
            if stream.has_request(now, &self.context) {
                *stream.awaits_request() = true;
                self.waiting_streams.push_back(index);
            }
        }
        // Otherwise, the stream's timer sends it.
        let has_to_wait = !self.context.slots.has_free_for_metadata() || self.context.abandoned;
        if has_to_wait && stream.has_refresh(now) && !*stream.awaits_refresh() {
            *stream.awaits_refresh() = true;
            self.waiting_refreshes.push_back(index);
        }
        stream.report_backlog(now, &mut self.context);
        self.timers.arm(index, stream.next_timeout());
    }

    /// Sends requests of the streams that wait, as far as `max_in_flight_requests` allows: metadata requests and records
    /// in turn, and the streams in turn.
    fn serve_waiting(&mut self, now: Instant) {
        while match self.is_refresh_next {
            true => self.serve_refresh(now) || self.serve_stream(now),
            false => self.serve_stream(now) || self.serve_refresh(now),
        } {}
    }

    /// Sends the metadata requests of the first stream that waits for them. Returns false if none may be sent.
    fn serve_refresh(&mut self, now: Instant) -> bool {
        if !self.context.slots.has_free_for_metadata() || self.context.abandoned {
            return false;
        }
        let Some(index) = self.waiting_refreshes.pop_front() else { return false };
        self.is_refresh_next = false;
        // The stream may have been retired.
        if self.streams.contains(index) {
            *self.streams.get_mut(index).awaits_refresh() = false;
            self.advance(now, index);
        }
        true
    }

    /// Sends a request of the first stream whose records wait. Returns false if none may be sent.
    fn serve_stream(&mut self, now: Instant) -> bool {
        if !self.context.slots.has_free_for_records() {
            return false;
        }
        let Some(index) = self.waiting_streams.pop_front() else { return false };
        self.is_refresh_next = true;
        // The stream may have been retired: its records may have expired.
        if !self.streams.contains(index) {
            return true;
        }
        let stream = self.streams.get_mut(index);
        *stream.awaits_request() = false;
        Self::send_one(now, index, stream, &mut self.context);
        if !stream.has_request(now, &self.context) {
            stream.resume(now, &mut self.context);
        }
        if stream.has_request(now, &self.context) {
            *stream.awaits_request() = true;
            self.waiting_streams.push_back(index);
        }
        stream.report_backlog(now, &mut self.context);
        self.timers.arm(index, stream.next_timeout());
        true
    }

    fn send_one(now: Instant, index: u32, stream: &mut Stream<T>, context: &mut Context<T>) -> bool {
        let Some(records) = stream.take_request(now, context) else { return false };
        context.stats.requests += 1;
        context.slots.take_for_records();
        let batch = Batch { stream: stream.name().clone(), stream_index: index, records, started: now };
        context.actions.push_back(Action::SendBatch(batch));
        true
    }

    fn flush_streams(&mut self, now: Instant) {
        for index in self.streams.numbers() {
            self.streams.get_mut(index).flush(now, &mut self.context);
            self.advance(now, index);
        }
    }

    /// Fails all records that are not in flight and cancels the requests in flight, when the deadline of a close has
    /// passed.
    fn abandon(&mut self, now: Instant) {
        self.context.abandoned = true;
        self.waiting_streams.clear();
        for stream in self.streams.iter_mut() {
            stream.abandon(now, &mut self.context);
            *stream.awaits_request() = false;
            stream.report_backlog(now, &mut self.context);
        }
        if self.context.slots.put_records() > 0 {
            self.context.actions.push_back(Action::CancelRequests);
        }
    }

    /// Adds the actions for flushes that are complete and for metrics that are due, after an event.
    fn finish(&mut self, now: Instant) {
        self.send_lingering_after_event(now);
        while let Some(flush) = self.context.outstanding.pop_flushed() {
            self.context.actions.push_back(Action::FlushDone(flush));
        }
        self.reporter.failed(now, self.context.stats.user_records_failed);
        if let Some(start) = self.reporter.take_due(now, self.is_drained()) {
            let mut snapshot = MetricsSnapshot::new(Some(start), now, self.context.config.metrics_granularity());
            self.streams.report_metrics(now, &mut snapshot);
            self.context.actions.push_back(Action::ExportMetrics(Box::new(snapshot)));
        }
    }
}

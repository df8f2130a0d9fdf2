//! The state machine: events in, actions out.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::time::Duration;

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
use crate::record::user_record::{InvalidRecord, PreparedRecord};
use crate::reply::{Reply, RequestError, ShardPage, StreamSummary};
use crate::stats::Stats;
use crate::stream::{FollowUp, RELEASE_INTERVAL, Stream};
use crate::streams::Streams;
use crate::time::Instant;
use crate::time::timers::Timers;

/// A driver's threads may read the clock before they lock the producer, and lose their core in between. If more time than
/// this lies there, the clock was set.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(1);

/// Streams freed in one turn: more of them would keep the lock of a driver for long.
const RETIRED_PER_TURN_MAX: usize = 100;

/// A Kinesis producer without clock, socket, thread or randomness of its own.
///
/// `T` is the caller's ticket: what it wants back with the fate of its record. A record and its ticket travel together
/// by value; every accepted ticket comes back exactly once, in an [`Action::Resolve`], provided that every
/// [`Action::SendBatch`] is answered.
///
/// # The contract
///
/// - **Events** change the state: [`put`](Self::put), [`tick`](Self::tick), [`handle_reply`](Self::handle_reply),
///   [`handle_shards`](Self::handle_shards), [`handle_stream_summary`](Self::handle_stream_summary), [`flush`](Self::flush),
///   [`close`](Self::close). Each takes the time at which it is called: read the clock after whatever took long, such as a
///   blocking request. Time that goes backwards is harmless.
/// - **Actions** tell what is to be done: drain [`poll_action`](Self::poll_action) after any event. Their order is the
///   order of effects.
/// - **Time**: call [`tick`](Self::tick) at [`next_tick`](Self::next_tick), or a bit later, or at any time.
/// - **Getters**, such as [`outstanding_records`](Self::outstanding_records), change nothing.
///
/// The [crate's front page](crate) has a run loop.
#[derive(Debug)]
pub struct Producer<T> {
    context: Context<T>,
    streams: Streams<T>,
    /// The latest time of a put.
    latest_put: Instant,
    /// When which stream has something to do.
    timers: Timers,
    /// Streams that have a request and no leave to send it, in turn.
    waiting_streams: VecDeque<u32>,
    in_flight: usize,
    close_at: Option<Instant>,
    reporter: Reporter,
}

/// A record that [`Producer::put`] did not take, given back with its ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PutError<T> {
    /// The producer, or the record's shard, has no room for it. Put it again when a record was resolved, or when
    /// [`Action::RoomFreed`] names the shard.
    #[error("{full}")]
    Full {
        /// What is full.
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
    /// The record can never be put.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it.
        reason: InvalidRecord,
        /// The record.
        record: PreparedRecord,
        /// Its ticket.
        ticket: T,
    },
}

impl<T> Producer<T> {
    /// A producer at `now`, idle.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            reporter: Reporter::new(config.metrics_level(), config.metrics_upload_interval(), now),
            context: Context::new(config),
            streams: Streams::default(),
            latest_put: now,
            timers: Timers::default(),
            waiting_streams: VecDeque::new(),
            in_flight: 0,
            close_at: None,
        }
    }

    /// Takes a record. The stream's pipeline appears with its first record.
    ///
    /// # Errors
    ///
    /// [`PutError`] gives the record and the ticket back: the producer is full or closed, or the record is larger than
    /// the stream allows.
    #[expect(clippy::result_large_err, reason = "the record comes back as it was, without an allocation")]
    pub fn put(&mut self, now: Instant, record: PreparedRecord, ticket: T) -> Result<(), PutError<T>> {
        if self.context.closing {
            return Err(PutError::Closed { record, ticket });
        }
        let size = record.size();
        if let Some(full) = self.full(size) {
            return Err(PutError::Full { full, record, ticket });
        }
        let index = self.stream_index(now, &record.stream);
        let stream = self.streams.get_mut(index);
        let limit = stream.max_record_size();
        if size > limit {
            return Err(PutError::Invalid { reason: InvalidRecord::TooLarge { size, limit }, record, ticket });
        }
        let (room, config) = (self.context.room(), &self.context.config);
        if self.context.slow_shards > 0
            && let Some(full) = stream.full(now, record.entry.hash_key(), room, config)
        {
            return Err(PutError::Full { full, record, ticket });
        }
        self.admit(now, now, index, record, ticket);
        Ok(())
    }

    /// Puts the next record of a drain. Returns false if there is none.
    ///
    /// Its caller was told that it is accepted, so it is never refused; a record that is larger than its stream allows
    /// fails. Call this before [`close`](Self::close).
    pub fn put_drained(&mut self, now: Instant, drain: &mut BufferDrain<T>, keys: &mut HashKeyCache) -> bool {
        let Some((put_at, record, ticket)) = drain.pop(keys) else { return false };
        let index = self.stream_index(now, &record.stream);
        self.admit(now, put_at, index, record, ticket);
        true
    }

    /// How many more records and bytes the producer accepts before it is full.
    pub fn room(&self) -> Room {
        self.context.room()
    }

    /// The room for records in put buffers. There is none while a shard has a long backlog, so that each put is checked
    /// against `max_shard_backlog`.
    pub fn buffer_room(&self) -> Room {
        if self.context.slow_shards > 0 { Room::default() } else { self.context.room() }
    }

    fn admit(&mut self, now: Instant, put_at: Instant, index: u32, record: PreparedRecord, ticket: T) {
        let size = record.size();
        let (stream, context) = (self.streams.get_mut(index), &mut self.context);
        let max_wait = context.config.record_max_buffered_time();
        // Deadlines are in the order of the puts, lest an aggregate overtakes the one before it.
        let put_at = if self.latest_put <= put_at + CLOCK_SKEW_MAX { self.latest_put.max(put_at) } else { put_at };
        self.latest_put = put_at;
        context.stats.user_records_put += 1;
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

    /// Time has passed: does what is due. Ticks at other times than [`next_tick`](Self::next_tick) are harmless.
    pub fn tick(&mut self, now: Instant) {
        let mut retired = 0;
        while let Some(index) = self.timers.pop_due(now) {
            // A timer may be left of a stream that is retired.
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

    /// What became of a [`Batch`].
    pub fn handle_reply(&mut self, now: Instant, batch: Batch<T>, reply: Reply) {
        let Batch { stream_index, records, started, .. } = batch;
        self.in_flight -= 1;
        let stream = self.streams.get_mut(stream_index);
        stream.handle_reply(now, started, records, reply, &mut self.context);
        self.reporter.observed(now);
        self.advance(now, stream_index);
        self.serve_waiting_streams(now);
        self.finish(now);
    }

    /// A page of the stream's shards, or why there is none.
    pub fn handle_shards(&mut self, now: Instant, request: &ListShardsRequest, reply: Result<ShardPage, RequestError>) {
        if let Some(index) = self.streams.find(&request.stream) {
            self.streams.get_mut(index).on_shards(now, reply, &mut self.context);
            self.advance(now, index);
        }
        self.finish(now);
    }

    /// The stream's summary, or why there is none.
    pub fn handle_stream_summary(
        &mut self,
        now: Instant,
        request: &DescribeStreamRequest,
        reply: Result<StreamSummary, RequestError>,
    ) {
        if let Some(index) = self.streams.find(&request.stream) {
            self.streams.get_mut(index).on_description(now, reply, &mut self.context);
            self.advance(now, index);
        }
        self.finish(now);
    }

    /// Sends without waiting for more what has been put so far. [`Action::FlushDone`] tells when every record put
    /// before this call is resolved, whatever was put after it.
    pub fn flush(&mut self, now: Instant) -> FlushId {
        let flush = self.context.outstanding.flush();
        self.flush_streams(now);
        self.finish(now);
        flush
    }

    /// Takes no more records, and sends what there is without waiting for more. Whatever is not resolved at `deadline`
    /// fails as `Closed`; [`Instant::NEVER`] waits for as long as it takes. Called again, the earlier deadline counts.
    pub fn close(&mut self, now: Instant, deadline: Instant) {
        self.close_at = Some(self.close_at.map_or(deadline, |earlier| earlier.min(deadline)));
        if !self.context.closing {
            self.context.closing = true;
            self.flush_streams(now);
        }
        self.tick(now);
    }

    /// The next effect to carry out.
    pub fn poll_action(&mut self) -> Option<Action<T>> {
        self.context.actions.pop_front()
    }

    /// When [`tick`](Self::tick) is to be called next; `None` if nothing is to come. After a tick it lies in the
    /// future.
    pub fn next_tick(&self) -> Option<Instant> {
        if self.is_drained() {
            return None;
        }
        let close_at = self.close_at.filter(|_| !self.context.abandoned).unwrap_or(Instant::NEVER);
        Some(self.timers.next().min(close_at).min(self.reporter.due())).filter(|at| *at != Instant::NEVER)
    }

    /// Whether actions wait to be polled.
    pub fn has_actions(&self) -> bool {
        !self.context.actions.is_empty()
    }

    /// Whether the producer is closed and every record is resolved.
    pub fn is_drained(&self) -> bool {
        self.context.closing && self.context.outstanding.records() == 0
    }

    /// User records accepted and not yet resolved.
    pub fn outstanding_records(&self) -> usize {
        self.context.outstanding.records()
    }

    /// Bytes (data and keys) accepted and not yet resolved.
    pub fn outstanding_bytes(&self) -> usize {
        self.context.outstanding.bytes()
    }

    /// When the oldest outstanding record was put: at most 10 ms too early, never too late.
    pub fn oldest_put(&self) -> Option<Instant> {
        self.context.outstanding.oldest()
    }

    /// The shard of a stream that takes a hash key, if that is known and means anything there.
    pub fn shard(&self, stream: &str, hash_key: u128) -> Option<&Arc<str>> {
        self.streams.get(self.streams.find(stream)?).shard(hash_key)
    }

    /// Returns the shard that a record is for, as [`Full::Shard`] names it; `None` if the stream was not put to yet.
    pub fn shard_name(&self, record: &PreparedRecord) -> Option<ShardName> {
        Some(self.streams.get(self.streams.find(&record.stream)?).shard_name(record.entry.hash_key()))
    }

    /// Refuses to put a record, as if its shard were full: for a driver in which other records wait for that shard.
    /// [`Action::RoomFreed`] follows. If the producer is full, the error says that.
    pub fn refuse(&mut self, now: Instant, record: PreparedRecord, ticket: T) -> PutError<T> {
        let full = self.full(record.size()).unwrap_or_else(|| {
            let index = self.stream_index(now, &record.stream);
            self.streams.get_mut(index).refuse(now, record.entry.hash_key(), &self.context.config)
        });
        PutError::Full { full, record, ticket }
    }

    /// Returns that the producer is full, if it has no room for a record of `size` bytes.
    fn full(&self, size: usize) -> Option<Full> {
        let Context { outstanding, config, .. } = &self.context;
        let full = || Full::Producer { records: outstanding.records(), bytes: outstanding.bytes() };
        (!outstanding.has_room(size, config)).then(full)
    }

    /// Counts since the producer was made.
    pub fn stats(&self) -> Stats {
        self.context.stats
    }

    /// What has been measured, to be rolled up outside any lock. Empty with `metrics_level` none.
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

    /// The number of streams that take memory: those that were put to in the last five minutes, or have records outstanding.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// PutRecords requests under way.
    pub fn requests_in_flight(&self) -> usize {
        self.in_flight
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.context.config
    }

    fn stream_index(&mut self, now: Instant, name: &Arc<str>) -> u32 {
        let (index, is_new) = self.streams.find_or_create(now, name, &mut self.context);
        if is_new {
            self.streams.get_mut(index).handle_timeout(now, &mut self.context);
        }
        index
    }

    /// Frees a stream that is idle for long, unless many others were freed in this turn.
    fn retire(&mut self, now: Instant, index: u32, retired: &mut usize) {
        if *retired < RETIRED_PER_TURN_MAX {
            self.streams.retire(index);
            *retired += 1;
        } else {
            self.timers.arm(index, now + RELEASE_INTERVAL);
        }
    }

    /// Lets a stream do what is due and send what it may.
    fn advance(&mut self, now: Instant, index: u32) {
        self.streams.get_mut(index).handle_timeout(now, &mut self.context);
        self.send(now, index);
    }

    /// Sends a stream's requests, as far as the cap on requests under way allows, and sets its alarm.
    fn send(&mut self, now: Instant, index: u32) {
        let stream = self.streams.get_mut(index);
        if !*stream.awaits_request() {
            while self.in_flight < self.context.config.max_in_flight_requests()
                && Self::send_one(now, index, stream, &mut self.context)
            {
                self.in_flight += 1;
            }
            if stream.has_request(now, &self.context) {
                *stream.awaits_request() = true;
                self.waiting_streams.push_back(index);
            }
        }
        stream.report_backlog(now, &mut self.context);
        self.timers.arm(index, stream.next_timeout());
    }

    /// Gives streams in line a request each, in turn.
    fn serve_waiting_streams(&mut self, now: Instant) {
        while self.in_flight < self.context.config.max_in_flight_requests()
            && let Some(index) = self.waiting_streams.pop_front()
        {
            let stream = self.streams.get_mut(index);
            *stream.awaits_request() = false;
            if Self::send_one(now, index, stream, &mut self.context) {
                self.in_flight += 1;
            }
            if !stream.has_request(now, &self.context) {
                stream.resume(now, &mut self.context);
            }
            if stream.has_request(now, &self.context) {
                *stream.awaits_request() = true;
                self.waiting_streams.push_back(index);
            }
            stream.report_backlog(now, &mut self.context);
            self.timers.arm(index, stream.next_timeout());
        }
    }

    fn send_one(now: Instant, index: u32, stream: &mut Stream<T>, context: &mut Context<T>) -> bool {
        let Some(records) = stream.take_request(now, context) else { return false };
        context.stats.requests += 1;
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

    /// The deadline of a close has passed: nothing waits any more, and what is under way is called back.
    fn abandon(&mut self, now: Instant) {
        self.context.abandoned = true;
        self.waiting_streams.clear();
        for stream in self.streams.iter_mut() {
            stream.abandon(now, &mut self.context);
            *stream.awaits_request() = false;
            stream.report_backlog(now, &mut self.context);
        }
        if self.in_flight > 0 {
            self.context.actions.push_back(Action::CancelRequests);
        }
    }

    /// Tells what an event has brought to its end: flushes, and the time for a report.
    fn finish(&mut self, now: Instant) {
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

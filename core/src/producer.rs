//! The state machine: events in, actions out.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use hashbrown::HashMap;

use crate::action::{Action, DescribeRequest, ListShardsRequest};
use crate::aggregator::Change;
use crate::common::{Common, Stats};
use crate::config::Config;
use crate::kinesis_record::{Batch, Pending};
use crate::metrics::{MetricsWindow, Observations, Reporter};
use crate::outcome::FailedAttempts;
use crate::outstanding::FlushId;
use crate::record::{InvalidRecord, PreparedRecord};
use crate::reply::{Reply, RequestError, ShardPage, StreamSummary};
use crate::retrier;
use crate::stream::Stream;
use crate::time::Instant;
use crate::wakes::Wakes;

/// A driver's threads may read the clock before they lock the producer, and lose their core in between. If more time than
/// this lies there, the clock was set.
const OVERTAKING: Duration = Duration::from_secs(1);

/// A Kinesis producer without clock, socket, thread or randomness of its own.
///
/// `T` is the caller's ticket: what it wants back with the fate of its record. A record and its ticket travel together
/// by value; every accepted ticket comes back exactly once, in an [`Action::Resolve`], provided that every
/// [`Action::SendBatch`] is answered.
///
/// # The contract
///
/// - **Events** change the state: [`put`](Self::put), [`tick`](Self::tick), [`respond`](Self::respond),
///   [`respond_shards`](Self::respond_shards), [`respond_stream`](Self::respond_stream), [`flush`](Self::flush),
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
    common: Common<T>,
    streams: Vec<Stream<T>>,
    by_name: HashMap<Arc<str>, u32>,
    /// The stream of the last put.
    last_put: u32,
    /// The latest time of a put.
    latest_put: Instant,
    /// When which stream has something to do.
    wakes: Wakes,
    /// Streams that have a request and no leave to send it, in turn.
    line: VecDeque<u32>,
    in_flight: usize,
    close_at: Option<Instant>,
    reporter: Reporter,
}

/// A record that [`Producer::put`] did not take, given back with its ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PutError<T> {
    /// As many records or bytes are outstanding as the config allows. Put it again when something was resolved.
    #[error("the producer is full: {records} records and {bytes} bytes are outstanding")]
    Full {
        /// The record.
        record: PreparedRecord,
        /// Its ticket.
        ticket: T,
        /// Records outstanding.
        records: usize,
        /// Bytes outstanding.
        bytes: usize,
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
            reporter: Reporter::new(&config, now),
            common: Common::new(config),
            streams: Vec::new(),
            by_name: HashMap::new(),
            last_put: 0,
            latest_put: now,
            wakes: Wakes::default(),
            line: VecDeque::new(),
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
    pub fn put(&mut self, now: Instant, record: PreparedRecord, ticket: T) -> Result<(), PutError<T>> {
        if self.common.closing {
            return Err(PutError::Closed { record, ticket });
        }
        let size = record.size();
        let Common { outstanding, config, .. } = &self.common;
        if !outstanding.has_room(size, config) {
            let (records, bytes) = (outstanding.records(), outstanding.bytes());
            return Err(PutError::Full { record, ticket, records, bytes });
        }
        let index = self.stream_index(now, &record.stream);
        let limit = self.streams[index as usize].max_record_size();
        if size > limit {
            return Err(PutError::Invalid { reason: InvalidRecord::TooLarge { size, limit }, record, ticket });
        }
        self.admit(now, now, index, record, ticket);
        Ok(())
    }

    /// Takes a record that was put at `put_at`, whose caller has been told then that it is taken: it is never refused. One
    /// that is larger than its stream allows fails.
    ///
    /// For drivers that gather records before they put them. They see to it that there is room, that records come in the
    /// order of their puts, and that none comes after [`close`](Self::close).
    pub fn put_taken(&mut self, now: Instant, put_at: Instant, record: PreparedRecord, ticket: T) {
        let index = self.stream_index(now, &record.stream);
        self.admit(now, put_at, index, record, ticket);
    }

    fn admit(&mut self, now: Instant, put_at: Instant, index: u32, record: PreparedRecord, ticket: T) {
        let size = record.size();
        let (stream, common) = (&mut self.streams[index as usize], &mut self.common);
        let patience = common.config.record_max_buffered_time();
        // Deadlines are in the order of the puts, lest an aggregate overtakes the one before it.
        let put_at = if self.latest_put <= put_at + OVERTAKING { self.latest_put.max(put_at) } else { put_at };
        self.latest_put = put_at;
        common.stats.user_records_put += 1;
        let generation = common.outstanding.admit(put_at, size);
        let user = Pending { entry: record.entry, ticket, put_at, generation, failed: FailedAttempts::default() };
        let deadline = put_at + patience;
        if let Some(metrics) = stream.metrics() {
            metrics.received(now);
            self.reporter.observed(now);
        }
        if stream.accept(now, user, deadline, common) == Change::Any {
            self.send(now, index);
        }
    }

    /// Time has passed: does what is due. Ticks at other times than [`next_tick`](Self::next_tick) are harmless.
    pub fn tick(&mut self, now: Instant) {
        while let Some(index) = self.wakes.pop_due(now) {
            self.work(now, index);
        }
        if self.close_at.is_some_and(|close_at| close_at <= now) && !self.common.abandoned {
            self.abandon(now);
        }
        self.finish(now);
    }

    /// What became of a [`Batch`].
    pub fn respond(&mut self, now: Instant, batch: Batch<T>, reply: Reply) {
        let Batch { stream_index, records, started, .. } = batch;
        self.in_flight -= 1;
        let judgement = retrier::judge(reply, records.len(), self.common.config.fail_if_throttled());
        let stream = &mut self.streams[stream_index as usize];
        stream.on_reply(now, started, records, judgement, &mut self.common);
        self.reporter.observed(now);
        self.work(now, stream_index);
        self.serve_line(now);
        self.finish(now);
    }

    /// A page of the stream's shards, or why there is none.
    pub fn respond_shards(
        &mut self,
        now: Instant,
        request: &ListShardsRequest,
        reply: Result<ShardPage, RequestError>,
    ) {
        if let Some(&index) = self.by_name.get(&request.stream) {
            self.streams[index as usize].on_shards(now, reply, &mut self.common);
            self.work(now, index);
        }
        self.finish(now);
    }

    /// The stream's summary, or why there is none.
    pub fn respond_stream(
        &mut self,
        now: Instant,
        request: &DescribeRequest,
        reply: Result<StreamSummary, RequestError>,
    ) {
        if let Some(&index) = self.by_name.get(&request.stream) {
            self.streams[index as usize].on_description(now, reply, &mut self.common);
            self.work(now, index);
        }
        self.finish(now);
    }

    /// Sends without waiting for more what has been put so far. [`Action::FlushDone`] tells when every record put
    /// before this call is resolved, whatever was put after it.
    pub fn flush(&mut self, now: Instant) -> FlushId {
        let flush = self.common.outstanding.flush();
        self.flush_streams(now);
        self.finish(now);
        flush
    }

    /// Takes no more records, and sends what there is without waiting for more. Whatever is not resolved at `deadline`
    /// fails as `Closed`; [`Instant::NEVER`] waits for as long as it takes. Called again, the earlier deadline counts.
    pub fn close(&mut self, now: Instant, deadline: Instant) {
        self.close_at = Some(self.close_at.map_or(deadline, |earlier| earlier.min(deadline)));
        if !self.common.closing {
            self.common.closing = true;
            self.flush_streams(now);
        }
        self.tick(now);
    }

    /// The next effect to carry out.
    pub fn poll_action(&mut self) -> Option<Action<T>> {
        self.common.actions.pop_front()
    }

    /// When [`tick`](Self::tick) is to be called next; `None` if nothing is to come. After a tick it lies in the
    /// future.
    pub fn next_tick(&self) -> Option<Instant> {
        if self.is_drained() {
            return None;
        }
        let close_at = self.close_at.filter(|_| !self.common.abandoned).unwrap_or(Instant::NEVER);
        Some(self.wakes.next().min(close_at).min(self.reporter.due())).filter(|at| *at != Instant::NEVER)
    }

    /// Whether actions wait to be polled.
    pub fn has_actions(&self) -> bool {
        !self.common.actions.is_empty()
    }

    /// Whether the producer is closed and every record is resolved.
    pub fn is_drained(&self) -> bool {
        self.common.closing && self.common.outstanding.records() == 0
    }

    /// User records accepted and not yet resolved.
    pub fn outstanding_records(&self) -> usize {
        self.common.outstanding.records()
    }

    /// Bytes (data and keys) accepted and not yet resolved.
    pub fn outstanding_bytes(&self) -> usize {
        self.common.outstanding.bytes()
    }

    /// When the oldest outstanding record was put: at most 10 ms too early, never too late.
    pub fn oldest_put(&self) -> Option<Instant> {
        self.common.outstanding.oldest()
    }

    /// The shard of a stream that takes a hash key, if that is known and means anything there.
    pub fn shard(&self, stream: &str, hash_key: u128) -> Option<&Arc<str>> {
        let index = *self.by_name.get(stream)?;
        self.streams[index as usize].shard(hash_key)
    }

    /// Counts since the producer was made.
    pub fn stats(&self) -> Stats {
        self.common.stats
    }

    /// What has been measured, to be rolled up outside any lock. Empty with `metrics_level` none.
    pub fn metrics(&mut self, now: Instant, window: MetricsWindow) -> Observations {
        let start = match window {
            MetricsWindow::Total => None,
            MetricsWindow::Seconds(seconds) => {
                Some(Instant::from_nanos(now.as_nanos().saturating_sub(Duration::from_secs(seconds).as_nanos() as u64)))
            }
        };
        let mut observations = Observations::new(start, now, self.common.config.metrics_granularity());
        for stream in &mut self.streams {
            stream.look_at_metrics(now, &mut observations, window);
        }
        observations
    }

    /// PutRecords requests under way.
    pub fn requests_in_flight(&self) -> usize {
        self.in_flight
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.common.config
    }

    fn stream_index(&mut self, now: Instant, name: &Arc<str>) -> u32 {
        // Mostly it is the stream of the put before.
        if self.streams.get(self.last_put as usize).is_some_and(|stream| stream.name() == name) {
            return self.last_put;
        }
        if let Some(&index) = self.by_name.get(name) {
            self.last_put = index;
            return index;
        }
        let index = self.streams.len() as u32;
        self.streams.push(Stream::new(now, name.clone(), &mut self.common));
        self.by_name.insert(name.clone(), index);
        self.streams[index as usize].on_time(now, &mut self.common);
        index
    }

    /// Lets a stream do what is due and send what it may.
    fn work(&mut self, now: Instant, index: u32) {
        self.streams[index as usize].on_time(now, &mut self.common);
        self.send(now, index);
    }

    /// Sends a stream's requests, as far as the cap on requests under way allows, and sets its alarm.
    fn send(&mut self, now: Instant, index: u32) {
        let stream = &mut self.streams[index as usize];
        if !*stream.awaits_request() {
            while self.in_flight < self.common.config.max_in_flight_requests()
                && Self::send_one(now, index, stream, &mut self.common)
            {
                self.in_flight += 1;
            }
            if stream.has_request(now, &self.common) {
                *stream.awaits_request() = true;
                self.line.push_back(index);
            }
        }
        self.wakes.arm(index, stream.next_event());
    }

    /// Gives streams in line a request each, in turn.
    fn serve_line(&mut self, now: Instant) {
        while self.in_flight < self.common.config.max_in_flight_requests()
            && let Some(index) = self.line.pop_front()
        {
            let stream = &mut self.streams[index as usize];
            *stream.awaits_request() = false;
            if Self::send_one(now, index, stream, &mut self.common) {
                self.in_flight += 1;
            }
            if !stream.has_request(now, &self.common) {
                stream.resume(now, &mut self.common);
            }
            if stream.has_request(now, &self.common) {
                *stream.awaits_request() = true;
                self.line.push_back(index);
            }
            self.wakes.arm(index, stream.next_event());
        }
    }

    fn send_one(now: Instant, index: u32, stream: &mut Stream<T>, common: &mut Common<T>) -> bool {
        let Some(records) = stream.take_request(now, common) else { return false };
        common.stats.requests += 1;
        let batch = Batch { stream: stream.name().clone(), stream_index: index, records, started: now };
        common.actions.push_back(Action::SendBatch(batch));
        true
    }

    fn flush_streams(&mut self, now: Instant) {
        for index in 0..self.streams.len() as u32 {
            self.streams[index as usize].flush(now, &mut self.common);
            self.work(now, index);
        }
    }

    /// The deadline of a close has passed: nothing waits any more, and what is under way is called back.
    fn abandon(&mut self, now: Instant) {
        self.common.abandoned = true;
        self.line.clear();
        for stream in &mut self.streams {
            stream.abandon(now, &mut self.common);
            *stream.awaits_request() = false;
        }
        if self.in_flight > 0 {
            self.common.actions.push_back(Action::CancelRequests);
        }
    }

    /// Tells what an event has brought to its end: flushes, and the time for a report.
    fn finish(&mut self, now: Instant) {
        while let Some(flush) = self.common.outstanding.pop_flushed() {
            self.common.actions.push_back(Action::FlushDone(flush));
        }
        self.reporter.failed(now, self.common.stats.user_records_failed);
        if let Some(start) = self.reporter.take_due(now, self.is_drained()) {
            let mut observations = Observations::new(Some(start), now, self.common.config.metrics_granularity());
            for stream in &mut self.streams {
                stream.report_metrics(now, &mut observations);
            }
            self.common.actions.push_back(Action::ExportMetrics(Box::new(observations)));
        }
    }
}

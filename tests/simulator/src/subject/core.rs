//! The level `core`: the state machine without a driver.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kpl_core::metrics::{Metric, MetricsLevel, MetricsWindow};
use kpl_core::{
    Action, Batch, BufferDrain, Buffered, CheckedRecord, Config, Delivery, DescribeStreamRequest, FlushId, Full,
    HashKeyCache, Instant, ListShardsRequest, Producer, PutBuffer, PutError, Reply, RequestError, UserRecord,
};
use kpl_testing::wire;

use super::{Counts, Effect, End, Refusal, Response, Subject};

/// The maximum interval. In most worlds, the only report is the one at the end.
pub(crate) const METRICS_INTERVAL: Duration = Duration::from_secs(3_600);

/// The state machine of kpl-core.
#[derive(Debug)]
pub(crate) struct CoreSubject {
    now: Instant,
    core: Producer<u64>,
    /// Each takes every third put. The other puts go to the state machine directly.
    buffers: [PutBuffer<u64>; 2],
    drain: BufferDrain<u64>,
    keys: HashKeyCache,
    requests: BTreeMap<u64, Request>,
    requests_sent: u64,
    flushes: Vec<(FlushId, u64)>,
    closing: bool,
    /// The time of the next tick and drain.
    next_turn: Instant,
    /// Whether an event other than a put has changed the state machine since the last turn.
    is_turn_due: bool,
    effects: VecDeque<Effect>,
    /// The numbers of stored and of resolved user records in the metrics reports.
    reported: (f64, u64),
}

#[derive(Debug)]
enum Request {
    Put(Batch<u64>),
    List(ListShardsRequest),
    Describe(DescribeStreamRequest),
}

impl Subject for CoreSubject {
    fn advance(&mut self, now: Instant) {
        self.now = now;
        self.take_turn();
        if let Some(next) = self.core.next_tick()
            && next <= now
        {
            self.effects
                .push_back(Effect::Broken(format!("after a tick at {now:?}, the next tick is due at {next:?}")));
        }
    }

    fn put(&mut self, ticket: u64, record: UserRecord) {
        let record = match record.check() {
            Ok(record) => record,
            Err(error) => {
                return self.effects.push_back(Effect::Refused(ticket, Refusal::Invalid, *error.record));
            }
        };
        let buffered = match self.buffers.get_mut(ticket as usize % 3) {
            Some(buffer) => buffer.push(self.now, record, ticket),
            None => Err((record, ticket)),
        };
        let effect = match buffered {
            Ok(Buffered::Waiting) => Effect::Accepted(ticket),
            Ok(Buffered::DrainDue) => {
                self.drain();
                Effect::Accepted(ticket)
            }
            Err((record, ticket)) => {
                self.drain();
                self.put_directly(record, ticket)
            }
        };
        // As in the driver, a put may move the next turn to an earlier time. The buffers still expect the later one.
        self.next_turn = self.next_turn.min(self.core.next_tick().unwrap_or(Instant::NEVER));
        self.effects.push_back(effect);
    }

    fn put_batch(&mut self, records: Vec<(u64, UserRecord)>) {
        if records.is_empty() {
            return;
        }
        self.drain();
        let mut batch = VecDeque::new();
        for (ticket, record) in records {
            match record.check() {
                Ok(record) => batch.push_back((record, ticket)),
                Err(error) => self.effects.push_back(Effect::Refused(ticket, Refusal::Invalid, *error.record)),
            }
        }
        while !batch.is_empty() {
            let fitting = self.core.fitting(batch.iter().map(|(record, _)| record));
            let tickets: Vec<u64> = batch.iter().take(fitting).map(|(_, ticket)| *ticket).collect();
            let before = batch.len();
            self.drain.add(self.now, &mut batch, fitting);
            self.drain.hash_keys(&mut self.keys);
            while self.core.put_drained(self.now, &mut self.drain, &mut self.keys)
                && self.core.buffer_room().records > 0
            {}
            self.drain.take_back(&mut batch);
            self.effects.extend(tickets.into_iter().take(before - batch.len()).map(Effect::Accepted));
            if let Some((record, ticket)) = batch.pop_front() {
                let effect = self.put_directly(record, ticket);
                self.effects.push_back(effect);
            }
        }
        self.next_turn = self.next_turn.min(self.core.next_tick().unwrap_or(Instant::NEVER));
    }

    fn flush(&mut self, number: u64) {
        self.drain();
        let flush = self.core.flush(self.now);
        self.flushes.push((flush, number));
        self.is_turn_due = true;
    }

    fn end(&mut self, end: End) {
        let deadline = match end {
            End::Close(within) => self.now + within,
            End::Drop => Instant::NEVER,
            End::Runtime => self.now,
        };
        self.closing = true;
        self.buffers.iter_mut().for_each(PutBuffer::close);
        self.drain();
        // In a driver, another thread may put now. Its record must not get into a buffer that is not drained any more.
        for buffer in &mut self.buffers {
            let late = UserRecord::new("s0", "late", "").check();
            if late.is_ok_and(|late| buffer.push(self.now, late, u64::MAX).is_ok()) {
                self.effects.push_back(Effect::Broken("a closed put buffer accepts a record".into()));
            }
        }
        self.core.close(self.now, deadline);
        self.is_turn_due = true;
    }

    fn respond(&mut self, id: u64, response: Response) {
        self.is_turn_due = true;
        let lost = || RequestError::new(Delivery::Unanswered, "Task Ended", "the request's task ended");
        match (self.requests.remove(&id), response) {
            (Some(Request::Put(batch)), Response::Put(reply)) => self.core.handle_reply(self.now, batch, reply),
            (Some(Request::Put(batch)), _) => self.core.handle_reply(self.now, batch, Reply::Failed(lost())),
            (Some(Request::List(request)), Response::List(reply)) => {
                self.core.handle_shards(self.now, &request, reply);
            }
            (Some(Request::List(request)), _) => self.core.handle_shards(self.now, &request, Err(lost())),
            (Some(Request::Describe(request)), Response::Describe(reply)) => {
                self.core.handle_stream_summary(self.now, &request, reply);
            }
            (Some(Request::Describe(request)), _) => self.core.handle_stream_summary(self.now, &request, Err(lost())),
            (None, _) => {}
        }
    }

    fn settle(&mut self) {
        while self.is_turn_due || self.core.has_actions() {
            self.take_turn();
            self.carry_out_actions();
        }
        if self.closing && self.core.is_drained() {
            self.closing = false;
            if let Err(broken) = self.check_metrics() {
                self.effects.push_back(Effect::Broken(broken));
            }
            self.effects.push_back(Effect::Closed);
        }
    }

    fn effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn next_wake(&self) -> Instant {
        self.next_turn
    }

    fn counts(&self) -> Option<Counts> {
        let buffered: usize = self.buffers.iter().map(PutBuffer::records).sum();
        let mut stats = self.core.stats();
        stats.user_records_put += buffered as u64;
        Some(Counts {
            records: self.core.outstanding_records() + buffered,
            bytes: self.core.outstanding_bytes() + self.buffers.iter().map(PutBuffer::bytes).sum::<usize>(),
            in_flight: Some(self.core.requests_in_flight()),
            oldest: self.core.oldest_put().or(self.buffers.iter().filter_map(PutBuffer::oldest_put).min()),
            waiting: 0,
            streams: Some(self.core.streams()),
            stats,
        })
    }
}

impl CoreSubject {
    pub(super) fn new(config: Config, now: Instant) -> Self {
        let measured = config.to_builder().metrics_level(MetricsLevel::Detailed);
        let config = measured.metrics_upload_interval(METRICS_INTERVAL).build().unwrap_or(config);
        Self {
            buffers: [PutBuffer::new(&config), PutBuffer::new(&config)],
            drain: BufferDrain::new(2),
            keys: HashKeyCache::default(),
            next_turn: Instant::NEVER,
            is_turn_due: false,
            reported: (0.0, 0),
            now,
            core: Producer::new(config, now),
            requests: BTreeMap::new(),
            requests_sent: 0,
            flushes: Vec::new(),
            closing: false,
            effects: VecDeque::new(),
        }
    }

    /// Puts a record into the state machine. Returns whether it is accepted.
    fn put_directly(&mut self, record: CheckedRecord, ticket: u64) -> Effect {
        match self.core.put(self.now, record.prepare(&mut self.keys), ticket) {
            Ok(()) => Effect::Accepted(ticket),
            Err(PutError::Full { full: Full::Shard { .. }, record, ticket }) => {
                Effect::Refused(ticket, Refusal::ShardFull, record.into())
            }
            Err(PutError::Full { record, ticket, .. }) => Effect::Refused(ticket, Refusal::Full, record.into()),
            Err(PutError::Closed { record, ticket }) => Effect::Refused(ticket, Refusal::Closed, record.into()),
            Err(PutError::Invalid { record, ticket, .. }) => Effect::Refused(ticket, Refusal::TooLarge, record.into()),
            Err(error) => Effect::Broken(format!("an unknown error of a put: {error}")),
        }
    }

    /// Runs one turn of the drive loop.
    fn take_turn(&mut self) {
        self.is_turn_due = false;
        self.drain();
        self.core.tick(self.now);
        let next = self.core.next_tick().unwrap_or(Instant::NEVER);
        self.next_turn = self.buffers.iter_mut().map(|buffer| buffer.expect_drain(next)).fold(next, Instant::min);
    }

    /// Carries out the actions of the state machine.
    fn carry_out_actions(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::SendBatch(batch) => {
                    let (stream, records) = (batch.stream().clone(), wire::entries(&batch));
                    let id = self.register(Request::Put(batch));
                    self.effects.push_back(Effect::PutRecords { id, stream, records });
                }
                Action::ListShards(request) => {
                    let id = self.register(Request::List(request.clone()));
                    self.effects.push_back(Effect::ListShards { id, request });
                }
                Action::DescribeStream(request) => {
                    let stream = request.stream.clone();
                    let id = self.register(Request::Describe(request));
                    self.effects.push_back(Effect::DescribeStream { id, stream });
                }
                Action::Resolve(records) => {
                    self.effects.extend(records.map(|(ticket, result)| Effect::Resolved(ticket, result)));
                }
                // Puts do not wait at this level.
                Action::RoomFreed(_) => {}
                Action::FlushDone(flush) => {
                    let effect = match self.flushes.iter().position(|(id, _)| *id == flush) {
                        Some(position) => Effect::Flushed(self.flushes.swap_remove(position).1),
                        None => Effect::Broken(format!("{flush:?} ends but is not in progress")),
                    };
                    self.effects.push_back(effect);
                }
                Action::CancelRequests => self.cancel(),
                Action::Log(_) => {}
                Action::ExportMetrics(snapshot) => {
                    let resolved = snapshot.roll_up().global(Metric::UserRecordsPut);
                    self.reported = (self.reported.0 + resolved.sum, self.reported.1 + resolved.count);
                }
            }
        }
    }

    /// Moves the buffered puts to the state machine.
    fn drain(&mut self) {
        let Self { core, buffers, drain, keys, now, .. } = self;
        if drain.start(core.buffer_room()) {
            buffers.iter_mut().for_each(|buffer| drain.stop(buffer));
        }
        for (number, buffer) in buffers.iter_mut().enumerate() {
            drain.take(number, buffer, *now);
        }
        drain.hash_keys(keys);
        while core.put_drained(*now, drain, keys) {}
    }

    /// Checks that the metrics, the metrics reports and the counts agree.
    ///
    /// # Errors
    ///
    /// Returns a description of the first difference.
    fn check_metrics(&mut self) -> Result<(), String> {
        let metrics = self.core.metrics(self.now, MetricsWindow::Total).roll_up();
        let stats = self.core.stats();
        let resolved = metrics.global(Metric::UserRecordsPut);
        let succeeded = stats.user_records_succeeded;
        let counts = [
            ("user records put", metrics.global(Metric::UserRecordsReceived).count, stats.user_records_put),
            ("user records stored", resolved.sum as u64, succeeded),
            ("user records resolved", resolved.count, succeeded + stats.user_records_failed),
            ("Kinesis records stored", metrics.global(Metric::KinesisRecordsPut).sum as u64, stats.kinesis_records),
            ("requests", metrics.global(Metric::RequestTime).count, stats.requests),
            ("latencies", metrics.latency().map_or(0, |latency| latency.put_to_ack.count()), succeeded),
            ("user records stored, in reports", self.reported.0 as u64, succeeded),
            ("user records resolved, in reports", self.reported.1, succeeded + stats.user_records_failed),
        ];
        match counts.iter().find(|(_, measured, counted)| measured != counted) {
            None => Ok(()),
            Some((what, metric, count)) => Err(format!("{what}: {metric} in the metrics, {count} in the counts")),
        }
    }

    /// Keeps a request until its response. Returns its id.
    fn register(&mut self, request: Request) -> u64 {
        self.requests_sent += 1;
        self.requests.insert(self.requests_sent, request);
        self.requests_sent
    }

    /// Returns every batch to the state machine, as the contract of a driver requires.
    fn cancel(&mut self) {
        for (id, request) in std::mem::take(&mut self.requests) {
            let Request::Put(batch) = request else { continue };
            self.effects.push_back(Effect::RequestDropped(id));
            let error = RequestError::new(Delivery::Unanswered, "Cancelled", "the close's deadline has passed");
            self.core.handle_reply(self.now, batch, Reply::Failed(error));
            self.is_turn_due = true;
        }
    }
}

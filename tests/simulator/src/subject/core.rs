//! Level (a): the state machine alone, on the shortest way.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kpl_core::metrics::{Metric, MetricsLevel, MetricsWindow};
use kpl_core::{
    Action, Batch, BufferDrain, Buffered, Config, Delivery, DescribeStreamRequest, FlushId, Full, HashKeyCache,
    Instant, ListShardsRequest, Producer, PutBuffer, PutError, Reply, RequestError, UserRecord,
};

use super::{Answer, Counts, Effect, End, Refusal, Subject, wire};

const HOUR: Duration = Duration::from_secs(3_600);

/// The state machine of kpl-core.
#[derive(Debug)]
pub(crate) struct CoreSubject {
    now: Instant,
    core: Producer<u64>,
    /// Puts go through these in turn, and every third one straight to the state machine.
    buffers: [PutBuffer<u64>; 2],
    drain: BufferDrain<u64>,
    keys: HashKeyCache,
    questions: BTreeMap<u64, Question>,
    asked: u64,
    flushes: Vec<(FlushId, u64)>,
    closing: bool,
    /// When the state machine is to be ticked, or the buffers are to be drained.
    next_turn: Instant,
    /// An event other than a put has changed the state machine.
    is_turn_due: bool,
    effects: VecDeque<Effect>,
    /// User records that reports have told of: those that were stored, and all that ended.
    reported: (f64, u64),
}

#[derive(Debug)]
enum Question {
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
                .push_back(Effect::Broken(format!("after a tick at {now:?} the next one is to be at {next:?}")));
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
            Ok(Buffered::Waiting) => Effect::Taken(ticket),
            Ok(Buffered::DrainDue) => {
                self.drain();
                Effect::Taken(ticket)
            }
            Err((record, ticket)) => {
                self.drain();
                match self.core.put(self.now, record.prepare(&mut self.keys), ticket) {
                    Ok(()) => Effect::Taken(ticket),
                    Err(PutError::Full { full: Full::Shard { .. }, record, ticket }) => {
                        Effect::Refused(ticket, Refusal::ShardFull, record.into())
                    }
                    Err(PutError::Full { record, ticket, .. }) => Effect::Refused(ticket, Refusal::Full, record.into()),
                    Err(PutError::Closed { record, ticket }) => Effect::Refused(ticket, Refusal::Closed, record.into()),
                    Err(PutError::Invalid { record, ticket, .. }) => {
                        Effect::Refused(ticket, Refusal::TooLarge, record.into())
                    }
                    Err(error) => Effect::Broken(format!("a refusal that nobody knows: {error}")),
                }
            }
        };
        // As in the driver, a put brings the next turn forward if it has to, and leaves what the buffers expect.
        self.next_turn = self.next_turn.min(self.core.next_tick().unwrap_or(Instant::NEVER));
        self.effects.push_back(effect);
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
        self.core.close(self.now, deadline);
        self.is_turn_due = true;
    }

    fn answer(&mut self, id: u64, answer: Answer) {
        self.is_turn_due = true;
        let lost = || RequestError::new(Delivery::Unanswered, "Task Ended", "the request's task ended");
        match (self.questions.remove(&id), answer) {
            (Some(Question::Put(batch)), Answer::Put(reply)) => self.core.handle_reply(self.now, batch, reply),
            (Some(Question::Put(batch)), _) => self.core.handle_reply(self.now, batch, Reply::Failed(lost())),
            (Some(Question::List(request)), Answer::List(reply)) => {
                self.core.handle_shards(self.now, &request, reply);
            }
            (Some(Question::List(request)), _) => self.core.handle_shards(self.now, &request, Err(lost())),
            (Some(Question::Describe(request)), Answer::Describe(reply)) => {
                self.core.handle_stream_summary(self.now, &request, reply);
            }
            (Some(Question::Describe(request)), _) => self.core.handle_stream_summary(self.now, &request, Err(lost())),
            (None, _) => {}
        }
    }

    fn settle(&mut self) {
        while self.is_turn_due || self.core.has_actions() {
            self.take_turn();
            self.carry_out();
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
        // Everything is measured, and a report comes at the end: a world is shorter than the interval.
        let measured = config.to_builder().metrics_level(MetricsLevel::Detailed).metrics_upload_interval(HOUR).build();
        let config = measured.unwrap_or(config);
        Self {
            buffers: [PutBuffer::new(&config), PutBuffer::new(&config)],
            drain: BufferDrain::new(2),
            keys: HashKeyCache::default(),
            next_turn: Instant::NEVER,
            is_turn_due: false,
            reported: (0.0, 0),
            now,
            core: Producer::new(config, now),
            questions: BTreeMap::new(),
            asked: 0,
            flushes: Vec::new(),
            closing: false,
            effects: VecDeque::new(),
        }
    }

    /// What the drive loop does in a turn.
    fn take_turn(&mut self) {
        self.is_turn_due = false;
        self.drain();
        self.core.tick(self.now);
        let next = self.core.next_tick().unwrap_or(Instant::NEVER);
        self.next_turn = self.buffers.iter_mut().map(|buffer| buffer.expect_drain(next)).fold(next, Instant::min);
    }

    /// Carries out what the state machine wants done.
    fn carry_out(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::SendBatch(batch) => {
                    let (stream, records) = (batch.stream().clone(), wire(&batch));
                    let id = self.ask(Question::Put(batch));
                    self.effects.push_back(Effect::PutRecords { id, stream, records });
                }
                Action::ListShards(request) => {
                    let id = self.ask(Question::List(request.clone()));
                    self.effects.push_back(Effect::ListShards { id, request });
                }
                Action::DescribeStream(request) => {
                    let stream = request.stream.clone();
                    let id = self.ask(Question::Describe(request));
                    self.effects.push_back(Effect::DescribeStream { id, stream });
                }
                Action::Resolve(records) => {
                    self.effects.extend(records.map(|(ticket, result)| Effect::Resolved(ticket, result)));
                }
                // There are no puts that wait.
                Action::RoomFreed(_) => {}
                Action::FlushDone(flush) => {
                    let effect = match self.flushes.iter().position(|(id, _)| *id == flush) {
                        Some(position) => Effect::Flushed(self.flushes.swap_remove(position).1),
                        None => Effect::Broken(format!("{flush:?} ends, which is not under way")),
                    };
                    self.effects.push_back(effect);
                }
                Action::CancelRequests => self.cancel(),
                Action::Log(_) => {}
                Action::ExportMetrics(snapshot) => {
                    let ended = snapshot.roll_up().global(Metric::UserRecordsPut);
                    self.reported = (self.reported.0 + ended.sum, self.reported.1 + ended.count);
                }
            }
        }
    }

    /// Gives to the state machine what is buffered.
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

    /// Whether metrics and counts, which are kept apart, agree; and whether reports have told of all.
    fn check_metrics(&mut self) -> Result<(), String> {
        let metrics = self.core.metrics(self.now, MetricsWindow::Total).roll_up();
        let stats = self.core.stats();
        let ended = metrics.global(Metric::UserRecordsPut);
        let succeeded = stats.user_records_succeeded;
        let counts = [
            ("user records put", metrics.global(Metric::UserRecordsReceived).count, stats.user_records_put),
            ("user records stored", ended.sum as u64, succeeded),
            ("user records ended", ended.count, succeeded + stats.user_records_failed),
            ("Kinesis records stored", metrics.global(Metric::KinesisRecordsPut).sum as u64, stats.kinesis_records),
            ("requests", metrics.global(Metric::RequestTime).count, stats.requests),
            ("latencies", metrics.latency().map_or(0, |latency| latency.put_to_ack.count()), succeeded),
            ("user records stored, by reports", self.reported.0 as u64, succeeded),
            ("user records ended, by reports", self.reported.1, succeeded + stats.user_records_failed),
        ];
        match counts.iter().find(|(_, measured, counted)| measured != counted) {
            None => Ok(()),
            Some((what, measured, counted)) => Err(format!("{what}: the metrics say {measured}, the counts {counted}")),
        }
    }

    fn ask(&mut self, question: Question) -> u64 {
        self.asked += 1;
        self.questions.insert(self.asked, question);
        self.asked
    }

    /// Gives back every batch, as a driver has to.
    fn cancel(&mut self) {
        for (id, question) in std::mem::take(&mut self.questions) {
            let Question::Put(batch) = question else { continue };
            self.effects.push_back(Effect::Dropped(id));
            let error = RequestError::new(Delivery::Unanswered, "Cancelled", "the close's deadline has passed");
            self.core.handle_reply(self.now, batch, Reply::Failed(error));
            self.is_turn_due = true;
        }
    }
}

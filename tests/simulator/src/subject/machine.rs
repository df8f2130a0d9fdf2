//! Level (a): the state machine alone, on the shortest way.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kpl_core::metrics::{Metric, MetricsLevel, MetricsWindow};
use kpl_core::{
    Action, Batch, Config, Delivery, DescribeRequest, FlushId, Instant, ListShardsRequest, Producer, PutError, Reply,
    RequestError, UserRecord,
};

use super::{Answer, Counts, Effect, End, Refusal, Subject, wire};

const HOUR: Duration = Duration::from_secs(3_600);

/// The state machine of kpl-core.
#[derive(Debug)]
pub(crate) struct Machine {
    now: Instant,
    core: Producer<u64>,
    questions: BTreeMap<u64, Question>,
    asked: u64,
    flushes: Vec<(FlushId, u64)>,
    closing: bool,
    effects: VecDeque<Effect>,
    /// User records that reports have told of: those that were stored, and all that ended.
    reported: (f64, u64),
}

#[derive(Debug)]
enum Question {
    Put(Batch<u64>),
    List(ListShardsRequest),
    Describe(DescribeRequest),
}

impl Subject for Machine {
    fn advance(&mut self, now: Instant) {
        self.now = now;
        self.core.tick(now);
        if let Some(next) = self.core.next_tick()
            && next <= now
        {
            self.effects
                .push_back(Effect::Broken(format!("after a tick at {now:?} the next one is to be at {next:?}")));
        }
    }

    fn put(&mut self, ticket: u64, record: UserRecord) {
        let effect = match record.prepare() {
            Err(error) => Effect::Refused(ticket, Refusal::Invalid, *error.record),
            Ok(record) => match self.core.put(self.now, record, ticket) {
                Ok(()) => Effect::Taken(ticket),
                Err(PutError::Full { record, ticket, .. }) => Effect::Refused(ticket, Refusal::Full, record.into()),
                Err(PutError::Closed { record, ticket }) => Effect::Refused(ticket, Refusal::Closed, record.into()),
                Err(PutError::Invalid { record, ticket, .. }) => {
                    Effect::Refused(ticket, Refusal::TooLarge, record.into())
                }
                Err(error) => Effect::Broken(format!("a refusal that nobody knows: {error}")),
            },
        };
        self.effects.push_back(effect);
    }

    fn flush(&mut self, number: u64) {
        let flush = self.core.flush(self.now);
        self.flushes.push((flush, number));
    }

    fn end(&mut self, end: End) {
        let deadline = match end {
            End::Close(within) => self.now + within,
            End::Drop => Instant::NEVER,
            End::Runtime => self.now,
        };
        self.closing = true;
        self.core.close(self.now, deadline);
    }

    fn answer(&mut self, id: u64, answer: Answer) {
        let lost = || RequestError::new(Delivery::Unanswered, "Task Ended", "the request's task ended");
        match (self.questions.remove(&id), answer) {
            (Some(Question::Put(batch)), Answer::Put(reply)) => self.core.respond(self.now, batch, reply),
            (Some(Question::Put(batch)), _) => self.core.respond(self.now, batch, Reply::Failed(lost())),
            (Some(Question::List(request)), Answer::List(reply)) => {
                self.core.respond_shards(self.now, &request, reply);
            }
            (Some(Question::List(request)), _) => self.core.respond_shards(self.now, &request, Err(lost())),
            (Some(Question::Describe(request)), Answer::Describe(reply)) => {
                self.core.respond_stream(self.now, &request, reply);
            }
            (Some(Question::Describe(request)), _) => self.core.respond_stream(self.now, &request, Err(lost())),
            (None, _) => {}
        }
    }

    fn settle(&mut self) {
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
                Action::FlushDone(flush) => {
                    let effect = match self.flushes.iter().position(|(id, _)| *id == flush) {
                        Some(position) => Effect::Flushed(self.flushes.swap_remove(position).1),
                        None => Effect::Broken(format!("{flush:?} ends, which is not under way")),
                    };
                    self.effects.push_back(effect);
                }
                Action::CancelRequests => self.cancel(),
                Action::Notice(_) => {}
                Action::ExportMetrics(observations) => {
                    let ended = observations.roll_up().global(Metric::UserRecordsPut);
                    self.reported = (self.reported.0 + ended.sum, self.reported.1 + ended.count);
                }
                other => self.effects.push_back(Effect::Broken(format!("an action that nobody knows: {other:?}"))),
            }
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
        self.core.next_tick().unwrap_or(Instant::NEVER)
    }

    fn counts(&self) -> Option<Counts> {
        Some(Counts {
            records: self.core.outstanding_records(),
            bytes: self.core.outstanding_bytes(),
            in_flight: Some(self.core.requests_in_flight()),
            oldest: self.core.oldest_put(),
            waiting: 0,
            stats: self.core.stats(),
        })
    }
}

impl Machine {
    pub(super) fn new(config: Config, now: Instant) -> Self {
        // Everything is measured, and a report comes at the end: a world is shorter than the interval.
        let measured = config.to_builder().metrics_level(MetricsLevel::Detailed).metrics_upload_interval(HOUR).build();
        let config = measured.unwrap_or(config);
        Self {
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

    /// Whether metrics and counts, which are kept apart, agree; and whether reports have told of all.
    fn check_metrics(&mut self) -> Result<(), String> {
        let metrics = self.core.metrics(self.now, MetricsWindow::Total).roll_up();
        let stats = self.core.stats();
        let ended = metrics.global(Metric::UserRecordsPut);
        let succeeded = stats.user_records_succeeded;
        let told = [
            ("user records put", metrics.global(Metric::UserRecordsReceived).count, stats.user_records_put),
            ("user records stored", ended.sum as u64, succeeded),
            ("user records ended", ended.count, succeeded + stats.user_records_failed),
            ("Kinesis records stored", metrics.global(Metric::KinesisRecordsPut).sum as u64, stats.kinesis_records),
            ("requests", metrics.global(Metric::RequestTime).count, stats.requests),
            ("latencies", metrics.latency().map_or(0, |latency| latency.put_to_ack.count()), succeeded),
            ("user records stored, by reports", self.reported.0 as u64, succeeded),
            ("user records ended, by reports", self.reported.1, succeeded + stats.user_records_failed),
        ];
        match told.iter().find(|(_, told, counted)| told != counted) {
            None => Ok(()),
            Some((what, told, counted)) => Err(format!("{what}: the metrics say {told}, the counts {counted}")),
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
            self.core.respond(self.now, batch, Reply::Failed(error));
        }
    }
}

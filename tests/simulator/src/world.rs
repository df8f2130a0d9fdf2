//! The run itself: events in the order of their time.

mod requests;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use arbitrary::Unstructured;
use fastrand::Rng;
use kpl_core::{Config, Consumers, Instant, RecordDistribution};
use kpl_emulator::api::PutRecordsEntry;

use self::requests::{Question, Then};
use crate::calendar::Calendar;
use crate::choices::Choices;
use crate::companion::{self, Companion};
use crate::options::{Ending, Options, ms};
use crate::oracle::{Broken, Oracle};
use crate::service::Service;
use crate::subject::{self, Answer, Effect, End, Subject};
use crate::trace::{Trace, note};
use crate::{Finding, Level, Report, workload};

/// When a run starts: at 1,000 s. Not at zero, so that nothing works by chance.
const START: Instant = Instant::from_nanos(1_000_000_000_000);

/// How long a driver waits for the reply to a request.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(6);

/// How long after a stream was made again, and its shards were learned, records may be in it that went by the old ones.
const MISLED_FOR: Duration = Duration::from_secs(60);

/// A producer, a service and a network, at one point of virtual time.
pub struct World<'u, 'b> {
    choices: Choices<'u, 'b>,
    options: Options,
    now: Instant,
    subject: Box<dyn Subject>,
    companion: Option<Companion>,
    service: Service,
    calendar: Calendar<Event>,
    oracle: Oracle,
    /// Questions that the subject waits for, by id.
    questions: BTreeMap<u64, Question>,
    /// Of each stream, which one of its name the subject knows the shards of, and since when.
    shards_of: Vec<(u32, Instant)>,
    flushes: u64,
    /// Until when nothing arrives.
    out_until: Instant,
    healed: bool,
    ended: bool,
    /// There is no handle any more.
    dropped: bool,
    closed: bool,
    trace: Trace,
}

#[derive(Debug)]
enum Event {
    Burst(Rng),
    Flush,
    Reshard,
    Delete(usize),
    Create(usize),
    SwitchAuto,
    Others,
    CompanionPut(Rng),
    CompanionAnswered(u64, Answer),
    Outage,
    /// The producer is ticked though nothing is due.
    Spurious,
    End(End),
    Heal,
    /// A request reaches the service.
    Arrives {
        id: u64,
        stream: usize,
        records: Vec<PutRecordsEntry>,
        then: Then,
    },
    Answered(u64, Answer),
    TimeOut(u64),
}

impl<'u, 'b> World<'u, 'b> {
    /// Runs a world from its first put until all is drained, and judges it.
    ///
    /// # Errors
    ///
    /// The first broken promise.
    pub fn run(level: Level, u: &'u mut Unstructured<'b>) -> Result<Report, Box<Finding>> {
        let bytes = u.peek_bytes(u.len()).unwrap_or_default();
        let (report, broken, ..) = Self::new(level, u, Trace::default()).live_and_judge();
        let Some(broken) = broken else { return Ok(report) };
        // The same once more, in words.
        let mut again = Unstructured::new(bytes);
        let (_, again, options, trace) = World::new(level, &mut again, Trace::in_words()).live_and_judge();
        let Broken { promise, how } = again.unwrap_or_else(|| Broken {
            promise: "the same choices give the same run",
            how: format!("this was broken once, and not again: {broken:?}"),
        });
        Err(Box::new(Finding { level, promise, how, options, trace }))
    }

    fn new(level: Level, u: &'u mut Unstructured<'b>, trace: Trace) -> Self {
        let mut choices = Choices::new(u);
        let options = Options::sample(&mut choices);
        let service = Service::new(START, &options);
        let mut oracle = Oracle::new(&options, service.record_size_max());
        if level != Level::Core {
            oracle.facts.late = options.callers.oversleep;
            oracle.facts.closes_at_once = false;
        }
        let config = config(&options, service.record_size_max());
        let subject = subject::make(level, config.clone(), START, &options.callers, choices.dice());
        let has_companion = options.service.companion_puts > 0;
        let companion = has_companion.then(|| Companion::new(config, START, &options.callers, choices.dice()));
        Self {
            choices,
            now: START,
            subject,
            companion,
            service,
            calendar: Calendar::default(),
            oracle,
            questions: BTreeMap::new(),
            shards_of: vec![(0, START); options.work.streams],
            flushes: 0,
            out_until: START,
            healed: false,
            ended: false,
            dropped: false,
            closed: false,
            trace,
            options,
        }
    }

    fn live_and_judge(mut self) -> (Report, Option<Broken>, Options, Vec<String>) {
        let lived = catch_unwind(AssertUnwindSafe(|| self.live()));
        let kept = lived.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
            Err(Broken { promise: "nothing panics", how: said.unwrap_or_default() })
        });
        let report = Report {
            records: self.oracle.taken,
            succeeded: self.oracle.succeeded,
            trace_hash: self.trace.hash(),
            virtual_time: self.now.saturating_since(START),
        };
        (report, kept.err(), self.options, self.trace.into_lines())
    }

    fn live(&mut self) -> Result<(), Broken> {
        self.plan();
        self.after(false)?;
        loop {
            let questions = &self.questions;
            let event = self.calendar.next(|event| match event {
                Event::Answered(id, _) | Event::TimeOut(id) => !questions.contains_key(id),
                _ => false,
            });
            let wake = self.subject.next_wake();
            let companion_wake = self.companion.as_ref().map_or(Instant::NEVER, Companion::next_wake);
            if event.min(wake).min(companion_wake) == Instant::NEVER {
                if self.ended {
                    break;
                }
                // All has drained by itself, and the producer is idle.
                if let Some(counts) = self.subject.counts() {
                    Oracle::idle(&counts)?;
                }
                self.end(End::Close(Duration::MAX));
                self.after(false)?;
                continue;
            }
            self.now = self.now.max(event.min(wake).min(companion_wake));
            self.jump();
            self.subject.advance(self.now);
            if let Some(companion) = &mut self.companion {
                companion.advance(self.now);
            }
            self.after(wake <= self.now && event.min(companion_wake) > self.now)?;
            while let Some(event) = self.calendar.pop_due(self.now) {
                self.happen(event)?;
                self.after(false)?;
            }
            if self.choices.are_over() && !self.healed {
                self.heal();
                self.after(false)?;
            }
        }
        let streams: Vec<_> = self.service.streams.iter().map(|stream| stream.name.clone()).collect();
        let counts = self.subject.counts();
        if let Some(companion) = &self.companion {
            companion.judge()?;
        }
        self.oracle.judge(&self.service.kinesis, &streams, counts.as_ref(), self.closed)
    }

    /// Puts down on the calendar what is to happen.
    fn plan(&mut self) {
        let Self { options, choices: c, calendar, .. } = self;
        let mut at = START;
        for _ in 0..options.work.bursts {
            at = at + c.up_to(options.work.pause_max);
            calendar.put_down(at, Event::Burst(c.dice()));
        }
        let length = at.saturating_since(START) + ms(500);
        let mut some_time = |c: &mut Choices<'_, '_>, times: usize, event: &dyn Fn(&mut Choices<'_, '_>) -> Event| {
            for _ in 0..times {
                let at = START + c.up_to(length);
                calendar.put_down(at, event(c));
            }
        };
        some_time(c, options.work.flushes, &|_| Event::Flush);
        some_time(c, options.service.reshards, &|_| Event::Reshard);
        some_time(c, options.service.rebirths, &|c| Event::Delete(c.int(0..=options.work.streams - 1)));
        some_time(c, options.service.auto_switches, &|_| Event::SwitchAuto);
        some_time(c, options.network.outages, &|_| Event::Outage);
        some_time(c, options.callers.spurious_wakes, &|_| Event::Spurious);
        match options.ending {
            Ending::Drained | Ending::Closed(_) => {}
            Ending::ClosedEarly(within) => some_time(c, 1, &|_| Event::End(End::Close(within))),
            Ending::Dropped => some_time(c, 1, &|_| Event::End(End::Drop)),
            Ending::RuntimeEnds => some_time(c, 1, &|_| Event::End(End::Runtime)),
        }
        if options.service.others {
            for n in 0..length.as_millis().min(20_000) / 100 {
                calendar.put_down(START + ms(100 * n as u64), Event::Others);
            }
        }
        for _ in 0..options.service.companion_puts {
            let at = START + c.up_to(length);
            calendar.put_down(at, Event::CompanionPut(c.dice()));
        }
        calendar.put_down(START + length, Event::Heal);
    }

    fn jump(&mut self) {
        if !self.healed && self.choices.chance(self.options.network.jumps) {
            let jump = self.choices.pick(&[ms(50), ms(3_000), ms(40_000)]);
            self.now = self.now + jump;
            self.oracle.facts.late += jump;
            note!(self.trace, self.now, "the clock has jumped by {:?}", jump);
        }
    }

    /// Lets the subject do what is to be done at this time, carries it out, and looks at what there is to see.
    fn after(&mut self, woken: bool) -> Result<(), Broken> {
        self.subject.settle();
        while let Some(effect) = self.subject.effect() {
            self.carry_out(effect)?;
        }
        if let Some(companion) = &mut self.companion {
            let (now, calendar) = (self.now, &mut self.calendar);
            companion.settle(now, &mut self.service, &mut self.choices, |id, answer| {
                calendar.put_down(now + companion::LATENCY, Event::CompanionAnswered(id, answer));
            });
        }
        let (counts, next_wake) = (self.subject.counts(), self.subject.next_wake());
        self.oracle.step(self.now, woken, counts.as_ref(), next_wake)
    }

    fn happen(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Burst(dice) => self.burst(dice),
            Event::Flush if self.dropped => {}
            Event::Flush => {
                self.flushes += 1;
                note!(self.trace, self.now, "flush {}", self.flushes);
                self.oracle.flush(self.now, self.flushes);
                self.subject.flush(self.flushes);
            }
            Event::Reshard if !self.healed => {
                let stream = self.some_stream();
                if let Some(done) = self.service.reshard(self.now, stream, &mut self.choices) {
                    note!(self.trace, self.now, "stream s{}: {}", stream, done);
                }
            }
            Event::Delete(stream) if !self.healed => {
                note!(self.trace, self.now, "stream s{} is deleted", stream);
                let name = self.service.streams[stream].name.clone();
                self.oracle.deleted(self.now, &self.service.kinesis, stream, &name)?;
                self.service.delete(stream);
                let back = self.now + self.choices.up_to(ms(3_000));
                self.calendar.put_down(back, Event::Create(stream));
            }
            Event::Create(stream) => {
                note!(self.trace, self.now, "stream s{} is made again", stream);
                self.service.create(self.now, stream);
            }
            Event::SwitchAuto if !self.healed => {
                let stream = self.some_stream();
                let auto = self.service.switch_auto(stream);
                note!(self.trace, self.now, "stream s{}: keys are ignored: {}", stream, auto);
            }
            Event::Others if !self.healed => self.service.others(self.now),
            Event::CompanionPut(mut dice) => {
                let stream = self.service.streams[dice.usize(0..self.options.work.streams)].name.clone();
                if let Some(companion) = &mut self.companion {
                    companion.put(&stream, &mut dice);
                }
            }
            Event::CompanionAnswered(id, answer) => {
                if let Some(companion) = &mut self.companion {
                    companion.answer(id, answer);
                }
            }
            Event::Outage if !self.healed => {
                self.out_until = self.now + self.choices.up_to(self.options.network.outage_max);
                note!(self.trace, self.now, "nothing arrives until {:?}", self.out_until);
            }
            Event::Reshard | Event::Delete(_) | Event::SwitchAuto | Event::Others | Event::Outage => {}
            Event::Spurious => self.subject.advance(self.now),
            Event::End(end) => self.end(end),
            Event::Heal => self.heal(),
            Event::Arrives { .. } if self.is_out() => {}
            Event::Arrives { id, stream, records, then } => self.arrive(id, stream, records, then),
            Event::Answered(id, answer) => self.answer(id, answer),
            Event::TimeOut(id) => self.time_out(id),
        }
        Ok(())
    }

    fn some_stream(&mut self) -> usize {
        self.choices.int(0..=self.options.work.streams - 1)
    }

    fn burst(&mut self, mut dice: Rng) {
        let stream = dice.usize(0..self.options.work.streams);
        let shards = self.service.open_shards(stream);
        let name = self.service.streams[stream].name.clone();
        let count = dice.usize(1..=self.options.work.burst_max);
        note!(self.trace, self.now, "{} records from {} are put into s{}", count, self.oracle.next_ticket(), stream);
        for _ in 0..count {
            let ticket = self.oracle.next_ticket();
            let record = workload::record(&self.options.work, &mut dice, ticket, &name, &shards);
            self.oracle.offered(self.now, stream, &record);
            self.subject.put(ticket, record);
        }
    }

    /// Ends all faults. What was asked for before may still be lost.
    fn heal(&mut self) {
        if self.healed {
            return;
        }
        note!(self.trace, self.now, "everything heals");
        self.healed = true;
        self.oracle.healed(self.now);
        self.service.heal(self.now);
        if let Ending::Closed(within) = self.options.ending {
            self.end(End::Close(within));
        }
    }

    fn end(&mut self, end: End) {
        note!(self.trace, self.now, "the producer ends: {}", format!("{end:?}"));
        self.ended = true;
        if let Some(companion) = &mut self.companion {
            companion.close();
        }
        self.dropped |= matches!(end, End::Drop);
        let gives_up_at = match end {
            End::Close(within) => self.now + within,
            End::Drop => Instant::NEVER,
            End::Runtime => {
                self.oracle.facts.runtime_ended = true;
                self.now
            }
        };
        // Tasks that wait for a flush have the handle, too, so that the last one may go later.
        self.oracle.closing(self.now, gives_up_at, !matches!(end, End::Drop));
        self.subject.end(end);
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), Broken> {
        let now = self.now;
        match effect {
            Effect::Taken(ticket) => self.oracle.taken(now, ticket),
            Effect::Refused(ticket, refusal, record) => {
                note!(self.trace, now, "record {} is refused: {:?}", ticket, refusal);
                self.oracle.refused(now, ticket, refusal, &record)
            }
            Effect::GivenUp(ticket) => {
                note!(self.trace, now, "the put of record {} is dropped", ticket);
                self.oracle.given_up(ticket)
            }
            Effect::Resolved(ticket, result) => {
                match &result {
                    Ok(receipt) => note!(self.trace, now, "record {} is in {}", ticket, receipt.shard_id()),
                    Err(failure) => note!(self.trace, now, "record {} failed: {}", ticket, failure.error.code),
                }
                self.oracle.resolved(now, ticket, &result)
            }
            Effect::Flushed(number) => {
                note!(self.trace, now, "flush {} is done", number);
                self.oracle.flushed(number)
            }
            Effect::Closed => {
                note!(self.trace, now, "the close is done");
                self.closed = true;
                Ok(())
            }
            Effect::PutRecords { id, stream, records } => self.send(id, &stream, records),
            Effect::ListShards { id, request } => self.list_shards(id, request),
            Effect::DescribeStream { id, stream } => self.describe(id, stream),
            Effect::Dropped(id) => {
                if let Some(Question::Put { sent, records, .. }) = self.questions.remove(&id) {
                    note!(self.trace, now, "nobody waits for request {} any more", id);
                    self.oracle.disturbed(&records);
                    self.oracle.answered(now, sent);
                }
                Ok(())
            }
            Effect::Broken(how) => Err(Broken { promise: "the rules of the contract are kept", how }),
        }
    }
}

fn config(options: &Options, record_size_max: usize) -> Config {
    let settings = &options.config;
    let distribution = match options.service.auto {
        _ if !settings.told => RecordDistribution::Detect,
        true => RecordDistribution::Auto,
        false => RecordDistribution::ByKey,
    };
    let config = Config::builder()
        .record_distribution(distribution)
        .max_record_size(settings.told.then_some(record_size_max))
        .aggregation_enabled(settings.aggregation)
        .aggregation_max_count(settings.aggregation_max_count)
        .aggregation_max_size(settings.aggregation_max_size)
        .collection_max_count(settings.collection_max_count)
        .collection_max_size(settings.collection_max_size)
        .collection_max_size_per_shard(settings.collection_max_size_per_shard)
        .record_max_buffered_time(settings.buffered)
        .record_ttl(settings.ttl)
        .max_in_flight_requests(settings.in_flight)
        .max_outstanding_records(settings.outstanding_records)
        .max_outstanding_bytes(settings.outstanding_bytes)
        .rate_limit_records_per_shard(settings.records_per_second)
        .rate_limit_bytes_per_shard(settings.bytes_per_second)
        .request_timeout(REQUEST_TIMEOUT)
        .start_timeout(settings.start_timeout)
        .max_shard_backlog(settings.max_shard_backlog)
        .consumers(if settings.any_shard { Consumers::AnyShard } else { Consumers::Kcl })
        .fail_if_throttled(settings.fail_if_throttled)
        .seed(settings.seed)
        .build();
    config.unwrap_or_else(|error| unreachable!("options are legal: {error}"))
}

impl fmt::Debug for World<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now).field("options", &self.options).finish_non_exhaustive()
    }
}

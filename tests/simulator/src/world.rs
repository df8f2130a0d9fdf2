//! The simulated run: events in the order of their times.

mod requests;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use std::{fmt, mem};

use arbitrary::Unstructured;
use fastrand::Rng;
use kpl_core::{Config, Consumers, Instant, Ordering, RecordDistribution};
use kpl_emulator::api::PutRecordsEntry;

use self::requests::{Handling, Request};
use crate::calendar::Calendar;
use crate::choices::Choices;
use crate::companion::{self, Companion};
use crate::options::{Ending, Options, REQUEST_TIMEOUT, ms};
use crate::oracle::{Broken, Oracle};
use crate::service::Service;
use crate::subject::{self, Effect, End, Response, Subject};
use crate::trace::{Trace, note};
use crate::{Finding, Level, Report, workload};

/// The start of a run: 1,000 s. Not zero, because code with a wrong default of zero would pass.
const START: Instant = Instant::from_nanos(1_000_000_000_000);

/// The time after the first shard list of a recreated stream during which records that were aggregated by the old
/// shards may still arrive.
const STALE_SHARDS_MAX: Duration = Duration::from_secs(60);

/// A simulated producer, service and network.
pub struct World<'u, 'b> {
    choices: Choices<'u, 'b>,
    options: Options,
    now: Instant,
    subject: Box<dyn Subject>,
    companion: Option<Companion>,
    service: Service,
    calendar: Calendar<Event>,
    oracle: Oracle,
    /// The subject's requests in flight, by id.
    requests: BTreeMap<u64, Request>,
    /// The incarnation whose shards the subject has listed last and the time of the first such list, per stream.
    listed_incarnations: Vec<(u32, Instant)>,
    /// The incarnation of the first page of the list in flight, per stream.
    listing_incarnations: Vec<u32>,
    flushes: u64,
    /// The end of the current outage.
    outage_until: Instant,
    healed: bool,
    ended: bool,
    /// Whether the last handle is dropped.
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
    OtherProducers,
    CompanionPut(Rng),
    CompanionResponse(u64, Response),
    Outage,
    /// The producer is ticked although nothing is due.
    Spurious,
    End(End),
    Heal,
    /// A request reaches the service.
    Arrival {
        id: u64,
        stream: usize,
        records: Vec<PutRecordsEntry>,
        handling: Handling,
    },
    Response(u64, Response),
    Timeout(u64),
}

impl<'u, 'b> World<'u, 'b> {
    /// Runs a world until the producer is drained and closed, and checks all promises. `ordering` is whether the records
    /// of each key are to be read in order; `None` to choose it as everything else.
    ///
    /// # Errors
    ///
    /// Returns the first broken promise.
    pub fn run(level: Level, ordering: Option<bool>, u: &'u mut Unstructured<'b>) -> Result<Report, Box<Finding>> {
        let bytes = u.peek_bytes(u.len()).unwrap_or_default();
        let (report, broken, ..) = Self::new(level, ordering, u, Trace::default()).run_and_judge();
        let Some(broken) = broken else { return Ok(report) };
        // The trace keeps its lines only in a second run: formatting them takes time.
        let mut again = Unstructured::new(bytes);
        let (_, again, options, trace) = World::new(level, ordering, &mut again, Trace::with_lines()).run_and_judge();
        let Broken { promise, how } = again.unwrap_or_else(|| Broken {
            promise: "the same choices give the same run",
            how: format!("the first run broke a promise, the second did not: {broken:?}"),
        });
        Err(Box::new(Finding { level, promise, how, options, trace }))
    }

    fn new(level: Level, ordering: Option<bool>, u: &'u mut Unstructured<'b>, trace: Trace) -> Self {
        let mut choices = Choices::new(u);
        let options = Options::sample(&mut choices, ordering);
        let service = Service::new(START, &options);
        let mut oracle = Oracle::new(&options, service.record_size_max());
        if level != Level::Core {
            oracle.facts.late = options.callers.oversleep;
            oracle.facts.closes_at_once = false;
        }
        let config = config(&options, service.record_size_max());
        let subject = subject::make(level, config.clone(), START, &options.callers, choices.rng());
        let has_companion = options.service.companion_puts > 0;
        let companion = has_companion.then(|| Companion::new(config, START, &options.callers, choices.rng()));
        Self {
            choices,
            now: START,
            subject,
            companion,
            service,
            calendar: Calendar::default(),
            oracle,
            requests: BTreeMap::new(),
            listed_incarnations: vec![(0, START); options.work.streams],
            listing_incarnations: vec![0; options.work.streams],
            flushes: 0,
            outage_until: START,
            healed: false,
            ended: false,
            dropped: false,
            closed: false,
            trace,
            options,
        }
    }

    fn run_and_judge(mut self) -> (Report, Option<Broken>, Options, Vec<String>) {
        let result = catch_unwind(AssertUnwindSafe(|| self.run_events()));
        let result = result.unwrap_or_else(|panic| {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(|message| (*message).to_owned()));
            Err(Broken { promise: "nothing panics", how: message.unwrap_or_default() })
        });
        let report = Report {
            records: self.oracle.accepted,
            succeeded: self.oracle.succeeded,
            trace_hash: self.trace.hash(),
            virtual_time: self.now.saturating_since(START),
        };
        (report, result.err(), self.options, self.trace.into_lines())
    }

    fn run_events(&mut self) -> Result<(), Broken> {
        self.schedule_events();
        self.settle(false)?;
        loop {
            let requests = &self.requests;
            let event = self.calendar.next_time(|event| match event {
                Event::Response(id, _) | Event::Timeout(id) => !requests.contains_key(id),
                _ => false,
            });
            let wake = self.subject.next_wake();
            let companion_wake = self.companion.as_ref().map_or(Instant::NEVER, Companion::next_wake);
            if event.min(wake).min(companion_wake) == Instant::NEVER {
                if self.ended {
                    break;
                }
                // All records are resolved, and the producer is idle.
                if let Some(counts) = self.subject.counts() {
                    Oracle::idle(&counts)?;
                }
                self.end(End::Close(Duration::MAX));
                self.settle(false)?;
                continue;
            }
            self.now = self.now.max(event.min(wake).min(companion_wake));
            self.maybe_jump();
            self.subject.advance(self.now);
            if let Some(companion) = &mut self.companion {
                companion.advance(self.now);
            }
            self.settle(wake <= self.now && event.min(companion_wake) > self.now)?;
            while let Some(event) = self.calendar.pop_due(self.now) {
                self.handle_event(event)?;
                self.settle(false)?;
            }
            if self.choices.is_exhausted() && !self.healed {
                self.heal();
                self.settle(false)?;
            }
        }
        let streams: Vec<_> = self.service.streams.iter().map(|stream| stream.name.clone()).collect();
        let counts = self.subject.counts();
        if let Some(companion) = &self.companion {
            companion.judge()?;
        }
        self.oracle.judge(&self.service.kinesis, &streams, counts.as_ref(), self.closed)
    }

    /// Schedules the events that do not depend on the subject.
    fn schedule_events(&mut self) {
        let Self { options, choices: c, calendar, .. } = self;
        let mut at = START;
        for _ in 0..options.work.bursts {
            at = at + c.up_to(options.work.pause_max);
            calendar.schedule(at, Event::Burst(c.rng()));
            if options.work.flush_after_bursts {
                calendar.schedule(at, Event::Flush);
            }
        }
        let length = at.saturating_since(START) + ms(500);
        let mut at_random_times =
            |c: &mut Choices<'_, '_>, count: usize, event: &dyn Fn(&mut Choices<'_, '_>) -> Event| {
                for _ in 0..count {
                    let at = START + c.up_to(length);
                    calendar.schedule(at, event(c));
                }
            };
        at_random_times(c, options.work.flushes, &|_| Event::Flush);
        at_random_times(c, options.service.reshards, &|_| Event::Reshard);
        at_random_times(c, options.service.recreations, &|c| Event::Delete(c.int(0..=options.work.streams - 1)));
        at_random_times(c, options.service.auto_switches, &|_| Event::SwitchAuto);
        at_random_times(c, options.network.outages, &|_| Event::Outage);
        at_random_times(c, options.callers.spurious_wakes, &|_| Event::Spurious);
        match options.ending {
            Ending::Drained | Ending::Closed(_) => {}
            Ending::ClosedEarly(within) => at_random_times(c, 1, &|_| Event::End(End::Close(within))),
            Ending::Dropped => at_random_times(c, 1, &|_| Event::End(End::Drop)),
            Ending::RuntimeEnds => at_random_times(c, 1, &|_| Event::End(End::Runtime)),
        }
        at_random_times(c, options.service.companion_puts, &|c| Event::CompanionPut(c.rng()));
        if options.service.other_producers {
            for n in 0..length.as_millis().min(20_000) / 100 {
                calendar.schedule(START + ms(100 * n as u64), Event::OtherProducers);
            }
        }
        calendar.schedule(START + length, Event::Heal);
    }

    fn maybe_jump(&mut self) {
        if !self.healed && self.choices.chance(self.options.network.jumps) {
            let jump = self.choices.pick(&[ms(50), ms(3_000), ms(40_000)]);
            self.now = self.now + jump;
            self.oracle.facts.late += jump;
            note!(self.trace, self.now, "the clock jumps by {:?}", jump);
        }
    }

    /// Runs the subject until nothing is due at this time, handles its effects and checks its state.
    fn settle(&mut self, woken: bool) -> Result<(), Broken> {
        self.subject.settle();
        while let Some(effect) = self.subject.effect() {
            self.handle_effect(effect)?;
        }
        if let Some(companion) = &mut self.companion {
            let (now, calendar) = (self.now, &mut self.calendar);
            companion.settle(now, &mut self.service, &mut self.choices, |id, response| {
                calendar.schedule(now + companion::LATENCY, Event::CompanionResponse(id, response));
            })?;
        }
        let (counts, next_wake) = (self.subject.counts(), self.subject.next_wake());
        self.oracle.step(self.now, woken, counts.as_ref(), next_wake)
    }

    fn handle_event(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Burst(rng) => self.burst(rng),
            Event::Flush if self.dropped => {}
            Event::Flush => {
                self.flushes += 1;
                note!(self.trace, self.now, "flush {}", self.flushes);
                self.oracle.flush(self.now, self.flushes);
                self.subject.flush(self.flushes);
            }
            Event::Reshard if !self.healed => {
                let stream = self.random_stream();
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
                self.calendar.schedule(back, Event::Create(stream));
            }
            Event::Create(stream) => {
                note!(self.trace, self.now, "stream s{} is created again", stream);
                self.service.create(self.now, stream);
            }
            Event::SwitchAuto if !self.healed => {
                let stream = self.random_stream();
                let auto = self.service.switch_auto(stream);
                note!(self.trace, self.now, "stream s{}: hash keys are ignored: {}", stream, auto);
            }
            Event::OtherProducers if !self.healed => self.service.put_by_other_producers(self.now),
            Event::CompanionPut(mut rng) => {
                let stream = self.service.streams[rng.usize(0..self.options.work.streams)].name.clone();
                if let Some(companion) = &mut self.companion {
                    companion.put(&stream, &mut rng);
                }
            }
            Event::CompanionResponse(id, response) => {
                if let Some(companion) = &mut self.companion {
                    companion.respond(id, response);
                }
            }
            Event::Outage if !self.healed => {
                self.outage_until = self.now + self.choices.up_to(self.options.network.outage_max);
                note!(self.trace, self.now, "an outage until {:?}", self.outage_until);
            }
            Event::Reshard | Event::Delete(_) | Event::SwitchAuto | Event::OtherProducers | Event::Outage => {}
            Event::Spurious => self.subject.advance(self.now),
            Event::End(end) => self.end(end),
            Event::Heal => self.heal(),
            Event::Arrival { .. } if self.has_outage() => {}
            Event::Arrival { id, stream, records, handling } => self.handle_arrival(id, stream, records, handling),
            Event::Response(id, response) => self.handle_response(id, response),
            Event::Timeout(id) => self.handle_timeout(id),
        }
        Ok(())
    }

    fn random_stream(&mut self) -> usize {
        self.choices.int(0..=self.options.work.streams - 1)
    }

    fn burst(&mut self, mut rng: Rng) {
        let stream = rng.usize(0..self.options.work.streams);
        let shards = self.service.open_shards(stream);
        let name = self.service.streams[stream].name.clone();
        let count = rng.usize(1..=self.options.work.burst_max);
        let first = self.oracle.next_ticket();
        note!(self.trace, self.now, "{} records, from record {} on, are put into s{}", count, first, stream);
        // Parts of the burst, alone or in a batch.
        let mut batch = Vec::new();
        let mut in_batch = self.options.work.batches;
        for _ in 0..count {
            let ticket = self.oracle.next_ticket();
            let record = workload::record(&self.options.work, &mut rng, ticket, &name, &shards);
            self.oracle.offered(self.now, stream, &record);
            if in_batch {
                batch.push((ticket, record));
            } else {
                self.subject.put(ticket, record);
            }
            if self.options.work.batches && rng.u32(..20) == 0 {
                self.subject.put_batch(mem::take(&mut batch));
                in_batch = rng.bool();
            }
        }
        self.subject.put_batch(batch);
    }

    /// Ends all faults. Requests that were sent before may still be lost.
    fn heal(&mut self) {
        if self.healed {
            return;
        }
        note!(self.trace, self.now, "all faults end");
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
        let deadline = match end {
            End::Close(within) => self.now + within,
            End::Drop => Instant::NEVER,
            End::Runtime => {
                self.oracle.facts.runtime_ended = true;
                self.now
            }
        };
        // Tasks that wait for a flush own clones of the handle, so a drop may not close the producer at once.
        self.oracle.closing(self.now, deadline, !matches!(end, End::Drop));
        self.subject.end(end);
    }

    fn handle_effect(&mut self, effect: Effect) -> Result<(), Broken> {
        let now = self.now;
        match effect {
            Effect::Accepted(ticket) => self.oracle.accepted(now, ticket),
            Effect::Refused(ticket, refusal, record) => {
                note!(self.trace, now, "record {} is refused: {:?}", ticket, refusal);
                self.oracle.refused(now, ticket, refusal, &record)
            }
            Effect::PutTimedOut(ticket) => {
                note!(self.trace, now, "the put of record {} times out", ticket);
                self.oracle.put_timed_out(ticket)
            }
            Effect::Resolved(ticket, result) => {
                match &result {
                    Ok(receipt) => note!(self.trace, now, "record {} succeeds, in {}", ticket, receipt.shard_id()),
                    Err(failure) => note!(self.trace, now, "record {} fails: {}", ticket, failure.error.code),
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
            Effect::RequestDropped(id) => {
                match self.requests.remove(&id) {
                    Some(Request::Put { sent, records, .. }) => {
                        note!(self.trace, now, "request {} is dropped", id);
                        self.oracle.unanswered(&records);
                        self.oracle.request_ended(now, sent);
                    }
                    Some(_) => self.oracle.metadata_ended(),
                    None => {}
                }
                Ok(())
            }
            Effect::Broken(how) => Err(Broken { promise: "the producer follows the rules of its contract", how }),
        }
    }
}

fn config(options: &Options, record_size_max: usize) -> Config {
    let settings = &options.config;
    let distribution = match options.service.auto {
        _ if !settings.description_given => RecordDistribution::Detect,
        true => RecordDistribution::Auto,
        false => RecordDistribution::ByKey,
    };
    let config = Config::builder()
        .record_distribution(distribution)
        .max_record_size(settings.description_given.then_some(record_size_max))
        .aggregation_enabled(settings.aggregation)
        .aggregation_max_count(settings.aggregation_max_count)
        .aggregation_max_size(settings.aggregation_max_size)
        .collection_max_count(settings.collection_max_count)
        .collection_max_size(settings.collection_max_size)
        .collection_max_size_per_shard(settings.collection_max_size_per_shard)
        .record_max_buffered_time(settings.buffered)
        .record_ttl(settings.ttl)
        .max_in_flight_requests(settings.in_flight_max)
        .max_outstanding_records(settings.outstanding_records)
        .max_outstanding_bytes(settings.outstanding_bytes)
        .rate_limit_records_per_shard(settings.records_per_second)
        .rate_limit_bytes_per_shard(settings.bytes_per_second)
        .request_timeout(REQUEST_TIMEOUT)
        .start_timeout(settings.start_timeout)
        .max_shard_backlog(settings.max_shard_backlog)
        .consumers(if settings.any_shard { Consumers::AnyShard } else { Consumers::Kcl })
        .ordering(if settings.ordering { Ordering::PerKey } else { Ordering::None })
        .fail_if_throttled(settings.fail_if_throttled)
        .retry_if_denied(settings.retry_if_denied)
        .seed(settings.seed)
        .build();
    config.unwrap_or_else(|error| unreachable!("options are valid: {error}"))
}

impl fmt::Debug for World<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now).field("options", &self.options).finish_non_exhaustive()
    }
}

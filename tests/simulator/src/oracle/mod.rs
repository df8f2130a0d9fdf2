//! What a user was promised, against what a user was told and what a consumer reads. One file for each promise.
//!
//! The oracle knows what the world did: what it put, lost, garbled and refused. It does not know how the producer works,
//! and believes nothing that it says of itself: every claim is compared with the world's own account.

mod as_put;
mod attempts;
mod backlog;
mod caps;
mod causes;
mod consumed;
mod flushes;
mod latency;
mod pace;
mod progress;
mod questions;
mod resolved_once;
mod start;
mod stream_pace;
mod time_to_live;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kpl_core::{Instant, RecordResult, RequestError, ShardPage, UserRecord};
use kpl_emulator::Kinesis;
use kpl_emulator::api::PutRecordsEntry;

use crate::options::Options;
use crate::service::PERMANENT;
use crate::subject::{Counts, Refusal};
use crate::workload::fingerprint;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The promise, as it was given.
    pub(crate) promise: &'static str,
    /// How it was broken.
    pub(crate) how: String,
}

pub(crate) type Kept = Result<(), Broken>;

/// Says how a promise was broken.
macro_rules! broken {
    ($($how:tt)*) => { Err($crate::oracle::Broken { promise: PROMISE, how: format!($($how)*) }) };
}
pub(crate) use broken;

/// A user record that was put.
#[derive(Debug)]
struct Put {
    stream: usize,
    /// When it was put, and from when on the producer had it.
    at: Instant,
    /// Bytes of data and key.
    size: usize,
    explicit_hash_key: Option<u128>,
    /// Of its key and data.
    fingerprint: u64,
    state: State,
    /// Its time came before its stream's shards were known: it was sent without a prediction.
    was_blind: bool,
    /// When it was flushed first, or the producer closed.
    flushed_at: Option<Instant>,
    /// A request with it got no answer, or not the service's.
    disturbed: bool,
    /// It met two streams of one name, whose shards have the same names and other ranges: it was stored in one that the
    /// producer did not know yet, or in one that was gone before its fate was decided.
    misled: bool,
    /// How often consumers read it.
    reads: u32,
    /// Consumers read it where the receipt says.
    read_as_told: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Offered,
    Refused,
    GivenUp,
    Taken,
    Succeeded(Place),
    Failed { ambiguous: bool },
}

/// Where consumers find a record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    shard_id: Arc<str>,
    sequence_number: Arc<str>,
    sub_sequence_number: u64,
}

/// What the world did and the promises hang on.
#[derive(Debug)]
pub(crate) struct Facts {
    options: Options,
    /// By how much the clock jumped, all in all, and sleeps ended late.
    pub(crate) late: Duration,
    /// Error codes that the service gave.
    codes: BTreeSet<Box<str>>,
    /// Whether replies had too few or too many results.
    pub(crate) miscounted: bool,
    /// Most bytes in a record.
    pub(crate) record_size_max: usize,
    pub(crate) closing: bool,
    /// Whether a close takes effect before anything else happens: there are no tasks.
    pub(crate) closes_at_once: bool,
    /// When a close gives up.
    pub(crate) gives_up_at: Instant,
    pub(crate) runtime_ended: bool,
    /// When everything healed, and how many bytes were outstanding then.
    healed: Option<(Instant, usize)>,
    /// PutRecords requests that are neither answered nor dropped.
    pub(crate) under_way: usize,
    streams: Vec<StreamFacts>,
    /// Records accepted and not resolved, and their bytes.
    outstanding_records: usize,
    outstanding_bytes: usize,
}

#[derive(Debug)]
struct StreamFacts {
    /// When it was deleted, last.
    deleted_at: Option<Instant>,
    /// When it was put to first, or again after it was idle for so long that it was retired.
    started_at: Instant,
    /// How often it was started.
    starts: u32,
    /// When it was put to, or a record of it was resolved, last.
    last_used: Instant,
    /// Records accepted and not resolved, and their bytes.
    outstanding: (usize, usize),
    /// From when on description and shard list are not waited for, where they are not needed.
    answered_at_start: [Instant; 2],
    /// When its description was had first, or failed.
    described_at: Instant,
    /// When its first shard list was had, or was refused for good: records wait for that.
    list_settled_at: Instant,
    /// When its shards were known first.
    shards_known_at: Instant,
    /// Records that could not wait for that, and are not resolved.
    blind: usize,
    /// The service throttled it.
    throttled: bool,
    /// Nothing has happened, or will, that makes the producer's shards other than the service's.
    steady: bool,
    /// The number of its shards does not change.
    has_fixed_shards: bool,
}

/// After this time without a record, a stream is retired: its next record starts it anew.
const RETIRED_AFTER: Duration = Duration::from_secs(300);

impl StreamFacts {
    /// A record of the stream is accepted.
    fn used(&mut self, now: Instant, size: usize) {
        self.touched(now);
        self.last_used = now;
        self.outstanding = (self.outstanding.0 + 1, self.outstanding.1 + size);
    }

    /// A record is put, and may still be refused: the stream is started if it is not there.
    fn touched(&mut self, now: Instant) {
        let is_anew = self.outstanding.0 == 0 && now.saturating_since(self.last_used) >= RETIRED_AFTER;
        if is_anew || self.started_at == Instant::NEVER {
            self.started_at = now;
            self.starts += 1;
            [self.described_at, self.list_settled_at] = self.answered_at_start;
            self.last_used = now;
        }
    }
}

impl Facts {
    /// How long records wait for the first shard list.
    fn start_wait(&self) -> Duration {
        self.options.config.start_timeout.min(self.options.config.ttl / 2)
    }

    /// The longest backlog of a shard.
    fn backlog_limit(&self) -> Duration {
        let settings = &self.options.config;
        settings.max_shard_backlog.unwrap_or(match settings.ttl {
            Duration::MAX => Duration::from_secs(15),
            ttl => ttl / 2,
        })
    }

    /// Whether records are sent more than once, which takes from the pace.
    fn retries_happen(&self) -> bool {
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
        rates.into_iter().any(|rate| rate > 0) || self.options.callers.panics > 0 || service.record_kib.is_some()
    }

    /// Whether a shard of the stream may have a backlog that puts have to wait for. The producer counts half of the shard's
    /// present pace, and checks puts from a quarter of the limit on.
    fn has_long_backlog(&self, stream: usize, _: Instant) -> bool {
        let (settings, about) = (&self.options.config, &self.streams[stream]);
        let (records, bytes) = about.outstanding;
        let pace = if about.throttled { 64.0 } else { 1.0 };
        // Framing makes small records larger.
        let seconds = (records as f64 / settings.records_per_second as f64)
            .max((bytes + 64 * records) as f64 / settings.bytes_per_second as f64);
        2.0 * pace * seconds > self.backlog_limit().as_secs_f64() / 4.0
    }
}

/// All records of a run, by ticket, and the promises.
#[derive(Debug)]
pub(crate) struct Oracle {
    puts: Vec<Put>,
    pub(crate) facts: Facts,
    attempts: attempts::Attempts,
    consumed: consumed::Consumed,
    flushes: flushes::Flushes,
    latency: latency::Latency,
    pace: pace::Pace,
    progress: progress::Progress,
    questions: questions::Questions,
    stream_pace: stream_pace::StreamPace,
    pub(crate) taken: u64,
    pub(crate) succeeded: u64,
    failed: u64,
}

impl Oracle {
    pub(crate) fn new(options: &Options, record_size_max: usize) -> Self {
        let service = &options.service;
        let steady = service.reshards == 0
            && service.rebirths == 0
            && service.list_untrue == 0
            && !service.auto
            && service.auto_switches == 0;
        // Who is told does not ask.
        let summary_at = if options.config.told { Instant::from_nanos(0) } else { Instant::NEVER };
        let shards_at = if options.config.told && service.auto { Instant::from_nanos(0) } else { Instant::NEVER };
        let stream = || StreamFacts {
            deleted_at: None,
            started_at: Instant::NEVER,
            starts: 0,
            last_used: Instant::from_nanos(0),
            outstanding: (0, 0),
            answered_at_start: [summary_at, shards_at],
            described_at: summary_at,
            list_settled_at: shards_at,
            shards_known_at: Instant::NEVER,
            blind: 0,
            throttled: false,
            steady,
            has_fixed_shards: service.reshards == 0 && service.rebirths == 0,
        };
        let facts = Facts {
            late: Duration::ZERO,
            codes: BTreeSet::new(),
            miscounted: false,
            record_size_max,
            closing: false,
            closes_at_once: true,
            gives_up_at: Instant::NEVER,
            runtime_ended: false,
            healed: None,
            under_way: 0,
            streams: (0..options.work.streams).map(|_| stream()).collect(),
            outstanding_records: 0,
            outstanding_bytes: 0,
            options: options.clone(),
        };
        Self {
            puts: Vec::new(),
            attempts: attempts::Attempts::default(),
            consumed: consumed::Consumed::default(),
            flushes: flushes::Flushes::default(),
            latency: latency::Latency::new(options),
            pace: pace::Pace::new(options),
            progress: progress::Progress::default(),
            questions: questions::Questions::new(options.work.streams),
            stream_pace: stream_pace::StreamPace::new(options.work.streams),
            taken: 0,
            succeeded: 0,
            failed: 0,
            facts,
        }
    }

    pub(crate) fn healed(&mut self, now: Instant) {
        self.facts.healed = Some((now, self.facts.outstanding_bytes));
    }

    /// The ticket of the next record.
    pub(crate) fn next_ticket(&self) -> u64 {
        self.puts.len() as u64
    }

    pub(crate) fn offered(&mut self, now: Instant, stream: usize, record: &UserRecord) {
        self.puts.push(Put {
            stream,
            at: now,
            size: record.data.len() + record.partition_key.len(),
            explicit_hash_key: record.explicit_hash_key.as_ref().and_then(|key| key.parse().ok()),
            fingerprint: fingerprint(&record.partition_key, &record.data),
            state: State::Offered,
            was_blind: false,
            flushed_at: None,
            disturbed: false,
            misled: false,
            reads: 0,
            read_as_told: false,
        });
    }

    pub(crate) fn taken(&mut self, now: Instant, ticket: u64) -> Kept {
        let put = self.puts.get_mut(ticket as usize).ok_or_else(|| resolved_once::unknown(ticket))?;
        put.at = now;
        let size = put.size;
        resolved_once::decided(put, ticket, State::Taken)?;
        caps::accepted(&self.facts, ticket)?;
        self.progress.effect();
        self.taken += 1;
        self.facts.outstanding_records += 1;
        self.facts.outstanding_bytes += size;
        self.facts.streams[put.stream].used(now, size);
        Ok(())
    }

    pub(crate) fn refused(&mut self, now: Instant, ticket: u64, refusal: Refusal, record: &UserRecord) -> Kept {
        let put = self.puts.get_mut(ticket as usize).ok_or_else(|| resolved_once::unknown(ticket))?;
        resolved_once::decided(put, ticket, State::Refused)?;
        as_put::given_back(put, ticket, record)?;
        if refusal == Refusal::TooLarge {
            self.facts.streams[put.stream].touched(now);
        }
        caps::refused(&self.facts, now, put, refusal)
    }

    pub(crate) fn given_up(&mut self, ticket: u64) -> Kept {
        let put = self.puts.get_mut(ticket as usize).ok_or_else(|| resolved_once::unknown(ticket))?;
        resolved_once::decided(put, ticket, State::GivenUp)
    }

    pub(crate) fn resolved(&mut self, now: Instant, ticket: u64, result: &RecordResult) -> Kept {
        let put = self.puts.get_mut(ticket as usize).ok_or_else(|| resolved_once::unknown(ticket))?;
        resolved_once::resolved(put, ticket, result)?;
        self.facts.outstanding_records -= 1;
        self.facts.outstanding_bytes -= put.size;
        let about = &mut self.facts.streams[put.stream];
        about.outstanding = (about.outstanding.0 - 1, about.outstanding.1 - put.size);
        about.last_used = now;
        put.misled |= about.deleted_at.is_some_and(|deleted_at| put.at <= deleted_at);
        // Without a shard list, nothing shows that keys do not count any more.
        let without_list = about.shards_known_at == Instant::NEVER || put.was_blind;
        put.misled |= without_list && self.facts.options.service.auto_switches > 0;
        about.blind -= usize::from(put.was_blind);
        time_to_live::resolved(&self.facts, now, put, ticket, result)?;
        self.attempts.resolved(&self.facts, put, ticket, result)?;
        match result {
            Ok(receipt) => {
                self.succeeded += 1;
                self.latency.succeeded(&self.facts, put, ticket, receipt)?;
            }
            Err(failure) => {
                self.failed += 1;
                as_put::given_back(put, ticket, &failure.record)?;
                causes::failed(&self.facts, now, put, ticket, failure)?;
                backlog::failed(&self.facts, self.latency.was_capped(), put, ticket, failure)?;
            }
        }
        self.progress.resolved(now);
        self.flushes.resolved(ticket);
        Ok(())
    }

    pub(crate) fn flush(&mut self, now: Instant, number: u64) {
        self.flushes.asked(number, self.puts.iter().map(|put| put.state == State::Taken).collect());
        self.hasten(now);
    }

    /// The producer is closed: it takes no more, and gives up at `gives_up_at`.
    pub(crate) fn closing(&mut self, now: Instant, gives_up_at: Instant, hastens: bool) {
        self.facts.closing = true;
        self.facts.gives_up_at = gives_up_at.min(self.facts.gives_up_at);
        if hastens {
            self.hasten(now);
        }
    }

    /// What is outstanding now waits for nothing any more.
    fn hasten(&mut self, now: Instant) {
        for put in self.puts.iter_mut().filter(|put| put.state == State::Taken) {
            put.flushed_at.get_or_insert(now);
        }
    }

    pub(crate) fn flushed(&mut self, number: u64) -> Kept {
        self.flushes.done(number)
    }

    /// A PutRecords request is on its way.
    pub(crate) fn sent(
        &mut self,
        now: Instant,
        stream: usize,
        records: &[PutRecordsEntry],
        shards: &dyn Fn() -> Vec<(String, (u128, u128))>,
    ) -> Kept {
        self.facts.under_way += 1;
        self.progress.effect();
        caps::sent(&self.facts, records)?;
        start::sent(&self.facts, now, stream)?;
        self.latency.sent(&self.facts, now, stream, records);
        let was_capped = self.latency.was_capped();
        self.stream_pace.sent(&self.facts, now, stream, records, was_capped, &|| shards().len())?;
        self.pace.sent(&self.facts, now, stream, records, was_capped, shards)
    }

    /// A request that was sent at `sent` is answered, or nobody waits for its answer any more.
    pub(crate) fn answered(&mut self, now: Instant, sent: Instant) {
        self.facts.under_way -= 1;
        self.attempts.request(sent, now);
        self.progress.effect();
    }

    /// The service gave this error code to a record of a stream, or to all of them.
    pub(crate) fn error(&mut self, stream: usize, code: &str) {
        if !self.facts.codes.contains(code) {
            self.facts.codes.insert(code.into());
        }
        if matches!(code, "ProvisionedThroughputExceededException" | "ThrottlingException") {
            self.facts.streams[stream].throttled = true;
        }
    }

    /// These records went with a request that got no answer, or not the service's.
    pub(crate) fn disturbed(&mut self, records: &[PutRecordsEntry]) {
        for ticket in consumed::tickets(records) {
            if let Some(put) = self.puts.get_mut(ticket as usize) {
                put.disturbed = true;
            }
        }
    }

    /// These records went by the shards of a stream that is gone, into one of the same name.
    pub(crate) fn misled(&mut self, records: &[PutRecordsEntry]) {
        for ticket in consumed::tickets(records) {
            if let Some(put) = self.puts.get_mut(ticket as usize) {
                put.misled = true;
            }
        }
    }

    pub(crate) fn asked_for_shards(&mut self, now: Instant, stream: usize, is_first_page: bool) -> Kept {
        self.progress.effect();
        self.questions.shards(&self.facts, now, stream, is_first_page)
    }

    pub(crate) fn asked_for_summary(&mut self, now: Instant, stream: usize) -> Kept {
        self.progress.effect();
        self.questions.summary(&self.facts, now, stream)
    }

    /// A request for a stream's shards is answered to its end.
    pub(crate) fn list_answered(&mut self, now: Instant, stream: usize, reply: &Result<ShardPage, RequestError>) {
        let start_wait = self.facts.start_wait();
        let about = &mut self.facts.streams[stream];
        let is_settled = match reply {
            Ok(_) => true,
            Err(error) => PERMANENT.contains(&&*error.code) || &*error.code == "ResourceNotFoundException",
        };
        if is_settled {
            about.list_settled_at = about.list_settled_at.min(now);
        }
        if reply.is_ok() && about.shards_known_at == Instant::NEVER {
            about.shards_known_at = now;
            // Those that could not wait for it were sent without a prediction, or still may be.
            if about.list_settled_at < now || about.started_at + start_wait <= now {
                let left = |put: &&mut Put| put.stream == stream && put.state == State::Taken;
                for put in self.puts.iter_mut().filter(left) {
                    put.was_blind = true;
                    about.blind += 1;
                }
            }
        }
    }

    /// A stream is described, or cannot be.
    pub(crate) fn described(&mut self, now: Instant, stream: usize) {
        let about = &mut self.facts.streams[stream];
        about.described_at = about.described_at.min(now);
    }

    /// A stream is about to be deleted: consumers read what it has.
    pub(crate) fn deleted(&mut self, now: Instant, kinesis: &Kinesis, stream: usize, name: &str) -> Kept {
        self.facts.streams[stream].deleted_at = Some(now);
        self.consumed.read(kinesis, name, &self.facts, &mut self.puts)
    }

    /// Everything that was to be done at this time is done.
    pub(crate) fn step(&mut self, now: Instant, woken: bool, counts: Option<&Counts>, next_wake: Instant) -> Kept {
        self.flushes.step()?;
        self.progress.step(&self.facts, now, woken, next_wake)?;
        if let Some(counts) = counts {
            caps::step(&self.facts, now, counts)?;
            resolved_once::step(&self.facts, now, counts)?;
        }
        Ok(())
    }

    /// The producer is idle for good.
    pub(crate) fn idle(counts: &Counts) -> Kept {
        progress::idle(counts)
    }

    /// Nothing is to come any more: judges the run as a whole.
    pub(crate) fn judge(
        &mut self,
        kinesis: &Kinesis,
        streams: &[Arc<str>],
        counts: Option<&Counts>,
        closed: bool,
    ) -> Kept {
        resolved_once::judge(&self.facts, &self.puts, closed)?;
        self.flushes.judge()?;
        if let Some(counts) = counts {
            resolved_once::empty(counts, [self.taken, self.succeeded, self.failed])?;
        }
        for stream in streams {
            self.consumed.read(kinesis, stream, &self.facts, &mut self.puts)?;
        }
        self.consumed.judge(&mut self.puts)
    }
}

//! Checks the promises to users, with the results that callers got and the records that a consumer reads. One file per
//! promise.
//!
//! The oracle's input is what the world did: the records that it put, and the requests and replies that it lost or
//! changed. It does not depend on how the producer works, and compares the producer's counts with its own.

mod as_put;
mod attempts;
mod backlog;
mod caps;
mod causes;
mod consumed;
mod facts;
mod flushes;
mod latency;
mod lingering;
mod order;
mod progress;
mod questions;
mod rate_limit;
mod resolved_once;
mod start;
mod stream_rate;
mod time_to_live;

use std::sync::Arc;
use std::time::Duration;

use kpl_core::{Instant, RecordResult, Reply, RequestError, ShardPage, StreamSummary, UserRecord};
use kpl_emulator::Kinesis;
use kpl_emulator::api::PutRecordsEntry;

use crate::network::Garbled;
use crate::options::Options;
use crate::service::{GATEWAY_THROTTLED, is_permanent};
use crate::subject::{Counts, Refusal};
use crate::workload::fingerprint;

pub(crate) use self::facts::Facts;
use self::facts::StreamFacts;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The promise.
    pub(crate) promise: &'static str,
    /// A description of the violation.
    pub(crate) how: String,
}

pub(crate) type Check = Result<(), Broken>;

/// Returns a [`Broken`] of the module's `PROMISE`, with a formatted description.
macro_rules! broken {
    ($($how:tt)*) => { Err($crate::oracle::Broken { promise: PROMISE, how: format!($($how)*) }) };
}
pub(crate) use broken;

/// A user record that was put.
#[derive(Debug)]
struct Put {
    stream: usize,
    /// The time of the put, and then the time at which the producer accepted it.
    at: Instant,
    /// The size of data and partition key in bytes.
    size: usize,
    explicit_hash_key: Option<u128>,
    hash_key: u128,
    /// The numbers of the events of its put, of its acceptance, and of its result.
    offered: u64,
    accepted: u64,
    resolved: u64,
    /// The hash of partition key and data.
    fingerprint: u64,
    state: State,
    /// Whether it was due before its stream's shards were known, and was sent without a predicted shard.
    unpredicted: bool,
    /// The time of the first flush of the record, or of the close.
    flushed_at: Option<Instant>,
    /// The number of requests with the record.
    requests: usize,
    /// Whether a request with the record got no reply, or a garbled one.
    unanswered: bool,
    /// Whether the service stored a request with the record after the producer had given it up.
    stored_late: bool,
    /// Whether a reply did not say on which shard the record was stored. The prediction may be wrong.
    has_unnamed_shard: bool,
    /// Whether the record met two streams of one name, whose shards have the same names and different ranges. It was
    /// stored before the producer had the new stream's shards, or its stream was deleted before it was resolved. Also
    /// true if the producer could not detect that the stream ignores hash keys. `consumed` skips these records.
    spans_recreation: bool,
    /// The number of times that consumers read it.
    reads: u32,
    /// Whether consumers read it where the receipt says.
    read_at_receipt: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Offered,
    Refused,
    TimedOut,
    Accepted,
    Succeeded(Place),
    Failed { ambiguous: bool },
}

/// The position of a record in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    shard_id: Arc<str>,
    sequence_number: Arc<str>,
    sub_sequence_number: u64,
}

/// The records of a run and the state of the checks.
#[derive(Debug)]
pub(crate) struct Oracle {
    /// All records that were put, by ticket.
    puts: Vec<Put>,
    pub(crate) facts: Facts,
    /// The number of puts that were offered, accepted or resolved.
    put_events: u64,
    attempts: attempts::Attempts,
    consumed: consumed::Consumed,
    flushes: flushes::Flushes,
    latency: latency::Latency,
    rate_limit: rate_limit::RateLimit,
    progress: progress::Progress,
    metadata_requests: questions::MetadataRequests,
    order: order::Order,
    stream_rate: stream_rate::StreamRate,
    pub(crate) accepted: u64,
    pub(crate) succeeded: u64,
    failed: u64,
}

impl Oracle {
    pub(crate) fn new(options: &Options, record_size_max: usize) -> Self {
        let service = &options.service;
        let steady = service.reshards == 0
            && service.recreations == 0
            && service.list_wrong == 0
            && service.unknown_for.is_zero()
            && !service.auto
            && service.auto_switches == 0;
        // With the description in the configuration, the producer does not request it.
        let given = options.config.description_given;
        let summary_at = if given { Instant::from_nanos(0) } else { Instant::NEVER };
        let shards_at = if given && service.auto { Instant::from_nanos(0) } else { Instant::NEVER };
        let stream = || StreamFacts {
            deleted_at: None,
            started_at: Instant::NEVER,
            starts: 0,
            last_used: Instant::from_nanos(0),
            outstanding: (0, 0),
            metadata_at_start: [summary_at, summary_at, shards_at],
            described_at: summary_at,
            auto_known_at: Instant::NEVER,
            resolves: Vec::new(),
            description_settled_at: summary_at,
            list_settled_at: shards_at,
            shards_known_at: Instant::NEVER,
            not_found: false,
            stored_at: Instant::NEVER,
            unpredicted: 0,
            throttled: false,
            steady,
            has_fixed_shards: service.reshards == 0 && service.recreations == 0 && service.unknown_for.is_zero(),
        };
        let facts = Facts {
            late: Duration::ZERO,
            codes: Default::default(),
            count_mismatch: false,
            record_size_max,
            closing: false,
            closes_at_once: true,
            close_deadline: Instant::NEVER,
            runtime_ended: false,
            healed: None,
            in_flight: 0,
            metadata_in_flight: 0,
            refused_at: None,
            streams: (0..options.work.streams).map(|_| stream()).collect(),
            outstanding_records: 0,
            outstanding_bytes: 0,
            options: options.clone(),
        };
        Self {
            puts: Vec::new(),
            put_events: 0,
            order: order::Order::default(),
            attempts: attempts::Attempts::default(),
            consumed: consumed::Consumed::default(),
            flushes: flushes::Flushes::default(),
            latency: latency::Latency::new(options),
            rate_limit: rate_limit::RateLimit::new(options),
            progress: progress::Progress::default(),
            metadata_requests: questions::MetadataRequests::new(options.work.streams),
            stream_rate: stream_rate::StreamRate::new(options.work.streams),
            accepted: 0,
            succeeded: 0,
            failed: 0,
            facts,
        }
    }

    pub(crate) fn healed(&mut self, now: Instant) {
        self.facts.healed = Some((now, self.facts.outstanding_bytes));
    }

    /// Returns the ticket of the next record.
    pub(crate) fn next_ticket(&self) -> u64 {
        self.puts.len() as u64
    }

    pub(crate) fn offered(&mut self, now: Instant, stream: usize, record: &UserRecord) {
        self.put_events += 1;
        let explicit_hash_key = record.explicit_hash_key.as_ref().and_then(|key| key.parse().ok());
        self.puts.push(Put {
            stream,
            offered: self.put_events,
            accepted: u64::MAX,
            resolved: u64::MAX,
            hash_key: explicit_hash_key.unwrap_or_else(|| kpl_core::hash_key(&record.partition_key)),
            at: now,
            size: record.data.len() + record.partition_key.len(),
            explicit_hash_key,
            fingerprint: fingerprint(&record.partition_key, &record.data),
            state: State::Offered,
            unpredicted: false,
            flushed_at: None,
            requests: 0,
            unanswered: false,
            stored_late: false,
            has_unnamed_shard: false,
            spans_recreation: false,
            reads: 0,
            read_at_receipt: false,
        });
    }

    pub(crate) fn accepted(&mut self, now: Instant, ticket: u64) -> Check {
        let put = self.puts.get_mut(ticket as usize).ok_or_else(|| resolved_once::unknown(ticket))?;
        put.at = now;
        self.put_events += 1;
        put.accepted = self.put_events;
        let size = put.size;
        resolved_once::decided(put, ticket, State::Accepted)?;
        caps::accepted(&self.facts, ticket)?;
        self.progress.accepted(now, self.facts.outstanding_records == 0);
        self.accepted += 1;
        self.facts.outstanding_records += 1;
        self.facts.outstanding_bytes += size;
        self.facts.streams[put.stream].used(now, size);
        Ok(())
    }

    pub(crate) fn refused(&mut self, now: Instant, ticket: u64, refusal: Refusal, record: &UserRecord) -> Check {
        let put = self.puts.get_mut(ticket as usize).ok_or_else(|| resolved_once::unknown(ticket))?;
        resolved_once::decided(put, ticket, State::Refused)?;
        as_put::returned(put, ticket, record)?;
        if refusal == Refusal::TooLarge {
            self.facts.streams[put.stream].touched(now);
        }
        if refusal == Refusal::Full {
            self.facts.refused_at = Some(now);
        }
        caps::refused(&self.facts, put, refusal)
    }

    pub(crate) fn put_timed_out(&mut self, ticket: u64) -> Check {
        let put = self.puts.get_mut(ticket as usize).ok_or_else(|| resolved_once::unknown(ticket))?;
        resolved_once::decided(put, ticket, State::TimedOut)
    }

    pub(crate) fn resolved(&mut self, now: Instant, ticket: u64, result: &RecordResult) -> Check {
        let put = self.puts.get_mut(ticket as usize).ok_or_else(|| resolved_once::unknown(ticket))?;
        resolved_once::resolved(put, ticket, result)?;
        self.put_events += 1;
        put.resolved = self.put_events;
        self.facts.outstanding_records -= 1;
        self.facts.outstanding_bytes -= put.size;
        let about = &mut self.facts.streams[put.stream];
        about.outstanding = (about.outstanding.0 - 1, about.outstanding.1 - put.size);
        about.last_used = now;
        about.resolves.push(now);
        put.spans_recreation |= about.deleted_at.is_some_and(|deleted_at| put.at <= deleted_at);
        // Without a shard list, the producer cannot detect that the stream ignores hash keys.
        let without_list = about.shards_known_at == Instant::NEVER || about.not_found || put.unpredicted;
        put.spans_recreation |= without_list && self.facts.options.service.auto_switches > 0;
        about.unpredicted -= usize::from(put.unpredicted);
        time_to_live::resolved(&self.facts, now, put, ticket, result)?;
        self.attempts.resolved(&self.facts, put, ticket, result)?;
        match result {
            Ok(receipt) => {
                self.succeeded += 1;
                self.latency.succeeded(&self.facts, put, ticket, receipt)?;
                order::succeeded(&self.facts, put, ticket, receipt)?;
            }
            Err(failure) => {
                self.failed += 1;
                as_put::returned(put, ticket, &failure.record)?;
                causes::failed(&self.facts, now, put, ticket, failure)?;
                backlog::failed(&self.facts, self.latency.was_capped(), put, ticket, failure)?;
            }
        }
        self.progress.resolved(now);
        self.flushes.resolved(ticket);
        Ok(())
    }

    pub(crate) fn flush(&mut self, now: Instant, number: u64) {
        self.flushes.started(number, self.puts.iter().map(|put| put.state == State::Accepted).collect());
        self.mark_flushed(now);
    }

    /// The producer is closed with a deadline. `flushes` is whether the close flushes at once.
    pub(crate) fn closing(&mut self, now: Instant, deadline: Instant, flushes: bool) {
        self.facts.closing = true;
        self.facts.close_deadline = deadline.min(self.facts.close_deadline);
        if flushes {
            self.mark_flushed(now);
        }
    }

    /// Marks all outstanding records as flushed.
    fn mark_flushed(&mut self, now: Instant) {
        for put in self.puts.iter_mut().filter(|put| put.state == State::Accepted) {
            put.flushed_at.get_or_insert(now);
        }
    }

    pub(crate) fn flushed(&mut self, number: u64) -> Check {
        self.flushes.done(number)
    }

    /// A PutRecords request is sent.
    pub(crate) fn sent(
        &mut self,
        now: Instant,
        stream: usize,
        records: &[PutRecordsEntry],
        shards: &dyn Fn() -> Vec<(String, (u128, u128))>,
    ) -> Check {
        self.facts.in_flight += 1;
        self.progress.effect();
        self.each_put(records, |put| put.requests += 1);
        caps::sent(&self.facts, records)?;
        start::sent(&self.facts, now, stream)?;
        self.latency.sent(&self.facts, now, stream, records);
        let was_capped = self.latency.was_capped();
        self.stream_rate.sent(&self.facts, now, stream, records, was_capped, shards)?;
        self.rate_limit.sent(&self.facts, now, stream, records, was_capped, shards)
    }

    /// A PutRecords request that was sent at `sent` has a response, or is dropped.
    pub(crate) fn request_ended(&mut self, now: Instant, sent: Instant) {
        self.facts.in_flight -= 1;
        self.attempts.request_ended(sent, now);
        self.progress.effect();
    }

    /// The service has returned this error code for a record of a stream, or for a whole request.
    pub(crate) fn error(&mut self, stream: usize, code: &str) {
        if !self.facts.codes.contains(code) {
            self.facts.codes.insert(code.into());
        }
        if matches!(code, "ProvisionedThroughputExceededException" | "ThrottlingException" | GATEWAY_THROTTLED) {
            self.facts.streams[stream].throttled = true;
        }
        self.facts.streams[stream].not_found |= code == "ResourceNotFoundException";
    }

    /// The service has stored a record of a stream, and its reply says so.
    pub(crate) fn stored(&mut self, now: Instant, stream: usize) {
        let about = &mut self.facts.streams[stream];
        about.stored_at = about.stored_at.min(now);
    }

    /// The reply to the request with these records was garbled.
    pub(crate) fn garbled(&mut self, garbled: Garbled, reply: &Reply, records: &[PutRecordsEntry]) {
        if matches!(garbled, Garbled::NoShardIds) {
            return self.each_put(records, |put| put.has_unnamed_shard = true);
        }
        self.facts.count_mismatch |= matches!(reply, Reply::Records(results) if !results.is_empty());
        self.unanswered(records);
    }

    /// The request with these records got no reply, or a garbled one.
    pub(crate) fn unanswered(&mut self, records: &[PutRecordsEntry]) {
        self.each_put(records, |put| put.unanswered = true);
    }

    /// The service has stored these records after the producer had given up the request.
    pub(crate) fn stored_late(&mut self, records: &[PutRecordsEntry]) {
        self.each_put(records, |put| put.stored_late = true);
    }

    /// These records were aggregated by the shards of a deleted stream and reach a new stream of the same name.
    pub(crate) fn spans_recreation(&mut self, records: &[PutRecordsEntry]) {
        self.each_put(records, |put| put.spans_recreation = true);
    }

    /// Changes the puts of the user records in a request.
    fn each_put(&mut self, records: &[PutRecordsEntry], change: impl Fn(&mut Put)) {
        for ticket in consumed::tickets(records) {
            if let Some(put) = self.puts.get_mut(ticket as usize) {
                change(put);
            }
        }
    }

    pub(crate) fn list_requested(&mut self, now: Instant, stream: usize, is_first_page: bool) -> Check {
        self.progress.effect();
        if is_first_page {
            self.facts.metadata_in_flight += 1;
            caps::metadata_requested(&self.facts)?;
        }
        self.metadata_requests.shards(&self.facts, now, stream, is_first_page)
    }

    pub(crate) fn description_requested(&mut self, now: Instant, stream: usize) -> Check {
        self.progress.effect();
        self.facts.metadata_in_flight += 1;
        caps::metadata_requested(&self.facts)?;
        self.metadata_requests.summary(&self.facts, now, stream)
    }

    /// A metadata request has ended: with its last page, if it has several.
    pub(crate) fn metadata_ended(&mut self) {
        self.facts.metadata_in_flight = self.facts.metadata_in_flight.saturating_sub(1);
    }

    /// A request for a stream's shards has failed, or its last page has arrived.
    pub(crate) fn list_ended(&mut self, now: Instant, stream: usize, reply: &Result<ShardPage, RequestError>) {
        let start_wait = self.facts.start_wait();
        let about = &mut self.facts.streams[stream];
        if is_settled(reply) {
            about.list_settled_at = about.list_settled_at.min(now);
        }
        about.not_found &= reply.is_err();
        if reply.is_ok() && about.shards_known_at == Instant::NEVER {
            about.shards_known_at = now;
            // The outstanding records may have been sent before the list, without a predicted shard.
            if about.list_settled_at < now || about.started_at + start_wait <= now {
                let is_outstanding = |put: &&mut Put| put.stream == stream && put.state == State::Accepted;
                for put in self.puts.iter_mut().filter(is_outstanding) {
                    put.unpredicted = true;
                    about.unpredicted += 1;
                }
            }
        }
    }

    /// A request for a stream's description has ended, without a reply if its task panicked.
    pub(crate) fn described(
        &mut self,
        now: Instant,
        stream: usize,
        reply: Option<&Result<StreamSummary, RequestError>>,
    ) {
        let about = &mut self.facts.streams[stream];
        about.described_at = about.described_at.min(now);
        if reply.is_some_and(is_settled) {
            about.description_settled_at = about.description_settled_at.min(now);
        }
        if let Some(Ok(summary)) = reply {
            about.auto_known_at = if summary.auto_distribution { about.auto_known_at.min(now) } else { Instant::NEVER };
        }
    }

    /// A stream is about to be deleted. Consumers read its records before that.
    pub(crate) fn deleted(&mut self, now: Instant, kinesis: &Kinesis, stream: usize, name: &str) -> Check {
        self.facts.streams[stream].deleted_at = Some(now);
        self.consumed.read(kinesis, name, &self.facts, &mut self.puts, &mut self.order)
    }

    /// Checks the state after everything that is due at this time is done.
    pub(crate) fn step(&mut self, now: Instant, woken: bool, counts: Option<&Counts>, next_wake: Instant) -> Check {
        self.flushes.step()?;
        self.progress.step(&self.facts, now, woken, next_wake)?;
        if let Some(counts) = counts {
            caps::step(&self.facts, counts)?;
            lingering::step(&self.facts, &self.latency, now)?;
            resolved_once::step(&self.facts, now, counts)?;
        }
        Ok(())
    }

    /// Checks a producer that nothing will wake any more.
    pub(crate) fn idle(counts: &Counts) -> Check {
        progress::idle(counts)
    }

    /// Checks the run as a whole, after the last event.
    pub(crate) fn judge(
        &mut self,
        kinesis: &Kinesis,
        streams: &[Arc<str>],
        counts: Option<&Counts>,
        closed: bool,
    ) -> Check {
        resolved_once::judge(&self.facts, &self.puts, closed)?;
        self.flushes.judge()?;
        if let Some(counts) = counts {
            resolved_once::totals(counts, [self.accepted, self.succeeded, self.failed])?;
        }
        for stream in streams {
            self.consumed.read(kinesis, stream, &self.facts, &mut self.puts, &mut self.order)?;
        }
        self.consumed.judge(&mut self.puts)?;
        self.order.judge(&self.facts, &self.puts)
    }
}

/// Whether a metadata request succeeded, or failed with an error that will not pass.
fn is_settled<R>(reply: &Result<R, RequestError>) -> bool {
    let is_final = |code: &str| is_permanent(code) || code == "ResourceNotFoundException";
    reply.as_ref().err().is_none_or(|error| is_final(&error.code))
}

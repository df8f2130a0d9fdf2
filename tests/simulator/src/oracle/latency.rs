use std::time::Duration;

use kpl_core::{Instant, Receipt};
use kpl_emulator::api::PutRecordsEntry;

use super::{Check, Facts, Put, broken};
use crate::options::Options;

const PROMISE: &str = "a record is sent within record_max_buffered_time of its put, and at once when it is flushed, \
                       unless the first shard list, its shard's rate or the limit on requests in flight delays it";

/// The valid reasons for a delay.
#[derive(Debug)]
pub(super) struct Latency {
    /// The last time at which the limit on requests in flight was reached.
    capped_at: Option<Instant>,
    streams: Vec<Load>,
}

/// The load of a stream, as if all its records were sent to one shard.
#[derive(Clone, Debug, Default)]
struct Load {
    /// The time at which the records, and the bytes, that were sent are within the rate limit, in nanoseconds.
    paid_at: [u64; 2],
    /// The time until which the rate limit may delay the largest record, in nanoseconds.
    rate_limited_until: u64,
}

const SECOND: u64 = 1_000_000_000;

/// The producer releases records that wait for the rate limit every 10 ms.
const RELEASE_INTERVAL: u64 = SECOND / 100;

impl Latency {
    pub(super) fn new(options: &Options) -> Self {
        Self { capped_at: None, streams: vec![Load::default(); options.work.streams] }
    }

    pub(super) fn sent(&mut self, facts: &Facts, now: Instant, stream: usize, records: &[PutRecordsEntry]) {
        let settings = &facts.options.config;
        if facts.are_requests_capped() {
            self.capped_at = Some(now);
        }
        let bytes: usize = records.iter().map(PutRecordsEntry::size).sum();
        let largest = settings.aggregate_size_max().max(facts.options.work.size_max + 256);
        let Load { paid_at, rate_limited_until } = &mut self.streams[stream];
        let costs = [(records.len(), 1, settings.records_per_second), (bytes, largest, settings.bytes_per_second)];
        for (paid_at, (amount, largest, rate)) in paid_at.iter_mut().zip(costs) {
            let cost = |amount: usize| (amount as u64 * SECOND).div_ceil(rate);
            *paid_at = now.as_nanos().max(*paid_at) + cost(amount);
            // A token bucket holds one second's worth.
            let room = SECOND.saturating_sub(cost(largest));
            let until = paid_at.saturating_sub(room).next_multiple_of(RELEASE_INTERVAL);
            *rate_limited_until = (*rate_limited_until).max(until);
        }
    }

    /// Returns whether the limit on requests in flight was ever reached.
    pub(super) fn was_capped(&self) -> bool {
        self.capped_at.is_some()
    }

    /// Whether the rate limit may delay the stream's records at `now`.
    pub(super) fn is_rate_limited(&self, stream: usize, now: Instant) -> bool {
        self.streams[stream].rate_limited_until >= now.as_nanos()
    }

    pub(super) fn succeeded(&self, facts: &Facts, put: &Put, ticket: u64, receipt: &Receipt) -> Check {
        let settings = &facts.options.config;
        let stream = &facts.streams[put.stream];
        let Some(first) = receipt.attempts().iter().next() else { return Ok(()) };
        // With a shard list, records wait for the description, too, but not beyond their deadline.
        let list = stream.metadata_settled_at().min(stream.started_at + facts.start_wait());
        let described = stream.described_at;
        let buffered = (put.at + settings.buffered).max(list);
        let flushed = put.flushed_at.map_or(Instant::NEVER, |at| at.max(list).max(described));
        // With an order per key, a record waits for those before it, until they are resolved or sent elsewhere.
        if settings.ordering && !facts.is_calm() {
            return Ok(());
        }
        let earlier = stream.resolves.partition_point(|at| *at <= first.start).checked_sub(1);
        let earlier = earlier.filter(|_| settings.ordering).map(|index| stream.resolves[index]);
        let due = buffered.min(flushed).max(earlier.unwrap_or(Instant::from_nanos(0)));
        if first.start <= due + facts.late {
            return Ok(());
        }
        // Records that waited for a request and expired have used the rate of up to a second.
        let capped_until = self.capped_at.map(|at| at + Duration::from_secs(1));
        let capped = facts.are_requests_capped() || capped_until.is_some_and(|until| until >= put.at);
        let rate_limited = self.streams[put.stream].rate_limited_until >= put.at.as_nanos();
        if capped || rate_limited || stream.throttled {
            return Ok(());
        }
        broken!("record {ticket}, put at {:?} and due at {due:?}, is sent too late, at {:?}", put.at, first.start)
    }
}

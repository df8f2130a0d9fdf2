use kpl_core::{Instant, Receipt};
use kpl_emulator::api::PutRecordsEntry;

use super::{Facts, Kept, Put, broken};
use crate::options::Options;

const PROMISE: &str = "a record is on the network within record_max_buffered_time of its put, and at once when it is \
                       flushed, unless the first shard list, its shard's rate or the cap on requests under way delays it";

/// What excuses a record that is late.
#[derive(Debug)]
pub(super) struct Latency {
    /// When as many requests as allowed were under way, last.
    capped_at: Option<Instant>,
    streams: Vec<Busy>,
}

/// How much a stream has been sent, as if it were all to one shard.
#[derive(Clone, Debug, Default)]
struct Busy {
    /// When all records, and all bytes, that were sent are within the rate, in nanoseconds.
    paid_at: [u64; 2],
    /// Until when the largest record might have had to wait, in nanoseconds.
    tight_until: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Latency {
    pub(super) fn new(options: &Options) -> Self {
        Self { capped_at: None, streams: vec![Busy::default(); options.work.streams] }
    }

    pub(super) fn sent(&mut self, facts: &Facts, now: Instant, stream: usize, records: &[PutRecordsEntry]) {
        let settings = &facts.options.config;
        if facts.under_way >= settings.in_flight {
            self.capped_at = Some(now);
        }
        let bytes: usize = records.iter().map(|record| record.data.len() + record.partition_key.len()).sum();
        let largest = settings.aggregation_max_size.max(facts.options.work.size_max + 256);
        let Busy { paid_at, tight_until } = &mut self.streams[stream];
        let costs = [(records.len(), 1, settings.records_per_second), (bytes, largest, settings.bytes_per_second)];
        for (paid_at, (amount, largest, rate)) in paid_at.iter_mut().zip(costs) {
            let cost = |amount: usize| (amount as u64 * SECOND).div_ceil(rate);
            *paid_at = now.as_nanos().max(*paid_at) + cost(amount);
            // A bucket holds what a second gives.
            let room = SECOND.saturating_sub(cost(largest));
            *tight_until = (*tight_until).max(paid_at.saturating_sub(room));
        }
    }

    /// Whether as many requests as allowed have ever been under way.
    pub(super) fn was_capped(&self) -> bool {
        self.capped_at.is_some()
    }

    pub(super) fn succeeded(&self, facts: &Facts, put: &Put, ticket: u64, receipt: &Receipt) -> Kept {
        let settings = &facts.options.config;
        let stream = &facts.streams[put.stream];
        let Some(first) = receipt.attempts().iter().next() else { return Ok(()) };
        // Records wait for the first shard list, and until their deadline for the description.
        let list = stream.list_settled_at.min(stream.started_at + facts.start_wait());
        let described = stream.described_at;
        let buffered = (put.at + settings.buffered).max(list);
        let flushed = put.flushed_at.map_or(Instant::NEVER, |at| at.max(list).max(described));
        let due = buffered.min(flushed);
        if first.start <= due + facts.late {
            return Ok(());
        }
        // The cap, or the rate, may have held it.
        let capped = facts.under_way >= settings.in_flight || self.capped_at.is_some_and(|at| at >= put.at);
        let tight = self.streams[put.stream].tight_until >= put.at.as_nanos();
        if capped || tight || stream.throttled {
            return Ok(());
        }
        broken!("record {ticket}, put at {:?} and due at {due:?}, is sent at {:?}", put.at, first.start)
    }
}

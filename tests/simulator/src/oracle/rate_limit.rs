use std::collections::BTreeMap;

use kpl_core::Instant;
use kpl_emulator::api::PutRecordsEntry;

use super::{Check, Facts, broken};
use crate::options::{Options, ms};

const PROMISE: &str = "no shard is sent more than its rate limit: one second's worth at once, then the rate";

/// The records sent per shard. Only checked while the producer has the right shards.
#[derive(Debug)]
pub(super) struct RateLimit {
    streams: Vec<Option<Shards>>,
}

#[derive(Debug)]
struct Shards {
    /// The number of times that the stream was started. Its state does not outlast its retirement.
    starts: u32,
    /// The shards, by their last hash keys.
    by_end: BTreeMap<u128, Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    /// The time at which the records that were sent are within the rate limit, in nanoseconds.
    records_paid_at: u64,
    /// The same for bytes.
    bytes_paid_at: u64,
}

const SECOND: u64 = 1_000_000_000;

impl RateLimit {
    pub(super) fn new(options: &Options) -> Self {
        Self { streams: (0..options.work.streams).map(|_| None).collect() }
    }

    pub(super) fn sent(
        &mut self,
        facts: &Facts,
        now: Instant,
        stream: usize,
        records: &[PutRecordsEntry],
        capped: bool,
        shards: &dyn Fn() -> Vec<(String, (u128, u128))>,
    ) -> Check {
        let (settings, about) = (&facts.options.config, &facts.streams[stream]);
        // The parts of a split request skip the limiter, and refused records cost the shard nothing.
        // Records that are sent before the shards are known have no rate limit.
        if !about.steady || about.shards_known_at == Instant::NEVER || about.unpredicted > 0 || facts.may_split() {
            return Ok(());
        }
        let checked = &mut self.streams[stream];
        checked.take_if(|shards| shards.starts != about.starts);
        let shards = checked.get_or_insert_with(|| Shards {
            starts: about.starts,
            by_end: shards().into_iter().map(|(_, (_, end))| (end, Sent::default())).collect(),
        });
        for record in records {
            let by_key = || kpl_core::hash_key(&record.partition_key);
            let hash_key = record.explicit_hash_key.as_ref().map_or_else(by_key, |key| key.parse().unwrap_or(0));
            let Some((_, sent)) = shards.by_end.range_mut(hash_key..).next() else { continue };
            // Records wait in the collector, and are then sent together with later ones. While the limit on requests in
            // flight delays them, up to one second's worth accumulates. Release times are rounded.
            let late = settings.buffered + facts.late + ms(50);
            let spread = late.as_nanos() as u64 + if capped { SECOND } else { 0 };
            for (paid_at, amount, rate) in [
                (&mut sent.records_paid_at, 1, settings.records_per_second),
                (&mut sent.bytes_paid_at, record.size() as u64, settings.bytes_per_second),
            ] {
                let cost = amount * SECOND / rate;
                let before = now.as_nanos().max(*paid_at) - now.as_nanos();
                // The last record may be larger than the bucket.
                if before > SECOND + spread {
                    return broken!(
                        "a shard with a limit of {rate} records or bytes per second is sent {amount} more, but \
                         needs {before} ns for those sent before"
                    );
                }
                *paid_at = now.as_nanos() + before + cost;
            }
        }
        Ok(())
    }
}

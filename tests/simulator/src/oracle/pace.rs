use std::collections::BTreeMap;

use kpl_core::Instant;
use kpl_emulator::api::PutRecordsEntry;

use super::{Facts, Kept, broken};
use crate::options::{Options, ms};

const PROMISE: &str = "no shard is sent more than its rate: a second's worth at once, and then what time gives";

/// What shards were sent. Judged where the producer can know the shards as they are.
#[derive(Debug)]
pub(super) struct Pace {
    streams: Vec<Option<Shards>>,
}

#[derive(Debug)]
struct Shards {
    /// By the last hash key of a shard.
    by_end: BTreeMap<u128, Sent>,
}

#[derive(Debug, Default)]
struct Sent {
    /// When all that was sent is within the rate, in nanoseconds.
    records_paid_at: u64,
    bytes_paid_at: u64,
}

const SECOND: u64 = 1_000_000_000;

impl Pace {
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
    ) -> Kept {
        let (settings, about) = (&facts.options.config, &facts.streams[stream]);
        // Parts of a divided request go as they are, and what is refused costs a shard nothing.
        let divided = facts.options.service.record_kib.is_some();
        // What went before the shards were known went without a pace.
        if !about.steady || about.shards_known_at == Instant::NEVER || about.blind > 0 || divided {
            return Ok(());
        }
        let shards = self.streams[stream].get_or_insert_with(|| Shards {
            by_end: shards().into_iter().map(|(_, (_, end))| (end, Sent::default())).collect(),
        });
        for record in records {
            let by_key = || kpl_core::hash_key(&record.partition_key);
            let hash_key = record.explicit_hash_key.as_ref().map_or_else(by_key, |key| key.parse().unwrap_or(0));
            let Some((_, sent)) = shards.by_end.range_mut(hash_key..).next() else { continue };
            let size = record.data.len() + record.partition_key.len();
            // Records wait in the collector for company, and then go together with those that came after them.
            // Where the cap on requests under way held them, that is a second's worth at the most. Releases are rounded.
            let late = settings.buffered + facts.late + ms(50);
            let spread = late.as_nanos() as u64 + if capped { SECOND } else { 0 };
            for (paid_at, amount, rate) in [
                (&mut sent.records_paid_at, 1, settings.records_per_second),
                (&mut sent.bytes_paid_at, size as u64, settings.bytes_per_second),
            ] {
                let cost = amount * SECOND / rate;
                let before = now.as_nanos().max(*paid_at) - now.as_nanos();
                // The last one may be larger than the bucket.
                if before > SECOND + spread {
                    return broken!(
                        "a shard is sent {amount} more (records or bytes) of {rate} a second, when what it was sent \
                         before takes it {before} ns"
                    );
                }
                *paid_at = now.as_nanos() + before + cost;
            }
        }
        Ok(())
    }
}

use std::time::Duration;

use kpl_core::Instant;
use kpl_emulator::api::PutRecordsEntry;

use super::{Check, Facts, broken};
use crate::options::ms;

const PROMISE: &str = "without a shard list, a stream is sent no more than the rate of its shards; if their number is not \
                       known, of one shard, and of twice as many after each second";

/// The largest estimate that is checked.
const SHARDS_MAX: u64 = 1 << 20;

/// The records sent per stream before the first shard list.
#[derive(Debug)]
pub(super) struct StreamRate {
    streams: Vec<Sent>,
}

#[derive(Clone, Debug, Default)]
struct Sent {
    /// The time of the first request.
    first_at: Option<Instant>,
    records: u64,
    bytes: u64,
}

impl StreamRate {
    pub(super) fn new(streams: usize) -> Self {
        Self { streams: vec![Sent::default(); streams] }
    }

    pub(super) fn sent(
        &mut self,
        facts: &Facts,
        now: Instant,
        stream: usize,
        records: &[PutRecordsEntry],
        was_capped: bool,
        shards: &dyn Fn() -> Vec<(String, (u128, u128))>,
    ) -> Check {
        let (settings, about) = (&facts.options.config, &facts.streams[stream]);
        // The parts of a split request skip the limiter.
        let is_checked = about.starts == 1 && !facts.may_split() && about.has_fixed_shards;
        if !is_checked || about.shards_known_at != Instant::NEVER {
            return Ok(());
        }
        let waited = if was_capped { Duration::from_secs(1) } else { Duration::ZERO };
        let sent = &mut self.streams[stream];
        // Records are released while earlier ones wait in the collector, or for a request.
        let elapsed = now.saturating_since(*sent.first_at.get_or_insert(now)) + settings.buffered + waited;
        // The estimate doubles, too, while records wait for a request.
        let doubled_for = if was_capped { now.saturating_since(about.started_at) } else { elapsed };
        let estimate = 1_u64.checked_shl(doubled_for.as_secs() as u32).unwrap_or(SHARDS_MAX).min(SHARDS_MAX);
        let shards = if about.described_at <= now { estimate.max(shards().len() as u64) } else { estimate };
        let sizes = records.iter().map(PutRecordsEntry::size);
        sent.records += records.len() as u64;
        sent.bytes += sizes.clone().sum::<usize>() as u64;
        // One second's worth is sent at once. Release times are rounded.
        let time = elapsed + Duration::from_secs(1) + facts.late + ms(50);
        let largest = sizes.max().unwrap_or(0) as u64;
        let of = |rate: u64| (time.as_secs_f64() * (rate * shards) as f64) as u64;
        for (amount, allowed, what) in [
            (sent.records, of(settings.records_per_second) + 1, "records"),
            (sent.bytes, of(settings.bytes_per_second) + largest, "bytes"),
        ] {
            if amount > allowed {
                return broken!("{amount} {what} are sent within {elapsed:?}, and {shards} shards take {allowed}");
            }
        }
        Ok(())
    }
}

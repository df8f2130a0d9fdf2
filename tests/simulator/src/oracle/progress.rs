use std::time::Duration;

use kpl_core::Instant;

use super::{Facts, Kept, broken};
use crate::subject::Counts;

const PROMISE: &str = "the next tick always makes progress, and idle costs nothing";

/// Wake-ups without anything to show for it that may follow each other: alarms that were moved, and shards that let go
/// what waits for them into a request which is not full.
const FRUITLESS_MAX: u64 = 200;

/// After everything has healed, the longest time in which nothing is resolved: the longest backoff of a question about a stream, twice, a request's time-out, and the
/// longest wait of a shard that was throttled down to a 64th of its pace.
const DRAIN_MAX: Duration = Duration::from_secs(150);

/// After its last record, a stream is retired within this time, and nothing wakes the producer any more.
const RETIRED_BY: Duration = Duration::from_secs(330);

/// A producer that nothing will wake any more keeps no memory for its streams.
pub(super) fn idle(counts: &Counts) -> Kept {
    match counts.streams {
        Some(streams) if streams > 0 && counts.records == 0 => broken!("{streams} streams take memory for good"),
        _ => Ok(()),
    }
}

#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Wake-ups since anything happened, and since when.
    fruitless: u64,
    since: Option<Instant>,
    /// When a record was resolved last.
    resolved_at: Option<Instant>,
}

impl Progress {
    /// Something happened.
    pub(super) fn effect(&mut self) {
        self.fruitless = 0;
        self.since = None;
    }

    pub(super) fn resolved(&mut self, now: Instant) {
        self.effect();
        self.resolved_at = Some(now);
    }

    pub(super) fn step(&mut self, facts: &Facts, now: Instant, woken: bool, next_wake: Instant) -> Kept {
        if let Some((healed_at, bytes)) = facts.healed {
            let bytes_a_second = facts.options.config.bytes_per_second.min(1 << 20);
            let backlog = Duration::from_secs(bytes as u64 * 2 / bytes_a_second);
            let last = self.resolved_at.map_or(healed_at, |resolved_at| resolved_at.max(healed_at));
            let by = last + DRAIN_MAX + facts.late + backlog;
            if now > by && facts.outstanding_records > 0 {
                return broken!(
                    "everything has healed at {healed_at:?}, nothing is resolved since {last:?}, and {} records are left",
                    facts.outstanding_records
                );
            }
            if now > by + RETIRED_BY && next_wake != Instant::NEVER {
                return broken!("nothing is outstanding since long, and the producer wakes at {next_wake:?}");
            }
        }
        if woken {
            let since = *self.since.get_or_insert(now);
            self.fruitless += 1;
            // Shards that are behind are looked at every 10 ms.
            let allowed = FRUITLESS_MAX + now.saturating_since(since).as_millis() as u64 / 5;
            if self.fruitless > allowed {
                return broken!("{} wake-ups since {since:?} did nothing", self.fruitless);
            }
        }
        Ok(())
    }
}

use std::time::Duration;

use kpl_core::Instant;

use super::{Check, Facts, broken};
use crate::subject::{Counts, METRICS_INTERVAL};

const PROMISE: &str = "every tick makes progress, and nothing wakes an idle producer";

/// The maximum number of consecutive wake-ups without an effect. Causes are timers that were moved, and shards that
/// release records into a request that is not full.
const IDLE_WAKE_UPS_MAX: u64 = 200;

/// The maximum time without a result after all faults have ended: twice the longest backoff of a metadata request, one
/// request timeout, and the longest wait of a shard that was throttled to 1/64 of its rate.
const DRAIN_MAX: Duration = Duration::from_secs(150);

/// The maximum time after the last record until its stream is retired. After that, only a report of metrics wakes the
/// producer, once.
const RETIRED_BY: Duration = Duration::from_secs(330);

/// The maximum time after the last record until its metrics are reported. After that, nothing wakes the producer.
const REPORTED_BY: Duration = METRICS_INTERVAL.saturating_add(RETIRED_BY);

/// A producer that nothing will wake any more keeps no memory for its streams.
pub(super) fn idle(counts: &Counts) -> Check {
    match counts.streams {
        Some(streams) if streams > 0 && counts.records == 0 => broken!("{streams} streams keep their memory"),
        _ => Ok(()),
    }
}

#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The number of wake-ups since the last effect.
    idle_wake_ups: u64,
    /// The first of them.
    since: Option<Instant>,
    wake_ups_after_retirement: u32,
    /// The time of the last result, or of a later put while no record was outstanding.
    progress_at: Option<Instant>,
}

impl Progress {
    /// Resets the count of wake-ups without an effect.
    pub(super) fn effect(&mut self) {
        self.idle_wake_ups = 0;
        self.since = None;
    }

    pub(super) fn resolved(&mut self, now: Instant) {
        self.effect();
        self.progress_at = Some(now);
    }

    /// A record was accepted. If it is the only one, the time for its result starts.
    pub(super) fn accepted(&mut self, now: Instant, is_only: bool) {
        self.effect();
        if is_only {
            self.progress_at = Some(now);
        }
    }

    pub(super) fn step(&mut self, facts: &Facts, now: Instant, woken: bool, next_wake: Instant) -> Check {
        if let Some((healed_at, bytes)) = facts.healed {
            let bytes_a_second = facts.options.config.bytes_per_second.min(1 << 20);
            let backlog = Duration::from_secs(bytes as u64 * 2 / bytes_a_second);
            let last = self.progress_at.map_or(healed_at, |progress_at| progress_at.max(healed_at));
            let by = last + DRAIN_MAX + facts.late + backlog;
            if now > by && facts.outstanding_records > 0 {
                return broken!(
                    "all faults ended at {healed_at:?}, the last progress was at {last:?}, and {} records are left",
                    facts.outstanding_records
                );
            }
            if now > by + REPORTED_BY && next_wake != Instant::NEVER {
                return broken!("the producer is idle, but its next wake-up is at {next_wake:?}");
            }
            self.wake_ups_after_retirement += u32::from(woken);
            if now <= by + RETIRED_BY {
                self.wake_ups_after_retirement = 0;
            } else if self.wake_ups_after_retirement > 1 {
                return broken!("the producer is idle, but was woken twice until {now:?}");
            }
        }
        if woken {
            let since = *self.since.get_or_insert(now);
            self.idle_wake_ups += 1;
            // Shards with a backlog are checked every 10 ms.
            let allowed = IDLE_WAKE_UPS_MAX + now.saturating_since(since).as_millis() as u64 / 5;
            if self.idle_wake_ups > allowed {
                return broken!("{} wake-ups since {since:?} had no effect", self.idle_wake_ups);
            }
        }
        Ok(())
    }
}

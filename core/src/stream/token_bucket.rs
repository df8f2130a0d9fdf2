//! The rate limit of one shard, in records and bytes per second.

use core::time::Duration;

use crate::config::Config;
use crate::time::{Instant, nanos};

const SECOND: u64 = 1_000_000_000;

/// A token bucket with a capacity of one second, stored as the time at which it is full again (the "generic cell rate
/// algorithm"). So it refills without polling.
///
/// A record larger than the capacity is allowed when the bucket is full, and leaves it in debt. So it does not starve,
/// and the average rate holds.
#[derive(Clone, Copy, Debug, Default)]
struct TokenBucket {
    full_at: u64,
}

impl TokenBucket {
    /// Returns when `cost`, in nanoseconds, is available.
    fn ready_at(&self, cost: u64) -> Instant {
        Instant::from_nanos(self.full_at.saturating_add(cost.min(SECOND)).saturating_sub(SECOND))
    }

    fn take(&mut self, now: Instant, cost: u64) {
        self.full_at = self.full_at.max(now.as_nanos()).saturating_add(cost);
    }

    fn empty(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now.as_nanos().saturating_add(SECOND));
    }
}

/// A rate limit, per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl Rate {
    /// Returns the configured rate limit of one shard.
    pub(crate) fn of_shard(config: &Config) -> Self {
        Self { records: config.rate_limit_records_per_shard(), bytes: config.rate_limit_bytes_per_shard() }
    }

    /// Returns the rate limit of `shards` shards.
    pub(crate) fn times(self, shards: u64) -> Self {
        Self { records: self.records.saturating_mul(shards), bytes: self.bytes.saturating_mul(shards) }
    }
}

/// The full rate. [`Pace::scale`] is in 1,024ths of it.
const FULL: u64 = 1_024;
/// The lowest rate of a throttled shard.
const SLOWEST: u64 = FULL / 64;
/// The time from rate zero to the full rate when throttling ends.
const RECOVERY: Duration = Duration::from_secs(10);

/// The token buckets of a shard, and its current rate. Each throttled reply halves the rate. It recovers by a tenth of
/// the full rate per second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    records: TokenBucket,
    bytes: TokenBucket,
    scale: u64,
    /// The time at which `scale` was set.
    scaled_at: Instant,
}

impl Pace {
    pub(crate) fn new() -> Self {
        let bucket = TokenBucket::default();
        Self { records: bucket, bytes: bucket, scale: FULL, scaled_at: Instant::from_nanos(0) }
    }

    /// Takes the tokens for one record of `size` bytes.
    ///
    /// # Errors
    ///
    /// Returns when the tokens are available, if they are not available at `now`.
    pub(crate) fn try_take(&mut self, now: Instant, size: usize, rate: Rate) -> Result<(), Instant> {
        let scale = self.scale_at(now);
        let record_cost = recovering_cost(1, rate.records, scale);
        let byte_cost = recovering_cost(size as u64, rate.bytes, scale);
        let ready = self.records.ready_at(record_cost).max(self.bytes.ready_at(byte_cost));
        if ready > now {
            return Err(ready);
        }
        self.records.take(now, record_cost);
        self.bytes.take(now, byte_cost);
        Ok(())
    }

    /// Halves the rate after the service throttled a record of a request sent at `sent`, unless the request was sent
    /// before the rate was last halved. Empties the buckets in both cases.
    pub(crate) fn slow_down(&mut self, now: Instant, sent: Instant) {
        if sent >= self.scaled_at {
            self.scale = (self.scale_at(now) / 2).max(SLOWEST);
            self.scaled_at = now;
        }
        self.empty(now);
    }

    /// Empties both buckets, so that no burst follows.
    pub(crate) fn empty(&mut self, now: Instant) {
        self.records.empty(now);
        self.bytes.empty(now);
    }

    /// Returns how long `records` and `bytes` take at the current rate.
    pub(crate) fn time_for(&self, now: Instant, records: usize, bytes: usize, rate: Rate) -> Duration {
        let scale = self.scale_at(now);
        Duration::from_nanos(cost(records as u64, rate.records, scale).max(cost(bytes as u64, rate.bytes, scale)))
    }

    fn scale_at(&self, now: Instant) -> u64 {
        let recovered = now.saturating_since(self.scaled_at).as_millis() * u128::from(FULL) / RECOVERY.as_millis();
        FULL.min(self.scale.saturating_add(u64::try_from(recovered).unwrap_or(FULL)))
    }
}

/// Returns the cost at a rate that recovers: a large record does not block its shard for longer than the rate is
/// reduced.
fn recovering_cost(amount: u64, rate: u64, scale: u64) -> u64 {
    cost(amount, rate, scale).min(cost(amount, rate, FULL).saturating_add(nanos(RECOVERY)))
}

/// Returns the nanoseconds that `amount` takes at the scaled `rate`, rounded up so that the rate is never exceeded.
fn cost(amount: u64, rate: u64, scale: u64) -> u64 {
    let numerator = u128::from(amount) * u128::from(SECOND) * u128::from(FULL);
    u64::try_from(numerator.div_ceil(u128::from(rate) * u128::from(scale))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::keeps_rate_limit;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn rate(records: u64, bytes: u64) -> Rate {
        Rate { records, bytes }
    }

    proptest! {
        #[test]
        fn no_window_exceeds_the_rate_limit(
            steps in proptest::collection::vec((0..400_000_000_u64, 1..3_000_usize), 1..300),
            records in 1..50_u64,
        ) {
            let rate = rate(records, 2_048);
            let mut pace = Pace::new();
            let mut now = Instant::from_nanos(0);
            let mut sent: Vec<(Instant, usize)> = Vec::new();
            for (pause, size) in steps {
                now = now + Duration::from_nanos(pause);
                if pace.try_take(now, size, rate).is_ok() {
                    sent.push((now, size));
                }
            }
            prop_assert!(keeps_rate_limit(&sent, records, 2_048), "{:?}", sent);
        }

        #[test]
        fn a_refused_record_fits_at_the_returned_time(sizes in proptest::collection::vec(1..5_000_usize, 1..100)) {
            let rate = rate(7, 1_024);
            let mut pace = Pace::new();
            let mut now = Instant::from_nanos(0);
            for size in sizes {
                if let Err(ready) = pace.try_take(now, size, rate) {
                    prop_assert!(ready > now, "the returned time is in the future");
                    now = ready;
                    prop_assert_eq!(pace.try_take(now, size, rate), Ok(()));
                }
            }
        }
    }

    #[test]
    fn an_oversized_record_needs_a_full_bucket_and_leaves_debt() {
        let rate = rate(1_000, 1_024);
        let mut pace = Pace::new();
        let now = Instant::from_nanos(0);
        assert_eq!(pace.try_take(now, 10 * 1_024, rate), Ok(()));
        let next = pace.try_take(now, 1, rate).unwrap_err();
        assert!(next > now + Duration::from_secs(9), "ten seconds of tokens less the bucket: {next:?}");
        let next = pace.try_take(now, 10 * 1_024, rate).unwrap_err();
        assert_eq!(next, now + Duration::from_secs(10));
    }

    #[test]
    fn throttling_halves_the_rate_once_per_change_and_the_rate_recovers() {
        let rate = rate(1_000, 1 << 20);
        let count_in = |pace: &mut Pace, from: u64, to: u64| {
            (from..to)
                .filter(|ms| {
                    let now = Instant::from_nanos(ms * 1_000_000);
                    (0..5).any(|_| pace.try_take(now, 1, rate).is_ok())
                })
                .count()
        };
        let mut pace = Pace::new();
        let now = Instant::from_nanos(SECOND);
        pace.slow_down(now, Instant::from_nanos(0));
        pace.slow_down(now, Instant::from_nanos(0));
        assert_eq!(pace.scale, FULL / 2);
        assert!(count_in(&mut pace, 1_000, 1_100) < 60, "half of 1,000 per second, from an empty bucket");
        let later = now + RECOVERY;
        assert_eq!(pace.scale_at(later), FULL);
        for i in 0..20 {
            let now = later + Duration::from_millis(i);
            pace.slow_down(now, now);
        }
        assert_eq!(pace.scale, SLOWEST);
        let later = later + Duration::from_secs(1) + Duration::from_millis(20);
        assert_eq!(pace.try_take(later, 1, rate), Ok(()), "the rate never falls to zero");
    }

    #[test]
    fn throttling_at_the_reduced_rate_halves_it_again() {
        let mut pace = Pace::new();
        let now = Instant::from_nanos(SECOND);
        pace.slow_down(now, Instant::from_nanos(0));
        pace.slow_down(now, now);
        assert_eq!(pace.scale, FULL / 4);
    }

    #[test]
    fn a_large_record_at_the_lowest_rate_blocks_its_shard_for_the_recovery_at_most() {
        let rate = rate(1_000, 1 << 20);
        let mut pace = Pace::new();
        let mut now = Instant::from_nanos(SECOND);
        for _ in 0..20 {
            pace.slow_down(now, now);
        }
        now = pace.try_take(now, 1 << 20, rate).unwrap_err();
        assert_eq!(pace.try_take(now, 1 << 20, rate), Ok(()));
        let next = pace.try_take(now, 1, rate).unwrap_err();
        assert!(next <= now + RECOVERY + Duration::from_secs(1), "{:?} later", next.saturating_since(now));
    }

    #[test]
    fn the_time_for_a_backlog_is_at_the_current_rate() {
        let rate = rate(10, 1_000);
        let mut pace = Pace::new();
        let now = Instant::from_nanos(SECOND);
        assert_eq!(pace.time_for(now, 20, 1_500, rate), Duration::from_secs(2));
        assert_eq!(pace.time_for(now, 20, 3_000, rate), Duration::from_secs(3));
        assert_eq!(pace.time_for(now, 20, 1_500, rate.times(4)), Duration::from_millis(500));
        pace.slow_down(now, now);
        assert_eq!(pace.time_for(now, 20, 1_500, rate), Duration::from_secs(4));
    }

    #[test]
    fn the_rate_recovers_by_a_tenth_per_second() {
        let mut pace = Pace::new();
        let now = Instant::from_nanos(SECOND);
        pace.slow_down(now, now);
        for tenths in 0..=5 {
            assert_eq!(pace.scale_at(now + Duration::from_secs(tenths)), FULL / 2 + FULL * tenths / 10);
        }
    }
}

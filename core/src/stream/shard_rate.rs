//! The current rate of one shard, in records and bytes per second: its rate limit, reduced after throttling.

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
pub(crate) struct RateLimit {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl RateLimit {
    /// Returns the configured rate limit of one shard.
    pub(crate) fn of_shard(config: &Config) -> Self {
        Self { records: config.rate_limit_records_per_shard(), bytes: config.rate_limit_bytes_per_shard() }
    }

    /// Returns the rate limit of `shards` shards.
    pub(crate) fn times(self, shards: u64) -> Self {
        Self { records: self.records.saturating_mul(shards), bytes: self.bytes.saturating_mul(shards) }
    }
}

/// The value of [`ShardRate::scale`] at which the current rate is the rate limit.
const SCALE_FULL: u64 = 1_024;
/// The lowest value of [`ShardRate::scale`].
const SCALE_MIN: u64 = SCALE_FULL / 64;
/// The time in which a rate of zero would recover to the rate limit.
const RECOVERY_TIME: Duration = Duration::from_millis(4_500);

/// The current rate of a shard: two token buckets, and the reduction after throttling. Each throttled reply halves the
/// rate. It recovers slowly at first, while other producers probably use the rest of the rate limit, and faster the
/// longer nothing is throttled, since then they probably do not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShardRate {
    records: TokenBucket,
    bytes: TokenBucket,
    /// The current rate as a fraction of the rate limit, in 1/1,024.
    scale: u64,
    /// The time at which `scale` was set.
    scaled_at: Instant,
}

impl ShardRate {
    pub(crate) fn new() -> Self {
        let bucket = TokenBucket::default();
        Self { records: bucket, bytes: bucket, scale: SCALE_FULL, scaled_at: Instant::from_nanos(0) }
    }

    /// Takes the tokens for one record of `size` bytes.
    ///
    /// # Errors
    ///
    /// Returns when the tokens are available, if they are not available at `now`.
    pub(crate) fn try_take(&mut self, now: Instant, size: usize, limit: RateLimit) -> Result<(), Instant> {
        let scale = self.scale_at(now);
        let record_cost = recovering_cost(1, limit.records, scale);
        let byte_cost = recovering_cost(size as u64, limit.bytes, scale);
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
    pub(crate) fn reduce(&mut self, now: Instant, sent: Instant) {
        if sent >= self.scaled_at {
            self.scale = (self.scale_at(now) / 2).max(SCALE_MIN);
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
    pub(crate) fn time_for(&self, now: Instant, records: usize, bytes: usize, limit: RateLimit) -> Duration {
        let scale = self.scale_at(now);
        Duration::from_nanos(cost(records as u64, limit.records, scale).max(cost(bytes as u64, limit.bytes, scale)))
    }

    /// Returns the current scale. One half of the recovery grows with the time, the other half with its square.
    fn scale_at(&self, now: Instant) -> u64 {
        let whole = RECOVERY_TIME.as_millis();
        let elapsed = now.saturating_since(self.scaled_at).as_millis().min(whole);
        let recovered = u128::from(SCALE_FULL) * elapsed * (whole + elapsed) / (2 * whole * whole);
        SCALE_FULL.min(self.scale.saturating_add(u64::try_from(recovered).unwrap_or(SCALE_FULL)))
    }
}

/// Returns the cost at a rate that recovers: a large record does not block its shard for longer than the rate is
/// reduced.
fn recovering_cost(amount: u64, rate: u64, scale: u64) -> u64 {
    cost(amount, rate, scale).min(cost(amount, rate, SCALE_FULL).saturating_add(nanos(RECOVERY_TIME)))
}

/// Returns the nanoseconds that `amount` takes at the scaled `rate`, rounded up so that the rate is never exceeded.
fn cost(amount: u64, rate: u64, scale: u64) -> u64 {
    let numerator = u128::from(amount) * u128::from(SECOND) * u128::from(SCALE_FULL);
    u64::try_from(numerator.div_ceil(u128::from(rate) * u128::from(scale))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::keeps_rate_limit;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn rate_limit(records: u64, bytes: u64) -> RateLimit {
        RateLimit { records, bytes }
    }

    proptest! {
        #[test]
        fn no_window_exceeds_the_rate_limit(
            steps in proptest::collection::vec((0..400_000_000_u64, 1..3_000_usize), 1..300),
            records in 1..50_u64,
        ) {
            let limit = rate_limit(records, 2_048);
            let mut rate = ShardRate::new();
            let mut now = Instant::from_nanos(0);
            let mut sent: Vec<(Instant, usize)> = Vec::new();
            for (pause, size) in steps {
                now = now + Duration::from_nanos(pause);
                if rate.try_take(now, size, limit).is_ok() {
                    sent.push((now, size));
                }
            }
            prop_assert!(keeps_rate_limit(&sent, records, 2_048), "{:?}", sent);
        }

        #[test]
        fn a_refused_record_fits_at_the_returned_time(sizes in proptest::collection::vec(1..5_000_usize, 1..100)) {
            let limit = rate_limit(7, 1_024);
            let mut rate = ShardRate::new();
            let mut now = Instant::from_nanos(0);
            for size in sizes {
                if let Err(ready) = rate.try_take(now, size, limit) {
                    prop_assert!(ready > now, "the returned time is in the future");
                    now = ready;
                    prop_assert_eq!(rate.try_take(now, size, limit), Ok(()));
                }
            }
        }
    }

    #[test]
    fn an_oversized_record_needs_a_full_bucket_and_leaves_debt() {
        let limit = rate_limit(1_000, 1_024);
        let mut rate = ShardRate::new();
        let now = Instant::from_nanos(0);
        assert_eq!(rate.try_take(now, 10 * 1_024, limit), Ok(()));
        let next = rate.try_take(now, 1, limit).unwrap_err();
        assert!(next > now + Duration::from_secs(9), "ten seconds of tokens less the bucket: {next:?}");
        let next = rate.try_take(now, 10 * 1_024, limit).unwrap_err();
        assert_eq!(next, now + Duration::from_secs(10));
    }

    #[test]
    fn throttling_halves_the_rate_once_per_change_and_the_rate_recovers() {
        let limit = rate_limit(1_000, 1 << 20);
        let count_in = |rate: &mut ShardRate, from: u64, to: u64| {
            (from..to)
                .filter(|ms| {
                    let now = Instant::from_nanos(ms * 1_000_000);
                    (0..5).any(|_| rate.try_take(now, 1, limit).is_ok())
                })
                .count()
        };
        let mut rate = ShardRate::new();
        let now = Instant::from_nanos(SECOND);
        rate.reduce(now, Instant::from_nanos(0));
        rate.reduce(now, Instant::from_nanos(0));
        assert_eq!(rate.scale, SCALE_FULL / 2);
        assert!(count_in(&mut rate, 1_000, 1_100) < 60, "half of 1,000 per second, from an empty bucket");
        let later = now + RECOVERY_TIME;
        assert_eq!(rate.scale_at(later), SCALE_FULL);
        for i in 0..20 {
            let now = later + Duration::from_millis(i);
            rate.reduce(now, now);
        }
        assert_eq!(rate.scale, SCALE_MIN);
        let later = later + Duration::from_secs(1) + Duration::from_millis(20);
        assert_eq!(rate.try_take(later, 1, limit), Ok(()), "the rate never falls to zero");
    }

    #[test]
    fn throttling_at_the_reduced_rate_halves_it_again() {
        let mut rate = ShardRate::new();
        let now = Instant::from_nanos(SECOND);
        rate.reduce(now, Instant::from_nanos(0));
        rate.reduce(now, now);
        assert_eq!(rate.scale, SCALE_FULL / 4);
    }

    #[test]
    fn a_large_record_at_the_lowest_rate_blocks_its_shard_for_the_recovery_at_most() {
        let limit = rate_limit(1_000, 1 << 20);
        let mut rate = ShardRate::new();
        let mut now = Instant::from_nanos(SECOND);
        for _ in 0..20 {
            rate.reduce(now, now);
        }
        now = rate.try_take(now, 1 << 20, limit).unwrap_err();
        assert_eq!(rate.try_take(now, 1 << 20, limit), Ok(()));
        let next = rate.try_take(now, 1, limit).unwrap_err();
        assert!(next <= now + RECOVERY_TIME + Duration::from_secs(1), "{:?} later", next.saturating_since(now));
    }

    #[test]
    fn the_time_for_a_backlog_is_at_the_current_rate() {
        let limit = rate_limit(10, 1_000);
        let mut rate = ShardRate::new();
        let now = Instant::from_nanos(SECOND);
        assert_eq!(rate.time_for(now, 20, 1_500, limit), Duration::from_secs(2));
        assert_eq!(rate.time_for(now, 20, 3_000, limit), Duration::from_secs(3));
        assert_eq!(rate.time_for(now, 20, 1_500, limit.times(4)), Duration::from_millis(500));
        rate.reduce(now, now);
        assert_eq!(rate.time_for(now, 20, 1_500, limit), Duration::from_secs(4));
    }

    #[test]
    fn the_rate_recovers_faster_the_longer_nothing_is_throttled() {
        let mut rate = ShardRate::new();
        let now = Instant::from_nanos(SECOND);
        for _ in 0..20 {
            rate.reduce(now, now);
        }
        let recovered = |ninths: u32| rate.scale_at(now + RECOVERY_TIME * ninths / 9) - SCALE_MIN;
        assert_eq!(recovered(0), 0);
        assert_eq!(recovered(3), SCALE_FULL * 2 / 9, "a third of the time: half of 1/3 + 1/9");
        assert_eq!(recovered(6), SCALE_FULL * 5 / 9, "two thirds: half of 2/3 + 4/9");
        assert_eq!(recovered(9), SCALE_FULL - SCALE_MIN);
        assert_eq!(rate.scale_at(Instant::NEVER), SCALE_FULL);
    }

    #[test]
    fn half_the_rate_limit_recovers_within_the_burst_that_the_service_saves_up() {
        let mut rate = ShardRate::new();
        let now = Instant::from_nanos(SECOND);
        rate.reduce(now, now);
        let unused: u64 = (0..450).map(|i| SCALE_FULL - rate.scale_at(now + Duration::from_millis(i * 10))).sum();
        assert!(unused / 100 < SCALE_FULL, "less than one second of the rate limit: {unused}/100 of 1,024");
    }
}

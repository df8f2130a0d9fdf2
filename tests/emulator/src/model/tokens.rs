//! A token bucket for the limits of a shard.

use std::time::Duration;

/// A token bucket that holds the tokens of one second. An amount that is larger than the bucket needs a full bucket.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    per_second: u64,
    /// The number of tokens, in billionths, so that refilling is exact. Negative after a larger amount.
    level: i128,
    refilled_at: Duration,
}

const NANOS: i128 = 1_000_000_000;

impl Bucket {
    pub(super) fn new(per_second: u64, now: Duration) -> Self {
        Self { per_second, level: i128::from(per_second) * NANOS, refilled_at: now }
    }

    /// Refills the bucket. Returns whether it has `amount` tokens, or is full.
    pub(super) fn has(&mut self, now: Duration, amount: u64) -> bool {
        let capacity = i128::from(self.per_second) * NANOS;
        let elapsed = now.saturating_sub(self.refilled_at).as_nanos() as i128;
        self.level = capacity.min(self.level.saturating_add(elapsed.saturating_mul(self.per_second.into())));
        self.refilled_at = self.refilled_at.max(now);
        self.level >= capacity.min(i128::from(amount) * NANOS)
    }

    pub(super) fn take(&mut self, amount: u64) {
        self.level -= i128::from(amount) * NANOS;
    }
}

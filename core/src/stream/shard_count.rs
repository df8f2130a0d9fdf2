//! The number of shards that sets the rate limit of a whole stream, for records whose shard is not known.

use core::time::Duration;

use crate::time::Instant;

/// The shortest time between two doublings of the estimate.
const DOUBLING_INTERVAL: Duration = Duration::from_secs(1);

/// The largest estimate. A stream has more shards only with a higher quota from AWS; then its description has their
/// number.
const ESTIMATE_MAX: u64 = 20_000;

/// The number of shards in the stream's description, or an estimate. The rate limit of the whole stream is that of one
/// shard multiplied by it.
///
/// The estimate starts with one shard. It doubles with each second in which records wait for the rate limit and none is
/// throttled. Throttling halves it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShardCount {
    shards: u64,
    is_known: bool,
    /// The time of the last change, or when records first waited for the rate limit; `None` before that.
    changed_at: Option<Instant>,
}

impl Default for ShardCount {
    fn default() -> Self {
        Self { shards: 1, is_known: false, changed_at: None }
    }
}

impl ShardCount {
    pub(super) fn shards(&self) -> u64 {
        self.shards
    }

    /// Sets the number of open shards in the stream's description.
    pub(super) fn set_known(&mut self, shards: usize) {
        *self = Self { shards: (shards as u64).max(1), is_known: true, changed_at: None };
    }

    /// Updates the estimate when records wait for the rate limit. Returns whether it has increased.
    pub(super) fn note_waiting(&mut self, now: Instant) -> bool {
        let since = *self.changed_at.get_or_insert(now);
        if self.is_known || self.shards == ESTIMATE_MAX || now < since + DOUBLING_INTERVAL {
            return false;
        }
        self.shards = (self.shards * 2).min(ESTIMATE_MAX);
        self.changed_at = Some(now);
        true
    }

    /// Updates the estimate after the service throttled a record of a request sent at `sent`. Returns false if there is
    /// nothing to lower: then the shard's rate has to be reduced instead.
    pub(super) fn note_throttled(&mut self, now: Instant, sent: Instant) -> bool {
        if self.is_known || self.shards == 1 {
            return false;
        }
        // A request sent before the last change does not count against the present estimate.
        if self.changed_at.is_none_or(|changed_at| changed_at <= sent) {
            self.shards /= 2;
        }
        self.changed_at = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ms;

    #[test]
    fn the_estimate_doubles_per_second_of_waiting_and_halves_when_throttled() {
        let mut count = ShardCount::default();
        assert!(!count.note_waiting(ms(5_000)) && !count.note_waiting(ms(5_999)));
        assert_eq!(count.shards(), 1);
        assert!(count.note_waiting(ms(6_000)));
        assert!(!count.note_waiting(ms(6_500)));
        assert!(count.note_waiting(ms(7_000)) && count.note_waiting(ms(9_000)));
        assert_eq!(count.shards(), 8);
        assert!(count.note_throttled(ms(9_500), ms(9_400)));
        assert_eq!(count.shards(), 4);
        assert!(count.note_throttled(ms(9_600), ms(9_450)), "sent before the estimate was lowered");
        assert_eq!(count.shards(), 4);
        assert!(!count.note_waiting(ms(10_599)) && count.note_waiting(ms(10_600)));
        assert_eq!(count.shards(), 8);
    }

    #[test]
    fn an_estimate_of_one_shard_is_not_lowered() {
        let mut count = ShardCount::default();
        assert!(!count.note_throttled(ms(1), ms(0)));
        assert_eq!(count.shards(), 1);
    }

    #[test]
    fn a_known_number_of_shards_does_not_change() {
        let mut count = ShardCount::default();
        count.set_known(5);
        assert!(!count.note_waiting(ms(0)) && !count.note_waiting(ms(60_000)));
        assert!(!count.note_throttled(ms(60_000), ms(60_000)));
        assert_eq!(count.shards(), 5);
        count.set_known(0);
        assert_eq!(count.shards(), 1);
    }

    #[test]
    fn the_estimate_has_a_maximum() {
        let mut count = ShardCount::default();
        for second in 0..100 {
            count.note_waiting(ms(1_000 * second));
        }
        assert_eq!(count.shards(), ESTIMATE_MAX);
    }
}

//! The rate of a stream whose records go to shards that are not known.

use core::time::Duration;

use crate::time::Instant;

/// The estimate doubles at most this often.
const DOUBLING_INTERVAL: Duration = Duration::from_secs(1);

/// The largest estimate. A stream may have more shards, after a talk with AWS; then its description tells how many.
const ESTIMATE_MAX: u64 = 20_000;

/// How many shards the stream's rate is worth: those of its description, or an estimate.
///
/// The estimate starts with one shard. It doubles with each second in which records wait for the pace and none is
/// throttled, and is halved by throttling.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamRate {
    shards: u64,
    is_known: bool,
    /// When the estimate changed, or records waited for the pace first; `None` before that.
    changed_at: Option<Instant>,
}

impl Default for StreamRate {
    fn default() -> Self {
        Self { shards: 1, is_known: false, changed_at: None }
    }
}

impl StreamRate {
    pub(super) fn shards(&self) -> u64 {
        self.shards
    }

    /// The stream's description tells how many open shards there are.
    pub(super) fn set_known(&mut self, shards: usize) {
        *self = Self { shards: (shards as u64).max(1), is_known: true, changed_at: None };
    }

    /// Records wait for the pace. Returns whether it is higher from now on.
    pub(super) fn note_waiting(&mut self, now: Instant) -> bool {
        let since = *self.changed_at.get_or_insert(now);
        if self.is_known || self.shards == ESTIMATE_MAX || now < since + DOUBLING_INTERVAL {
            return false;
        }
        self.shards = (self.shards * 2).min(ESTIMATE_MAX);
        self.changed_at = Some(now);
        true
    }

    /// The service throttled a record of a request sent at `sent`. Returns whether that has lowered the estimate; if it has
    /// not, the pace has to slow down otherwise.
    pub(super) fn note_throttled(&mut self, now: Instant, sent: Instant) -> bool {
        if self.is_known || self.shards == 1 {
            return false;
        }
        // What was sent before the last change says nothing about the estimate since.
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
    fn the_estimate_doubles_each_second_in_which_records_wait_and_is_halved_by_throttling() {
        let mut rate = StreamRate::default();
        assert!(!rate.note_waiting(ms(5_000)) && !rate.note_waiting(ms(5_999)));
        assert_eq!(rate.shards(), 1);
        assert!(rate.note_waiting(ms(6_000)));
        assert!(!rate.note_waiting(ms(6_500)));
        assert!(rate.note_waiting(ms(7_000)) && rate.note_waiting(ms(9_000)));
        assert_eq!(rate.shards(), 8);
        assert!(rate.note_throttled(ms(9_500), ms(9_400)));
        assert_eq!(rate.shards(), 4);
        assert!(rate.note_throttled(ms(9_600), ms(9_450)), "sent before the estimate was lowered");
        assert_eq!(rate.shards(), 4);
        assert!(!rate.note_waiting(ms(10_599)) && rate.note_waiting(ms(10_600)));
        assert_eq!(rate.shards(), 8);
    }

    #[test]
    fn the_pace_of_one_shard_is_slowed_down_otherwise() {
        let mut rate = StreamRate::default();
        assert!(!rate.note_throttled(ms(1), ms(0)));
        assert_eq!(rate.shards(), 1);
    }

    #[test]
    fn a_known_number_of_shards_is_no_estimate() {
        let mut rate = StreamRate::default();
        rate.set_known(5);
        assert!(!rate.note_waiting(ms(0)) && !rate.note_waiting(ms(60_000)));
        assert!(!rate.note_throttled(ms(60_000), ms(60_000)));
        assert_eq!(rate.shards(), 5);
        rate.set_known(0);
        assert_eq!(rate.shards(), 1);
    }

    #[test]
    fn the_estimate_has_an_end() {
        let mut rate = StreamRate::default();
        for second in 0..100 {
            rate.note_waiting(ms(1_000 * second));
        }
        assert_eq!(rate.shards(), ESTIMATE_MAX);
    }
}

//! Numbered timers. The earliest fires first, and finding it does not check the others.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::time::Instant;

/// The heap keeps this many stale entries before a clean-up, or one for each timer if that is more.
const STALE_MAX: usize = 64;

/// A timer for each small number (a shard's slot, a stream's index).
///
/// A timer only moves to an earlier time. When it fires, its owner checks what is due and arms it again. So a timer
/// that became too early costs only one wake-up, and a put that makes no deadline earlier costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
    /// The time of each timer, by number. Entries of the heap with another time are stale.
    armed: Vec<Instant>,
}

impl Timers {
    /// Sets the timer of `number` to `at`, unless it is set to an earlier time.
    pub(crate) fn arm(&mut self, number: u32, at: Instant) {
        let slot = number as usize;
        if slot >= self.armed.len() {
            self.armed.resize(slot + 1, Instant::NEVER);
        }
        if at < self.armed[slot] {
            self.armed[slot] = at;
            self.heap.push(Reverse((at, number)));
            if self.heap.len() > self.armed.len() + self.armed.len().max(STALE_MAX) {
                self.drop_stale();
            }
            self.pop_stale();
        }
    }

    /// Removes stale entries from the front, so that they cause no wake-ups.
    fn pop_stale(&mut self) {
        while let Some(Reverse((at, number))) = self.heap.peek()
            && self.armed[*number as usize] != *at
        {
            self.heap.pop();
        }
    }

    /// Removes all stale entries. A late timer that moves to an earlier time leaves one entry each time.
    fn drop_stale(&mut self) {
        let armed = self.armed.iter().zip(0..).filter(|(at, _)| **at != Instant::NEVER);
        self.heap = armed.map(|(at, number)| Reverse((*at, number))).collect();
    }

    /// Returns the time of the earliest timer.
    pub(crate) fn next(&self) -> Instant {
        self.heap.peek().map_or(Instant::NEVER, |Reverse((at, _))| *at)
    }

    /// Disarms a timer that is due at `now`, and returns its number.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        if let Some(Reverse((at, number))) = self.heap.peek().copied()
            && at <= now
        {
            self.heap.pop();
            // The front entry is never stale: stale entries are removed when they reach the front.
            self.armed[number as usize] = Instant::NEVER;
            self.pop_stale();
            return Some(number);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ms;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn timers_fire_in_order_at_their_earliest_times(
            steps in proptest::collection::vec(
                prop_oneof![
                    3 => (0..4_u32, 1..30_u64).prop_map(|(number, wait)| (Some(number), wait)),
                    1 => (0..20_u64).prop_map(|pass| (None, pass)),
                ],
                0..200,
            ),
        ) {
            let mut timers = Timers::default();
            let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
            let mut now = 0;
            for (number, millis) in steps {
                if let Some(number) = number {
                    timers.arm(number, ms(now + millis));
                    let at = model.entry(number).or_insert(Instant::NEVER);
                    *at = (*at).min(ms(now + millis));
                } else {
                    now += millis;
                    let mut fired = Vec::new();
                    while let Some(number) = timers.pop_due(ms(now)) {
                        fired.extend(model.remove(&number).map(|at| (at, number)));
                    }
                    prop_assert!(fired.is_sorted() && fired.iter().all(|(at, _)| *at <= ms(now)), "{:?}", fired);
                    prop_assert!(model.values().all(|at| *at > ms(now)), "every due timer fires");
                    prop_assert!(timers.next() > ms(now), "no timer is due after all due timers have fired");
                }
                let first = model.values().min().copied().unwrap_or(Instant::NEVER);
                prop_assert!(timers.next() <= first, "no timer fires late");
            }
        }
    }

    #[test]
    fn a_timer_fires_once_at_its_earliest_time() {
        let mut timers = Timers::default();
        timers.arm(3, ms(50));
        timers.arm(3, ms(40));
        timers.arm(3, ms(60));
        timers.arm(1, ms(45));
        assert_eq!(timers.next(), ms(40));
        assert_eq!(timers.pop_due(ms(39)), None);
        assert_eq!(timers.pop_due(ms(100)), Some(3));
        assert_eq!(timers.pop_due(ms(100)), Some(1));
        assert_eq!(timers.pop_due(ms(100)), None);
        assert_eq!(timers.next(), Instant::NEVER);
        timers.arm(3, ms(200));
        assert_eq!(timers.pop_due(ms(200)), Some(3), "a timer can be armed again");
    }

    #[test]
    fn stale_entries_do_not_accumulate() {
        let mut timers = Timers::default();
        (1..=200).for_each(|number| timers.arm(number, ms(200_000)));
        for now in 0..10_000 {
            timers.arm(0, ms(100_000));
            timers.arm(0, ms(now));
            assert_eq!(timers.pop_due(ms(now)), Some(0));
            assert!(timers.heap.len() <= 500, "{} entries for 201 timers", timers.heap.len());
        }
        assert_eq!(timers.pop_due(ms(199_999)), None, "all remaining entries of timer 0 are stale");
        let fired: Vec<u32> = core::iter::from_fn(|| timers.pop_due(ms(200_000))).collect();
        assert_eq!(fired, (1..=200).collect::<Vec<_>>());
    }

    #[test]
    fn arming_for_a_later_time_adds_no_entry() {
        let mut timers = Timers::default();
        (0..10).for_each(|_| timers.arm(3, ms(5)));
        (0..10).for_each(|later| timers.arm(3, ms(6 + later)));
        assert_eq!(timers.heap.len(), 1);
    }
}

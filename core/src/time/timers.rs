//! Alarms by number: the earliest first, nothing polled.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::time::Instant;

/// Stale entries that are not worth a clean-up.
const STALE_MAX: usize = 64;

/// One alarm for each small number (a shard's slot, a stream's index).
///
/// An alarm is only ever moved forward. Whoever is woken looks at what is due then and sets the alarm again, so an alarm
/// that became too early costs one wake-up and nothing else, and a put that moves no deadline forward costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
    /// By number: when it will be woken. Entries of the heap that disagree are stale.
    armed: Vec<Instant>,
}

impl Timers {
    /// Wakes `number` at `at`, or earlier if it is to be woken earlier.
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

    /// Removes stale entries from the front, so that they wake nothing.
    fn pop_stale(&mut self) {
        while let Some(Reverse((at, number))) = self.heap.peek()
            && self.armed[*number as usize] != *at
        {
            self.heap.pop();
        }
    }

    /// A far alarm that is moved forward again and again leaves an entry behind each time.
    fn drop_stale(&mut self) {
        let armed = self.armed.iter().zip(0..).filter(|(at, _)| **at != Instant::NEVER);
        self.heap = armed.map(|(at, number)| Reverse((*at, number))).collect();
    }

    /// The earliest alarm.
    pub(crate) fn next(&self) -> Instant {
        self.heap.peek().map_or(Instant::NEVER, |Reverse((at, _))| *at)
    }

    /// Takes the number of an alarm that is due at `now`, and disarms it.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        if let Some(Reverse((at, number))) = self.heap.peek().copied()
            && at <= now
        {
            self.heap.pop();
            // Stale entries are removed before they come to the front.
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
        fn every_number_is_woken_at_the_earliest_of_its_alarms_and_in_order(
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
                    let mut woken = Vec::new();
                    while let Some(number) = timers.pop_due(ms(now)) {
                        woken.extend(model.remove(&number).map(|at| (at, number)));
                    }
                    prop_assert!(woken.is_sorted() && woken.iter().all(|(at, _)| *at <= ms(now)), "{:?}", woken);
                    prop_assert!(model.values().all(|at| *at > ms(now)), "nobody is forgotten");
                    prop_assert!(timers.next() > ms(now), "no busy loop");
                }
                let first = model.values().min().copied().unwrap_or(Instant::NEVER);
                prop_assert!(timers.next() <= first, "nobody is woken late");
            }
        }
    }

    #[test]
    fn the_earliest_alarm_of_a_number_counts_and_fires_once() {
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
        assert_eq!(timers.pop_due(ms(200)), Some(3), "a number can be armed again");
    }

    #[test]
    fn alarms_that_were_moved_forward_do_not_pile_up() {
        let mut timers = Timers::default();
        (1..=200).for_each(|number| timers.arm(number, ms(200_000)));
        for now in 0..10_000 {
            timers.arm(0, ms(100_000));
            timers.arm(0, ms(now));
            assert_eq!(timers.pop_due(ms(now)), Some(0));
            assert!(timers.heap.len() <= 500, "{} entries for 201 alarms", timers.heap.len());
        }
        assert_eq!(timers.pop_due(ms(199_999)), None, "all that is left of the first is stale");
        let woken: Vec<u32> = core::iter::from_fn(|| timers.pop_due(ms(200_000))).collect();
        assert_eq!(woken, (1..=200).collect::<Vec<_>>());
    }

    #[test]
    fn an_alarm_that_moves_nothing_forward_costs_nothing() {
        let mut timers = Timers::default();
        (0..10).for_each(|_| timers.arm(3, ms(5)));
        (0..10).for_each(|later| timers.arm(3, ms(6 + later)));
        assert_eq!(timers.heap.len(), 1);
    }
}

//! Alarms by number: the earliest first, nothing polled.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::time::Instant;

/// One alarm for each small number (a shard's slot, a stream's index).
///
/// An alarm is only ever moved forward. Whoever is woken looks at what is due then and sets the alarm again, so an alarm
/// that became too early costs one wake-up and nothing else, and a put that moves no deadline forward costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    heap: BinaryHeap<Reverse<(Instant, u32)>>,
    /// By number: when it will be woken. Entries of the heap that disagree are stale.
    armed: Vec<Instant>,
}

impl Wakes {
    /// Wakes `number` at `at`, or earlier if it is to be woken earlier.
    pub(crate) fn arm(&mut self, number: u32, at: Instant) {
        let slot = number as usize;
        if slot >= self.armed.len() {
            self.armed.resize(slot + 1, Instant::NEVER);
        }
        if at < self.armed[slot] {
            self.armed[slot] = at;
            self.heap.push(Reverse((at, number)));
        }
    }

    /// The earliest alarm.
    pub(crate) fn next(&self) -> Instant {
        self.heap.peek().map_or(Instant::NEVER, |Reverse((at, _))| *at)
    }

    /// Takes the number of an alarm that is due at `now`, and disarms it.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        while let Some(Reverse((at, number))) = self.heap.peek().copied()
            && at <= now
        {
            self.heap.pop();
            let armed = &mut self.armed[number as usize];
            if *armed == at {
                *armed = Instant::NEVER;
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn the_earliest_alarm_of_a_number_counts_and_fires_once() {
        let mut wakes = Wakes::default();
        wakes.arm(3, at(50));
        wakes.arm(3, at(40));
        wakes.arm(3, at(60));
        wakes.arm(1, at(45));
        assert_eq!(wakes.next(), at(40));
        assert_eq!(wakes.pop_due(at(39)), None);
        assert_eq!(wakes.pop_due(at(100)), Some(3));
        assert_eq!(wakes.pop_due(at(100)), Some(1));
        assert_eq!(wakes.pop_due(at(100)), None);
        assert_eq!(wakes.next(), Instant::NEVER);
        wakes.arm(3, at(200));
        assert_eq!(wakes.pop_due(at(200)), Some(3), "a number can be armed again");
    }
}

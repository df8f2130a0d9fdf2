//! The queue of future events.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use kpl_core::Instant;

/// Events ordered by time. Events of equal times stay in the order in which they were scheduled.
#[derive(Debug)]
pub(crate) struct Calendar<E> {
    entries: BinaryHeap<Reverse<Entry<E>>>,
    scheduled: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Instant,
    order: u64,
    event: E,
}

impl<E> Default for Calendar<E> {
    fn default() -> Self {
        Self { entries: BinaryHeap::new(), scheduled: 0 }
    }
}

impl<E> Calendar<E> {
    pub(crate) fn schedule(&mut self, at: Instant, event: E) {
        self.scheduled += 1;
        self.entries.push(Reverse(Entry { at, order: self.scheduled, event }));
    }

    /// Removes `stale` events from the front. Returns the time of the next event.
    pub(crate) fn next_time(&mut self, stale: impl Fn(&E) -> bool) -> Instant {
        while let Some(Reverse(first)) = self.entries.peek() {
            if !stale(&first.event) {
                return first.at;
            }
            self.entries.pop();
        }
        Instant::NEVER
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<E> {
        let Reverse(first) = self.entries.peek()?;
        if first.at > now {
            return None;
        }
        self.entries.pop().map(|Reverse(first)| first.event)
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

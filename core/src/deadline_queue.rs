//! A queue that gives the earliest deadline first and knows what expires first.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::time::Instant;

/// Deadline, then order of arrival.
type Key = (Instant, u64);

/// Values by deadline (ties: first come, first served), each with a time at which it is of no more use.
#[derive(Debug)]
pub(crate) struct DeadlineQueue<V> {
    by_deadline: BTreeMap<Key, (Instant, V)>,
    /// Only what expires at all.
    by_expiry: BTreeSet<(Instant, Key)>,
    arrivals: u64,
}

impl<V> Default for DeadlineQueue<V> {
    fn default() -> Self {
        Self { by_deadline: BTreeMap::new(), by_expiry: BTreeSet::new(), arrivals: 0 }
    }
}

impl<V> DeadlineQueue<V> {
    pub(crate) fn push(&mut self, deadline: Instant, expiry: Instant, value: V) {
        let key = (deadline, self.arrivals);
        self.arrivals += 1;
        self.by_deadline.insert(key, (expiry, value));
        if expiry != Instant::NEVER {
            self.by_expiry.insert((expiry, key));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_deadline.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_deadline.is_empty()
    }

    pub(crate) fn first(&self) -> Option<&V> {
        self.by_deadline.first_key_value().map(|(_, (_, value))| value)
    }

    /// The earliest deadline.
    pub(crate) fn next_deadline(&self) -> Instant {
        self.by_deadline.first_key_value().map_or(Instant::NEVER, |((deadline, _), _)| *deadline)
    }

    /// The earliest expiry.
    pub(crate) fn next_expiry(&self) -> Instant {
        self.by_expiry.first().map_or(Instant::NEVER, |(expiry, _)| *expiry)
    }

    pub(crate) fn pop(&mut self) -> Option<V> {
        let (key, (expiry, value)) = self.by_deadline.pop_first()?;
        if expiry != Instant::NEVER {
            self.by_expiry.remove(&(expiry, key));
        }
        Some(value)
    }

    /// Takes the first value if its deadline has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<V> {
        if self.next_deadline() <= now { self.pop() } else { None }
    }

    /// Takes a value that has expired.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<V> {
        let (expiry, key) = *self.by_expiry.first()?;
        if expiry > now {
            return None;
        }
        self.by_expiry.pop_first();
        self.by_deadline.remove(&key).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    proptest! {
        #[test]
        fn earliest_deadline_first_then_first_come(deadlines in proptest::collection::vec(0..8_u64, 0..40)) {
            let mut queue = DeadlineQueue::default();
            for (arrival, deadline) in deadlines.iter().enumerate() {
                queue.push(at(*deadline), Instant::NEVER, (*deadline, arrival));
            }
            let mut expected: Vec<_> = deadlines.into_iter().enumerate().map(|(i, d)| (d, i)).collect();
            expected.sort_unstable();
            let popped: Vec<_> = core::iter::from_fn(|| queue.pop()).collect();
            prop_assert_eq!(popped, expected);
        }
    }

    #[test]
    fn what_has_expired_leaves_out_of_turn() {
        let mut queue = DeadlineQueue::default();
        queue.push(at(1), at(30), "first");
        queue.push(at(2), at(20), "second");
        queue.push(at(3), Instant::NEVER, "third");
        assert_eq!(queue.next_expiry(), at(20));
        assert_eq!(queue.pop_expired(at(19)), None);
        assert_eq!(queue.pop_expired(at(20)), Some("second"));
        assert_eq!(queue.pop(), Some("first"));
        assert_eq!(queue.next_expiry(), Instant::NEVER);
        assert_eq!(queue.pop_due(at(2)), None);
        assert_eq!(queue.pop_due(at(3)), Some("third"));
        assert!(queue.is_empty());
    }
}

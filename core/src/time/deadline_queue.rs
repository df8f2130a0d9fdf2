//! A queue ordered by deadline, with a second order by expiry.

use alloc::collections::{BTreeMap, BTreeSet};

use crate::time::Instant;

/// The deadline, then the order of arrival.
type Key = (Instant, u64);

/// Values ordered by deadline, each with an expiry. Values with equal deadlines leave in the order of arrival.
#[derive(Debug)]
pub(crate) struct DeadlineQueue<V> {
    by_deadline: BTreeMap<Key, (Instant, V)>,
    /// The expiries, without values that never expire.
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

    /// Returns all values, in order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.by_deadline.values().map(|(_, value)| value)
    }

    /// Returns the earliest deadline.
    pub(crate) fn next_deadline(&self) -> Instant {
        self.by_deadline.first_key_value().map_or(Instant::NEVER, |((deadline, _), _)| *deadline)
    }

    /// Returns the earliest expiry.
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

    /// Removes and returns the first value, if its deadline is `now` or earlier.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<V> {
        if self.next_deadline() <= now { self.pop() } else { None }
    }

    /// Removes and returns the value that expires first, if it has expired.
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
    use crate::testing::ms;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push { deadline: u64, expiry: Option<u64> },
        Pop,
        PopDue(u64),
        PopExpired(u64),
    }

    proptest! {
        #[test]
        fn it_matches_a_sorted_list(
            steps in proptest::collection::vec(
                prop_oneof![
                    5 => (0..8_u64, proptest::option::of(0..8_u64))
                        .prop_map(|(deadline, expiry)| Step::Push { deadline, expiry }),
                    1 => Just(Step::Pop),
                    1 => (0..9_u64).prop_map(Step::PopDue),
                    1 => (0..9_u64).prop_map(Step::PopExpired),
                ],
                0..60,
            ),
        ) {
            let mut queue = DeadlineQueue::default();
            // Deadline, arrival and expiry, in the order in which values leave.
            let mut list: Vec<(Instant, usize, Instant)> = Vec::new();
            for (arrival, step) in steps.into_iter().enumerate() {
                let (popped, at) = match step {
                    Step::Push { deadline, expiry } => {
                        let expiry = expiry.map_or(Instant::NEVER, ms);
                        queue.push(ms(deadline), expiry, arrival);
                        list.push((ms(deadline), arrival, expiry));
                        list.sort_unstable();
                        (None, None)
                    }
                    Step::Pop => (queue.pop(), (!list.is_empty()).then_some(0)),
                    Step::PopDue(now) => (queue.pop_due(ms(now)), list.iter().position(|entry| entry.0 <= ms(now))),
                    Step::PopExpired(now) => {
                        let first = list.iter().min_by_key(|entry| (entry.2, entry.0, entry.1)).copied();
                        let expired = first.filter(|entry| entry.2 <= ms(now));
                        (queue.pop_expired(ms(now)), list.iter().position(|entry| Some(*entry) == expired))
                    }
                };
                prop_assert_eq!(popped, at.map(|at| list.remove(at).1));
                prop_assert_eq!(queue.len(), list.len());
                prop_assert_eq!(queue.is_empty(), list.is_empty());
                prop_assert_eq!(queue.first(), list.first().map(|entry| &entry.1));
                let first = |time: fn(&(Instant, usize, Instant)) -> Instant| list.iter().map(time).min();
                prop_assert_eq!(queue.next_deadline(), first(|entry| entry.0).unwrap_or(Instant::NEVER));
                prop_assert_eq!(queue.next_expiry(), first(|entry| entry.2).unwrap_or(Instant::NEVER));
            }
        }
    }

    #[test]
    fn expired_values_leave_before_earlier_deadlines() {
        let mut queue = DeadlineQueue::default();
        queue.push(ms(1), ms(30), "first");
        queue.push(ms(2), ms(20), "second");
        queue.push(ms(3), Instant::NEVER, "third");
        assert_eq!(queue.next_expiry(), ms(20));
        assert_eq!(queue.pop_expired(ms(19)), None);
        assert_eq!(queue.pop_expired(ms(20)), Some("second"));
        assert_eq!(queue.pop(), Some("first"));
        assert_eq!(queue.next_expiry(), Instant::NEVER);
        assert_eq!(queue.pop_due(ms(2)), None);
        assert_eq!(queue.pop_due(ms(3)), Some("third"));
        assert!(queue.is_empty());
    }
}

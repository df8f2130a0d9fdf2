//! A queue ordered by deadline, with a second order by expiry.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::time::Instant;

/// The deadline, then the order of arrival.
type Key = (Instant, u64);

/// A queue that is empty and has room for more values than this gives its memory back.
const EMPTY_CAPACITY_MAX: usize = 64;

/// Values ordered by deadline, each with an expiry. Values with equal deadlines leave in the order of arrival.
///
/// Most values arrive in order: they are in a list. Only the others are in a tree, which takes several times as long.
#[derive(Debug)]
pub(crate) struct DeadlineQueue<V> {
    /// Values of which neither the deadline nor the expiry is before that of the previous one.
    in_order: VecDeque<Entry<V>>,
    others: BTreeMap<Key, (Instant, V)>,
    /// The expiries of the others, without values that never expire.
    other_expiries: BTreeSet<(Instant, Key)>,
    arrivals: u64,
}

#[derive(Debug)]
struct Entry<V> {
    key: Key,
    expiry: Instant,
    value: V,
}

impl<V> Default for DeadlineQueue<V> {
    fn default() -> Self {
        let (others, other_expiries) = (BTreeMap::new(), BTreeSet::new());
        Self { in_order: VecDeque::new(), others, other_expiries, arrivals: 0 }
    }
}

impl<V> DeadlineQueue<V> {
    pub(crate) fn push(&mut self, deadline: Instant, expiry: Instant, value: V) {
        let key = (deadline, self.arrivals);
        self.arrivals += 1;
        if self.in_order.back().is_none_or(|last| last.key.0 <= deadline && last.expiry <= expiry) {
            self.in_order.push_back(Entry { key, expiry, value });
            return;
        }
        self.others.insert(key, (expiry, value));
        if expiry != Instant::NEVER {
            self.other_expiries.insert((expiry, key));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.in_order.len() + self.others.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.in_order.is_empty() && self.others.is_empty()
    }

    pub(crate) fn first(&self) -> Option<&V> {
        match (self.in_order.front(), self.others.first_key_value()) {
            (Some(first), Some((key, _))) if first.key < *key => Some(&first.value),
            (first, other) => other.map(|(_, (_, value))| value).or(first.map(|first| &first.value)),
        }
    }

    /// Returns all values, in any order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        let others = self.others.values().map(|(_, value)| value);
        self.in_order.iter().map(|entry| &entry.value).chain(others)
    }

    /// Returns the earliest deadline.
    pub(crate) fn next_deadline(&self) -> Instant {
        let other = self.others.first_key_value().map_or(Instant::NEVER, |((deadline, _), _)| *deadline);
        self.in_order.front().map_or(other, |first| first.key.0.min(other))
    }

    /// Returns the earliest expiry.
    pub(crate) fn next_expiry(&self) -> Instant {
        let other = self.other_expiries.first().map_or(Instant::NEVER, |(expiry, _)| *expiry);
        self.in_order.front().map_or(other, |first| first.expiry.min(other))
    }

    pub(crate) fn pop(&mut self) -> Option<V> {
        if let Some(first) = self.in_order.front()
            && self.others.first_key_value().is_none_or(|(key, _)| first.key < *key)
        {
            return self.pop_in_order();
        }
        let (key, (expiry, value)) = self.others.pop_first()?;
        if expiry != Instant::NEVER {
            self.other_expiries.remove(&(expiry, key));
        }
        Some(value)
    }

    /// Removes and returns the first value, if its deadline is `now` or earlier.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<V> {
        if self.next_deadline() <= now { self.pop() } else { None }
    }

    /// Removes and returns the value that expires first, if it has expired.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<V> {
        // The first one in order also expires first.
        let first = self.in_order.front().map(|first| (first.expiry, first.key));
        let other = self.other_expiries.first().copied();
        let (expiry, key) = first.into_iter().chain(other).min()?;
        if expiry > now {
            return None;
        }
        if first == Some((expiry, key)) {
            return self.pop_in_order();
        }
        self.other_expiries.pop_first();
        self.others.remove(&key).map(|(_, value)| value)
    }

    fn pop_in_order(&mut self) -> Option<V> {
        let value = self.in_order.pop_front().map(|entry| entry.value);
        if self.in_order.is_empty() && self.in_order.capacity() > EMPTY_CAPACITY_MAX {
            self.in_order = VecDeque::new();
        }
        value
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

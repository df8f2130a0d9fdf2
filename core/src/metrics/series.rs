//! Statistic sets over time: in all, since the last report, and for each of the last seconds.

use alloc::collections::VecDeque;

use super::StatisticSet;
use crate::time::Instant;

/// Windows reach back this many seconds, as in the KPL.
pub(crate) const WINDOW_SECONDS_MAX: u64 = 60;

const SECOND: u64 = 1_000_000_000;

/// The second that `now` lies in.
pub(crate) fn second(now: Instant) -> u64 {
    now.as_nanos() / SECOND
}

/// `N` statistic sets that are kept together. An observation goes to the current second's; that is moved on when another
/// second begins, so observing costs the same whatever is kept.
#[derive(Clone, Debug)]
pub(crate) struct Series<const N: usize> {
    second: u64,
    current: [StatisticSet; N],
    /// The last seconds in which something was observed, oldest first, without the current one.
    history: VecDeque<(u64, [StatisticSet; N])>,
    /// Since the last report, without the current second.
    unreported: [StatisticSet; N],
    /// Since the beginning, without what is unreported.
    reported: [StatisticSet; N],
}

impl<const N: usize> Default for Series<N> {
    fn default() -> Self {
        Self {
            second: 0,
            current: [StatisticSet::EMPTY; N],
            history: VecDeque::new(),
            unreported: [StatisticSet::EMPTY; N],
            reported: [StatisticSet::EMPTY; N],
        }
    }
}

impl<const N: usize> Series<N> {
    /// The sets to observe with in `second`. Time that goes backwards counts for the latest second.
    #[inline]
    pub(crate) fn at(&mut self, second: u64) -> &mut [StatisticSet; N] {
        if second > self.second {
            self.move_on(second);
        }
        &mut self.current
    }

    /// Whether `second` is one in which nothing has been observed yet.
    pub(crate) fn is_new(&self, second: u64) -> bool {
        second > self.second
    }

    #[cold]
    fn move_on(&mut self, second: u64) {
        let current = core::mem::replace(&mut self.current, [StatisticSet::EMPTY; N]);
        if current.iter().any(|set| !set.is_empty()) {
            merge(&mut self.unreported, &current);
            self.history.push_back((self.second, current));
        }
        self.second = second;
        while self.history.front().is_some_and(|(oldest, _)| oldest + WINDOW_SECONDS_MAX < second) {
            self.history.pop_front();
        }
    }

    /// Takes what has been observed since the last report.
    pub(crate) fn report(&mut self, now: Instant) -> [StatisticSet; N] {
        // The second goes on: what is observed in the rest of it makes an entry of its own.
        self.move_on(second(now).max(self.second));
        let unreported = core::mem::replace(&mut self.unreported, [StatisticSet::EMPTY; N]);
        merge(&mut self.reported, &unreported);
        unreported
    }

    /// Since the beginning.
    pub(crate) fn total(&self) -> [StatisticSet; N] {
        let mut total = self.reported;
        merge(&mut total, &self.unreported);
        merge(&mut total, &self.current);
        total
    }

    /// Of the last `seconds`, the current one included.
    pub(crate) fn window(&self, now: Instant, seconds: u64) -> [StatisticSet; N] {
        let now = second(now).max(self.second);
        let is_in = |second: u64| second.saturating_add(seconds) > now;
        let mut window = [StatisticSet::EMPTY; N];
        for (_, sets) in self.history.iter().filter(|(second, _)| is_in(*second)) {
            merge(&mut window, sets);
        }
        if is_in(self.second) {
            merge(&mut window, &self.current);
        }
        window
    }

    /// Whether it can be forgotten but for its totals: nothing is unreported, and no window reaches back to it.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.second + WINDOW_SECONDS_MAX < second(now)
            && [&self.current, &self.unreported].into_iter().flatten().all(StatisticSet::is_empty)
    }

    /// Takes over all that another has.
    pub(crate) fn merge(&mut self, mut other: Self) {
        let second = self.second.max(other.second);
        self.move_on(second);
        other.move_on(second);
        merge(&mut self.reported, &other.reported);
        merge(&mut self.unreported, &other.unreported);
        self.history.extend(other.history);
        self.history.make_contiguous().sort_by_key(|(second, _)| *second);
    }

    /// Takes over the totals of another that is forgotten.
    pub(crate) fn absorb(&mut self, total: &[StatisticSet]) {
        merge(&mut self.reported, total);
    }
}

/// Merges sets one by one; of two that differ in number, the first ones.
pub(crate) fn merge(into: &mut [StatisticSet], from: &[StatisticSet]) {
    for (into, from) in into.iter_mut().zip(from) {
        into.merge(from);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::ms;
    use alloc::vec::Vec;

    proptest! {
        #[test]
        fn totals_reports_and_windows_are_those_of_a_plain_list(
            steps in proptest::collection::vec((0..3_000_u64, 0..100_u32, any::<bool>()), 0..80),
            seconds in 1..=60_u64,
        ) {
            let mut series = Series::<1>::default();
            let mut observed: Vec<(u64, f64)> = Vec::new();
            let mut reported = 0;
            let mut now = 0;
            for (pause, value, report) in steps {
                now += pause;
                if report {
                    let [set] = series.report(ms(now));
                    prop_assert_eq!(set, of(observed[reported..].iter()));
                    reported = observed.len();
                } else {
                    series.at(second(ms(now)))[0].observe(f64::from(value));
                    observed.push((now, f64::from(value)));
                }
                prop_assert_eq!(series.total(), [of(observed.iter())]);
                let in_window = observed.iter().filter(|(at, _)| at / 1_000 + seconds > now / 1_000);
                prop_assert_eq!(series.window(ms(now), seconds), [of(in_window)]);
            }
            prop_assert!(series.history.len() <= 121, "{}", series.history.len());
            let over = series.is_over(ms(now + 62_000));
            prop_assert_eq!(over, reported == observed.len());
        }
    }

    fn of<'a>(values: impl Iterator<Item = &'a (u64, f64)>) -> StatisticSet {
        let mut set = StatisticSet::EMPTY;
        values.for_each(|(_, value)| set.observe(*value));
        set
    }
}

//! Statistic sets over time: in total, since the last report, and for each of the last seconds.

use alloc::collections::VecDeque;

use super::StatisticSet;
use crate::time::Instant;

/// The maximum length of a window in seconds, as in the KPL.
pub(crate) const WINDOW_SECONDS_MAX: u64 = 60;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Returns the number of the second that contains `now`.
pub(crate) fn second(now: Instant) -> u64 {
    now.as_nanos() / NANOS_PER_SECOND
}

/// `N` statistic sets over time. An observation is added to the set of the current second only, so its cost does not
/// depend on what is kept. When the next second begins, the set is added to the others.
#[derive(Clone, Debug)]
pub(crate) struct Series<const N: usize> {
    second: u64,
    current: [StatisticSet; N],
    /// The sets of past seconds that have observations, oldest first, without the current second.
    history: VecDeque<(u64, [StatisticSet; N])>,
    /// The sets since the last report, without the current second.
    unreported: [StatisticSet; N],
    /// The sets from the beginning to the last report.
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
    /// Returns the sets for observations in `second`. If time goes backwards, these are the sets of the latest second.
    #[inline]
    pub(crate) fn at(&mut self, second: u64) -> &mut [StatisticSet; N] {
        if second > self.second {
            self.advance(second);
        }
        &mut self.current
    }

    /// Whether `second` is later than the latest second with an observation.
    pub(crate) fn is_new(&self, second: u64) -> bool {
        second > self.second
    }

    #[cold]
    fn advance(&mut self, second: u64) {
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

    /// Returns the sets since the last report, and marks them as reported.
    pub(crate) fn report(&mut self, now: Instant) -> [StatisticSet; N] {
        // The current second is not over. Later observations in it get a second entry in the history.
        self.advance(second(now).max(self.second));
        let unreported = core::mem::replace(&mut self.unreported, [StatisticSet::EMPTY; N]);
        merge(&mut self.reported, &unreported);
        unreported
    }

    /// Returns the sets since the beginning.
    pub(crate) fn total(&self) -> [StatisticSet; N] {
        let mut total = self.reported;
        merge(&mut total, &self.unreported);
        merge(&mut total, &self.current);
        total
    }

    /// Returns the sets of the last `seconds`, including the current one.
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

    /// Whether only the totals are still needed: nothing is unreported, and no window reaches back to the last
    /// observation.
    pub(crate) fn has_only_totals(&self, now: Instant) -> bool {
        self.second + WINDOW_SECONDS_MAX < second(now)
            && [&self.current, &self.unreported].into_iter().flatten().all(StatisticSet::is_empty)
    }

    /// Adds all observations of another series.
    pub(crate) fn merge(&mut self, mut other: Self) {
        let second = self.second.max(other.second);
        self.advance(second);
        other.advance(second);
        merge(&mut self.reported, &other.reported);
        merge(&mut self.unreported, &other.unreported);
        self.history.extend(other.history);
        self.history.make_contiguous().sort_by_key(|(second, _)| *second);
    }

    /// Adds the totals of another series, as reported ones.
    pub(crate) fn absorb(&mut self, total: &[StatisticSet]) {
        merge(&mut self.reported, total);
    }
}

/// Merges sets pairwise. If one slice is longer, its other sets are ignored.
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
        fn totals_reports_and_windows_match_a_plain_list(
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
            let only_totals = series.has_only_totals(ms(now + 62_000));
            prop_assert_eq!(only_totals, reported == observed.len());
        }
    }

    fn of<'a>(values: impl Iterator<Item = &'a (u64, f64)>) -> StatisticSet {
        let mut set = StatisticSet::EMPTY;
        values.for_each(|(_, value)| set.observe(*value));
        set
    }
}

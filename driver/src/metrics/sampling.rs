//! Histograms for backends that take one observation after the other.

#![cfg_attr(
    not(all(feature = "dogstatsd", feature = "metrics-facade", feature = "opentelemetry")),
    allow(dead_code, reason = "each sink uses a part of it")
)]

use std::time::Duration;

use kpl_core::metrics::Histogram;

/// Observations given to a histogram for one report, unless told otherwise: ten milliseconds' work.
pub(super) const OBSERVATIONS_MAX: u64 = 100_000;

/// Gives on so many observations that there are no more than a limit in all, evenly, so that their shape remains.
pub(super) struct Sampling {
    all: u64,
    most: u64,
    seen: u64,
    given: u64,
}

impl Sampling {
    /// Of these histograms together.
    pub(super) fn new<'a>(most: u64, histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let all = histograms.map(Histogram::count).sum();
        Self { all, most: most.min(all), seen: 0, given: 0 }
    }

    /// The buckets of one of them: how many seconds at most, and how often that is to be told.
    pub(super) fn buckets<'a>(&'a mut self, histogram: &'a Histogram) -> impl Iterator<Item = (f64, u64)> + 'a {
        seconds(histogram).map(|(seconds, times)| (seconds, self.give(times))).filter(|(_, times)| *times > 0)
    }

    fn give(&mut self, times: u64) -> u64 {
        self.seen += times;
        let due = u128::from(self.seen) * u128::from(self.most) / u128::from(self.all.max(1));
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        let give = due.saturating_sub(self.given);
        self.given = due;
        give
    }
}

/// The buckets of a histogram: how many seconds at most, and how often.
pub(super) fn seconds(histogram: &Histogram) -> impl Iterator<Item = (f64, u64)> + '_ {
    let max = histogram.max().unwrap_or(Duration::ZERO);
    histogram.buckets().map(move |(end, times)| (end.min(max).as_secs_f64(), times))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(millis: impl Iterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        millis.for_each(|ms| histogram.observe(Duration::from_millis(ms)));
        histogram
    }

    #[test]
    fn nothing_is_thinned_below_the_limit() {
        let histogram = histogram(1..=1_000);
        let mut sampling = Sampling::new(1_000, [&histogram].into_iter());
        assert!(sampling.buckets(&histogram).eq(seconds(&histogram)));
        assert_eq!(seconds(&histogram).map(|(_, times)| times).sum::<u64>(), 1_000);
        assert_eq!(seconds(&histogram).last().unwrap().0, 1.0, "not beyond the longest");
    }

    #[test]
    fn what_is_thinned_keeps_its_shape_and_its_longest() {
        let histograms = [histogram(1..=9_000), histogram((0..1_000).map(|_| 20_000).chain([50_000]))];
        let mut sampling = Sampling::new(100, histograms.iter());
        let [most, few] = histograms.each_ref().map(|histogram| sampling.buckets(histogram).collect::<Vec<_>>());
        let count = |buckets: &[(f64, u64)]| buckets.iter().map(|(_, times)| times).sum::<u64>();
        assert_eq!((count(&most), count(&few)), (89, 11), "as 9,000 is to 1,001");
        let below = most.iter().filter(|(seconds, _)| *seconds <= 4.5).map(|(_, times)| times).sum::<u64>();
        assert!((42..=46).contains(&below), "half of them: {below}");
        assert_eq!(few.last(), Some(&(50.0, 1)));
    }

    #[test]
    fn none_at_all_are_given_if_none_are_wanted() {
        let histogram = histogram(1..=10);
        assert_eq!(Sampling::new(0, [&histogram].into_iter()).buckets(&histogram).count(), 0);
        assert_eq!(Sampling::new(10, [].into_iter()).buckets(&Histogram::default()).count(), 0);
    }
}

//! Sampling of histograms for backends that accept one observation at a time.

#![cfg_attr(
    not(all(feature = "dogstatsd", feature = "metrics-facade", feature = "opentelemetry")),
    allow(dead_code, reason = "each sink uses a part of this module")
)]

use std::time::Duration;

use kpl_core::metrics::Histogram;

/// The default maximum of observations per histogram and report. Recording them takes about 10 ms.
pub(super) const OBSERVATIONS_MAX: u64 = 100_000;

/// Selects at most a maximum number of observations, evenly, so that the shape of the histograms remains.
pub(super) struct Sampling {
    total: u64,
    selected_max: u64,
    seen: u64,
    selected: u64,
}

impl Sampling {
    /// Creates a sampling with a maximum for all of these histograms together.
    pub(super) fn new<'a>(selected_max: u64, histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let total = histograms.map(Histogram::count).sum();
        Self { total, selected_max: selected_max.min(total), seen: 0, selected: 0 }
    }

    /// Returns the non-empty buckets of one of the histograms: upper bound in seconds, and number of selected
    /// observations.
    pub(super) fn buckets<'a>(&'a mut self, histogram: &'a Histogram) -> impl Iterator<Item = (f64, u64)> + 'a {
        seconds(histogram).map(|(seconds, count)| (seconds, self.select(count))).filter(|(_, count)| *count > 0)
    }

    fn select(&mut self, count: u64) -> u64 {
        self.seen += count;
        let target = u128::from(self.seen) * u128::from(self.selected_max) / u128::from(self.total.max(1));
        let target = u64::try_from(target).unwrap_or(u64::MAX);
        let selected = target.saturating_sub(self.selected);
        self.selected = target;
        selected
    }
}

/// Returns the buckets of a histogram: upper bound in seconds, and number of observations.
pub(super) fn seconds(histogram: &Histogram) -> impl Iterator<Item = (f64, u64)> + '_ {
    let max = histogram.max().unwrap_or(Duration::ZERO);
    histogram.buckets().map(move |(end, count)| (end.min(max).as_secs_f64(), count))
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
    fn all_observations_are_selected_up_to_the_maximum() {
        let histogram = histogram(1..=1_000);
        let mut sampling = Sampling::new(1_000, [&histogram].into_iter());
        assert!(sampling.buckets(&histogram).eq(seconds(&histogram)));
        assert_eq!(seconds(&histogram).map(|(_, count)| count).sum::<u64>(), 1_000);
        assert_eq!(seconds(&histogram).last().unwrap().0, 1.0, "the last bucket ends at the maximum");
    }

    #[test]
    fn sampled_histograms_keep_their_shape_and_maximum() {
        let histograms = [histogram(1..=9_000), histogram((0..1_000).map(|_| 20_000).chain([50_000]))];
        let mut sampling = Sampling::new(100, histograms.iter());
        let [large, small] = histograms.each_ref().map(|histogram| sampling.buckets(histogram).collect::<Vec<_>>());
        let total = |buckets: &[(f64, u64)]| buckets.iter().map(|(_, count)| count).sum::<u64>();
        assert_eq!((total(&large), total(&small)), (89, 11), "the ratio is 9,000 to 1,001");
        let below = large.iter().filter(|(seconds, _)| *seconds <= 4.5).map(|(_, count)| count).sum::<u64>();
        assert!((42..=46).contains(&below), "about half are below the median: {below}");
        assert_eq!(small.last(), Some(&(50.0, 1)));
    }

    #[test]
    fn a_maximum_of_zero_or_an_empty_histogram_selects_nothing() {
        let histogram = histogram(1..=10);
        assert_eq!(Sampling::new(0, [&histogram].into_iter()).buckets(&histogram).count(), 0);
        assert_eq!(Sampling::new(10, [].into_iter()).buckets(&Histogram::default()).count(), 0);
    }
}

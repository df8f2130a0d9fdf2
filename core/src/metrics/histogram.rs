//! A histogram of durations, whose buckets grow with the durations.

use alloc::boxed::Box;
use core::fmt;
use core::time::Duration;

/// The number of buckets for each power of two. So a quantile is at most a sixteenth too high.
const PARTS: usize = 16;
const PARTS_LOG2: u32 = PARTS.trailing_zeros();
/// The number of powers of two: from microseconds to years.
const POWERS: usize = 44;
const BUCKETS: usize = PARTS * POWERS;

/// A histogram of durations in microseconds. Quantiles are at most 6.25 % too high. Histograms can be merged.
///
/// ```
/// use core::time::Duration;
/// use kpl_core::metrics::Histogram;
///
/// let mut histogram = Histogram::default();
/// for ms in 1..=1_000 {
///     histogram.observe(Duration::from_millis(ms));
/// }
/// let p99 = histogram.quantile(0.99).unwrap();
/// assert!((990..=1_052).contains(&p99.as_millis()), "{p99:?}");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    /// Adds a duration.
    #[inline]
    pub fn observe(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)] += 1;
        self.count += 1;
        self.max = self.max.max(duration);
    }

    /// Returns the number of durations.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the longest duration, which is exact; `None` if there are no durations.
    pub fn max(&self) -> Option<Duration> {
        if self.count == 0 { None } else { Some(self.max) }
    }

    /// Returns the duration that a share of `quantile` of all durations did not exceed, at most 6.25 % too high. A
    /// `quantile` below 0 counts as 0, and one above 1 as 1. `None` if there are no durations.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        // `ceil` is in the standard library only, and is not needed: `seen` is an integer. No count reaches 2^53 in
        // practice, so `f64` is exact.
        let rank = quantile.clamp(0.0, 1.0) * self.count as f64;
        let mut seen = 0;
        for (index, times) in self.buckets.iter().enumerate() {
            seen += times;
            if *times > 0 && seen as f64 >= rank {
                return Some(Duration::from_micros(end_of(index)).min(self.max));
            }
        }
        Some(self.max)
    }

    /// Adds the durations of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets.iter()) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// Returns the buckets that are not empty, in ascending order: the longest duration of each, and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let filled = self.buckets.iter().enumerate().filter(|(_, times)| **times > 0);
        filled.map(|(index, times)| (Duration::from_micros(end_of(index)), *times))
    }
}

/// Returns the bucket of a value. Buckets are exact below [`PARTS`]; above, each power of two has [`PARTS`] buckets.
fn bucket(micros: u64) -> usize {
    if micros < PARTS as u64 {
        return micros as usize;
    }
    let power = micros.ilog2() - PARTS_LOG2;
    let part = (micros >> power) as usize - PARTS;
    (PARTS * (power as usize + 1) + part).min(BUCKETS - 1)
}

/// Returns the largest value of a bucket.
fn end_of(bucket: usize) -> u64 {
    if bucket < PARTS {
        return bucket as u64;
    }
    let (power, part) = (bucket / PARTS - 1, bucket % PARTS);
    (((PARTS + part + 1) as u64) << power) - 1
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count)
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("max", &self.max())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_have_no_gaps() {
        for index in 0..BUCKETS - 1 {
            assert_eq!(bucket(end_of(index)), index);
            assert_eq!(bucket(end_of(index) + 1), index + 1);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        let histogram = Histogram::default();
        assert_eq!((histogram.quantile(0.5), histogram.max(), histogram.count()), (None, None, 0));
        assert_eq!(histogram.buckets().count(), 0);
    }

    proptest! {
        #[test]
        fn quantiles_match_a_sorted_list_within_a_sixteenth(
            mut micros in proptest::collection::vec(0..10_000_000_000_u64, 1..200),
            split in 0..200_usize,
            quantile in 0.0..1.0_f64,
        ) {
            let mut halves = [Histogram::default(), Histogram::default()];
            for (n, micros) in micros.iter().enumerate() {
                halves[usize::from(n < split)].observe(Duration::from_micros(*micros));
            }
            let [mut merged, other] = halves;
            merged.merge(&other);
            micros.sort_unstable();
            prop_assert_eq!(merged.count(), micros.len() as u64);
            prop_assert_eq!(merged.max().map(|max| max.as_micros() as u64), micros.last().copied());
            let rank = (quantile * micros.len() as f64).ceil().max(1.0) as usize;
            let (exact, estimate) = (micros[rank - 1], merged.quantile(quantile).unwrap().as_micros() as u64);
            prop_assert!(exact <= estimate && estimate <= exact + exact / 16, "{} for {}", estimate, exact);
            let counted: Vec<u64> = merged.buckets().map(|(_, times)| times).collect();
            prop_assert_eq!(counted.iter().sum::<u64>(), micros.len() as u64);
        }
    }
}

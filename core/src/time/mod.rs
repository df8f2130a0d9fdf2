//! The time of the state machine: a number that the driver passes in.

pub(crate) mod deadline_queue;
pub(crate) mod timers;

use core::fmt;
use core::ops::Add;
use core::time::Duration;

/// A point in time: nanoseconds since an origin that the driver chooses.
///
/// The drivers of this project choose the Unix epoch. They read the wall clock once and then advance it by a monotonic
/// clock, so the instants of an [`Attempt`](crate::Attempt) are wall-clock times. All arithmetic saturates:
/// [`Instant::NEVER`] plus any duration is still never, so a time-to-live of [`Duration::MAX`] is valid.
///
/// ```
/// use core::time::Duration;
/// use kpl_core::Instant;
///
/// let start = Instant::from_nanos(5);
/// assert_eq!(start + Duration::from_nanos(2), Instant::from_nanos(7));
/// assert_eq!(start + Duration::MAX, Instant::NEVER);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The maximum instant, used as "no deadline".
    pub const NEVER: Self = Self(u64::MAX);

    /// Creates the instant `nanos` nanoseconds after the driver's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the number of nanoseconds since the driver's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the last multiple of `interval` since the origin that is not after `self`.
    pub(crate) const fn round_down(self, interval: Duration) -> Self {
        Self(self.0 - self.0 % interval.as_nanos() as u64)
    }

    /// Returns the first multiple of `interval` since the origin that is not before `self`.
    pub(crate) const fn round_up(self, interval: Duration) -> Self {
        let interval = interval.as_nanos() as u64;
        Self(self.0.div_ceil(interval).saturating_mul(interval))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::NEVER { f.write_str("never") } else { write!(f, "{:?}", Duration::from_nanos(self.0)) }
    }
}

/// Returns a duration in nanoseconds. It saturates at the maximum of `u64`, 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns a random duration from zero to `max`, inclusive: full jitter.
pub(crate) fn random_duration(rng: &mut fastrand::Rng, max: Duration) -> Duration {
    Duration::from_nanos(rng.u64(..=nanos(max)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ms;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Instant::NEVER + Duration::from_secs(1), Instant::NEVER);
        assert_eq!(ms(1) + Duration::MAX, Instant::NEVER);
        assert_eq!(ms(1).saturating_since(ms(2)), Duration::ZERO);
        assert_eq!(ms(3).saturating_since(ms(2)), Duration::from_millis(1));
        assert_eq!(Instant::NEVER.round_up(Duration::from_secs(7)), Instant::NEVER);
    }

    #[test]
    fn rounding_returns_a_multiple_and_keeps_multiples() {
        let ten = Duration::from_millis(10);
        assert_eq!((ms(0).round_down(ten), ms(9).round_down(ten), ms(10).round_down(ten)), (ms(0), ms(0), ms(10)));
        assert_eq!((ms(0).round_up(ten), ms(1).round_up(ten), ms(10).round_up(ten)), (ms(0), ms(10), ms(10)));
        assert_eq!((ms(10) + Duration::from_nanos(1)).round_up(ten), ms(20));
    }

    #[test]
    fn jitter_is_uniform_from_zero_to_the_maximum() {
        let (mut rng, max) = (fastrand::Rng::with_seed(1), Duration::from_secs(8));
        let mut eighths = [0; 8];
        for _ in 0..8_000 {
            eighths[random_duration(&mut rng, max - Duration::from_nanos(1)).as_secs() as usize] += 1;
        }
        assert!(eighths.iter().all(|count| (800..1_200).contains(count)), "{eighths:?}");
        assert_eq!(random_duration(&mut rng, Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn debug_shows_the_time_since_the_origin() {
        assert_eq!(alloc::format!("{:?} {:?}", ms(1_500), Instant::NEVER), "1.5s never");
    }
}

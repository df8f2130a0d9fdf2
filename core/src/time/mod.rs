//! Time as the state machine sees it: a number that the driver passes in.

pub(crate) mod deadline_queue;
pub(crate) mod timers;

use core::fmt;
use core::ops::Add;
use core::time::Duration;

/// A point in time: nanoseconds since an origin that the driver chooses.
///
/// The drivers of this project choose the Unix epoch, read once and then advanced by a monotonic clock, so that the
/// instants of an [`Attempt`](crate::Attempt) can be shown as wall-clock time. All arithmetic saturates:
/// [`Instant::NEVER`] plus or minus anything is still never, so a time-to-live of [`Duration::MAX`] is legal.
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
    /// A time that never comes: what a timer without a date is set to.
    pub const NEVER: Self = Self(u64::MAX);

    /// The instant `nanos` nanoseconds after the driver's origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the driver's origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The last multiple of `interval` since the origin that is not after `self`.
    pub(crate) const fn round_down(self, interval: Duration) -> Self {
        Self(self.0 - self.0 % interval.as_nanos() as u64)
    }

    /// The first multiple of `interval` since the origin that is not before `self`.
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

/// A duration in whole nanoseconds, saturating: 584 years is for ever here.
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
    fn rounding_up_gives_the_next_multiple_or_the_same() {
        let ten = Duration::from_millis(10);
        assert_eq!((ms(0).round_down(ten), ms(9).round_down(ten), ms(10).round_down(ten)), (ms(0), ms(0), ms(10)));
        assert_eq!((ms(0).round_up(ten), ms(1).round_up(ten), ms(10).round_up(ten)), (ms(0), ms(10), ms(10)));
        assert_eq!((ms(10) + Duration::from_nanos(1)).round_up(ten), ms(20));
    }

    #[test]
    fn jitter_is_spread_from_nothing_to_the_most() {
        let (mut rng, most) = (fastrand::Rng::with_seed(1), Duration::from_secs(8));
        let mut eighths = [0; 8];
        for _ in 0..8_000 {
            eighths[random_duration(&mut rng, most - Duration::from_nanos(1)).as_secs() as usize] += 1;
        }
        assert!(eighths.iter().all(|count| (800..1_200).contains(count)), "{eighths:?}");
        assert_eq!(random_duration(&mut rng, Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn it_shows_as_the_time_since_the_origin() {
        assert_eq!(alloc::format!("{:?} {:?}", ms(1_500), Instant::NEVER), "1.5s never");
    }
}

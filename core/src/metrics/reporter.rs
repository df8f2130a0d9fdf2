//! The times of metrics reports.

use core::time::Duration;

use super::MetricsLevel;
use crate::time::Instant;

/// The schedule of metrics reports. A report is due one interval after the last one, if there is something to report.
/// An idle producer causes no wake-ups.
#[derive(Debug)]
pub(crate) struct Reporter {
    /// The interval between reports; `None` without metrics.
    interval: Option<Duration>,
    last: Instant,
    due: Instant,
    /// The number of failed user records at the last call of `failed()`.
    failed: u64,
}

impl Reporter {
    pub(crate) fn new(level: MetricsLevel, interval: Duration, now: Instant) -> Self {
        let is_on = level > MetricsLevel::None;
        Self { interval: is_on.then_some(interval), last: now, due: Instant::NEVER, failed: 0 }
    }

    /// Notes that something has been observed.
    #[inline]
    pub(crate) fn observed(&mut self, now: Instant) {
        if let Some(interval) = self.interval
            && self.due == Instant::NEVER
        {
            // After a pause, a full interval begins.
            let next = self.last + interval;
            self.due = if next > now { next } else { now + interval };
        }
    }

    /// Notes the number of user records that have failed since the beginning, by replies or by expiry.
    #[inline]
    pub(crate) fn failed(&mut self, now: Instant, failed: u64) {
        if failed != self.failed {
            self.failed = failed;
            self.observed(now);
        }
    }

    /// Returns the time of the next report.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Returns the start of the reported period if a report is due, or, with `last`, if there is something to report.
    pub(crate) fn take_due(&mut self, now: Instant, last: bool) -> Option<Instant> {
        if self.due == Instant::NEVER || self.due > now && !last {
            return None;
        }
        self.due = Instant::NEVER;
        Some(core::mem::replace(&mut self.last, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ms;

    fn reporter(level: MetricsLevel) -> Reporter {
        Reporter::new(level, Duration::from_secs(10), ms(0))
    }

    #[test]
    fn a_report_is_due_an_interval_after_the_last_if_something_was_observed() {
        let mut reporter = reporter(MetricsLevel::Summary);
        assert_eq!((reporter.due(), reporter.take_due(ms(20_000), true)), (Instant::NEVER, None));
        reporter.observed(ms(1_000));
        reporter.observed(ms(2_000));
        assert_eq!(reporter.due(), ms(10_000));
        assert_eq!(reporter.take_due(ms(9_999), false), None);
        assert_eq!(reporter.take_due(ms(10_000), false), Some(ms(0)));
        assert_eq!(reporter.due(), Instant::NEVER);
        reporter.observed(ms(50_000));
        assert_eq!(reporter.due(), ms(60_000), "after a pause, a full interval");
        assert_eq!(reporter.take_due(ms(51_000), true), Some(ms(10_000)));
    }

    #[test]
    fn without_metrics_there_are_no_reports() {
        let mut reporter = reporter(MetricsLevel::None);
        reporter.observed(ms(0));
        assert_eq!((reporter.due(), reporter.take_due(ms(100_000), true)), (Instant::NEVER, None));
    }
}

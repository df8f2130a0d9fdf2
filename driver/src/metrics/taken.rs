//! How much of a report has been taken, when not all of it has.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kpl_core::Instant;
use kpl_core::metrics::MetricsReport;

/// Of so many reports it is remembered. A producer has at most one that is taken in part and still offered.
const REPORTS_MAX: usize = 256;

/// For a sink that sends a report in several calls: how much of which report has been taken, so that after an error only
/// the rest is sent again.
///
/// What is counted is the sink's affair, as long as it counts the same when the same report comes again.
#[derive(Debug, Default)]
pub struct Taken(Mutex<Vec<(Span, usize)>>);

/// What tells reports apart, also those of producers that share a sink: when they begin and end, in nanoseconds, and the
/// number of their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span(Option<Instant>, Option<Instant>, usize);

impl From<&MetricsReport> for Span {
    fn from(report: &MetricsReport) -> Self {
        Self(report.start, report.end, report.data.len())
    }
}

impl Taken {
    /// How much of the report has been taken: 0 if nothing has, or if all has.
    pub fn of(&self, report: &MetricsReport) -> usize {
        let span = Span::from(report);
        self.lock().iter().find(|(known, _)| *known == span).map_or(0, |(_, much)| *much)
    }

    /// So much of the report has been taken.
    pub fn set(&self, report: &MetricsReport, much: usize) {
        let span = Span::from(report);
        let mut reports = self.lock();
        match reports.iter_mut().find(|(known, _)| *known == span) {
            Some((_, known)) => *known = much,
            None => {
                // Reports that were dropped meanwhile leave theirs behind.
                if reports.len() >= REPORTS_MAX {
                    reports.remove(0);
                }
                reports.push((span, much));
            }
        }
    }

    /// The report has been taken whole, and will not come again.
    pub fn all(&self, report: &MetricsReport) {
        let span = Span::from(report);
        self.lock().retain(|(known, _)| *known != span);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Span, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

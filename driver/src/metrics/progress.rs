//! The progress of reports that were sent in part.

use std::sync::{Mutex, MutexGuard};

use kpl_core::Instant;
use kpl_core::metrics::MetricsReport;

use crate::sync::lock;

/// The maximum number of entries. A producer has at most one report that was sent in part and is retried.
const REPORTS_MAX: usize = 256;

/// The progress of each report, for a sink that sends a report in several calls. After an error, the sink sends only
/// the rest.
///
/// The sink chooses the unit of progress. It must count in the same way each time it exports a report.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Vec<(ReportId, usize)>>);

/// Identifies a report, also if several producers share a sink: start, end, and number of data points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReportId(Option<Instant>, Option<Instant>, usize);

impl From<&MetricsReport> for ReportId {
    fn from(report: &MetricsReport) -> Self {
        Self(report.start, report.end, report.data.len())
    }
}

impl Progress {
    /// Returns the progress of a report; 0 if nothing was sent, or if the report is complete.
    pub fn of(&self, report: &MetricsReport) -> usize {
        let id = ReportId::from(report);
        self.reports().iter().find(|(known, _)| *known == id).map_or(0, |(_, sent)| *sent)
    }

    /// Sets the progress of a report.
    pub fn set(&self, report: &MetricsReport, sent: usize) {
        let id = ReportId::from(report);
        let mut reports = self.reports();
        match reports.iter_mut().find(|(known, _)| *known == id) {
            Some((_, progress)) => *progress = sent,
            None => {
                // Entries of reports that the exporter dropped are never completed.
                if reports.len() >= REPORTS_MAX {
                    reports.remove(0);
                }
                reports.push((id, sent));
            }
        }
    }

    /// Removes the entry of a report that was sent completely.
    pub fn complete(&self, report: &MetricsReport) {
        let id = ReportId::from(report);
        self.reports().retain(|(known, _)| *known != id);
    }

    fn reports(&self) -> MutexGuard<'_, Vec<(ReportId, usize)>> {
        lock(&self.0)
    }
}

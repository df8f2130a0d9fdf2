//! How much of a report a sink has sent, when it has not sent all of it.

use std::sync::{Mutex, MutexGuard};

use kpl_core::Instant;
use kpl_core::metrics::MetricsReport;

use crate::sync::lock;

/// The number of reports that are remembered. A producer has at most one that was sent in part and is tried again.
const REPORTS_MAX: usize = 256;

/// For a sink that sends a report in several calls: how much of which report was sent, so that only the rest is sent after
/// an error.
///
/// What is counted is up to the sink, as long as it counts the same for the same report.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Vec<(ReportId, usize)>>);

/// Tells reports apart, also those of several producers that share a sink: start, end, and number of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReportId(Option<Instant>, Option<Instant>, usize);

impl From<&MetricsReport> for ReportId {
    fn from(report: &MetricsReport) -> Self {
        Self(report.start, report.end, report.data.len())
    }
}

impl Progress {
    /// Returns how much of the report was sent: 0 if nothing, or everything, was.
    pub fn of(&self, report: &MetricsReport) -> usize {
        let id = ReportId::from(report);
        self.reports().iter().find(|(known, _)| *known == id).map_or(0, |(_, sent)| *sent)
    }

    /// Remembers how much of the report was sent.
    pub fn set(&self, report: &MetricsReport, sent: usize) {
        let id = ReportId::from(report);
        let mut reports = self.reports();
        match reports.iter_mut().find(|(known, _)| *known == id) {
            Some((_, known)) => *known = sent,
            None => {
                // Reports that the exporter has dropped leave their entries behind.
                if reports.len() >= REPORTS_MAX {
                    reports.remove(0);
                }
                reports.push((id, sent));
            }
        }
    }

    /// Forgets the report: it was sent, and does not come again.
    pub fn complete(&self, report: &MetricsReport) {
        let id = ReportId::from(report);
        self.reports().retain(|(known, _)| *known != id);
    }

    fn reports(&self) -> MutexGuard<'_, Vec<(ReportId, usize)>> {
        lock(&self.0)
    }
}

//! Sinks without a backend.

use std::sync::{Mutex, PoisonError};

use kpl_core::metrics::MetricsReport;

use super::{BoxFuture, MetricsSink, SinkError};

/// Keeps the latest reports, for tests and for applications that display them.
#[derive(Debug)]
pub struct InMemorySink {
    reports: Mutex<Vec<MetricsReport>>,
    reports_max: usize,
}

impl InMemorySink {
    /// Creates a sink that keeps at most `reports_max` reports. Above it, the oldest is dropped.
    pub fn new(reports_max: usize) -> Self {
        Self { reports: Mutex::default(), reports_max }
    }

    /// Returns the reports, oldest first.
    pub fn reports(&self) -> Vec<MetricsReport> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl MetricsSink for InMemorySink {
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.push(report.clone());
        let excess = reports.len().saturating_sub(self.reports_max);
        reports.drain(..excess);
        Box::pin(async { Ok(()) })
    }
}

/// Accepts and discards all reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullSink;

impl MetricsSink for NullSink {
    fn export<'a>(&'a self, _: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

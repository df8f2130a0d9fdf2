//! Sinks that go nowhere: for tests, and for none.

use std::sync::{Mutex, PoisonError};

use kpl_core::metrics::MetricsReport;

use super::{BoxFuture, MetricsSink, SinkError};

/// Keeps the last reports, for tests and for applications that show them themselves.
#[derive(Debug)]
pub struct InMemorySink {
    reports: Mutex<Vec<MetricsReport>>,
    most: usize,
}

impl InMemorySink {
    /// Keeps so many reports; then the oldest goes.
    pub fn new(most: usize) -> Self {
        Self { reports: Mutex::default(), most }
    }

    /// The reports, oldest first.
    pub fn reports(&self) -> Vec<MetricsReport> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl MetricsSink for InMemorySink {
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() >= self.most {
            reports.remove(0);
        }
        reports.push(report.clone());
        Box::pin(async { Ok(()) })
    }
}

/// Takes everything and does nothing with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullSink;

impl MetricsSink for NullSink {
    fn export<'a>(&'a self, _: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        Box::pin(async { Ok(()) })
    }
}

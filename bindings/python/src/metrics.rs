//! Metrics reports, kept until Python code exports them.

use std::mem;
use std::sync::Mutex;

use kpl_driver::metrics::{
    BoxFuture, FinestDatum, Metric, MetricsReport, MetricsSink, REPORTS_KEPT, SinkError, finest_data,
};

use crate::lock;
use crate::signal::{Signal, Watchers};

/// Name, count, sum, minimum, maximum, dimensions, and the start and end of the period in seconds since 1970.
pub(crate) type Snapshot = (String, u64, f64, f64, f64, Vec<(&'static str, String)>, f64, f64);

/// Returns the finest data of a report: each observation once.
pub(crate) fn snapshots(report: &MetricsReport) -> Vec<Snapshot> {
    let seconds = |at: Option<kpl_core::Instant>| at.map_or(0.0, |at| at.as_nanos() as f64 / 1e9);
    let (start, end) = (seconds(report.start), seconds(report.end));
    let snapshot = |datum: FinestDatum<'_>| {
        let dimensions = [("stream", datum.stream), ("shard", datum.shard), ("error_code", datum.error_code)];
        let dimensions = dimensions.into_iter().filter_map(|(name, value)| Some((name, value?.to_string())));
        let set = datum.statistics;
        (name(datum.metric).to_owned(), set.count, set.sum, set.min, set.max, dimensions.collect(), start, end)
    };
    finest_data(report).into_iter().map(snapshot).collect()
}

/// Returns the name of a metric: aiokpl's, if it has another one than the KPL.
fn name(metric: Metric) -> &'static str {
    match metric {
        Metric::BufferingTime => "BufferedTime",
        Metric::UserRecordExpired => "ExpiredRecords",
        metric => metric.name(),
    }
}

/// Reports that are not exported yet.
#[derive(Default)]
pub(crate) struct Reports {
    kept: Mutex<Vec<Vec<Snapshot>>>,
    watchers: Watchers,
}

impl Reports {
    pub(crate) fn watch(&self, signal: &Signal, token: u64) -> bool {
        let kept = lock(&self.kept);
        if kept.is_empty() {
            self.watchers.add(signal, token);
        }
        kept.is_empty()
    }

    pub(crate) fn take(&self) -> Vec<Vec<Snapshot>> {
        mem::take(&mut *lock(&self.kept))
    }
}

impl MetricsSink for Reports {
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        let snapshots = snapshots(report);
        let mut kept = lock(&self.kept);
        if kept.len() >= REPORTS_KEPT {
            kept.remove(0);
        }
        kept.push(snapshots);
        drop(kept);
        self.watchers.notify();
        Box::pin(async { Ok(()) })
    }
}

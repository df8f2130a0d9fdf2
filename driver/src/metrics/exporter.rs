//! Passes reports to the sinks in separate tasks, so no record waits for a sink.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kpl_core::Instant;
use kpl_core::metrics::{MetricsReport, MetricsSnapshot};

use super::{EXPORT_TIMEOUT, MetricsSink, REPORTS_KEPT};
use crate::drive::race;
use crate::runtime::Runtime;
use crate::sync::lock;

/// The minimum time between two log events about one sink.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The minimum time for the last report at a close, even if the deadline of the close has passed.
const LAST_REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The sinks of a producer.
pub(crate) struct Exporter {
    sinks: Mutex<Arc<[Sink]>>,
    running: Arc<Running>,
    /// The deadline of a close, in nanoseconds.
    close_by: AtomicU64,
}

/// A sink and the reports that it has not accepted yet.
#[derive(Clone)]
struct Sink {
    sink: Arc<dyn MetricsSink>,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    reports: VecDeque<Arc<MetricsReport>>,
    dropped: u64,
    has_worker: bool,
    last_logged: Option<Instant>,
}

/// The number of export tasks, and an event for the end of each.
#[derive(Default)]
struct Running {
    tasks: AtomicUsize,
    task_ended: event_listener::Event,
}

/// A running export task, until it is dropped.
struct Task(Arc<Running>);

impl Task {
    fn new(running: &Arc<Running>) -> Self {
        running.tasks.fetch_add(1, Ordering::SeqCst);
        Self(running.clone())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::SeqCst);
        self.0.task_ended.notify(usize::MAX);
    }
}

impl Default for Exporter {
    fn default() -> Self {
        let close_by = AtomicU64::new(Instant::NEVER.as_nanos());
        Self { sinks: Mutex::new(Arc::new([])), running: Arc::default(), close_by }
    }
}

impl Exporter {
    pub(crate) fn add(&self, sink: Arc<dyn MetricsSink>) {
        let mut sinks = lock(&self.sinks);
        *sinks = sinks.iter().cloned().chain([Sink { sink, queue: Arc::default() }]).collect();
    }

    fn sinks(&self) -> Arc<[Sink]> {
        lock(&self.sinks).clone()
    }

    /// Passes a report to every sink. A task rolls it up, because this is slow with thousands of shards.
    pub(crate) fn export<R: Runtime>(&self, snapshot: Box<MetricsSnapshot>, runtime: &R) {
        let sinks = self.sinks();
        if sinks.is_empty() {
            return;
        }
        let (task, running, runtime_in_task) = (Task::new(&self.running), self.running.clone(), runtime.clone());
        runtime.spawn(async move {
            let report = Arc::new(snapshot.roll_up());
            for sink in sinks.iter() {
                lock(&sink.queue).push(report.clone());
                sink.start_worker(&running, &runtime_in_task);
            }
            drop(task);
        });
    }

    /// Sets the deadline of a close; the earliest one counts.
    pub(crate) fn close_by(&self, deadline: Instant) {
        self.close_by.fetch_min(deadline.as_nanos(), Ordering::SeqCst);
    }

    /// Waits until the sinks have accepted the last report, or a timeout expires.
    pub(crate) async fn finish<R: Runtime>(&self, runtime: &R) {
        // Reports that a sink refused get a last attempt, even without a new report.
        self.sinks().iter().for_each(|sink| sink.start_worker(&self.running, runtime));
        let now = runtime.now();
        let close_by = Instant::from_nanos(self.close_by.load(Ordering::SeqCst));
        let deadline = close_by.max(now + LAST_REPORT_TIMEOUT).min(now + EXPORT_TIMEOUT);
        let all_ended = async {
            loop {
                let task_ended = self.running.task_ended.listen();
                if self.running.tasks.load(Ordering::SeqCst) == 0 {
                    return;
                }
                task_ended.await;
            }
        };
        race(all_ended, runtime.sleep_until(deadline)).await;
    }
}

impl Sink {
    /// Exports the queued reports in a separate task, so no sink waits for another.
    fn start_worker<R: Runtime>(&self, running: &Arc<Running>, runtime: &R) {
        if self.queue().reports.is_empty() {
            return;
        }
        let (task, sink, runtime_in_task) = (Task::new(running), self.clone(), runtime.clone());
        runtime.spawn(async move {
            sink.export_queued(&runtime_in_task).await;
            drop(task);
        });
    }

    /// Exports the queued reports, oldest first, until one fails.
    async fn export_queued<R: Runtime>(&self, runtime: &R) {
        let Some(worker) = Worker::new(self) else { return };
        while let Some(report) = worker.next() {
            let deadline = runtime.now() + EXPORT_TIMEOUT;
            let error = match race(self.sink.export(&report), runtime.sleep_until(deadline)).await {
                Some(Ok(())) => {
                    self.queue().remove(&report);
                    continue;
                }
                Some(Err(error)) => error.to_string(),
                None => format!("the export did not end within {EXPORT_TIMEOUT:?}"),
            };
            return self.log_failure(runtime.now(), &error);
        }
    }

    fn log_failure(&self, now: Instant, error: &str) {
        let mut queue = self.queue();
        if queue.last_logged.is_some_and(|logged| now.saturating_since(logged) < LOG_INTERVAL) {
            return;
        }
        queue.last_logged = Some(now);
        let (waiting, dropped) = (queue.reports.len(), queue.dropped);
        drop(queue);
        let sink = self.sink.name();
        tracing::warn!(sink, waiting, dropped, error, "metrics were not exported; the next report tries again");
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

impl Queue {
    fn push(&mut self, report: Arc<MetricsReport>) {
        if self.reports.len() >= REPORTS_KEPT {
            self.reports.pop_front();
            self.dropped += 1;
        }
        self.reports.push_back(report);
    }

    /// Removes an exported report, unless it was dropped during the export.
    fn remove(&mut self, report: &Arc<MetricsReport>) {
        if self.reports.front().is_some_and(|first| Arc::ptr_eq(first, report)) {
            self.reports.pop_front();
        }
    }
}

/// The only task that exports to a sink. A drop, also by a panic, allows the next worker.
struct Worker<'a>(&'a Sink);

impl<'a> Worker<'a> {
    /// Returns `None` if the sink has a worker already, which will export what was added to the queue.
    fn new(sink: &'a Sink) -> Option<Self> {
        let had_worker = std::mem::replace(&mut sink.queue().has_worker, true);
        (!had_worker).then_some(Self(sink))
    }

    /// Returns the oldest report. Without one, the worker stops under the same lock, so the next report that is added
    /// starts another worker.
    fn next(&self) -> Option<Arc<MetricsReport>> {
        let mut queue = self.0.queue();
        let report = queue.reports.front().cloned();
        queue.has_worker = report.is_some();
        report
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        self.0.queue().has_worker = false;
    }
}

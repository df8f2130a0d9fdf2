//! The way of a report to its sinks, beside the way of the records.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kpl_core::Instant;
use kpl_core::metrics::{MetricsReport, Observations};

use super::{EXPORT_PATIENCE, Event, MetricsSink, REPORTS_KEPT};
use crate::drive::race;
use crate::runtime::Runtime;

/// A sink that fails is logged no more often than this.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// A close gives its last report this much time, even if its own has run out.
const LAST_REPORT_PATIENCE: Duration = Duration::from_secs(1);

/// The sinks of a producer.
pub(crate) struct Exports {
    outlets: Mutex<Arc<[Outlet]>>,
    under_way: Arc<UnderWay>,
    /// When a close should end, in nanoseconds.
    close_by: AtomicU64,
}

/// A sink and what it has not taken yet.
#[derive(Clone)]
pub(crate) struct Outlet {
    sink: Arc<dyn MetricsSink>,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    reports: VecDeque<Arc<MetricsReport>>,
    dropped: u64,
    is_busy: bool,
    logged: Option<Instant>,
}

/// How many tasks are at it, and who waits for their end.
#[derive(Default)]
struct UnderWay {
    tasks: AtomicUsize,
    ended: event_listener::Event,
}

/// A task, until it is dropped.
struct Task(Arc<UnderWay>);

impl Task {
    fn new(under_way: &Arc<UnderWay>) -> Self {
        under_way.tasks.fetch_add(1, Ordering::SeqCst);
        Self(under_way.clone())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::SeqCst);
        self.0.ended.notify(usize::MAX);
    }
}

impl Default for Exports {
    fn default() -> Self {
        let close_by = AtomicU64::new(Instant::NEVER.as_nanos());
        Self { outlets: Mutex::new(Arc::new([])), under_way: Arc::default(), close_by }
    }
}

impl Exports {
    pub(crate) fn add(&self, sink: Arc<dyn MetricsSink>) {
        let mut outlets = self.outlets.lock().unwrap_or_else(PoisonError::into_inner);
        *outlets = outlets.iter().cloned().chain([Outlet { sink, queue: Arc::default() }]).collect();
    }

    /// The sinks there are now.
    pub(crate) fn outlets(&self) -> Arc<[Outlet]> {
        self.outlets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives what was observed to every sink, beside the caller: adding up takes a while with thousands of shards.
    pub(crate) fn export<R: Runtime>(&self, observations: Box<Observations>, runtime: &R) {
        let outlets = self.outlets();
        if outlets.is_empty() {
            return;
        }
        let (task, shared, runtime) = (Task::new(&self.under_way), self.under_way.clone(), runtime.clone());
        runtime.clone().spawn(async move {
            let report = Arc::new(observations.roll_up());
            for outlet in outlets.iter() {
                outlet.lock().push(report.clone());
                outlet.offer(&shared, &runtime);
            }
            drop(task);
        });
    }

    /// A close should end at `deadline`.
    pub(crate) fn close_by(&self, deadline: Instant) {
        self.close_by.fetch_min(deadline.as_nanos(), Ordering::SeqCst);
    }

    /// Ends when the sinks have taken the last report, or after a while.
    pub(crate) async fn finished<R: Runtime>(&self, runtime: &R) {
        // What was not taken gets a last chance, whether or not there is anything new.
        self.outlets().iter().for_each(|outlet| outlet.offer(&self.under_way, runtime));
        let now = runtime.now();
        let close_by = Instant::from_nanos(self.close_by.load(Ordering::SeqCst));
        let deadline = close_by.max(now + LAST_REPORT_PATIENCE).min(now + EXPORT_PATIENCE);
        let ended = async {
            loop {
                let ended = self.under_way.ended.listen();
                if self.under_way.tasks.load(Ordering::SeqCst) == 0 {
                    return;
                }
                ended.await;
            }
        };
        race(ended, runtime.sleep_until(deadline)).await;
    }
}

impl Outlet {
    /// Shows the sink something. Should it panic, that is its own affair.
    pub(crate) fn observe(&self, now: impl FnOnce() -> Instant, event: Event<'_>) {
        if catch_unwind(AssertUnwindSafe(|| self.sink.observe(event))).is_err() {
            self.complain(now(), "it panicked when it was shown an event");
        }
    }

    /// Offers what there is in a task of its own: one sink does not wait for another.
    fn offer<R: Runtime>(&self, under_way: &Arc<UnderWay>, runtime: &R) {
        if self.lock().reports.is_empty() {
            return;
        }
        let (task, outlet, its_runtime) = (Task::new(under_way), self.clone(), runtime.clone());
        runtime.spawn(async move {
            outlet.work(&its_runtime).await;
            drop(task);
        });
    }

    /// Offers what there is, oldest first, until the sink does not take it.
    async fn work<R: Runtime>(&self, runtime: &R) {
        let Some(busy) = Busy::new(self) else { return };
        while let Some(report) = busy.next() {
            let deadline = runtime.now() + EXPORT_PATIENCE;
            let why = match race(self.sink.export(&report), runtime.sleep_until(deadline)).await {
                Some(Ok(())) => {
                    self.lock().taken(&report);
                    continue;
                }
                Some(Err(error)) => error.to_string(),
                None => format!("it did not end within {EXPORT_PATIENCE:?}"),
            };
            return self.complain(runtime.now(), &why);
        }
    }

    fn complain(&self, now: Instant, why: &str) {
        let mut queue = self.lock();
        if queue.logged.is_some_and(|logged| now.saturating_since(logged) < LOG_INTERVAL) {
            return;
        }
        queue.logged = Some(now);
        let (waiting, dropped) = (queue.reports.len(), queue.dropped);
        drop(queue);
        let sink = self.sink.name();
        tracing::warn!(sink, waiting, dropped, "metrics were not exported, and will be tried again: {why}");
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The sink has it, if it is still there: it may have been dropped meanwhile.
    fn taken(&mut self, report: &Arc<MetricsReport>) {
        if self.reports.front().is_some_and(|first| Arc::ptr_eq(first, report)) {
            self.reports.pop_front();
        }
    }
}

/// The one task that works for a sink. However it ends, another one can follow.
struct Busy<'a>(&'a Outlet);

impl<'a> Busy<'a> {
    /// `None` if there is one already: it sees what has been added.
    fn new(outlet: &'a Outlet) -> Option<Self> {
        let was_busy = std::mem::replace(&mut outlet.lock().is_busy, true);
        (!was_busy).then_some(Self(outlet))
    }

    /// The oldest report. If there is none, the task has ended, in the same breath: what is added later finds nobody.
    fn next(&self) -> Option<Arc<MetricsReport>> {
        let mut queue = self.0.lock();
        let report = queue.reports.front().cloned();
        queue.is_busy = report.is_some();
        report
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.lock().is_busy = false;
    }
}

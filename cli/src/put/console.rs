//! Standard error: messages, and the progress below them on a terminal.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use kpl_tokio::Producer;

use super::metrics::Counts;
use super::put_lines::Progress;
use crate::exit;

/// The time between two updates of the progress.
const REFRESH: Duration = Duration::from_millis(100);

/// Prints messages and the progress. There is no progress unless standard error is a terminal.
#[derive(Clone)]
pub(crate) struct Console(ProgressBar);

impl Console {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Prints a message above the progress.
    pub(crate) fn print_message(&self, line: &str) {
        self.0.suspend(|| exit::print_message(line));
    }

    /// Prints a warning above the progress.
    pub(crate) fn print_warning(&self, line: &str) {
        self.0.suspend(|| exit::print_warning(line));
    }

    /// Prints an error above the progress.
    pub(crate) fn print_error(&self, line: &str) {
        self.0.suspend(|| exit::print_error(line));
    }

    /// Shows the progress of the producer. Never ends; the caller drops the future.
    pub(crate) async fn show(&self, producer: &Producer, progress: &Arc<Progress>) {
        if self.0.is_hidden() {
            return std::future::pending().await;
        }
        let mut rate = Rate { since: Instant::now(), count: 0, per_second: 0.0 };
        loop {
            let Counts { succeeded, failed, throttled, .. } = Counts::new(&producer.metrics());
            self.0.set_message(format!(
                "{} records, {}/s, {} in flight, {} throttled, {} failed",
                HumanCount(succeeded),
                HumanCount(rate.per_second(succeeded)),
                HumanCount(producer.outstanding_records() as u64),
                HumanCount(throttled),
                HumanCount(failed + progress.refused.load(Ordering::Relaxed)),
            ));
            self.0.tick();
            tokio::time::sleep(REFRESH).await;
        }
    }

    /// Removes the progress.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Records per second over about the last second.
struct Rate {
    since: Instant,
    count: u64,
    per_second: f64,
}

impl Rate {
    fn per_second(&mut self, count: u64) -> u64 {
        let elapsed = self.since.elapsed();
        if elapsed >= Duration::from_secs(1) {
            self.per_second = (count - self.count) as f64 / elapsed.as_secs_f64();
            (self.since, self.count) = (Instant::now(), count);
        } else if self.per_second == 0.0 && elapsed >= REFRESH {
            return ((count - self.count) as f64 / elapsed.as_secs_f64()) as u64;
        }
        self.per_second as u64
    }
}

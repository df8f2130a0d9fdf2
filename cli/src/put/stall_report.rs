//! Reports that no result arrives, and why.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use kpl_tokio::Producer;

use super::console::Console;
use super::events::Events;

/// The time without a result before the first report.
const FIRST_REPORT: Duration = Duration::from_secs(10);

/// The time between further reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// The time between two checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Watches the producer. Never ends; the caller drops the future.
pub(crate) async fn watch(producer: &Producer, console: &Console, events: &Events) -> Infallible {
    let (mut ended, mut since, mut report_after) = (0, Instant::now(), FIRST_REPORT);
    let mut reason = None;
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let stats = producer.stats();
        let (before, outstanding) = (ended, producer.outstanding_records());
        ended = stats.user_records_succeeded + stats.user_records_failed;
        if ended != before || outstanding == 0 {
            (since, report_after, reason) = (Instant::now(), FIRST_REPORT, None);
        }
        reason = events.take_last_problem().or(reason);
        if since.elapsed() >= report_after {
            let seconds = since.elapsed().as_secs();
            let reason = reason.as_deref().unwrap_or("no reply from the service");
            console.print_warning(&format!("no result for {seconds} s, {outstanding} lines are outstanding: {reason}"));
            report_after += REPORT_INTERVAL;
        }
    }
}

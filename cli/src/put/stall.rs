//! Reports that nothing gets through, and why.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use kpl_tokio::Producer;

use super::console::Console;
use super::events::Events;

/// The time without a result after which that is reported.
const FIRST_REPORT: Duration = Duration::from_secs(10);

/// The time between further reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// The time between two checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Watches the producer. Never ends; to be dropped.
pub(crate) async fn watch(producer: &Producer, console: &Console, events: &Events) -> Infallible {
    let (mut ended, mut since, mut report_after) = (0, Instant::now(), FIRST_REPORT);
    let mut why = None;
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let stats = producer.stats();
        let (before, waiting) = (ended, producer.outstanding_records());
        ended = stats.user_records_succeeded + stats.user_records_failed;
        if ended != before || waiting == 0 {
            (since, report_after, why) = (Instant::now(), FIRST_REPORT, None);
        }
        why = events.take_last_problem().or(why);
        if since.elapsed() >= report_after {
            let seconds = since.elapsed().as_secs();
            let why = why.as_deref().unwrap_or("no reply from the service");
            console.say(&format!("nothing was stored for {seconds} s, and {waiting} lines wait: {why}"));
            report_after += REPORT_INTERVAL;
        }
    }
}

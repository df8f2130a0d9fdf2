//! Collects the results of the lines in one task.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kpl_tokio::RecordResult;
use tokio::sync::mpsc;

use super::line_counts::LineCounts;
use super::put_lines::{InFlight, PutLines};

/// The time from the put of lines until those behind them no longer wait for their results. So a shard that accepts nothing
/// does not delay the results of other shards.
const RESULT_TIMEOUT: Duration = Duration::from_secs(1);

/// The time to sleep after a result that had to be awaited. Results arrive by the hundred: the next ones arrive in this
/// time and need no wake-up.
const COALESCE: Duration = Duration::from_millis(2);

/// Counts the result of each line, until the feeder has ended and every line has a result.
pub(crate) async fn collect(mut batches: mpsc::Receiver<Vec<PutLines>>, mut counts: LineCounts) -> LineCounts {
    let mut late = FuturesUnordered::new();
    loop {
        let batch = tokio::select! {
            biased;
            Some((lines, results)) = late.next() => {
                counts.record(lines, results);
                continue;
            }
            batch = batches.recv() => batch,
        };
        let Some(batch) = batch else { break };
        for lines in batch {
            match lines {
                PutLines::Refused(refused) => counts.record_refused(&refused),
                PutLines::InFlight(mut sent) => match results(&mut sent).await {
                    Some(results) => counts.record(sent.lines, results),
                    None => late.push(async move { (sent.lines, sent.outcome.await) }),
                },
            }
        }
    }
    while let Some((lines, results)) = late.next().await {
        counts.record(lines, results);
    }
    counts
}

/// Waits for the results of lines. Returns `None` after [`RESULT_TIMEOUT`].
async fn results(sent: &mut InFlight) -> Option<Vec<RecordResult>> {
    if let Some(results) = sent.outcome.try_results() {
        return Some(results);
    }
    let results = tokio::time::timeout_at((sent.put_at + RESULT_TIMEOUT).into(), &mut sent.outcome).await.ok();
    if results.is_some() {
        tokio::time::sleep(COALESCE).await;
    }
    results
}

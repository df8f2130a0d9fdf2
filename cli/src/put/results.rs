//! Collects the results of the lines in one task.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kpl_tokio::RecordResult;
use tokio::sync::mpsc;

use super::line_counts::LineCounts;
use super::put_lines::{InFlight, PutLine};

/// The time from a line's put until the lines behind it no longer wait for its result. So a shard that accepts nothing
/// does not delay the results of other shards.
const RESULT_TIMEOUT: Duration = Duration::from_secs(1);

/// The time to sleep after a result that had to be awaited. Results arrive by the hundred: the next ones arrive in this
/// time and need no wake-up.
const COALESCE: Duration = Duration::from_millis(2);

/// Counts the result of each line, until the feeder has ended and every line has a result.
pub(crate) async fn collect(mut batches: mpsc::Receiver<Vec<PutLine>>, mut counts: LineCounts) -> LineCounts {
    let mut late = FuturesUnordered::new();
    loop {
        let batch = tokio::select! {
            biased;
            Some((line, result)) = late.next() => {
                counts.record(&line, result);
                continue;
            }
            batch = batches.recv() => batch,
        };
        let Some(batch) = batch else { break };
        for line in batch {
            match line {
                PutLine::Refused(refused) => counts.record_refused(&refused),
                PutLine::InFlight(mut line) => match result(&mut line).await {
                    Some(result) => counts.record(&line, result),
                    None => late.push(async move {
                        let result = (&mut line.outcome).await;
                        (line, result)
                    }),
                },
            }
        }
    }
    while let Some((line, result)) = late.next().await {
        counts.record(&line, result);
    }
    counts
}

/// Waits for the result of a line. Returns `None` after [`RESULT_TIMEOUT`].
async fn result(line: &mut InFlight) -> Option<RecordResult> {
    if let Some(result) = line.outcome.try_result() {
        return Some(result);
    }
    let result = tokio::time::timeout_at((line.put_at + RESULT_TIMEOUT).into(), &mut line.outcome).await.ok();
    if result.is_some() {
        tokio::time::sleep(COALESCE).await;
    }
    result
}

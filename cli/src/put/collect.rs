//! What became of the lines: one task awaits all outcomes.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kpl_tokio::RecordResult;
use tokio::sync::mpsc;

use super::feed::{Fed, InFlight};
use super::ledger::Ledger;

/// How old a line may get before those behind it are looked at first: one shard that takes nothing must not make the
/// lines of the others wait here.
const PATIENCE: Duration = Duration::from_secs(1);

/// Outcomes come by the hundred. After one that had to be awaited, this much time lets its neighbours come, too, which
/// then cost no wake-up.
const COALESCE: Duration = Duration::from_millis(2);

/// Enters the fate of each line into the ledger, until the feeder has ended and every line has its fate.
pub(crate) async fn collect(mut fed: mpsc::Receiver<Vec<Fed>>, mut ledger: Ledger) -> Ledger {
    let mut late = FuturesUnordered::new();
    loop {
        let batch = tokio::select! {
            biased;
            Some((line, result)) = late.next() => {
                ledger.enter(&line, result);
                continue;
            }
            batch = fed.recv() => batch,
        };
        let Some(batch) = batch else { break };
        for line in batch {
            match line {
                Fed::Refused(refused) => ledger.enter_refused(&refused),
                Fed::InFlight(mut line) => match result(&mut line).await {
                    Some(result) => ledger.enter(&line, result),
                    None => late.push(async move {
                        let result = (&mut line.outcome).await;
                        (line, result)
                    }),
                },
            }
        }
    }
    while let Some((line, result)) = late.next().await {
        ledger.enter(&line, result);
    }
    ledger
}

/// The outcome of a line, unless it takes too long.
async fn result(line: &mut InFlight) -> Option<RecordResult> {
    if let Some(result) = line.outcome.try_result() {
        return Some(result);
    }
    let result = tokio::time::timeout_at((line.put_at + PATIENCE).into(), &mut line.outcome).await.ok();
    if result.is_some() {
        tokio::time::sleep(COALESCE).await;
    }
    result
}

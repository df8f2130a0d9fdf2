//! What an operator must know, as `tracing` events: never a line a record, and no flood of the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kpl_core::{Instant, Notice};
use tracing::{info, warn};

/// The same kind of notice about the same stream is written at most this often.
const INTERVAL: Duration = Duration::from_secs(10);

/// Limits notices by kind and stream.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    told: Mutex<BTreeMap<(Kind, Arc<str>), Told>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Throttled,
    WrongShard,
    Expired,
    InquiryFailed(&'static str),
}

#[derive(Clone, Copy, Debug)]
struct Told {
    at: Instant,
    /// Records, or failures, since then.
    since: usize,
}

impl Notices {
    /// Writes a notice, unless one of its kind was written a short while ago; then it is counted for the next one.
    pub(crate) fn tell(&self, now: Instant, notice: &Notice) {
        match notice {
            Notice::ShardMapRefreshed { stream, open, closed, moved } => {
                info!(stream = %stream, open, closed, moved_records = moved, "shard map refreshed");
            }
            Notice::StreamDescribed { stream, max_record_size, auto_distribution } => {
                info!(stream = %stream, max_record_size, auto_distribution, "stream described");
            }
            Notice::InquiryFailed { stream, operation, code, message, retry_in } => {
                if let Some(failures) = self.due(now, Kind::InquiryFailed(operation), stream, 1) {
                    let retry_in_ms = retry_in.map(|wait| wait.as_millis() as u64);
                    warn!(
                        stream = %stream, operation, code = %code, error = %message, retry_in_ms, failures,
                        "cannot ask about the stream; records go on by what is known"
                    );
                }
            }
            Notice::Throttled { stream, kinesis_records } => {
                if let Some(kinesis_records) = self.due(now, Kind::Throttled, stream, *kinesis_records) {
                    warn!(stream = %stream, kinesis_records, "throttled: shards are sent to more slowly");
                }
            }
            Notice::WrongShard { stream, kinesis_records } => {
                if let Some(kinesis_records) = self.due(now, Kind::WrongShard, stream, *kinesis_records) {
                    warn!(stream = %stream, kinesis_records, "records landed on other shards than predicted");
                }
            }
            Notice::Expired { stream, user_records } => {
                if let Some(user_records) = self.due(now, Kind::Expired, stream, *user_records) {
                    warn!(stream = %stream, user_records, "records expired before they were stored");
                }
            }
            other => info!(notice = ?other),
        }
    }

    /// Whether to write now; then, how many there were since the last time, these included.
    fn due(&self, now: Instant, kind: Kind, stream: &Arc<str>, count: usize) -> Option<usize> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match told.get_mut(&(kind, stream.clone())) {
            Some(last) if now.saturating_since(last.at) < INTERVAL => {
                last.since += count;
                None
            }
            Some(last) => {
                let total = last.since + count;
                *last = Told { at: now, since: 0 };
                Some(total)
            }
            None => {
                told.insert((kind, stream.clone()), Told { at: now, since: 0 });
                Some(count)
            }
        }
    }
}

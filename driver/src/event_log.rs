//! Log events for operators, written with `tracing`: never one per record, and limited per kind and stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kpl_core::{Instant, LogEvent};
use tracing::{error, info, warn};

use crate::sync::lock;

/// The minimum time between two events of one kind and stream.
const INTERVAL: Duration = Duration::from_secs(10);

/// Writes events, limited per kind and stream.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    written: Mutex<BTreeMap<(Kind, Arc<str>), Written>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    StreamDescribed,
    Throttled,
    WrongShard,
    Expired,
    Retried(Box<str>),
    Failed(Box<str>),
    RefreshFailed(&'static str),
}

/// The number of kinds and streams above which entries older than [`INTERVAL`] are removed.
const WRITTEN_MAX: usize = 1_024;

#[derive(Clone, Copy, Debug)]
struct Written {
    at: Instant,
    /// The number of records or failures since then.
    since: usize,
}

impl EventLog {
    /// Writes an event, unless one of its kind was written less than [`INTERVAL`] ago: then its count is added to the
    /// next one's.
    ///
    /// A refreshed shard map is always written: refreshes are rare, and they explain the events that follow.
    pub(crate) fn write(&self, now: Instant, event: &LogEvent) {
        match event {
            LogEvent::ShardMapRefreshed { stream, open, closed, moved } => {
                info!(stream = %stream, open, closed, moved_records = moved, "shard map refreshed");
            }
            LogEvent::StreamDescribed { stream, max_record_size, auto_distribution } => {
                if let Some(times) = self.count_if_due(now, Kind::StreamDescribed, stream, 1) {
                    info!(stream = %stream, max_record_size, auto_distribution, times, "stream described");
                }
            }
            LogEvent::RefreshFailed { stream, operation, code, message, retry_in } => {
                if let Some(failures) = self.count_if_due(now, Kind::RefreshFailed(operation), stream, 1) {
                    let retry_in_ms = retry_in.map(|wait| wait.as_millis() as u64);
                    warn!(
                        stream = %stream, operation, code = %code, error = %message, retry_in_ms, failures,
                        "metadata request failed; the metadata known so far stays in use"
                    );
                }
            }
            LogEvent::WithoutShardList { stream, code, message, aggregated, denied } => {
                let permission = if *denied { " (permission kinesis:ListShards)" } else { "" };
                let consequence = match (aggregated, denied) {
                    (true, _) => ": records are aggregated by hash key only",
                    // Without a description, it is unknown whether the stream distributes records by key.
                    (false, true) => {
                        ", no description (permission kinesis:DescribeStreamSummary): records are not aggregated"
                    }
                    (false, false) => ", no description: records are not aggregated",
                };
                warn!(
                    stream = %stream, code = %code, error = %message, once = true,
                    "no shard list{permission}{consequence}; one rate limit applies to the stream"
                );
            }
            LogEvent::Throttled { stream, kinesis_records } => {
                if let Some(kinesis_records) = self.count_if_due(now, Kind::Throttled, stream, *kinesis_records) {
                    warn!(stream = %stream, kinesis_records, "throttled: the rate of the shards is reduced");
                }
            }
            LogEvent::WrongShard { stream, kinesis_records } => {
                if let Some(kinesis_records) = self.count_if_due(now, Kind::WrongShard, stream, *kinesis_records) {
                    warn!(stream = %stream, kinesis_records, "records were stored on other shards than predicted");
                }
            }
            LogEvent::Retried { stream, code, message, user_records } => {
                if let Some(user_records) = self.count_if_due(now, Kind::Retried(code.clone()), stream, *user_records) {
                    warn!(stream = %stream, code = %code, error = %message, user_records, "records are sent again");
                }
            }
            LogEvent::Failed { stream, code, message, user_records } => {
                if let Some(user_records) = self.count_if_due(now, Kind::Failed(code.clone()), stream, *user_records) {
                    error!(stream = %stream, code = %code, error = %message, user_records, "records failed");
                }
            }
            LogEvent::Expired { stream, user_records, last_error } => {
                if let Some(user_records) = self.count_if_due(now, Kind::Expired, stream, *user_records) {
                    let error = last_error.as_deref().unwrap_or("never sent");
                    error!(stream = %stream, user_records, error, "records expired before they were stored");
                }
            }
            other => info!(event = ?other),
        }
    }

    /// Returns the number of records or failures since the last event, including `count`; `None` if it is too early to
    /// write an event.
    fn count_if_due(&self, now: Instant, kind: Kind, stream: &Arc<str>, count: usize) -> Option<usize> {
        let mut written = lock(&self.written);
        let key = (kind, stream.clone());
        match written.get_mut(&key) {
            Some(last) if now.saturating_since(last.at) < INTERVAL => {
                last.since += count;
                None
            }
            Some(last) => {
                let total = last.since + count;
                *last = Written { at: now, since: 0 };
                Some(total)
            }
            None => {
                if written.len() >= WRITTEN_MAX {
                    written.retain(|_, last| now.saturating_since(last.at) < INTERVAL);
                }
                written.insert(key, Written { at: now, since: 0 });
                Some(count)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Write};

    use tracing::field::{Field, Visit};
    use tracing::subscriber::with_default;
    use tracing::{Event, Subscriber};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;

    /// A layer that keeps each event as a line.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Lines {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            self.0.lock().unwrap().push(line.0);
        }
    }

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            write!(self.0, " {}={value:?}", field.name()).unwrap();
        }
    }

    /// Returns the lines that are written for events, each at its second.
    fn lines(events: &[(u64, LogEvent)]) -> Vec<String> {
        let lines = Lines::default();
        with_default(tracing_subscriber::registry().with(lines.clone()), || {
            let log = EventLog::default();
            for (second, event) in events {
                log.write(Instant::from_nanos(second * 1_000_000_000), event);
            }
        });
        lines.0.lock().unwrap().clone()
    }

    fn throttled(stream: &str, kinesis_records: usize) -> LogEvent {
        LogEvent::Throttled { stream: stream.into(), kinesis_records }
    }

    #[test]
    fn many_events_of_one_kind_are_one_line_every_ten_seconds_with_the_sum() {
        let events: Vec<_> = (0..1_000).map(|n| (100 + n / 40, throttled("events", 2))).collect();
        let message = "throttled: the rate of the shards is reduced";
        let line = |records| format!("WARN message={message} stream=events kinesis_records={records}");
        assert_eq!(lines(&events), [line(2), line(800), line(800)]);
    }

    #[test]
    fn kinds_and_streams_are_limited_separately() {
        let stream = || Arc::from("events");
        let failed = |operation| LogEvent::RefreshFailed {
            stream: stream(),
            operation,
            code: "AccessDeniedException".into(),
            message: "no".into(),
            retry_in: Some(Duration::from_secs(1)),
        };
        let written = lines(&[
            (1, throttled("events", 1)),
            (1, throttled("others", 1)),
            (1, LogEvent::WrongShard { stream: stream(), kinesis_records: 1 }),
            (1, LogEvent::Expired { stream: stream(), user_records: 1, last_error: None }),
            (1, failed("ListShards")),
            (1, failed("DescribeStreamSummary")),
        ]);
        assert_eq!(written.len(), 6, "{written:#?}");
        let levels: Vec<_> = written.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(levels, ["WARN", "WARN", "WARN", "ERROR", "WARN", "WARN"], "{written:#?}");
        assert!(written[4].contains("code=AccessDeniedException error=no retry_in_ms=1000 failures=1"), "{written:#?}");
    }

    #[test]
    fn failed_and_retried_records_are_limited_per_code() {
        let retried = |code: &str| LogEvent::Retried {
            stream: "events".into(),
            code: code.into(),
            message: "why".into(),
            user_records: 3,
        };
        let failed = LogEvent::Failed {
            stream: "events".into(),
            code: "AccessDeniedException".into(),
            message: "why".into(),
            user_records: 2,
        };
        let expired = LogEvent::Expired { stream: "events".into(), user_records: 1, last_error: Some("A: b".into()) };
        let written = lines(&[
            (1, retried("InternalFailure")),
            (2, retried("InternalFailure")),
            (3, retried("Request Timeout")),
            (4, failed.clone()),
            (15, failed),
            (15, retried("InternalFailure")),
            (16, expired),
        ]);
        let line = |level, message, code, count| {
            format!("{level} message={message} stream=events code={code} error=why user_records={count}")
        };
        assert_eq!(
            written,
            [
                line("WARN", "records are sent again", "InternalFailure", 3),
                line("WARN", "records are sent again", "Request Timeout", 3),
                line("ERROR", "records failed", "AccessDeniedException", 2),
                line("ERROR", "records failed", "AccessDeniedException", 2),
                line("WARN", "records are sent again", "InternalFailure", 6),
                "ERROR message=records expired before they were stored stream=events user_records=1 error=\"A: b\""
                    .into(),
            ]
        );
    }

    #[test]
    fn memory_is_bounded_with_unlimited_stream_names() {
        let log = EventLog::default();
        for n in 0..100_000_u64 {
            log.write(Instant::from_nanos(n * 10_000_000), &throttled(&format!("stream-{n}"), 1));
        }
        assert!(lock(&log.written).len() <= 2 * WRITTEN_MAX, "{}", lock(&log.written).len());
    }

    #[test]
    fn an_event_without_a_shard_list_names_the_permissions_that_are_missing() {
        let without = |aggregated, denied| LogEvent::WithoutShardList {
            stream: "events".into(),
            code: "code".into(),
            message: "no".into(),
            aggregated,
            denied,
        };
        let denied = lines(&[(1, without(true, true)), (2, without(false, true))]);
        assert!(denied.iter().all(|line| line.contains("kinesis:ListShards")), "{denied:#?}");
        assert!(denied[1].contains("kinesis:DescribeStreamSummary"), "{denied:#?}");
        let no_connection = lines(&[(1, without(true, false)), (2, without(false, false))]);
        assert!(!no_connection.iter().any(|line| line.contains("permission")), "{no_connection:#?}");
    }

    #[test]
    fn each_refreshed_shard_map_is_written_and_descriptions_are_limited() {
        let refreshed = LogEvent::ShardMapRefreshed { stream: "events".into(), open: 4, closed: 2, moved: 7 };
        let described =
            LogEvent::StreamDescribed { stream: "events".into(), max_record_size: 1 << 20, auto_distribution: false };
        let written = lines(&[(1, refreshed.clone()), (1, described.clone()), (2, refreshed), (2, described)]);
        assert_eq!(
            written,
            [
                "INFO message=shard map refreshed stream=events open=4 closed=2 moved_records=7",
                "INFO message=stream described stream=events max_record_size=1048576 auto_distribution=false times=1",
                "INFO message=shard map refreshed stream=events open=4 closed=2 moved_records=7",
            ]
        );
    }
}

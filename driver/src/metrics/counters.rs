//! Counters made of the KPL's statistic sets, for backends other than CloudWatch. Counters can be added over producers.
//!
//! Averages of statistic sets cannot be averaged again. So the sum and the count of a set become two counters. Their
//! quotient is the average over any time and any number of producers. For example, user records sent divided by Kinesis
//! records sent is the average size of an aggregate.

#![cfg_attr(
    not(all(feature = "dogstatsd", feature = "metrics-facade", feature = "opentelemetry")),
    allow(dead_code, reason = "each sink uses a part of this module")
)]

use kpl_core::metrics::{Metric, StatisticSet};

/// A counter made of a part of a metric.
#[derive(Debug)]
pub(super) struct CounterSpec {
    /// The name, with dots between words. Each sink derives its own name from it.
    pub(super) name: &'static str,
    pub(super) counts: Counts,
    pub(super) description: &'static str,
    pub(super) metric: Metric,
    part: Part,
}

/// The unit of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    /// Items with this name, in the singular.
    Items(&'static str),
    Bytes,
    /// Time. The metric is in milliseconds.
    Time,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Sum,
    Count,
    /// The number of observations with value 0, of a metric that is 1 for success and 0 for failure.
    Zeros,
}

impl CounterSpec {
    /// Returns the increment for these observations.
    pub(super) fn value(&self, statistics: &StatisticSet) -> f64 {
        match self.part {
            Part::Sum => statistics.sum,
            Part::Count => statistics.count as f64,
            Part::Zeros => (statistics.count as f64 - statistics.sum).max(0.0),
        }
    }

    /// Returns the increment as an integer: items, bytes, or microseconds.
    pub(super) fn integer(&self, statistics: &StatisticSet) -> u64 {
        match self.counts {
            Counts::Time => (self.value(statistics) * 1e3).round() as u64,
            Counts::Items(_) | Counts::Bytes => self.value(statistics).round() as u64,
        }
    }

    /// Returns the suffix of the name for the unit of [`integer`](Self::integer).
    pub(super) fn suffix(&self) -> &'static str {
        match self.counts {
            Counts::Items(_) => "",
            Counts::Bytes => "_bytes",
            Counts::Time => "_microseconds",
        }
    }
}

macro_rules! counters {
    ($($name:literal $counts:expr, $metric:ident $part:ident, $description:literal;)*) => {
        /// All counters.
        pub(super) const COUNTERS: &[CounterSpec] = &[$(CounterSpec {
            name: $name,
            counts: $counts,
            description: $description,
            metric: Metric::$metric,
            part: Part::$part,
        },)*];
    };
}

const RECORDS: Counts = Counts::Items("record");

counters! {
    "user_records.received" RECORDS, UserRecordsReceived Sum, "User records accepted by put.";
    "user_records.put" RECORDS, UserRecordsPut Sum, "User records stored.";
    "user_records.data_put" Counts::Bytes, UserRecordsDataPut Sum, "Data of user records stored.";
    "user_records.failed" RECORDS, UserRecordsPut Zeros, "User records that failed.";
    "user_records.expired" RECORDS, UserRecordExpired Sum, "User records whose time-to-live expired.";
    "user_records.retries" Counts::Items("attempt"), RetriesPerRecord Sum,
        "Attempts after the first, of user records that were resolved.";
    "user_records.attempts" Counts::Items("attempt"), BufferingTime Count,
        "Attempts of user records that were resolved.";
    "user_records.waiting_time" Counts::Time, BufferingTime Sum,
        "Total time that user records waited before their attempts.";
    "user_records.sent" RECORDS, UserRecordsPerKinesisRecord Sum,
        "User records in requests, counted each time they are sent.";
    "kinesis_records.sent" RECORDS, UserRecordsPerKinesisRecord Count,
        "Kinesis records in requests, counted each time they are sent.";
    "kinesis_records.put" RECORDS, KinesisRecordsPut Sum, "Kinesis records stored.";
    "kinesis_records.data_put" Counts::Bytes, KinesisRecordsDataPut Sum, "Data of Kinesis records stored.";
    "kinesis_records.refused" RECORDS, KinesisRecordsPut Zeros, "Kinesis records refused, counted each time.";
    "errors" Counts::Items("error"), ErrorsByCode Sum, "Kinesis records refused and requests failed, by error code.";
    "requests" Counts::Items("request"), RequestTime Count, "Requests that ended.";
    "request_time" Counts::Time, RequestTime Sum, "Total time from requests to their replies.";
}

/// Gauge: user records accepted and not yet resolved at the end of the report.
pub(super) const PENDING: &str = "user_records.pending";
pub(super) const PENDING_DESCRIPTION: &str = "User records accepted and not yet resolved.";

/// Gauge: the longest request time of the report.
pub(super) const REQUEST_TIME_MAX: &str = "request_time_max";
pub(super) const REQUEST_TIME_MAX_DESCRIPTION: &str = "The longest request time since the previous report.";

/// Histogram: latencies of stored user records.
pub(super) const PUT_TO_ACK: &str = "put_to_ack";
pub(super) const PUT_TO_ACK_DESCRIPTION: &str = "Time from put to the reply that stored the record, retries included.";

/// Histogram: buffering times of user records.
pub(super) const BUFFERING: &str = "buffering";
pub(super) const BUFFERING_DESCRIPTION: &str =
    "Time from put, or the end of the previous attempt, to the request, for each attempt.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_in_the_docs_of_the_sinks_have_every_name_and_unit() {
        let [facade, dogstatsd, opentelemetry] =
            [include_str!("facade.rs"), include_str!("dogstatsd.rs"), include_str!("opentelemetry.rs")];
        let has = |table: &str, row: String| assert!(table.contains(&row), "{row}");
        for counter in COUNTERS {
            let (name, suffix) = (counter.name, counter.counts.suffix());
            has(facade, format!(" | `{}{suffix}_total` | counter | `stream`", name.replace('.', "_")));
            has(dogstatsd, format!(" | `{name}{suffix}` | count | {}", counter.counts.item()));
            has(opentelemetry, format!(" | `{name}` | counter | `{}` |", counter.counts.ucum()));
        }
        for histogram in [PUT_TO_ACK, BUFFERING] {
            has(facade, format!(" | `{histogram}_seconds` | histogram |"));
            has(dogstatsd, format!(" | `{histogram}_seconds` | distribution | second |"));
            has(opentelemetry, format!(" | `{histogram}` | histogram | `s` |"));
        }
        has(facade, format!(" | `{}` | gauge |", PENDING.replace('.', "_")));
        has(dogstatsd, format!(" | `{PENDING}` | gauge | record |"));
        has(opentelemetry, format!(" | `{PENDING}` | up-down counter | `{{record}}` |"));
        has(facade, format!(" | `{REQUEST_TIME_MAX}_seconds` | gauge |"));
        has(dogstatsd, format!(" | `{REQUEST_TIME_MAX}_seconds` | gauge | second |"));
        has(opentelemetry, format!(" | `{REQUEST_TIME_MAX}` | gauge | `s` |"));
    }

    impl Counts {
        fn suffix(self) -> &'static str {
            match self {
                Self::Items(_) => "",
                Self::Bytes => "_bytes",
                Self::Time => "_microseconds",
            }
        }

        fn item(self) -> &'static str {
            match self {
                Self::Items(item) => item,
                Self::Bytes => "byte",
                Self::Time => "microsecond",
            }
        }

        fn ucum(self) -> String {
            match self {
                Self::Items(item) => format!("{{{item}}}"),
                Self::Bytes => "By".to_owned(),
                Self::Time => "s".to_owned(),
            }
        }
    }
}

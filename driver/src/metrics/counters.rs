//! What sinks for other backends than CloudWatch tell: the KPL's statistic sets as counters, which add up over producers.
//!
//! A statistic set is no histogram, and its average cannot be averaged again. So its sum and its count go out as counters
//! of what they are, and the average is their quotient, over any time and any number of producers: user records sent by
//! Kinesis records sent is how full the aggregates are.

#![cfg_attr(
    not(all(feature = "dogstatsd", feature = "metrics-facade", feature = "opentelemetry")),
    allow(dead_code, reason = "each sink uses a part of it")
)]

use kpl_core::metrics::{Metric, StatisticSet};

/// A counter, made of a part of a metric.
#[derive(Debug)]
pub(super) struct CounterSpec {
    /// In words with dots between; each sink makes its name of it.
    pub(super) name: &'static str,
    pub(super) counts: Counts,
    pub(super) about: &'static str,
    pub(super) metric: Metric,
    part: Part,
}

/// What a counter counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counts {
    /// Things, by their name.
    Things(&'static str),
    Bytes,
    /// A time: in the metric in milliseconds.
    Time,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Sum,
    Count,
    /// Of a metric that is 1 for a success and 0 for a failure: the failures.
    Zeros,
}

impl CounterSpec {
    /// What is to be added for these observations.
    pub(super) fn of(&self, statistics: &StatisticSet) -> f64 {
        match self.part {
            Part::Sum => statistics.sum,
            Part::Count => statistics.count as f64,
            Part::Zeros => (statistics.count as f64 - statistics.sum).max(0.0),
        }
    }

    /// The same as a whole number: of things, of bytes, of microseconds.
    pub(super) fn whole(&self, statistics: &StatisticSet) -> u64 {
        match self.counts {
            Counts::Time => (self.of(statistics) * 1e3).round() as u64,
            Counts::Things(_) | Counts::Bytes => self.of(statistics).round() as u64,
        }
    }

    /// What is added to the name where units are a part of it, for whole numbers.
    pub(super) fn suffix(&self) -> &'static str {
        match self.counts {
            Counts::Things(_) => "",
            Counts::Bytes => "_bytes",
            Counts::Time => "_microseconds",
        }
    }
}

macro_rules! counters {
    ($($name:literal $counts:expr, $metric:ident $part:ident, $about:literal;)*) => {
        /// All counters.
        pub(super) const COUNTERS: &[CounterSpec] = &[$(CounterSpec {
            name: $name,
            counts: $counts,
            about: $about,
            metric: Metric::$metric,
            part: Part::$part,
        },)*];
    };
}

const RECORDS: Counts = Counts::Things("record");

counters! {
    "user_records.received" RECORDS, UserRecordsReceived Sum, "User records accepted by put.";
    "user_records.put" RECORDS, UserRecordsPut Sum, "User records stored.";
    "user_records.data_put" Counts::Bytes, UserRecordsDataPut Sum, "Data of user records stored.";
    "user_records.failed" RECORDS, UserRecordsPut Zeros, "User records that failed for good.";
    "user_records.expired" RECORDS, UserRecordExpired Sum, "User records whose time-to-live ran out.";
    "user_records.retries" Counts::Things("attempt"), RetriesPerRecord Sum,
        "Attempts beyond the first of user records that ended.";
    "user_records.attempts" Counts::Things("attempt"), BufferingTime Count, "Attempts of user records that ended.";
    "user_records.waiting_time" Counts::Time, BufferingTime Sum,
        "Time that user records waited before their attempts, added up.";
    "user_records.sent" RECORDS, UserRecordsPerKinesisRecord Sum, "User records in requests, each time they are sent.";
    "kinesis_records.sent" RECORDS, UserRecordsPerKinesisRecord Count,
        "Kinesis records in requests, each time they are sent.";
    "kinesis_records.put" RECORDS, KinesisRecordsPut Sum, "Kinesis records stored.";
    "kinesis_records.data_put" Counts::Bytes, KinesisRecordsDataPut Sum, "Data of Kinesis records stored.";
    "kinesis_records.refused" RECORDS, KinesisRecordsPut Zeros, "Kinesis records refused, each time.";
    "errors" Counts::Things("error"), ErrorsByCode Sum, "Kinesis records refused and requests failed, by error code.";
    "requests" Counts::Things("request"), RequestTime Count, "Requests that ended.";
    "request_time" Counts::Time, RequestTime Sum, "Time that requests took, added up.";
}

/// Gauge: user records accepted and not yet resolved, when the report was made.
pub(super) const PENDING: &str = "user_records.pending";
pub(super) const PENDING_ABOUT: &str = "User records accepted and not yet resolved.";

/// Gauge: the longest request of the report.
pub(super) const REQUEST_TIME_MAX: &str = "request_time_max";
pub(super) const REQUEST_TIME_MAX_ABOUT: &str = "The longest request since the report before.";

/// Histogram: latencies of user records that were stored.
pub(super) const PUT_TO_ACK: &str = "put_to_ack";
pub(super) const PUT_TO_ACK_ABOUT: &str = "From put to the reply that stored the record, retries included.";

/// Histogram: how long records waited.
pub(super) const BUFFERING: &str = "buffering";
pub(super) const BUFFERING_ABOUT: &str =
    "From put, or the end of the attempt before, to the request: for each attempt.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_the_sinks_documentation_have_every_name_and_unit() {
        let [facade, dogstatsd, opentelemetry] =
            [include_str!("facade.rs"), include_str!("dogstatsd.rs"), include_str!("opentelemetry.rs")];
        let has = |table: &str, row: String| assert!(table.contains(&row), "{row}");
        for counter in COUNTERS {
            let (name, suffix) = (counter.name, counter.counts.suffix());
            has(facade, format!(" | `{}{suffix}_total` | counter | `stream`", name.replace('.', "_")));
            has(dogstatsd, format!(" | `{name}{suffix}` | count | {}", counter.counts.thing()));
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
                Self::Things(_) => "",
                Self::Bytes => "_bytes",
                Self::Time => "_microseconds",
            }
        }

        fn thing(self) -> &'static str {
            match self {
                Self::Things(thing) => thing,
                Self::Bytes => "byte",
                Self::Time => "microsecond",
            }
        }

        fn ucum(self) -> String {
            match self {
                Self::Things(thing) => format!("{{{thing}}}"),
                Self::Bytes => "By".to_owned(),
                Self::Time => "s".to_owned(),
            }
        }
    }
}

//! The producer's metrics: those of the C++ KPL under the same names, and latencies as histograms.
//!
//! A metric is a [`StatisticSet`]: count, sum, minimum and maximum of its observations. Each observation counts for a
//! shard, its stream, and all streams; [`MetricsReport`] has the sums. With `metrics_level` none, no metrics are kept.
//!
//! Names, units, levels and the times of observations are those of the KPL (awslabs/amazon-kinesis-producer,
//! `metrics.md`, `aws/metrics/metrics_constants.cc`, `aws/kinesis/core/retrier.cc`), so dashboards and alarms for the
//! KPL keep working.

mod histogram;
mod recorder;
mod report;
mod reporter;
mod series;

use core::fmt;

pub use self::histogram::Histogram;
pub(crate) use self::recorder::StreamMetrics;
pub use self::report::{Datum, Latency, MetricsReport, MetricsSnapshot, MetricsWindow};
pub(crate) use self::reporter::Reporter;

/// The level of detail of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum MetricsLevel {
    /// No metrics, at no cost.
    #[default]
    None,
    /// Six metrics, `UserRecordsPut`, `KinesisRecordsPut`, `AllErrors`, `UserRecordExpired`, `BufferingTime` and
    /// `ErrorsByCode`, and the latencies.
    Summary,
    /// All metrics.
    Detailed,
}

/// The granularity of metrics. Metrics of coarser granularities are always included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum MetricsGranularity {
    /// All streams together only.
    Global,
    /// Each stream, too.
    Stream,
    /// Each shard of each stream, too.
    #[default]
    Shard,
}

/// The unit of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// A number of records, errors or retries.
    Count,
    /// Bytes.
    Bytes,
    /// Milliseconds, with fractions.
    Milliseconds,
}

impl Unit {
    /// Returns CloudWatch's name of the unit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "Count",
            Self::Bytes => "Bytes",
            Self::Milliseconds => "Milliseconds",
        }
    }
}

/// The table of metrics: name, unit, level and finest granularity. Metrics of shards come first.
macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident $unit:ident $level:ident $finest:ident;)*) => {
        /// A metric of the KPL.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Metric { $($(#[$doc])* $name,)* }

        impl Metric {
            /// All metrics.
            pub const ALL: [Self; 15] = [$(Self::$name,)*];

            /// Returns the name, as in the KPL.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Returns the unit.
            pub const fn unit(self) -> Unit {
                match self { $(Self::$name => Unit::$unit,)* }
            }

            /// Returns the lowest level at which the metric is kept.
            pub const fn level(self) -> MetricsLevel {
                match self { $(Self::$name => MetricsLevel::$level,)* }
            }

            /// Returns the finest granularity of the metric.
            pub const fn finest(self) -> MetricsGranularity {
                match self { $(Self::$name => MetricsGranularity::$finest,)* }
            }
        }
    };
}

metrics! {
    /// User records that were resolved: 1 for each that was stored, 0 for each that failed. The average is the success
    /// rate.
    UserRecordsPut Count Summary Shard;
    /// The bytes of data of a user record that was stored.
    UserRecordsDataPut Bytes Detailed Shard;
    /// Kinesis records with a result in a reply: 1 for each that was stored, 0 for each that was refused.
    KinesisRecordsPut Count Summary Shard;
    /// The bytes of data of a Kinesis record that was stored.
    KinesisRecordsDataPut Bytes Detailed Shard;
    /// Errors: 1 for each Kinesis record that was refused and each request that failed, 0 for each record that was
    /// stored.
    AllErrors Count Summary Shard;
    /// The number of attempts beyond the first, for each user record that was resolved.
    RetriesPerRecord Count Detailed Shard;
    /// User records whose time-to-live expired.
    UserRecordExpired Count Summary Shard;
    /// The time from the put, or the end of the previous attempt, to the request: for each attempt of a user record
    /// that was resolved.
    BufferingTime Milliseconds Summary Shard;
    /// The number of user records in a Kinesis record that was sent.
    UserRecordsPerKinesisRecord Count Detailed Shard;
    /// Errors by error code, which is an additional dimension.
    ErrorsByCode Count Summary Shard;
    /// User records accepted by `put`.
    UserRecordsReceived Count Detailed Stream;
    /// The number of user records that are accepted and not yet resolved: one sample in each second with any activity.
    UserRecordsPending Count Detailed Stream;
    /// The time from the request to its reply.
    RequestTime Milliseconds Detailed Stream;
    /// The number of Kinesis records in a request.
    KinesisRecordsPerPutRecordsRequest Count Detailed Stream;
    /// The number of user records in a request.
    UserRecordsPerPutRecordsRequest Count Detailed Stream;
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A summary of observations, as CloudWatch accepts it. Statistic sets can be merged in any order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StatisticSet {
    /// The number of observations.
    pub count: u64,
    /// The sum of the observations.
    pub sum: f64,
    /// The minimum; positive infinity if there are no observations.
    pub min: f64,
    /// The maximum; negative infinity if there are no observations.
    pub max: f64,
}

impl StatisticSet {
    /// A set without observations.
    pub const EMPTY: Self = Self { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };

    /// Whether there are no observations.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the average; `None` if there are no observations.
    pub fn average(&self) -> Option<f64> {
        if self.is_empty() { None } else { Some(self.sum / self.count as f64) }
    }

    /// Adds an observation.
    #[inline]
    pub fn observe(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds the observations of another set.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

impl Default for StatisticSet {
    fn default() -> Self {
        Self::EMPTY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_units_levels_and_granularities_match_the_kpl() {
        use MetricsGranularity::{Shard, Stream};
        use MetricsLevel::{Detailed, Summary};
        let table = [
            ("UserRecordsReceived", Detailed, Stream, "Count"),
            ("UserRecordsPending", Detailed, Stream, "Count"),
            ("UserRecordsPut", Summary, Shard, "Count"),
            ("UserRecordsDataPut", Detailed, Shard, "Bytes"),
            ("KinesisRecordsPut", Summary, Shard, "Count"),
            ("KinesisRecordsDataPut", Detailed, Shard, "Bytes"),
            ("ErrorsByCode", Summary, Shard, "Count"),
            ("AllErrors", Summary, Shard, "Count"),
            ("RetriesPerRecord", Detailed, Shard, "Count"),
            ("UserRecordExpired", Summary, Shard, "Count"),
            ("BufferingTime", Summary, Shard, "Milliseconds"),
            ("RequestTime", Detailed, Stream, "Milliseconds"),
            ("UserRecordsPerKinesisRecord", Detailed, Shard, "Count"),
            ("KinesisRecordsPerPutRecordsRequest", Detailed, Stream, "Count"),
            ("UserRecordsPerPutRecordsRequest", Detailed, Stream, "Count"),
        ];
        assert_eq!(Metric::ALL.len(), table.len());
        for metric in Metric::ALL {
            let found = table.iter().find(|(name, ..)| *name == metric.name());
            let actual = (metric.name(), metric.level(), metric.finest(), metric.unit().name());
            assert_eq!(found, Some(&actual));
        }
    }

    #[test]
    fn a_merged_statistic_set_equals_one_with_all_observations() {
        let mut all = StatisticSet::EMPTY;
        let mut halves = [StatisticSet::EMPTY; 2];
        for (n, value) in [3.0, 0.0, 7.5, 1.0].into_iter().enumerate() {
            all.observe(value);
            halves[n % 2].observe(value);
        }
        let [mut merged, other] = halves;
        merged.merge(&other);
        merged.merge(&StatisticSet::EMPTY);
        assert_eq!(merged, all);
        assert_eq!(all, StatisticSet { count: 4, sum: 11.5, min: 0.0, max: 7.5 });
        assert_eq!((all.average(), StatisticSet::EMPTY.average()), (Some(2.875), None));
    }
}

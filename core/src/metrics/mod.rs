//! What the producer measures: the metrics of the C++ KPL under their names, and latencies as histograms.
//!
//! A metric is a [`StatisticSet`]: count, sum, least and largest of what was observed. Each observation counts for a shard,
//! its stream, and all streams; [`MetricsReport`] has them rolled up. With `metrics_level` none, nothing is kept.
//!
//! Names, units, levels and what is observed when are those of the KPL (awslabs/amazon-kinesis-producer, `metrics.md`,
//! `aws/metrics/metrics_constants.cc`, `aws/kinesis/core/retrier.cc`), so that its dashboards and alarms go on working.

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

/// Which metrics are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum MetricsLevel {
    /// None. They cost nothing.
    #[default]
    None,
    /// The six that tell success, failure and delay.
    Summary,
    /// All of them.
    Detailed,
}

/// How finely metrics are told apart; the coarser ones are always there, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum MetricsGranularity {
    /// All streams together.
    Global,
    /// Each stream.
    Stream,
    /// Each shard of each stream.
    #[default]
    Shard,
}

/// What a metric counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Milliseconds, with fractions.
    Milliseconds,
}

impl Unit {
    /// As CloudWatch spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "Count",
            Self::Bytes => "Bytes",
            Self::Milliseconds => "Milliseconds",
        }
    }
}

/// One table for the metrics: name, unit, level and finest granularity. Those of a shard come first.
macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident $unit:ident $level:ident $finest:ident;)*) => {
        /// A metric of the KPL.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Metric { $($(#[$doc])* $name,)* }

        impl Metric {
            /// All of them.
            pub const ALL: [Self; 15] = [$(Self::$name,)*];

            /// Its name, as in the KPL.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What it counts in.
            pub const fn unit(self) -> Unit {
                match self { $(Self::$name => Unit::$unit,)* }
            }

            /// From which level on it is kept.
            pub const fn level(self) -> MetricsLevel {
                match self { $(Self::$name => MetricsLevel::$level,)* }
            }

            /// How finely it can be told apart.
            pub const fn finest(self) -> MetricsGranularity {
                match self { $(Self::$name => MetricsGranularity::$finest,)* }
            }
        }
    };
}

metrics! {
    /// User records that ended: 1 for each that was stored, 0 for each that failed. The average is the rate of success.
    UserRecordsPut Count Summary Shard;
    /// Bytes of data of a user record that was stored.
    UserRecordsDataPut Bytes Detailed Shard;
    /// Kinesis records that were answered for: 1 for each that was stored, 0 for each that was refused.
    KinesisRecordsPut Count Summary Shard;
    /// Bytes of data of a Kinesis record that was stored.
    KinesisRecordsDataPut Bytes Detailed Shard;
    /// Errors: 1 for each Kinesis record that was refused and each request that failed, 0 for each record that was stored.
    AllErrors Count Summary Shard;
    /// Attempts beyond the first, of a user record that ended.
    RetriesPerRecord Count Detailed Shard;
    /// User records whose time-to-live ran out.
    UserRecordExpired Count Summary Shard;
    /// From put, or the end of the attempt before, to the request: for each attempt of a user record that ended.
    BufferingTime Milliseconds Summary Shard;
    /// User records in a Kinesis record that was sent.
    UserRecordsPerKinesisRecord Count Detailed Shard;
    /// Errors by their code, which is a dimension of its own.
    ErrorsByCode Count Summary Shard;
    /// User records accepted by `put`.
    UserRecordsReceived Count Detailed Stream;
    /// User records accepted and not yet resolved: a sample in each second in which something happens.
    UserRecordsPending Count Detailed Stream;
    /// From the request to its reply.
    RequestTime Milliseconds Detailed Stream;
    /// Kinesis records in a request.
    KinesisRecordsPerPutRecordsRequest Count Detailed Stream;
    /// User records in a request.
    UserRecordsPerPutRecordsRequest Count Detailed Stream;
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was observed: as CloudWatch takes it. They can be merged in any order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StatisticSet {
    /// Observations.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The least of them; positive infinity if there is none.
    pub min: f64,
    /// The largest of them; negative infinity if there is none.
    pub max: f64,
}

impl StatisticSet {
    /// Nothing was observed.
    pub const EMPTY: Self = Self { count: 0, sum: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };

    /// Whether nothing was observed.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The average; `None` if nothing was observed.
    pub fn average(&self) -> Option<f64> {
        if self.is_empty() { None } else { Some(self.sum / self.count as f64) }
    }

    /// Takes an observation.
    #[inline]
    pub fn observe(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds what another has observed.
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
    fn names_units_levels_and_granularities_are_the_kpls() {
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
            let told = (metric.name(), metric.level(), metric.finest(), metric.unit().name());
            assert_eq!(found, Some(&told));
        }
    }

    #[test]
    fn statistic_sets_merge_as_if_one_had_observed_it_all() {
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

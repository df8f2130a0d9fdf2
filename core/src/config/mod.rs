//! The settings of a producer. Names and defaults are those of the KPL, except those listed in
//! docs/migrating-from-the-kpl.md.
//! Sizes are in bytes, times are [`Duration`]s.

#[cfg(feature = "serde")]
mod serde;

use alloc::string::{String, ToString};
use core::fmt::Debug;
use core::ops::RangeInclusive;
use core::time::Duration;

use crate::limits;
use crate::metrics::{MetricsGranularity, MetricsLevel};

/// The error of a [`Config`] with a value out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("config: {field} is {value}, but must be {range}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The field's name, as in [`ConfigBuilder`].
    pub field: &'static str,
    /// The value.
    pub value: String,
    /// The allowed range.
    pub range: String,
}

/// How a stream distributes records over its shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RecordDistribution {
    /// As in the stream's description (`DescribeStreamSummary`); by key if the description does not have it.
    #[default]
    Detect,
    /// By partition key or explicit hash key: records can be aggregated.
    ByKey,
    /// The stream has `RecordDistributionStrategy = AUTO`: Kinesis ignores keys. Records are not aggregated, since a
    /// consumer would drop user records outside the shard's range. No shard is predicted, and no record is retried as
    /// `Wrong Shard`.
    Auto,
}

/// The order in which consumers read records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Ordering {
    /// No promise: a record that is retried, or that shares a request with others, may be overtaken by later ones.
    #[default]
    None,
    /// The records of each hash key (partition key or explicit hash key) are read in the order of their puts: of two
    /// records with the same hash key, the first is read for the first time before the second for the first time, and
    /// for the last time before the second for the last time, whatever fails between. A record that fails is left out.
    ///
    /// The producer has at most one Kinesis record of a shard under way, or of a hash key if records are not aggregated.
    /// The records that are stored also get their results in this order. Records for a stream that ignores keys fail with
    /// the code `Order Impossible`. What can still break the order: docs/ordering.md.
    ///
    /// ```
    /// use kpl_core::{Config, Ordering};
    ///
    /// let config = Config::builder().ordering(Ordering::PerKey).build()?;
    /// assert_eq!(config.ordering(), Ordering::PerKey);
    /// # Ok::<(), kpl_core::ConfigError>(())
    /// ```
    PerKey,
}

/// The consumers of the streams. They differ in how they handle an aggregate on another shard than its hash keys belong
/// to. This happens while a stream is resharded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Consumers {
    /// At least one consumer drops such an aggregate: the Kinesis Client Library (all versions), and consumers that use
    /// its deaggregation with hash key ranges, such as Flink's connector. The producer sends such an aggregate again.
    #[default]
    Kcl,
    /// Every consumer reads aggregates on any shard: Lambda functions and others with the deaggregation modules of AWS
    /// Labs, Firehose. The producer accepts such an aggregate, since a retry would only make duplicates.
    AnyShard,
}

/// The table of fields, with their defaults and ranges. It defines the fields, setters and getters.
macro_rules! config {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $default:expr $(, in $range:expr)?;)*) => {
        /// The validated settings of a producer.
        ///
        /// ```
        /// use core::time::Duration;
        /// use kpl_core::Config;
        ///
        /// let config = Config::builder().record_ttl(Duration::MAX).aggregation_max_size(25_600).build()?;
        /// assert_eq!(config.aggregation_max_size(), 25_600);
        ///
        /// let error = Config::builder().collection_max_count(501).build().unwrap_err();
        /// assert_eq!(error.to_string(), "config: collection_max_count is 501, but must be from 1 to 500");
        /// # Ok::<(), kpl_core::ConfigError>(())
        /// ```
        ///
        /// With the feature `serde`, a file of settings can hold it: a map of field names, in which a time is a text such as
        /// `"100ms"`, or `"never"` for [`Duration::MAX`], and a size is a number of bytes or a text such as `"5MiB"`. Fields that are
        /// missing have their defaults; unknown ones are errors.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config { $($field: $type,)* }

        impl Config {
            $($(#[$doc])* pub fn $field(&self) -> $type { self.$field })*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        /// A builder of a [`Config`]. It starts from the defaults. [`build`](Self::build) checks the ranges; both ends
        /// of a range are allowed.
        #[derive(Clone, Debug, Default)]
        pub struct ConfigBuilder { config: Config }

        impl ConfigBuilder {
            $($(#[$doc])* #[must_use] pub fn $field(mut self, $field: $type) -> Self {
                self.config.$field = $field;
                self
            })*

            /// Validates the settings and returns the config.
            ///
            /// # Errors
            ///
            /// Returns the first field that is out of range, with its value and the range.
            pub fn build(self) -> Result<Config, ConfigError> {
                $($(check(stringify!($field), &self.config.$field, &$range)?;)?)*
                self.config.check_together()
            }
        }

        #[cfg(feature = "serde")]
        impl Config {
            /// Returns all fields with their values.
            fn values(&self) -> impl Iterator<Item = (&'static str, serde::Value)> {
                [$((stringify!($field), serde::Setting::to_value(&self.$field)),)*].into_iter()
            }
        }

        #[cfg(feature = "serde")]
        impl ConfigBuilder {
            /// Sets the field with this name.
            fn set<E: ::serde::de::Error>(self, field: &str, value: &serde::Value) -> Result<Self, E> {
                match field {
                    $(stringify!($field) => Ok(self.$field(serde::parse(field, value)?)),)*
                    _ => Err(E::unknown_field(field, &[$(stringify!($field)),*])),
                }
            }
        }
    };
}

const MILLISECOND: Duration = Duration::from_millis(1);
/// The longest backlog of a shard, if records never expire.
const BACKLOG_WITHOUT_TTL: Duration = Duration::from_secs(15);

config! {
    /// Whether several user records are packed into one Kinesis record. Default `true`.
    aggregation_enabled: bool = true;
    /// The maximum number of user records in one aggregate. Default 4,294,967,295. Range 1 to 4,294,967,295.
    aggregation_max_count: usize = u32::MAX as usize, in 1..=u32::MAX as usize;
    /// The maximum bytes in one aggregate, framing included. Default 51,200 (50 KiB: two PUT payload units). Range 64
    /// bytes to 10 MiB.
    aggregation_max_size: usize = 51_200, in 64..=limits::RECORD_SIZE_MAX;
    /// The maximum number of Kinesis records in one PutRecords request. Default 500. Range 1 to 500.
    collection_max_count: usize = limits::REQUEST_RECORDS_MAX, in 1..=limits::REQUEST_RECORDS_MAX;
    /// The maximum bytes in one PutRecords request, keys included. A larger record is sent alone. Default 5 MiB. Range
    /// 51 KiB to 10 MiB.
    collection_max_size: usize = 5 << 20, in 52_224..=limits::REQUEST_SIZE_MAX;
    /// The maximum bytes for one shard in one PutRecords request. A larger record is still sent. Default 256 KiB. Range
    /// 1 byte to 10 MiB.
    collection_max_size_per_shard: usize = 256 << 10, in 1..=limits::REQUEST_SIZE_MAX;
    /// The maximum time that a record waits for others before it is sent. Default 100 ms. Range zero to 1 h.
    record_max_buffered_time: Duration = Duration::from_millis(100), in Duration::ZERO..=Duration::from_secs(3600);
    /// The maximum time from the put of a record to its success, retries included; [`Duration::MAX`] is no limit. Must
    /// be more than `record_max_buffered_time`. Default 30 s. Range 100 ms to [`Duration::MAX`].
    record_ttl: Duration = Duration::from_secs(30), in 100 * MILLISECOND..=Duration::MAX;
    /// The maximum time that the first records of a stream wait for its first shard list. If half of `record_ttl` is
    /// shorter, it applies instead. The records wait also while requests for the list or the credentials fail
    /// temporarily. After this time, or when the list is refused for good, records are aggregated by hash key, and one
    /// rate limit applies to the whole stream. Default 5 s. Range zero to 600 s.
    start_timeout: Duration = Duration::from_secs(5), in Duration::ZERO..=Duration::from_secs(600);
    /// The longest backlog of a shard, as the time that it takes at half the shard's current rate (other producers may
    /// use the other half). Beyond that, no records for the shard are accepted, because they would expire before they
    /// are sent: a driver's `put` waits, and its `try_put` returns `PutError::Full`. `None` is half of `record_ttl`, or
    /// 15 s if records never expire. Default `None`. Range 10 ms to 86,400 s (one day).
    max_shard_backlog: Option<Duration> = None, in OrNone(10 * MILLISECOND..=Duration::from_secs(86_400));
    /// The consumers of the streams. Default [`Consumers::Kcl`].
    consumers: Consumers = Consumers::Kcl;
    /// The order in which consumers read records. [`Ordering::PerKey`] needs streams that distribute records by key, and
    /// consumers that read each key on its own shard ([`Consumers::Kcl`]). Default [`Ordering::None`].
    ordering: Ordering = Ordering::None;
    /// Whether a throttled record fails at once instead of being retried. Default `false`.
    fail_if_throttled: bool = false;
    /// Whether records are retried when access is denied (`AccessDeniedException`, `KMSAccessDeniedException`, HTTP 403)
    /// to a stream in which records were stored before: somebody may be changing its permissions. For programs that must
    /// put all they have, with a long `record_ttl`. Default `false`: the records fail at once.
    retry_if_denied: bool = false;
    /// The rate limit of a shard in Kinesis records per second. If several producers write to the shard, set each one's
    /// part. Default 1,000, the service's limit. Range 1 to 1,000,000.
    rate_limit_records_per_shard: u64 = limits::SHARD_RECORDS_PER_SECOND, in 1..=1_000_000;
    /// The rate limit of a shard in bytes per second. If several producers write to the shard, set each one's part.
    /// Default 1 MiB, the service's limit. Range 1 KiB to 1 GiB.
    rate_limit_bytes_per_shard: u64 = limits::SHARD_BYTES_PER_SECOND, in 1_024..=1 << 30;
    /// The maximum number of requests in flight, over all streams, and so of connections: PutRecords, and ListShards and
    /// DescribeStreamSummary, which are at most half of them. With 1, one of each kind. Default 24. Range 1 to 1,024.
    max_in_flight_requests: usize = 24, in 1..=1_024;
    /// The timeout of one request, of which connecting takes at most half. Default 6 s. Range 100 ms to 600 s.
    request_timeout: Duration = Duration::from_secs(6), in 100 * MILLISECOND..=Duration::from_secs(600);
    /// The maximum backoff before the first retry of a record. It doubles with each retry. Default 50 ms. Range 1 ms to
    /// 60 s.
    retry_backoff_min: Duration = Duration::from_millis(50), in MILLISECOND..=Duration::from_secs(60);
    /// The maximum backoff before any retry. Must be at least `retry_backoff_min`. Default 5 s. Range 1 ms to 600 s.
    retry_backoff_max: Duration = Duration::from_secs(5), in MILLISECOND..=Duration::from_secs(600);
    /// The maximum number of outstanding user records, over all streams; further puts wait. Default 100,000. Range 1 to
    /// 1,073,741,824.
    max_outstanding_records: usize = 100_000, in 1..=1 << 30;
    /// The maximum outstanding bytes (data and keys), over all streams; further puts wait. A larger record is accepted
    /// when no others are outstanding. Default 128 MiB. Range 1 KiB to 1 TiB.
    max_outstanding_bytes: usize = 128 << 20, in 1_024..=1 << 40;
    /// The maximum size of one record in bytes, data and partition key. `None` is the limit in the stream's
    /// description, or 1 MiB if the description does not have one. Default `None`. Range 1 KiB to 10 MiB.
    max_record_size: Option<usize> = None, in OrNone(1_024..=limits::RECORD_SIZE_MAX);
    /// How the streams distribute records over their shards. Default [`RecordDistribution::Detect`].
    record_distribution: RecordDistribution = RecordDistribution::Detect;
    /// The level of detail of the metrics. Default [`MetricsLevel::None`] (the KPL's is detailed).
    metrics_level: MetricsLevel = MetricsLevel::None;
    /// The granularity of the metrics. Default [`MetricsGranularity::Shard`].
    metrics_granularity: MetricsGranularity = MetricsGranularity::Shard;
    /// The time between two exports of metrics. Default 60 s. Range 1 s to 1 h.
    metrics_upload_interval: Duration = Duration::from_secs(60), in Duration::from_secs(1)..=Duration::from_secs(3600);
    /// The seed of the jitter. 0, the default, makes kpl-driver choose a random seed. Any other seed is used as it is,
    /// so that a simulator can repeat a run.
    seed: u64 = 0;
}

impl Config {
    /// Returns a builder with the defaults.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// Returns a builder with the settings of this config, for instance to change only the seed.
    pub fn to_builder(&self) -> ConfigBuilder {
        ConfigBuilder { config: self.clone() }
    }

    /// Returns the maximum time that a stream's first records wait for its shard list.
    pub(crate) fn start_wait(&self) -> Duration {
        self.start_timeout.min(self.record_ttl / 2)
    }

    /// Returns the longest backlog of a shard.
    pub(crate) fn backlog_limit(&self) -> Duration {
        self.max_shard_backlog.unwrap_or(match self.record_ttl {
            Duration::MAX => BACKLOG_WITHOUT_TTL,
            ttl => ttl / 2,
        })
    }

    /// Returns the longest backlog of records that wait for a stream's first shard list. Unless it is set, the records
    /// can be sent before they expire, even if each of them becomes one Kinesis record and all are for one shard.
    pub(crate) fn start_backlog_limit(&self) -> Duration {
        let after_the_wait = self.record_ttl.saturating_sub(self.start_wait());
        self.max_shard_backlog.unwrap_or(self.backlog_limit().min(after_the_wait / 5 * 3))
    }

    fn check_together(self) -> Result<Self, ConfigError> {
        if self.record_ttl <= self.record_max_buffered_time {
            return Err(ConfigError {
                field: "record_ttl",
                value: alloc::format!("{:?}", self.record_ttl),
                range: alloc::format!("more than record_max_buffered_time ({:?})", self.record_max_buffered_time),
            });
        }
        if self.retry_backoff_max < self.retry_backoff_min {
            return Err(ConfigError {
                field: "retry_backoff_max",
                value: alloc::format!("{:?}", self.retry_backoff_max),
                range: alloc::format!("at least retry_backoff_min ({:?})", self.retry_backoff_min),
            });
        }
        let unordered = match self.ordering {
            Ordering::None => None,
            _ if self.record_distribution == RecordDistribution::Auto => Some("None if record_distribution is Auto"),
            _ if self.consumers == Consumers::AnyShard => Some("None if consumers is AnyShard"),
            Ordering::PerKey => None,
        };
        if let Some(range) = unordered {
            let value = alloc::format!("{:?}", self.ordering);
            return Err(ConfigError { field: "ordering", value, range: range.to_string() });
        }
        Ok(self)
    }
}

/// The range of an optional value.
struct OrNone<V>(RangeInclusive<V>);

trait Range<V> {
    fn admits(&self, value: &V) -> bool;
    fn describe(&self) -> String;
}

impl<V: PartialOrd + Debug> Range<V> for RangeInclusive<V> {
    fn admits(&self, value: &V) -> bool {
        self.contains(value)
    }

    fn describe(&self) -> String {
        alloc::format!("from {:?} to {:?}", self.start(), self.end())
    }
}

impl<V: PartialOrd + Debug> Range<Option<V>> for OrNone<V> {
    fn admits(&self, value: &Option<V>) -> bool {
        value.as_ref().is_none_or(|value| self.0.contains(value))
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

fn check<V: Debug>(field: &'static str, value: &V, range: &impl Range<V>) -> Result<(), ConfigError> {
    if range.admits(value) {
        return Ok(());
    }
    let value = alloc::format!("{value:?}");
    let value = value.strip_prefix("Some(").and_then(|v| v.strip_suffix(')')).unwrap_or(&value).to_string();
    Err(ConfigError { field, value, range: range.describe() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_within_their_ranges() {
        assert_eq!(Config::builder().build(), Ok(Config::default()));
    }

    #[test]
    fn to_builder_keeps_the_settings() {
        let config = Config::builder().record_ttl(Duration::MAX).build().unwrap();
        let seeded = config.to_builder().seed(7).build().unwrap();
        assert_eq!((seeded.record_ttl(), seeded.seed()), (Duration::MAX, 7));
    }

    #[test]
    fn both_backoffs_may_be_equal() {
        let (ms, config) = (Duration::from_millis(200), Config::builder());
        assert!(config.retry_backoff_min(ms).retry_backoff_max(ms).build().is_ok());
    }

    #[test]
    fn an_error_names_field_value_and_range() {
        let error = |builder: ConfigBuilder| builder.build().unwrap_err().to_string();
        assert_eq!(
            error(Config::builder().max_record_size(Some(11 << 20))),
            "config: max_record_size is 11534336, but must be from 1024 to 10485760"
        );
        assert_eq!(
            error(Config::builder().record_ttl(Duration::from_millis(99))),
            alloc::format!("config: record_ttl is 99ms, but must be from 100ms to {:?}", Duration::MAX)
        );
        assert_eq!(
            error(Config::builder().record_ttl(Duration::from_millis(100))),
            "config: record_ttl is 100ms, but must be more than record_max_buffered_time (100ms)"
        );
        assert_eq!(
            error(Config::builder().ordering(Ordering::PerKey).record_distribution(RecordDistribution::Auto)),
            "config: ordering is PerKey, but must be None if record_distribution is Auto"
        );
        assert_eq!(
            error(Config::builder().ordering(Ordering::PerKey).consumers(Consumers::AnyShard)),
            "config: ordering is PerKey, but must be None if consumers is AnyShard"
        );
        assert_eq!(
            error(Config::builder().retry_backoff_max(Duration::from_millis(49))),
            "config: retry_backoff_max is 49ms, but must be at least retry_backoff_min (50ms)"
        );
    }
}

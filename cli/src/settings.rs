//! The producer's configuration as options.

use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use kpl_core::{Config, ConfigError, Consumers, Ordering, RecordDistribution, limits};

/// One option per field of [`Config`], with the same name.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Producer (durations such as 100ms, 30s, 5m; sizes in bytes, or such as 256KiB, 5MiB)")]
pub(crate) struct Settings {
    /// Whether several lines are aggregated into one Kinesis record [default: true]
    #[arg(long, value_name = "BOOL")]
    aggregation_enabled: Option<bool>,
    /// Maximum number of lines in one Kinesis record [default: 4294967295]
    #[arg(long, value_name = "N")]
    aggregation_max_count: Option<usize>,
    /// Maximum bytes in one aggregated Kinesis record [default: 50KiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    aggregation_max_size: Option<u64>,
    /// Maximum number of Kinesis records in one request [default: 500]
    #[arg(long, value_name = "N")]
    collection_max_count: Option<usize>,
    /// Maximum bytes in one request [default: 5MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    collection_max_size: Option<u64>,
    /// Maximum bytes for one shard in one request [default: 256KiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    collection_max_size_per_shard: Option<u64>,
    /// Maximum time that a line waits for a shared batch [default: 100ms]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    record_max_buffered_time: Option<Duration>,
    /// Maximum time from put to success, retries included, or "never" for no limit [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration_or_never)]
    record_ttl: Option<Duration>,
    /// Maximum time that the first lines wait for the stream's shard list [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    start_timeout: Option<Duration>,
    /// Maximum backlog of a shard, as the time to send it; reading waits above it [default: half of --record-ttl, or
    /// 15s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_shard_backlog: Option<Duration>,
    /// Consumers of the stream: "kcl", or "any-shard" if all of them read aggregates on any shard, as Lambda and
    /// Firehose do [default: kcl]
    #[arg(long, value_name = "WHICH", value_parser = ["kcl", "any-shard"])]
    consumers: Option<String>,
    /// Order of reading: "per-key" if consumers read the lines of each key in the order of their puts [default: none]
    #[arg(long, value_name = "ORDER", value_parser = ["none", "per-key"])]
    ordering: Option<String>,
    /// Whether a throttled line fails at once instead of waiting for its shard [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    fail_if_throttled: Option<bool>,
    /// Whether lines wait when access is denied after lines were stored, instead of failing at once [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    retry_if_denied: Option<bool>,
    /// Kinesis records per second for one shard [default: 1000]
    #[arg(long, value_name = "N")]
    rate_limit_records_per_shard: Option<u64>,
    /// Bytes per second for one shard [default: 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    rate_limit_bytes_per_shard: Option<u64>,
    /// Maximum number of requests in flight [default: 24]
    #[arg(long, value_name = "N")]
    max_in_flight_requests: Option<usize>,
    /// Maximum time from a request to its reply [default: 6s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    request_timeout: Option<Duration>,
    /// Maximum delay before the first retry; it doubles with each retry [default: 50ms]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    retry_backoff_min: Option<Duration>,
    /// Maximum delay before any retry [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    retry_backoff_max: Option<Duration>,
    /// Maximum number of outstanding lines; reading waits above it [default: 100000]
    #[arg(long, value_name = "N")]
    max_outstanding_records: Option<usize>,
    /// Maximum bytes of outstanding lines; reading waits above it [default: 128MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_outstanding_bytes: Option<u64>,
    /// Maximum bytes in one line and its key [default: the stream's limit]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_record_size: Option<u64>,
    /// How the stream distributes records over its shards: "detect" requests it from the stream [default: detect]
    #[arg(long, value_name = "HOW", value_parser = ["detect", "by-key", "auto"])]
    record_distribution: Option<String>,
    /// Seed of the retries' jitter [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl Settings {
    /// Raises the rate limits for shards without limits, unless options set them.
    pub(crate) fn without_shard_limits(mut self) -> Self {
        self.rate_limit_records_per_shard.get_or_insert(1_000 * limits::SHARD_RECORDS_PER_SECOND);
        self.rate_limit_bytes_per_shard.get_or_insert(1_000 * limits::SHARD_BYTES_PER_SECOND);
        self
    }

    /// Lets no line fail for a reason that may pass, unless an option says otherwise.
    pub(crate) fn until_all_are_put(mut self) -> Self {
        self.record_ttl.get_or_insert(Duration::MAX);
        self.retry_if_denied.get_or_insert(true);
        self
    }

    /// Returns the checked config. Errors name the option.
    pub(crate) fn config(self) -> anyhow::Result<Config> {
        macro_rules! set {
            ($builder:ident: $($field:ident $(as $convert:expr)?),*) => {$(
                if let Some(value) = self.$field {
                    $builder = $builder.$field(set!(@ value $(, $convert)?));
                }
            )*};
            (@ $value:ident) => { $value };
            (@ $value:ident, $convert:expr) => { $convert($value) };
        }
        // A saturated value is outside every range, so `build` refuses it.
        let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let mut builder = Config::builder();
        set!(builder:
            aggregation_enabled, aggregation_max_count, aggregation_max_size as bytes, collection_max_count,
            collection_max_size as bytes, collection_max_size_per_shard as bytes, record_max_buffered_time, record_ttl,
            start_timeout, max_shard_backlog as Some, consumers as |name: String| consumers(&name),
            ordering as |name: String| ordering(&name), fail_if_throttled, retry_if_denied,
            rate_limit_records_per_shard, rate_limit_bytes_per_shard, max_in_flight_requests, request_timeout, retry_backoff_min, retry_backoff_max, max_outstanding_records,
            max_outstanding_bytes as bytes, max_record_size as |size| Some(bytes(size)),
            record_distribution as |name: String| distribution(&name), seed
        );
        builder.build().map_err(|ConfigError { field, value, range, .. }| {
            let options = [
                ("record_max_buffered_time", "--record-max-buffered-time"),
                ("retry_backoff_min", "--retry-backoff-min"),
                ("None if record_distribution is Auto", "none if --record-distribution is auto"),
                ("None if consumers is AnyShard", "none if --consumers is any-shard"),
            ];
            let range = options.iter().fold(range, |range, (field, option)| range.replace(field, option));
            let value = value.replace("PerKey", "per-key");
            anyhow::anyhow!("--{} is {value}, but must be {range}", field.replace('_', "-"))
        })
    }
}

fn consumers(name: &str) -> Consumers {
    if name == "any-shard" { Consumers::AnyShard } else { Consumers::Kcl }
}

fn ordering(name: &str) -> Ordering {
    if name == "per-key" { Ordering::PerKey } else { Ordering::None }
}

fn distribution(name: &str) -> RecordDistribution {
    match name {
        "by-key" => RecordDistribution::ByKey,
        "auto" => RecordDistribution::Auto,
        _ => RecordDistribution::Detect,
    }
}

/// Parses a number of bytes, with or without a unit.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    ByteSize::from_str(text).map(|size| size.as_u64())
}

fn duration_or_never(text: &str) -> Result<Duration, humantime::DurationError> {
    if text == "never" { Ok(Duration::MAX) } else { humantime::parse_duration(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        settings: Settings,
    }

    fn config(options: &str) -> Result<Config, String> {
        let words = std::iter::once("kpl").chain(options.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.settings.config().map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_apply_without_options() {
        assert_eq!(config("").unwrap(), Config::default());
    }

    #[test]
    fn every_field_can_be_set() {
        let all = "--aggregation-enabled false --aggregation-max-count 7 --aggregation-max-size 25KiB \
            --collection-max-count 8 --collection-max-size 1MiB --collection-max-size-per-shard 9 \
            --record-max-buffered-time 10ms --record-ttl never --fail-if-throttled --retry-if-denied \
            --rate-limit-records-per-shard 11 --rate-limit-bytes-per-shard 2048 --max-in-flight-requests 12 --request-timeout 13s \
            --retry-backoff-min 14ms --retry-backoff-max 15s --max-outstanding-records 16 --max-outstanding-bytes 1GiB \
            --max-record-size 2MiB --record-distribution by-key --ordering per-key --seed 17";
        let expected = Config::builder()
            .aggregation_enabled(false)
            .aggregation_max_count(7)
            .aggregation_max_size(25 << 10)
            .collection_max_count(8)
            .collection_max_size(1 << 20)
            .collection_max_size_per_shard(9)
            .record_max_buffered_time(Duration::from_millis(10))
            .record_ttl(Duration::MAX)
            .fail_if_throttled(true)
            .retry_if_denied(true)
            .rate_limit_records_per_shard(11)
            .rate_limit_bytes_per_shard(2048)
            .max_in_flight_requests(12)
            .request_timeout(Duration::from_secs(13))
            .retry_backoff_min(Duration::from_millis(14))
            .retry_backoff_max(Duration::from_secs(15))
            .max_outstanding_records(16)
            .max_outstanding_bytes(1 << 30)
            .max_record_size(Some(2 << 20))
            .record_distribution(RecordDistribution::ByKey)
            .ordering(Ordering::PerKey)
            .seed(17)
            .build();
        assert_eq!(config(all), Ok(expected.unwrap()));
    }

    #[test]
    fn errors_name_the_option_the_value_and_the_range() {
        assert_eq!(
            config("--collection-max-count 501"),
            Err("--collection-max-count is 501, but must be from 1 to 500".into())
        );
        assert_eq!(
            config("--record-ttl 200ms --record-max-buffered-time 1s"),
            Err("--record-ttl is 200ms, but must be more than --record-max-buffered-time (1s)".into())
        );
        assert_eq!(
            config("--ordering per-key --record-distribution auto"),
            Err("--ordering is per-key, but must be none if --record-distribution is auto".into())
        );
        assert_eq!(
            config("--ordering per-key --consumers any-shard"),
            Err("--ordering is per-key, but must be none if --consumers is any-shard".into())
        );
        assert!(config("--record-ttl tomorrow").unwrap_err().contains("--record-ttl"));
        assert!(config("--aggregation-max-size 5MB!").unwrap_err().contains("--aggregation-max-size"));
    }

    #[test]
    fn raised_limits_are_in_range_and_options_override_them() {
        let raised = Settings::default().without_shard_limits().config().unwrap();
        assert_eq!(raised.rate_limit_records_per_shard(), 1_000_000);
        let given = Settings { rate_limit_records_per_shard: Some(5), ..Settings::default() };
        assert_eq!(given.without_shard_limits().config().unwrap().rate_limit_records_per_shard(), 5);
    }
}

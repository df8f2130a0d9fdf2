//! The model: streams, shards, records, and their operations.

mod describe;
mod put;
mod read;
mod reshard;
mod stream;
mod tokens;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ServiceError;
use crate::api::{
    CreateStream, DeleteStream, Done, Target, UpdateMaxRecordSize, UpdateStreamRecordDistributionStrategy,
};
use crate::faults::{Fate, Faults};
pub use stream::StoredRecord;
pub(crate) use stream::{Shard, Stream};

/// The options of the service.
#[derive(Clone, Debug)]
pub struct Options {
    /// The seed of the faults and of the shards that AUTO streams choose.
    pub seed: u64,
    /// The AWS region in ARNs.
    pub region: String,
    /// The AWS account in ARNs.
    pub account_id: String,
    /// The time that a stream is CREATING, or UPDATING after a reshard, before it is ACTIVE.
    pub transition: Duration,
    /// The limit of a shard, in records per second. `None`: no limit.
    pub shard_records_per_second: Option<u64>,
    /// The limit of a shard, in bytes per second. `None`: no limit.
    pub shard_bytes_per_second: Option<u64>,
    /// The maximum number of bytes in a stream. Above it, the oldest records are discarded. `None`: no maximum.
    pub retain_bytes_max: Option<usize>,
    /// The start of the counter of created streams. Tokens and iterators of a service with another start are not valid.
    pub incarnation: u64,
    /// Whether PutRecords refuses only a record that is too large, as kinesis-mock does, and not the whole request.
    pub oversized_record_fails_alone: bool,
}

impl Default for Options {
    /// The limits of Kinesis. All records are stored, and transitions take no time.
    fn default() -> Self {
        Self {
            seed: 0,
            region: "us-east-1".into(),
            account_id: "000000000000".into(),
            transition: Duration::ZERO,
            shard_records_per_second: Some(1_000),
            shard_bytes_per_second: Some(1 << 20),
            retain_bytes_max: None,
            incarnation: 0,
            oversized_record_fails_alone: false,
        }
    }
}

impl Options {
    /// Returns options without limits of shards, for benchmarks of producers.
    pub fn unlimited() -> Self {
        Self { shard_records_per_second: None, shard_bytes_per_second: None, ..Self::default() }
    }
}

/// Counters since the service was created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The number of requests per operation, failed ones included.
    pub requests: BTreeMap<&'static str, u64>,
    /// The number of requests that failed by a fault.
    pub requests_failed: u64,
    /// The number of stored Kinesis records.
    pub records_stored: u64,
    /// The size of their data, in bytes.
    pub bytes_stored: u64,
    /// Their PUT payload units: data and partition key in units of 25 KiB, rounded up per record.
    pub payload_units: u64,
    /// The number of Kinesis records throttled by a shard's limit or by a fault.
    pub records_throttled: u64,
    /// The number of Kinesis records that failed with `InternalFailure`.
    pub records_failed: u64,
}

/// Kinesis Data Streams as a state machine.
///
/// `now` is the time since the Unix epoch. It must not go backwards.
#[derive(Debug)]
pub struct Kinesis {
    options: Options,
    faults: Faults,
    /// The number of requests per operation when the faults were set.
    requests_before_faults: BTreeMap<&'static str, u64>,
    rng: fastrand::Rng,
    streams: BTreeMap<String, Stream>,
    /// The number of created streams. It distinguishes a stream from an earlier one with the same name.
    incarnations: u64,
    counters: Counters,
}

impl Kinesis {
    /// Creates a service without streams.
    pub fn new(options: Options) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(options.seed),
            incarnations: options.incarnation,
            options,
            faults: Faults::default(),
            requests_before_faults: BTreeMap::new(),
            streams: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// Switches faults on or off.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
        self.requests_before_faults.clone_from(&self.counters.requests);
    }

    /// Returns the faults that are on.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Returns the counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Counts a request, and draws which faults affect it.
    pub fn admit(&mut self, operation: &'static str) -> Fate {
        let requests = self.counters.requests.entry(operation).or_insert(0);
        let before_faults = self.requests_before_faults.get(operation).copied().unwrap_or(0);
        let fate = self.faults.fate(operation, *requests - before_faults, &mut self.rng);
        *requests += 1;
        self.counters.requests_failed += u64::from(fate.http_500 || fate.error.is_some());
        fate
    }

    /// Returns the stored records of a stream with their shard and its range (first and last hash key).
    ///
    /// They are ordered by shard, then by sequence number.
    pub fn records(&self, stream: &str) -> impl Iterator<Item = (&str, (u128, u128), &StoredRecord)> {
        let shards = self.streams.get(stream).into_iter().flat_map(|stream| &stream.shards);
        shards.flat_map(|shard| shard.records.iter().map(|record| (&*shard.id, shard.range, record)))
    }

    /// Returns the open shards of a stream with their ranges (first and last hash key), ordered by range.
    pub fn open_shards(&self, stream: &str) -> impl Iterator<Item = (&str, (u128, u128))> {
        let stream = self.streams.get(stream).into_iter();
        stream.flat_map(|stream| stream.open_shards().map(|shard| (&*shard.id, shard.range)))
    }

    /// Sets the maximum record size of a stream, in KiB. It may be below the service's minimum, so that a simulation of
    /// records that are too large does not need megabytes.
    pub fn limit_record_size(&mut self, stream: &str, kib: usize) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.max_record_size = kib * 1_024;
        }
    }

    /// Executes CreateStream.
    ///
    /// # Errors
    ///
    /// `ValidationException`, `ResourceInUseException`, `LimitExceededException`.
    pub fn create_stream(&mut self, now: Duration, request: &CreateStream) -> Result<Done, ServiceError> {
        check_name(&request.stream_name)?;
        if self.streams.contains_key(&request.stream_name) {
            let message =
                format!("Stream {} under account {} already exists.", request.stream_name, self.options.account_id);
            return Err(ServiceError::resource_in_use(message));
        }
        let on_demand = match request.stream_mode_details.as_ref().map(|details| details.stream_mode.as_str()) {
            None | Some("PROVISIONED") => false,
            Some("ON_DEMAND") => true,
            Some(other) => {
                return Err(ServiceError::validation(format!(
                    "StreamMode must be PROVISIONED or ON_DEMAND, not {other:?}"
                )));
            }
        };
        let shards = match request.shard_count {
            None if on_demand => 4,
            None => return Err(ServiceError::validation("ShardCount is required for a provisioned stream")),
            Some(count) if count < 1 => {
                return Err(ServiceError::validation(format!("ShardCount must be 1 or more, not {count}")));
            }
            Some(count) if count > 10_000 => {
                return Err(ServiceError::limit_exceeded(format!(
                    "{count} shards exceed the account's limit of 10000"
                )));
            }
            Some(count) => count as usize,
        };
        let size = record_size_limit(request.max_record_size_in_kib)?;
        let auto = request.record_distribution_strategy.as_deref().map(is_auto).transpose()?.unwrap_or(false);
        self.incarnations += 1;
        let mut stream = Stream::new(request.stream_name.clone(), self.incarnations, now, shards);
        stream.active_at = now.saturating_add(self.options.transition);
        (stream.on_demand, stream.max_record_size, stream.auto_distribution) = (on_demand, size, auto);
        self.streams.insert(request.stream_name.clone(), stream);
        Ok(Done {})
    }

    /// Executes DeleteStream, without a transition.
    ///
    /// # Errors
    ///
    /// `ResourceNotFoundException`, and the errors of an invalid name.
    pub fn delete_stream(&mut self, request: &DeleteStream) -> Result<Done, ServiceError> {
        let name = self.stream(request)?.name.clone();
        self.streams.remove(&name);
        Ok(Done {})
    }

    /// Executes UpdateMaxRecordSize.
    ///
    /// # Errors
    ///
    /// `ValidationException`, `ResourceNotFoundException`.
    pub fn update_max_record_size(&mut self, request: &UpdateMaxRecordSize) -> Result<Done, ServiceError> {
        let size = record_size_limit(request.max_record_size_in_kib)?;
        self.stream_mut(request)?.max_record_size = size;
        Ok(Done {})
    }

    /// Executes UpdateStreamRecordDistributionStrategy, which sets whether keys choose the shards of records.
    ///
    /// Kinesis allows AUTO only for on-demand streams. Here, any stream can have it, so that tests can choose its shards.
    ///
    /// # Errors
    ///
    /// `ValidationException`, `ResourceNotFoundException`.
    pub fn update_record_distribution(
        &mut self,
        request: &UpdateStreamRecordDistributionStrategy,
    ) -> Result<Done, ServiceError> {
        let auto = is_auto(&request.record_distribution_strategy)?;
        self.stream_mut(request)?.auto_distribution = auto;
        Ok(Done {})
    }

    fn stream(&self, target: &impl Target) -> Result<&Stream, ServiceError> {
        let name = self.name(target)?;
        self.streams.get(name).ok_or_else(|| not_found(name, &self.options.account_id))
    }

    fn stream_mut(&mut self, target: &impl Target) -> Result<&mut Stream, ServiceError> {
        let name = self.name(target)?;
        self.streams.get_mut(name).ok_or_else(|| not_found(name, &self.options.account_id))
    }

    /// Returns the name of a request's stream. If the request has an ARN and a name, only the ARN is used.
    fn name<'a>(&self, target: &'a impl Target) -> Result<&'a str, ServiceError> {
        let name = match (target.stream_name(), target.stream_arn()) {
            (_, Some(arn)) => {
                let prefix = self.arn("");
                arn.strip_prefix(&*prefix).ok_or_else(|| {
                    if arn.starts_with("arn:") && arn.contains(":stream/") {
                        ServiceError::resource_not_found(format!("{arn} does not start with {prefix}"))
                    } else {
                        ServiceError::validation(format!("StreamARN must be the ARN of a stream, not {arn:?}"))
                    }
                })?
            }
            (Some(name), None) => name,
            (None, None) => {
                return Err(ServiceError::invalid_argument("StreamName or StreamARN is required"));
            }
        };
        check_name(name)?;
        Ok(name)
    }

    fn arn(&self, name: &str) -> String {
        format!("arn:aws:kinesis:{}:{}:stream/{name}", self.options.region, self.options.account_id)
    }
}

fn not_found(name: &str, account_id: &str) -> ServiceError {
    ServiceError::resource_not_found(format!("Stream {name} under account {account_id} not found."))
}

fn check_name(name: &str) -> Result<(), ServiceError> {
    let valid = (1..=128).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if valid {
        return Ok(());
    }
    Err(ServiceError::validation(format!("StreamName must have 1 to 128 characters of [a-zA-Z0-9_.-], not {name:?}")))
}

fn record_size_limit(kib: Option<i64>) -> Result<usize, ServiceError> {
    match kib {
        None => Ok(1 << 20),
        Some(kib @ 1_024..=10_240) => Ok(kib as usize * 1_024),
        Some(kib) => Err(ServiceError::validation(format!("MaxRecordSizeInKiB must be from 1024 to 10240, not {kib}"))),
    }
}

fn is_auto(strategy: &str) -> Result<bool, ServiceError> {
    match strategy {
        "AUTO" => Ok(true),
        "USER_PARTITION_KEY" => Ok(false),
        other => Err(ServiceError::validation(format!(
            "RecordDistributionStrategy must be AUTO or USER_PARTITION_KEY, not {other:?}"
        ))),
    }
}

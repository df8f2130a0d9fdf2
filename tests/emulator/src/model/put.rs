//! PutRecord and PutRecords.

use std::time::Duration;

use md5::{Digest, Md5};

use super::stream::NewRecord;
use super::{Kinesis, Options};
use crate::ServiceError;
use crate::api::{
    DeleteStream, PutRecord, PutRecordOutput, PutRecords, PutRecordsEntry, PutRecordsOutput, PutRecordsResult, Target,
};

const REQUEST_RECORDS_MAX: usize = 500;
const REQUEST_BYTES_MAX: usize = 10 << 20;
/// In bytes: <https://aws.amazon.com/kinesis/data-streams/pricing/>
const PAYLOAD_UNIT: usize = 25 << 10;

impl Kinesis {
    /// Executes PutRecord.
    ///
    /// # Errors
    ///
    /// The errors of an invalid or missing stream, of an invalid record, `ProvisionedThroughputExceededException`, and
    /// `InternalFailure`.
    pub fn put_record(&mut self, now: Duration, request: PutRecord) -> Result<PutRecordOutput, ServiceError> {
        let PutRecord { stream_name, stream_arn, partition_key, explicit_hash_key, data } = request;
        let entry = PutRecordsEntry { partition_key, explicit_hash_key, data };
        let target = DeleteStream { stream_name, stream_arn };
        let mut results = self.put_all(now, &target, vec![entry], false)?;
        let result = results.pop().unwrap_or_default();
        match (result.shard_id, result.sequence_number) {
            (Some(shard_id), Some(sequence_number)) => Ok(PutRecordOutput { shard_id, sequence_number }),
            _ => {
                let message = result.error_message.unwrap_or_default();
                let throttled = result.error_code.as_deref() == Some("ProvisionedThroughputExceededException");
                Err(if throttled {
                    ServiceError::throughput_exceeded(message)
                } else {
                    ServiceError::internal_failure(message)
                })
            }
        }
    }

    /// Executes PutRecords. Each record is stored or fails separately. An invalid record fails the whole request.
    ///
    /// # Errors
    ///
    /// The errors of an invalid or missing stream, and of an invalid record.
    pub fn put_records(&mut self, now: Duration, request: PutRecords) -> Result<PutRecordsOutput, ServiceError> {
        let PutRecords { stream_name, stream_arn, records } = request;
        if !(1..=REQUEST_RECORDS_MAX).contains(&records.len()) {
            let message = format!("Records must have 1 to {REQUEST_RECORDS_MAX} entries, not {}", records.len());
            return Err(ServiceError::validation(message));
        }
        let size: usize = records.iter().map(PutRecordsEntry::size).sum();
        if size > REQUEST_BYTES_MAX {
            let message = format!("Records must have at most {REQUEST_BYTES_MAX} bytes of data and keys, not {size}");
            return Err(ServiceError::invalid_argument(message));
        }
        let target = DeleteStream { stream_name, stream_arn };
        let oversized_fails_alone = self.options.oversized_record_fails_alone;
        let records = self.put_all(now, &target, records, oversized_fails_alone)?;
        let failed_record_count = records.iter().filter(|record| record.error_code.is_some()).count();
        Ok(PutRecordsOutput { failed_record_count, records })
    }

    fn put_all(
        &mut self,
        now: Duration,
        target: &impl Target,
        entries: Vec<PutRecordsEntry>,
        oversized_fails_alone: bool,
    ) -> Result<Vec<PutRecordsResult>, ServiceError> {
        let name = self.name(target)?.to_owned();
        let stream = self.stream(target)?;
        if stream.status(now) == "CREATING" {
            // As Kinesis does, according to kinesalite. ResourceInUseException is not an error of these operations.
            return Err(super::not_found(&name, &self.options.account_id));
        }
        let limit = stream.max_record_size;
        let mut hash_keys = Vec::with_capacity(entries.len());
        for entry in &entries {
            let explicit = check(entry)?;
            if entry.data.len() + entry.partition_key.len() > limit && !oversized_fails_alone {
                return Err(ServiceError::invalid_argument(oversized(entry, limit)));
            }
            hash_keys.push(explicit);
        }
        let entries = entries.into_iter().zip(hash_keys);
        Ok(entries.map(|(entry, explicit)| self.put_one(now, &name, entry, explicit, limit)).collect())
    }

    fn put_one(
        &mut self,
        now: Duration,
        name: &str,
        entry: PutRecordsEntry,
        explicit_hash_key: Option<u128>,
        limit: usize,
    ) -> PutRecordsResult {
        let Self { streams, options, faults, rng, counters, .. } = self;
        let Some(stream) = streams.get_mut(name) else { return PutRecordsResult::default() };
        if entry.data.len() + entry.partition_key.len() > limit {
            return failed_result("InvalidArgumentException", oversized(&entry, limit));
        }
        let shard = if stream.auto_distribution {
            stream.nth_open_shard(rng.u64(..))
        } else {
            let by_key = || u128::from_be_bytes(Md5::digest(entry.partition_key.as_bytes()).into());
            stream.route(explicit_hash_key.unwrap_or_else(by_key))
        };
        match faults.record_error(rng) {
            Some("InternalFailure") => {
                counters.records_failed += 1;
                return failed_result("InternalFailure", "Internal service failure.".into());
            }
            Some(code) => {
                counters.records_throttled += 1;
                return failed_result(code, rate_exceeded(&stream.shards[shard].id, name, options));
            }
            None => {}
        }
        let size = entry.data.len() + entry.partition_key.len();
        if stream.shards[shard].throttles(now, size, options) {
            counters.records_throttled += 1;
            let message = rate_exceeded(&stream.shards[shard].id, name, options);
            return failed_result("ProvisionedThroughputExceededException", message);
        }
        counters.records_stored += 1;
        counters.bytes_stored += entry.data.len() as u64;
        counters.payload_units += (entry.data.len() + entry.partition_key.len()).div_ceil(PAYLOAD_UNIT) as u64;
        let PutRecordsEntry { partition_key, data, .. } = entry;
        let record = NewRecord { arrived_at: now, partition_key, explicit_hash_key, data };
        let sequence_number = stream.store(shard, record, options.retain_bytes_max);
        PutRecordsResult {
            shard_id: Some(stream.shards[shard].id.clone()),
            sequence_number: Some(sequence_number),
            ..PutRecordsResult::default()
        }
    }
}

/// Checks the limits that do not depend on the stream. Returns the explicit hash key.
fn check(entry: &PutRecordsEntry) -> Result<Option<u128>, ServiceError> {
    let chars = entry.partition_key.chars().count();
    if !(1..=256).contains(&chars) {
        return Err(ServiceError::validation(format!("PartitionKey must have 1 to 256 characters, not {chars}")));
    }
    entry.explicit_hash_key.as_deref().map(super::reshard::parse_hash_key).transpose()
}

fn failed_result(code: &str, message: String) -> PutRecordsResult {
    PutRecordsResult { error_code: Some(code.into()), error_message: Some(message), ..PutRecordsResult::default() }
}

fn oversized(entry: &PutRecordsEntry, limit: usize) -> String {
    let (data, key) = (entry.data.len(), entry.partition_key.len());
    format!("Data ({data} bytes) and PartitionKey ({key} bytes) exceed the stream's limit of {limit} bytes")
}

fn rate_exceeded(shard: &str, stream: &str, options: &Options) -> String {
    format!("Rate exceeded for shard {shard} in stream {stream} under account {}.", options.account_id)
}

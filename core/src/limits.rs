//! Limits of the service, each with its source.
//!
//! Sources: [quotas](https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html),
//! [PutRecords](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html),
//! [large records](https://docs.aws.amazon.com/streams/latest/dev/large-records.html).

/// Records in one PutRecords request (PutRecords: "up to 500 records").
pub const REQUEST_RECORDS_MAX: usize = 500;

/// Bytes in one PutRecords request, partition keys included (PutRecords: "up to 10 MiB for the entire request").
pub const REQUEST_SIZE_MAX: usize = 10 << 20;

/// Bytes in one record, data and partition key, on a stream that allows the most (large records: "up to 10 MiB").
pub const RECORD_SIZE_MAX: usize = 10 << 20;

/// Bytes in one record, data and partition key, on a stream that says nothing else (quotas: 1 MiB).
pub const RECORD_SIZE_DEFAULT: usize = 1 << 20;

/// Records a second that one shard takes (quotas: "up to 1,000 records per second for writes").
pub const SHARD_RECORDS_PER_SECOND: u64 = 1_000;

/// Bytes a second that one shard takes, partition keys included (quotas: "a maximum total data write rate of 1 MB").
pub const SHARD_BYTES_PER_SECOND: u64 = 1 << 20;

/// Characters in a partition key (PutRecords: "Unicode strings with a maximum length limit of 256 characters").
pub const PARTITION_KEY_CHARS_MAX: usize = 256;

/// Characters in a stream's name (CreateStream: pattern `[a-zA-Z0-9_.-]+`, at most 128).
pub const STREAM_NAME_CHARS_MAX: usize = 128;

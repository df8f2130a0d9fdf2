//! The limits of the service, with their sources.
//!
//! Sources: [quotas](https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html),
//! [PutRecords](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html),
//! [large records](https://docs.aws.amazon.com/streams/latest/dev/large-records.html).

/// The maximum number of records in one PutRecords request (PutRecords: "up to 500 records").
pub const REQUEST_RECORDS_MAX: usize = 500;

/// The maximum bytes in one PutRecords request, partition keys included
/// (PutRecords: "up to 10 MiB for the entire request").
pub const REQUEST_SIZE_MAX: usize = 10 << 20;

/// The highest limit that a stream can have for the bytes in one record, data and partition key
/// (large records: "up to 10 MiB").
pub const RECORD_SIZE_MAX: usize = 10 << 20;

/// The default limit of a stream for the bytes in one record, data and partition key (quotas: 1 MiB).
pub const RECORD_SIZE_DEFAULT: usize = 1 << 20;

/// The records per second that one shard accepts (quotas: "up to 1,000 records per second for writes").
pub const SHARD_RECORDS_PER_SECOND: u64 = 1_000;

/// The bytes per second that one shard accepts, partition keys included
/// (quotas: "a maximum total data write rate of 1 MB").
pub const SHARD_BYTES_PER_SECOND: u64 = 1 << 20;

/// The maximum number of characters in a partition key
/// (PutRecords: "Unicode strings with a maximum length limit of 256 characters").
pub const PARTITION_KEY_CHARS_MAX: usize = 256;

/// The maximum number of characters in a stream's name (CreateStream: pattern `[a-zA-Z0-9_.-]+`, at most 128).
pub const STREAM_NAME_CHARS_MAX: usize = 128;

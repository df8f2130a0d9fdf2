//! Counts that only grow.

/// Counts since the producer was made. Every one only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// User records accepted by `put`.
    pub user_records_put: u64,
    /// User records that got a receipt.
    pub user_records_succeeded: u64,
    /// User records that failed.
    pub user_records_failed: u64,
    /// User records whose attempt failed and that were tried again.
    pub user_records_retried: u64,
    /// PutRecords requests sent.
    pub requests: u64,
    /// Kinesis records that the service accepted.
    pub kinesis_records: u64,
    /// Kinesis records that the service throttled.
    pub kinesis_records_throttled: u64,
}

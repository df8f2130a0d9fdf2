//! Counters of a producer.

/// Counters since the creation of the producer. They never decrease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The number of user records accepted by `put`.
    pub user_records_put: u64,
    /// The number of user records that succeeded.
    pub user_records_succeeded: u64,
    /// The number of user records that failed.
    pub user_records_failed: u64,
    /// The number of retries of user records.
    pub user_records_retried: u64,
    /// The number of PutRecords requests sent.
    pub requests: u64,
    /// The number of stored Kinesis records.
    pub kinesis_records: u64,
    /// The number of throttled Kinesis records.
    pub kinesis_records_throttled: u64,
}

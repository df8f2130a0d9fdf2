//! Counters of a producer.

/// Counters since the creation of the producer. They never decrease.
///
/// The user records put are the sum of those that succeeded, those that failed, and those that are outstanding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The number of user records accepted, before they are sent.
    pub user_records_put: u64,
    /// The number of user records that succeeded: they are stored, and their results are receipts.
    pub user_records_succeeded: u64,
    /// The number of user records that were accepted and then failed. If a failure is ambiguous, the record may be
    /// stored.
    pub user_records_failed: u64,
    /// The number of retries of user records: a record that is retried twice counts twice. The halves of a refused
    /// request or aggregate do not count.
    pub user_records_retried: u64,
    /// The number of PutRecords requests passed to the driver.
    pub requests: u64,
    /// The number of Kinesis records that the service reported as stored, including aggregates on a wrong shard, whose
    /// user records are retried.
    pub kinesis_records: u64,
    /// The number of Kinesis records that the service throttled, each time they are sent. Without those that fail at
    /// once (`fail_if_throttled`).
    pub kinesis_records_throttled: u64,
}

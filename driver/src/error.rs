//! Why a record was not taken, and why a producer could not be made.

use kpl_core::{Full, InvalidRecord, UserRecord};

/// A record that was not taken, with the record.
///
/// ```no_run
/// # fn example<R: kpl_driver::Runtime>(producer: kpl_driver::Producer<R>, mut later: Vec<kpl_driver::core::UserRecord>) {
/// use kpl_driver::PutError;
///
/// match producer.try_put("events", "user-123", "hello") {
///     Ok(outcome) => drop(outcome), // it goes out all the same
///     Err(full @ PutError::Full { .. }) => later.push(full.into_record()),
///     Err(error) => println!("{error}: {:?}", error.record()),
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The record can never be put.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with it: field, value and limit.
        reason: InvalidRecord,
        /// The record as it was given.
        record: Box<UserRecord>,
    },
    /// The producer or the record's shard has no room for it. Only `try_put` and a put with a timeout return this; `put` waits.
    #[error("{full}")]
    Full {
        /// What is full: the producer, or one shard.
        full: Full,
        /// The record.
        record: Box<UserRecord>,
    },
    /// A put that waits was called inside an async task, whose thread may be the one that it would wait for. Only
    /// [`blocking`](crate::blocking) says so.
    #[error("a blocking put inside an async task: use the async producer, or `try_put`, or a thread for blocking code")]
    AsyncTask {
        /// The record.
        record: Box<UserRecord>,
    },
    /// The producer is closed, or its runtime was shut down.
    #[error("the producer is closed")]
    Closed {
        /// The record.
        record: Box<UserRecord>,
    },
}

impl PutError {
    /// The record that was not taken.
    pub fn record(&self) -> &UserRecord {
        match self {
            Self::Invalid { record, .. }
            | Self::Full { record, .. }
            | Self::AsyncTask { record }
            | Self::Closed { record } => record,
        }
    }

    /// Takes the record back.
    pub fn into_record(self) -> UserRecord {
        match self {
            Self::Invalid { record, .. }
            | Self::Full { record, .. }
            | Self::AsyncTask { record }
            | Self::Closed { record } => *record,
        }
    }
}

/// Why [`Producer::from_env`](crate::Producer::from_env) failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FromEnvError {
    /// No region was found in the environment, the profile, or the machine's metadata.
    #[error("no AWS region is set: set AWS_REGION, or `region` in the profile")]
    NoRegion,
    /// The file named by `AWS_CA_BUNDLE` cannot be used.
    #[error("AWS_CA_BUNDLE is {path:?}, which cannot be used: {reason}")]
    CaBundle {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Called inside an async task, where waiting may stop the thread that it waits for. Only
    /// [`blocking`](crate::blocking) says so.
    #[error("a blocking call inside an async task: use the async producer, or a thread for blocking code")]
    AsyncTask,
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be made: {0}")]
    HttpClient(String),
}

/// A file of certificate authorities that is none: why a driver's HTTP client could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the CA bundle of {len} bytes cannot be used: {reason}")]
pub struct CaBundleError {
    /// Its length.
    pub len: usize,
    /// What is wrong with it.
    pub reason: String,
}

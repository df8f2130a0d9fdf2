//! The errors of puts and of the creation of producers.

use kpl_core::{Full, InvalidRecord, UserRecord};

/// The error of a put, with the record.
///
/// ```no_run
/// # use kpl_driver::{Producer, Runtime, core::UserRecord};
/// # fn example<R: Runtime>(producer: Producer<R>, mut later: Vec<UserRecord>) {
/// use kpl_driver::PutError;
///
/// match producer.try_put("events", "user-123", "hello") {
///     Ok(outcome) => drop(outcome), // the record is sent anyway
///     Err(full @ PutError::Full { .. }) => later.push(full.into_record()),
///     Err(error) => println!("{error}: {:?}", error.record()),
/// }
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The record is invalid: no put can succeed.
    #[error("{reason}")]
    Invalid {
        /// The reason: field, value and limit.
        reason: InvalidRecord,
        /// The record, as it was put.
        record: Box<UserRecord>,
    },
    /// The producer or the record's shard is full. Only `try_put` and a put with a timeout return this; `put` waits.
    #[error("{full}")]
    Full {
        /// What is full: the producer, or one shard.
        full: Full,
        /// The record.
        record: Box<UserRecord>,
    },
    /// A blocking put was called inside an async task, where it could block the thread that it waits for. Only
    /// [`blocking`](crate::blocking) returns this.
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
    /// Returns the record.
    pub fn record(&self) -> &UserRecord {
        match self {
            Self::Invalid { record, .. }
            | Self::Full { record, .. }
            | Self::AsyncTask { record }
            | Self::Closed { record } => record,
        }
    }

    /// Returns the record, without a copy.
    pub fn into_record(self) -> UserRecord {
        match self {
            Self::Invalid { record, .. }
            | Self::Full { record, .. }
            | Self::AsyncTask { record }
            | Self::Closed { record } => *record,
        }
    }
}

/// The error of [`Producer::from_env`](crate::Producer::from_env).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FromEnvError {
    /// The environment, the profile and the machine's metadata name no region.
    #[error("no AWS region is set: set AWS_REGION, or `region` in the profile")]
    NoRegion,
    /// The file named by `AWS_CA_BUNDLE` cannot be used.
    #[error("AWS_CA_BUNDLE is {path:?}, which cannot be used: {reason}")]
    CaBundle {
        /// The path of the file.
        path: String,
        /// The reason.
        reason: String,
    },
    /// The call was made inside an async task, where it could block the thread that it waits for. Only
    /// [`blocking`](crate::blocking) returns this.
    #[error("a blocking call inside an async task: use the async producer, or a thread for blocking code")]
    AsyncTask,
    /// The HTTP client could not be created.
    #[error("the HTTP client could not be created: {0}")]
    HttpClient(String),
}

/// A driver's HTTP client could not be created because the CA bundle is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the CA bundle of {len} bytes cannot be used: {reason}")]
pub struct CaBundleError {
    /// The length of the bundle in bytes.
    pub len: usize,
    /// The reason.
    pub reason: String,
}

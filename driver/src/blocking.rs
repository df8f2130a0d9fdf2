//! The producer for code without an event loop: from any thread, by calls that wait.
//!
//! The same names as the [async producer's](crate::Producer), with time-outs. A time-out is an error of the call only: the
//! record stays on its way, and the call can be made again.
//!
//! Called inside an async task, a call that waits could stop the very thread that it waits for. It does not; it gives an
//! error that says so. Threads for blocking code, such as those of `spawn_blocking`, are no async tasks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_kinesis::Client;
use bytes::Bytes;
use kpl_core::{Config, PutFailure, Receipt, RecordResult, Stats, UserRecord};
use tokio::sync::oneshot;

use crate::aws::AwsTransport;
use crate::error::{FromEnvError, PutError};
use crate::metrics::{MetricsReport, MetricsSink};
use crate::park::wait_for;
use crate::producer::WaitingPut;
use crate::runtime::{AwsRuntime, Runtime};

/// What a blocking producer needs of a runtime.
pub trait BlockingRuntime: Runtime {
    /// A runtime for threads that have none. It outlives every producer.
    fn for_threads() -> Self;

    /// Whether this thread is running an async task, which must not be blocked.
    fn in_async_task() -> bool;
}

/// A producer whose calls wait. A handle, to be cloned and shared between threads; see [`crate::Producer`] for what it
/// does with records.
///
/// ```no_run
/// # use kpl_driver::{AwsRuntime, blocking};
/// # fn example<R: AwsRuntime + blocking::BlockingRuntime>() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// let producer = blocking::Producer::<R>::from_env()?; // a driver says what R is: `kpl_tokio::blocking::Producer`
/// let mut outcome = producer.put("events", "user-123", "hello")?; // waits for room, then hands back at once
/// let receipt = outcome.wait(Duration::from_secs(30))?;
/// println!("{} at {}", receipt.shard_id(), receipt.sequence_number());
/// producer.close(Duration::from_secs(60))?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Producer<R> {
    producer: crate::Producer<R>,
}

impl<R> Clone for Producer<R> {
    fn clone(&self) -> Self {
        Self { producer: self.producer.clone() }
    }
}

impl<R> From<crate::Producer<R>> for Producer<R> {
    /// A second face of a producer that an async application has: for its threads that block.
    fn from(producer: crate::Producer<R>) -> Self {
        Self { producer }
    }
}

impl<R: AwsRuntime + BlockingRuntime> Producer<R> {
    /// As [`crate::Producer::from_env`]. It waits for what the environment has to say, which may be a metadata service.
    ///
    /// # Errors
    ///
    /// As there, and [`FromEnvError::AsyncTask`].
    pub fn from_env() -> Result<Self, FromEnvError> {
        Self::from_env_with(Config::default())
    }

    /// As [`from_env`](Self::from_env), with settings.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn from_env_with(config: Config) -> Result<Self, FromEnvError> {
        if R::in_async_task() {
            return Err(FromEnvError::AsyncTask);
        }
        let (sender, made) = oneshot::channel();
        // Where the runtime is: the SDK's HTTP client and sleep need it.
        R::for_threads().spawn(async move {
            let _ = sender.send(crate::Producer::from_env_with(config).await);
        });
        let made = wait_for(made, None).and_then(Result::ok);
        Ok(made.unwrap_or_else(|| panic!("the task that made the producer has panicked"))?.into())
    }

    /// As [`crate::Producer::from_sdk_config`], from any thread.
    pub fn from_sdk_config(sdk_config: &SdkConfig, config: Config) -> Self {
        Self::new(crate::aws::client::<R>(sdk_config), config)
    }

    /// As [`crate::Producer::new`], from any thread.
    pub fn new(client: Client, config: Config) -> Self {
        let transport = AwsTransport::new::<R>(&client, config.request_timeout());
        crate::Producer::with_transport(R::for_threads(), transport, config).into()
    }
}

impl<R: BlockingRuntime> Producer<R> {
    /// Puts a record: waits until there is room for it, and gives the promise of its outcome.
    ///
    /// Threads and tasks that wait get in in the order of their coming. [`put_timeout`](Self::put_timeout) has a time-out.
    ///
    /// # Errors
    ///
    /// [`PutError::Invalid`], [`PutError::Closed`], [`PutError::AsyncTask`]; all give the record back.
    pub fn put(
        &self,
        stream: impl Into<Arc<str>>,
        partition_key: impl Into<String>,
        data: impl Into<Bytes>,
    ) -> Result<Outcome<R>, PutError> {
        self.put_record(UserRecord::new(stream, partition_key, data))
    }

    /// Puts a record, with an explicit hash key if it has one: waits until there is room for it.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn put_record(&self, record: UserRecord) -> Result<Outcome<R>, PutError> {
        self.put_timeout(record, Duration::MAX)
    }

    /// Puts a record, unless there is no room for it in all of `timeout`.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] then, and those of [`put`](Self::put); all give the record back.
    pub fn put_timeout(&self, record: UserRecord, timeout: Duration) -> Result<Outcome<R>, PutError> {
        if R::in_async_task() {
            return Err(PutError::AsyncTask { record: Box::new(record) });
        }
        let mut waiting = WaitingPut::new(record)?;
        if let Some(done) = wait_for(self.producer.put_waiting(&mut waiting), Some(timeout)) {
            return Ok(Outcome::new(done?));
        }
        Err(waiting.into_error(|| self.producer.full()))
    }

    /// Puts a record if there is room for it. It never waits, and works anywhere.
    ///
    /// # Errors
    ///
    /// As [`crate::Producer::try_put`]; all give the record back.
    pub fn try_put(
        &self,
        stream: impl Into<Arc<str>>,
        partition_key: impl Into<String>,
        data: impl Into<Bytes>,
    ) -> Result<Outcome<R>, PutError> {
        self.try_put_record(UserRecord::new(stream, partition_key, data))
    }

    /// Puts a record, with an explicit hash key if it has one, if there is room for it.
    ///
    /// # Errors
    ///
    /// As [`try_put`](Self::try_put).
    pub fn try_put_record(&self, record: UserRecord) -> Result<Outcome<R>, PutError> {
        Ok(Outcome::new(self.producer.try_put_record(record)?))
    }

    /// Sends without waiting for company what has been put so far, and waits until each of those records is resolved.
    ///
    /// # Errors
    ///
    /// [`WaitError::TimedOut`], and the flush goes on; [`WaitError::AsyncTask`], and it has not begun.
    pub fn flush(&self, timeout: Duration) -> Result<(), WaitError> {
        wait::<R, _>(self.producer.flush(), timeout)
    }

    /// Takes no more records, and waits until all are resolved.
    ///
    /// # Errors
    ///
    /// [`WaitError::TimedOut`], and the close goes on: call it again, or [`close_or_fail`](Self::close_or_fail).
    /// [`WaitError::AsyncTask`], and it has not begun.
    pub fn close(&self, timeout: Duration) -> Result<(), WaitError> {
        wait::<R, _>(self.producer.close(), timeout)
    }

    /// Takes no more records, and waits until all are resolved: what is not after `timeout` fails as `Closed`, with the
    /// record.
    ///
    /// # Errors
    ///
    /// [`WaitError::AsyncTask`], and it has not begun.
    pub fn close_or_fail(&self, timeout: Duration) -> Result<(), WaitError> {
        wait::<R, _>(self.producer.close_or_fail(timeout), Duration::MAX)
    }

    /// User records accepted and not yet resolved.
    pub fn outstanding_records(&self) -> usize {
        self.producer.outstanding_records()
    }

    /// Bytes (data and partition keys) accepted and not yet resolved.
    pub fn outstanding_bytes(&self) -> usize {
        self.producer.outstanding_bytes()
    }

    /// How long ago the oldest outstanding record was put, within 10 ms; `None` if none is outstanding.
    pub fn oldest_record_age(&self) -> Option<Duration> {
        self.producer.oldest_record_age()
    }

    /// Counts since the producer was made.
    pub fn stats(&self) -> Stats {
        self.producer.stats()
    }

    /// As [`crate::Producer::metrics`].
    pub fn metrics(&self) -> MetricsReport {
        self.producer.metrics()
    }

    /// As [`crate::Producer::metrics_of_last`].
    pub fn metrics_of_last(&self, seconds: u64) -> MetricsReport {
        self.producer.metrics_of_last(seconds)
    }

    /// As [`crate::Producer::export_metrics_to`].
    pub fn export_metrics_to(&self, sink: impl MetricsSink) {
        self.producer.export_metrics_to(sink);
    }

    /// The settings.
    pub fn config(&self) -> Config {
        self.producer.config()
    }

    /// The async producer behind this one.
    pub fn as_async(&self) -> &crate::Producer<R> {
        &self.producer
    }
}

/// What will become of a record. It can be waited for more than once, and dropped: the record goes out all the same.
///
/// Awaited, by `.await` in async code, it is a [`crate::Outcome`].
#[must_use = "dropping the outcome means never to know; the record goes out all the same"]
pub struct Outcome<R> {
    outcome: crate::Outcome,
    is_taken: bool,
    runtime: std::marker::PhantomData<fn() -> R>,
}

impl<R: BlockingRuntime> Outcome<R> {
    fn new(outcome: crate::Outcome) -> Self {
        Self { outcome, is_taken: false, runtime: std::marker::PhantomData }
    }

    /// Waits for the receipt, for at most `timeout`.
    ///
    /// # Errors
    ///
    /// [`WaitError::Failed`] with the record, if it failed. [`WaitError::TimedOut`] if nothing is known yet: the record
    /// is on its way all the same, and the call can be made again. [`WaitError::AsyncTask`], and
    /// [`WaitError::AlreadyTaken`] when the end has been given by an earlier call.
    pub fn wait(&mut self, timeout: Duration) -> Result<Receipt, WaitError> {
        if self.is_taken {
            return Err(WaitError::AlreadyTaken);
        }
        let result = wait::<R, _>(&mut self.outcome, timeout)?;
        self.is_taken = true;
        result.map_err(WaitError::Failed)
    }

    /// The result, if it is there already. Once given, the outcome has nothing more to give.
    pub fn try_result(&mut self) -> Option<RecordResult> {
        let result = self.outcome.try_result();
        self.is_taken |= result.is_some();
        result
    }
}

impl<R> IntoFuture for Outcome<R> {
    type Output = RecordResult;
    type IntoFuture = crate::Outcome;

    fn into_future(self) -> crate::Outcome {
        self.outcome
    }
}

impl<R> fmt::Debug for Outcome<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.outcome.fmt(f)
    }
}

/// Why a call that waits has nothing to give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// Not yet. What was waited for goes on.
    #[error("not done within {timeout:?}; it goes on")]
    TimedOut {
        /// How long the call has waited.
        timeout: Duration,
    },
    /// The record failed.
    #[error(transparent)]
    Failed(Box<PutFailure>),
    /// Inside an async task, waiting might stop the thread that it waits for.
    #[error("a blocking call inside an async task: use the async producer, or a thread for blocking code")]
    AsyncTask,
    /// The outcome gave its result to an earlier call.
    #[error("the outcome has given its result already")]
    AlreadyTaken,
}

/// Waits on this thread, unless an async task is running on it.
fn wait<R: BlockingRuntime, T>(future: impl Future<Output = T>, timeout: Duration) -> Result<T, WaitError> {
    if R::in_async_task() {
        return Err(WaitError::AsyncTask);
    }
    wait_for(future, Some(timeout)).ok_or(WaitError::TimedOut { timeout })
}

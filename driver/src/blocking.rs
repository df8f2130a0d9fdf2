//! The blocking producer, for threads without an event loop.
//!
//! It has the methods of the [async producer](crate::Producer), with timeouts. A timeout ends only the call: the
//! operation continues, and the call can be repeated.
//!
//! Inside an async task, a blocking call could block the thread that it waits for, so it returns an error. Threads for
//! blocking code, such as those of `spawn_blocking`, are not async tasks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_kinesis::Client;
use bytes::Bytes;
use kpl_core::{Config, PutFailure, Receipt, RecordResult, Stats, UserRecord};
use tokio::sync::oneshot;

use crate::aws::AwsTransport;
use crate::batch::{BatchRecord, PutBatchError, Refusal, WaitingBatch};
use crate::error::{FromEnvError, PutError};
use crate::metrics::{MetricsReport, MetricsSink};
use crate::park::wait_for;
use crate::producer::{WaitingPut, check};
use crate::runtime::{AwsRuntime, Runtime};

/// A runtime for the blocking producer. The function `blocking` of the module `conformance` checks an implementation.
pub trait BlockingRuntime: Runtime {
    /// Returns a runtime for threads that have none. It must work on any thread, and outlive every producer.
    fn for_threads() -> Self;

    /// Whether this thread runs an async task, which must not block. It must be true in every task, also after an
    /// `await`, and false on plain threads.
    fn in_async_task() -> bool;
}

/// A producer with blocking calls. It is a handle: clone it to share it between threads. [`crate::Producer`] describes
/// how it processes records.
///
/// ```no_run
/// # use kpl_driver::{AwsRuntime, blocking};
/// # fn example<R: AwsRuntime + blocking::BlockingRuntime>() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// let producer = blocking::Producer::<R>::from_env()?; // a driver sets R: `kpl_tokio::blocking::Producer`
/// let mut outcome = producer.put("events", "user-123", "hello")?; // waits for room only
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
    /// Creates a blocking handle of an async producer, for the threads of an async application that may block.
    fn from(producer: crate::Producer<R>) -> Self {
        Self { producer }
    }
}

impl<R: AwsRuntime + BlockingRuntime> Producer<R> {
    /// Creates a producer as [`crate::Producer::from_env`] does. Waits until the settings are loaded, which may need a
    /// request to a metadata service.
    ///
    /// # Errors
    ///
    /// The errors of [`crate::Producer::from_env`], and [`FromEnvError::AsyncTask`].
    ///
    /// # Panics
    ///
    /// If the driver's runtime for threads cannot be started, or the task that creates the producer panics.
    pub fn from_env() -> Result<Self, FromEnvError> {
        Self::from_env_with(Config::default())
    }

    /// Creates a producer as [`from_env`](Self::from_env) does, with `config`.
    ///
    /// # Errors
    ///
    /// The errors of [`from_env`](Self::from_env).
    pub fn from_env_with(config: Config) -> Result<Self, FromEnvError> {
        if R::in_async_task() {
            return Err(FromEnvError::AsyncTask);
        }
        let (sender, receiver) = oneshot::channel();
        // The SDK's HTTP client and sleep have to run in the runtime.
        R::for_threads().spawn(async move {
            let _ = sender.send(crate::Producer::from_env_with(config).await);
        });
        let producer = wait_for(receiver, None).and_then(Result::ok);
        Ok(producer.unwrap_or_else(|| panic!("the task that creates the producer panicked"))?.into())
    }

    /// Creates a producer as [`crate::Producer::from_sdk_config`] does, from any thread.
    ///
    /// # Panics
    ///
    /// If `sdk_config` has no behavior version, or the driver's runtime for threads cannot be started.
    pub fn from_sdk_config(sdk_config: &SdkConfig, config: Config) -> Self {
        Self::new(crate::aws::client::<R>(sdk_config), config)
    }

    /// Creates a producer as [`crate::Producer::new`] does, from any thread.
    ///
    /// # Panics
    ///
    /// If the driver's runtime for threads cannot be started.
    pub fn new(client: Client, config: Config) -> Self {
        let runtime = R::for_threads();
        let transport = AwsTransport::new(&runtime, &client, config.request_timeout());
        crate::Producer::with_transport(runtime, transport, config).into()
    }
}

impl<R: BlockingRuntime> Producer<R> {
    /// Puts a record. Waits until there is room for it, and returns its outcome.
    ///
    /// Waiting threads and tasks are served in the order of their calls. [`put_timeout`](Self::put_timeout) has a
    /// timeout.
    ///
    /// # Errors
    ///
    /// [`PutError::Invalid`], [`PutError::Closed`], [`PutError::AsyncTask`]; all contain the record.
    pub fn put(
        &self,
        stream: impl Into<Arc<str>>,
        partition_key: impl Into<String>,
        data: impl Into<Bytes>,
    ) -> Result<Outcome<R>, PutError> {
        self.put_record(UserRecord::new(stream, partition_key, data))
    }

    /// Puts a record, which may have an explicit hash key. Waits until there is room for it.
    ///
    /// ```no_run
    /// # use kpl_driver::{PutError, blocking};
    /// # fn example<R: blocking::BlockingRuntime>(producer: blocking::Producer<R>) -> Result<(), PutError> {
    /// use kpl_driver::core::UserRecord;
    ///
    /// // The record goes to the shard whose range contains 42.
    /// let record = UserRecord::new("events", "user-123", "hello").explicit_hash_key("42");
    /// let outcome = producer.put_record(record)?;
    /// # drop(outcome);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`put`](Self::put).
    pub fn put_record(&self, record: UserRecord) -> Result<Outcome<R>, PutError> {
        self.put_timeout(record, Duration::MAX)
    }

    /// Puts a record. Waits at most `timeout` until there is room for it.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] after `timeout`, and the errors of [`put`](Self::put); all contain the record.
    pub fn put_timeout(&self, record: UserRecord, timeout: Duration) -> Result<Outcome<R>, PutError> {
        if R::in_async_task() {
            return Err(PutError::AsyncTask { record: Box::new(record) });
        }
        let (ticket, outcome) = crate::Outcome::new();
        let mut waiting = WaitingPut::new(check(record)?, ticket);
        match wait_for(self.producer.put_waiting(&mut waiting), Some(timeout)) {
            Some(Ok(())) => Ok(Outcome::new(outcome)),
            Some(Err(error)) => Err(error),
            None => Err(waiting.into_error(|| self.producer.full())),
        }
    }

    /// Puts the records of a batch, in order. Waits until there is room for all of them, and returns one outcome for
    /// the batch, as [`crate::Producer::put_batch`] does.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use kpl_driver::blocking;
    /// # fn example<R: blocking::BlockingRuntime>(producer: blocking::Producer<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut outcome = producer.put_batch("events", [("user-123", "hello"), ("user-124", "world")])?;
    /// for result in outcome.wait(Duration::from_secs(30))? {
    ///     println!("{}", result?.sequence_number());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`PutBatchError`], if a record is invalid, the producer is closed, or the call is made inside an async task. It has
    /// the outcome of the records before that one, and returns all others.
    pub fn put_batch<B: Into<BatchRecord>>(
        &self,
        stream: impl Into<Arc<str>>,
        records: impl IntoIterator<Item = B>,
    ) -> Result<BatchOutcome<R>, PutBatchError> {
        self.put_batch_timeout(stream, records, Duration::MAX)
    }

    /// Puts the records of a batch, in order. Waits at most `timeout` until there is room for all of them.
    ///
    /// # Errors
    ///
    /// [`PutBatchError`] with [`Refusal::Full`] after `timeout`, and for the reasons of [`put_batch`](Self::put_batch). It
    /// has the outcome of the records before that one, and returns all others.
    pub fn put_batch_timeout<B: Into<BatchRecord>>(
        &self,
        stream: impl Into<Arc<str>>,
        records: impl IntoIterator<Item = B>,
        timeout: Duration,
    ) -> Result<BatchOutcome<R>, PutBatchError> {
        if R::in_async_task() {
            return Err(WaitingBatch::refuse(Refusal::AsyncTask, records));
        }
        let mut batch = WaitingBatch::new(stream, records)?;
        let error = match wait_for(self.producer.put_waiting_batch(&mut batch), Some(timeout)) {
            Some(Ok(())) => return Ok(BatchOutcome::new(batch.into_outcome())),
            Some(Err(error)) => error,
            None => batch.timed_out(|| self.producer.full()),
        };
        Err(batch.into_error(error))
    }

    /// Puts the records of a batch, in order, if there is room for them. Never waits, and may be called in an async task.
    ///
    /// # Errors
    ///
    /// The errors of [`crate::Producer::try_put_batch`].
    pub fn try_put_batch<B: Into<BatchRecord>>(
        &self,
        stream: impl Into<Arc<str>>,
        records: impl IntoIterator<Item = B>,
    ) -> Result<BatchOutcome<R>, PutBatchError> {
        Ok(BatchOutcome::new(self.producer.try_put_batch(stream, records)?))
    }

    /// Puts a record if there is room for it. Never waits, and may be called in an async task.
    ///
    /// # Errors
    ///
    /// The errors of [`crate::Producer::try_put`]; all contain the record.
    pub fn try_put(
        &self,
        stream: impl Into<Arc<str>>,
        partition_key: impl Into<String>,
        data: impl Into<Bytes>,
    ) -> Result<Outcome<R>, PutError> {
        self.try_put_record(UserRecord::new(stream, partition_key, data))
    }

    /// Puts a record, which may have an explicit hash key, if there is room for it.
    ///
    /// # Errors
    ///
    /// The errors of [`try_put`](Self::try_put).
    pub fn try_put_record(&self, record: UserRecord) -> Result<Outcome<R>, PutError> {
        Ok(Outcome::new(self.producer.try_put_record(record)?))
    }

    /// Sends all records put so far, without waiting for more, and waits until they are resolved, as
    /// [`crate::Producer::flush`] does.
    ///
    /// # Errors
    ///
    /// [`WaitError::TimedOut`]: the flush continues. [`WaitError::AsyncTask`]: the flush did not start.
    pub fn flush(&self, timeout: Duration) -> Result<(), WaitError> {
        wait::<R, _>(self.producer.flush(), timeout)
    }

    /// Accepts no more records, and waits until all are resolved and the metrics sinks have had up to 10 s for a last
    /// report, as [`crate::Producer::close`] does.
    ///
    /// # Errors
    ///
    /// [`WaitError::TimedOut`]: the close continues; call this again, or [`close_or_fail`](Self::close_or_fail).
    /// [`WaitError::AsyncTask`]: the close did not start.
    pub fn close(&self, timeout: Duration) -> Result<(), WaitError> {
        wait::<R, _>(self.producer.close(), timeout)
    }

    /// Accepts no more records, and waits until all are resolved. Records that are not resolved after `timeout` fail as
    /// `Closed`; the failure contains the record.
    ///
    /// With metrics sinks, this takes up to 1 s more than `timeout`: see [`crate::Producer::close_or_fail`].
    ///
    /// # Errors
    ///
    /// [`WaitError::AsyncTask`]: the close did not start.
    pub fn close_or_fail(&self, timeout: Duration) -> Result<(), WaitError> {
        wait::<R, _>(self.producer.close_or_fail(timeout), Duration::MAX)
    }

    /// Returns the number of user records accepted and not yet resolved.
    pub fn outstanding_records(&self) -> usize {
        self.producer.outstanding_records()
    }

    /// Returns the number of bytes (data and partition keys) accepted and not yet resolved.
    pub fn outstanding_bytes(&self) -> usize {
        self.producer.outstanding_bytes()
    }

    /// Returns the time since the oldest outstanding record was put, within 10 ms; `None` if none is outstanding.
    pub fn oldest_record_age(&self) -> Option<Duration> {
        self.producer.oldest_record_age()
    }

    /// Returns the counters since the creation of the producer.
    pub fn stats(&self) -> Stats {
        self.producer.stats()
    }

    /// Returns the same as [`crate::Producer::metrics`].
    pub fn metrics(&self) -> MetricsReport {
        self.producer.metrics()
    }

    /// Returns the same as [`crate::Producer::metrics_of_last`].
    pub fn metrics_of_last(&self, seconds: u64) -> MetricsReport {
        self.producer.metrics_of_last(seconds)
    }

    /// Adds a sink as [`crate::Producer::export_metrics_to`] does. It receives nothing with `metrics_level` none, the
    /// default.
    pub fn export_metrics_to(&self, sink: impl MetricsSink) {
        self.producer.export_metrics_to(sink);
    }

    /// Returns the settings.
    pub fn config(&self) -> Config {
        self.producer.config()
    }

    /// Returns the async producer behind this handle.
    pub fn as_async(&self) -> &crate::Producer<R> {
        &self.producer
    }
}

/// The future result of a record. [`wait`](Self::wait) can be called again after a timeout. Dropping the outcome does
/// not cancel the record.
///
/// In async code, `.await` turns it into a [`crate::Outcome`]. To await it in a `select!`, call
/// [`into_future`](IntoFuture::into_future) first, and await `&mut` of the result.
#[must_use = "without the outcome, the result of the record is unknown; the record is sent anyway"]
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
    /// [`WaitError::Failed`], with the record, if the record failed. [`WaitError::TimedOut`] if there is no result yet:
    /// the record is still being sent, and the call can be repeated. [`WaitError::AlreadyTaken`] if an earlier call
    /// returned the result. [`WaitError::AsyncTask`] inside an async task.
    pub fn wait(&mut self, timeout: Duration) -> Result<Receipt, WaitError> {
        if self.is_taken {
            return Err(WaitError::AlreadyTaken);
        }
        let result = wait::<R, _>(&mut self.outcome, timeout)?;
        self.is_taken = true;
        result.map_err(WaitError::Failed)
    }

    /// Takes the result, if there is one yet. Afterwards the outcome has no result:
    /// [`wait`](Self::wait) returns [`WaitError::AlreadyTaken`], and `.await` panics.
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

/// The future results of a batch: see [`crate::BatchOutcome`]. [`wait`](Self::wait) can be called again after a timeout.
/// In async code, `.await` turns it into a [`crate::BatchOutcome`].
#[must_use = "without the outcome, the results of the records are unknown; the records are sent anyway"]
pub struct BatchOutcome<R> {
    outcome: crate::BatchOutcome,
    is_taken: bool,
    runtime: std::marker::PhantomData<fn() -> R>,
}

impl<R: BlockingRuntime> BatchOutcome<R> {
    fn new(outcome: crate::BatchOutcome) -> Self {
        Self { outcome, is_taken: false, runtime: std::marker::PhantomData }
    }

    /// Waits until all records are resolved, for at most `timeout`. Returns the result of each record, in the order of
    /// the batch.
    ///
    /// # Errors
    ///
    /// [`WaitError::TimedOut`] if a record has no result yet: the call can be repeated. [`WaitError::AlreadyTaken`] if an
    /// earlier call returned the results. [`WaitError::AsyncTask`] inside an async task.
    pub fn wait(&mut self, timeout: Duration) -> Result<Vec<RecordResult>, WaitError> {
        if self.is_taken {
            return Err(WaitError::AlreadyTaken);
        }
        let results = wait::<R, _>(&mut self.outcome, timeout)?;
        self.is_taken = true;
        Ok(results)
    }

    /// Takes the results, if all records are resolved. Afterwards the outcome has no results:
    /// [`wait`](Self::wait) returns [`WaitError::AlreadyTaken`], and `.await` panics.
    pub fn try_results(&mut self) -> Option<Vec<RecordResult>> {
        let results = self.outcome.try_results();
        self.is_taken |= results.is_some();
        results
    }
}

impl<R> BatchOutcome<R> {
    /// Returns the result of a record, if there is one yet: see [`crate::BatchOutcome::result`].
    pub fn result(&self, index: usize) -> Option<RecordResult> {
        self.outcome.result(index)
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.outcome.len()
    }

    /// Whether it has no records.
    pub fn is_empty(&self) -> bool {
        self.outcome.is_empty()
    }
}

impl<R> IntoFuture for BatchOutcome<R> {
    type Output = Vec<RecordResult>;
    type IntoFuture = crate::BatchOutcome;

    fn into_future(self) -> crate::BatchOutcome {
        self.outcome
    }
}

impl<R> fmt::Debug for BatchOutcome<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.outcome.fmt(f)
    }
}

/// The error of a blocking call of a [`Producer`] or an [`Outcome`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The operation is not finished yet. It continues. From [`Outcome::wait`], [`Producer::flush`] and
    /// [`Producer::close`].
    #[error("not finished within {timeout:?}; the operation continues")]
    TimedOut {
        /// The timeout of the call.
        timeout: Duration,
    },
    /// The record failed. From [`Outcome::wait`].
    #[error(transparent)]
    Failed(Box<PutFailure>),
    /// The call was made inside an async task, where it could block the thread that it waits for. From every call that
    /// waits and returns this type.
    #[error("a blocking call inside an async task: use the async producer, or a thread for blocking code")]
    AsyncTask,
    /// An earlier call returned the result. From [`Outcome::wait`].
    #[error("an earlier call returned the result")]
    AlreadyTaken,
}

/// Waits for a future on this thread, unless the thread runs an async task.
fn wait<R: BlockingRuntime, T>(future: impl Future<Output = T>, timeout: Duration) -> Result<T, WaitError> {
    if R::in_async_task() {
        return Err(WaitError::AsyncTask);
    }
    wait_for(future, Some(timeout)).ok_or(WaitError::TimedOut { timeout })
}

//! A Kinesis producer for tokio. It does what the Amazon Kinesis Producer Library (KPL) does in C++, as a library in
//! your process.
//!
//! The first record, after `cargo add kpl-tokio`:
//!
//! ```no_run
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let producer = kpl_tokio::Producer::from_env().await?; // region and credentials as the AWS SDK finds them
//!     // Waits while the producer or the record's shard is full.
//!     let outcome = producer.put("events", "user-123", "hello").await?;
//!     let receipt = outcome.await?;
//!     println!("{} at {}", receipt.shard_id(), receipt.sequence_number());
//!     producer.close().await;
//!     Ok(())
//! }
//! ```
//!
//! The producer packs records into aggregates, which consumers deaggregate with the KCL or with AWS's deaggregation
//! modules. It groups records per shard, keeps each shard below its rate limit, sends them in full requests, and
//! retries them depending on the error.
//!
//! # Many records
//!
//! A record is buffered for up to `record_max_buffered_time` (100 ms), to share a batch with others. Do not await each
//! outcome before the next put: keep the [`Outcome`]s and await them later, in any order, or drop them. Dropping an
//! outcome does not cancel its record. A [`Producer`] is a handle for any number of streams and tasks: clone it.
//!
//! ```no_run
//! # async fn example(producer: kpl_tokio::Producer) -> Result<(), kpl_tokio::PutError> {
//! let mut outcomes = Vec::new();
//! for n in 0..100_000 {
//!     outcomes.push(producer.put("events", format!("user-{n}"), "hello").await?);
//! }
//! producer.flush().await; // all of them are resolved now
//! # Ok(()) }
//! ```
//!
//! # Backpressure
//!
//! [`Producer::put`] waits while `max_outstanding_records` or `max_outstanding_bytes` are outstanding, or while the
//! record's shard has a backlog of `max_shard_backlog`. [`Producer::try_put`] returns the record instead
//! ([`PutError::Full`]). The first two settings limit the memory. The third one limits the backlog of each shard, and
//! does not affect other shards.
//!
//! # Failures
//!
//! A failed record is returned with the history of its attempts:
//!
//! ```no_run
//! # async fn example(outcome: kpl_tokio::Outcome) {
//! match outcome.await {
//!     Ok(receipt) => println!("stored after {} attempts", receipt.attempts().len()),
//!     // An attempt had no reply, for example after a timeout: putting the record again may store a duplicate.
//!     Err(failure) if failure.is_ambiguous() => println!("{failure}; it may be in the stream"),
//!     Err(failure) => println!("{failure}; it is not in the stream: {:?}", failure.record),
//! }
//! # }
//! ```
//!
//! Throttled records wait for their shard. After a temporary error, a record is retried until `record_ttl` (30 s) ends.
//! After a permanent error, such as a stream that does not exist, it fails at once.
//!
//! # Shutdown
//!
//! [`Producer::close`] accepts no more records and waits until all are resolved. [`Producer::close_or_fail`] fails the
//! remaining records after a timeout. Every outcome resolves, also when the last handle is dropped or the runtime is
//! shut down.
//!
//! # Metrics
//!
//! The metrics and their names are the KPL's. With [`metrics_level`](ConfigBuilder::metrics_level) set,
//! [`Producer::metrics`] returns them at any time, and [`Producer::export_metrics_to`] sends them to a sink every
//! minute: CloudWatch, OpenTelemetry, Prometheus, DogStatsD, or your own. See [`metrics`].
//!
//! ```no_run
//! # async fn example(producer: kpl_tokio::Producer) {
//! use kpl_tokio::metrics::Metric;
//!
//! let metrics = producer.metrics();
//! println!("stored: {}", metrics.stream(Metric::UserRecordsPut, "events").sum);
//! if let Some(latency) = metrics.latency() {
//!     println!("99 % were stored within {:?}", latency.put_to_ack.quantile(0.99));
//! }
//! # }
//! ```
//!
//! # Without an event loop
//!
//! [`blocking::Producer`] has the same methods, which wait on any thread and take timeouts. It needs no runtime of
//! yours.
//!
//! # Settings
//!
//! Names and defaults are those of the KPL, except those listed in docs/migrating-from-the-kpl.md: [`Config::builder`].
//!
//! ```no_run
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use kpl_tokio::{Config, Producer};
//!
//! let config = Config::builder().record_ttl(Duration::from_secs(120)).build()?;
//! let producer = Producer::from_env_with(config).await?;
//! # Ok(()) }
//! ```
//!
//! Region, endpoint and credentials are settings of the AWS SDK: [`Producer::new`] takes a client,
//! [`Producer::from_sdk_config`] a config. [`with_current_profile`] reads the profile again when its keys were replaced;
//! [`Producer::from_env`] does so, too. [`http_client`] has HTTP clients for endpoints with a private certificate
//! authority.
//!
//! The producer logs throttling, resharding and similar events with `tracing`, never one line per record.

pub mod blocking;
#[cfg(feature = "datadog")]
pub mod datadog;
pub mod http_client;

use std::error::Error;
use std::future::Future;

use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use kpl_driver::{AwsRuntime, Clock, Runtime, SharedAsyncSleep};

pub use aws_config;
pub use aws_sdk_kinesis;
pub use kpl_driver::core::{
    Attempt, AttemptError, Attempts, Config, ConfigBuilder, ConfigError, Consumers, FailedAttempts, Full, Instant,
    InvalidRecord, Ordering, PutFailure, Receipt, RecordDistribution, RecordResult, ShardName, Stats, UserRecord, code,
};
pub use kpl_driver::{
    BatchOutcome, BatchRecord, FromEnvError, Outcome, PutBatchError, PutError, Refusal, metrics, with_current_profile,
};
#[cfg(feature = "sink")]
pub use kpl_driver::{RecordSink, SinkError};

/// A Kinesis producer on tokio. It is a handle that can be cloned: see [`kpl_driver::Producer`].
pub type Producer = kpl_driver::Producer<Tokio>;

/// The tokio runtime that was current when this value was created.
#[derive(Clone, Debug)]
pub struct Tokio {
    /// The wall clock time at `started`.
    origin: Instant,
    /// The start on tokio's clock: a test that pauses it pauses the producer.
    started: tokio::time::Instant,
    handle: tokio::runtime::Handle,
}

impl Default for Tokio {
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    fn default() -> Self {
        Self::new(tokio::runtime::Handle::current())
    }
}

impl Tokio {
    fn new(handle: tokio::runtime::Handle) -> Self {
        Self { origin: Clock::new().now(), started: tokio::time::Instant::now(), handle }
    }

    /// Returns the current runtime with a clock that is at `origin` now. For tests: with the time of the wall clock, no
    /// two runs are the same.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    pub fn starting_at(origin: Instant) -> Self {
        Self { origin, ..Self::default() }
    }
}

impl Runtime for Tokio {
    fn now(&self) -> Instant {
        self.origin + self.started.elapsed()
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(deadline.saturating_since(self.now()))
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(future);
    }
}

impl AwsRuntime for Tokio {
    fn http_client(ca_pem: Option<&[u8]>) -> Result<SharedHttpClient, Box<dyn Error + Send + Sync>> {
        Ok(match ca_pem {
            Some(pem) => http_client::with_ca_bundle(pem)?,
            None => http_client::new(),
        })
    }

    fn sleep_impl() -> SharedAsyncSleep {
        SharedAsyncSleep::new(TokioSleep::new())
    }

    fn never_connected(error: &(dyn Error + 'static)) -> bool {
        error
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(hyper_util::client::legacy::Error::is_connect)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::*;

    /// Fails to compile if a type loses one of these traits.
    #[test]
    fn public_types_can_be_sent_shared_and_logged() {
        fn check<T: Send + Sync + Debug>() {}
        check::<Producer>();
        check::<Outcome>();
        check::<BatchOutcome>();
        check::<blocking::Producer>();
        check::<blocking::Outcome>();
        check::<blocking::BatchOutcome>();
        check::<UserRecord>();
        check::<BatchRecord>();
        check::<Config>();
        check::<ConfigBuilder>();
        check::<Receipt>();
        check::<PutFailure>();
        check::<PutError>();
        check::<PutBatchError>();
        check::<FromEnvError>();
        check::<ConfigError>();
        check::<metrics::MetricsReport>();
    }

    #[test]
    fn futures_can_be_moved_to_other_threads() {
        fn check<T: Send>(_: T) {}
        let _ = |producer: &'static Producer, record: UserRecord| {
            check(producer.put("events", "key", "data"));
            check(producer.put_record(record));
            check(producer.put_batch("events", [("key", "data")]));
            check(producer.flush());
            check(producer.close());
            check(producer.close_or_fail(Duration::ZERO));
        };
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_starts_at_wall_time_and_pauses_with_tokios_clock() {
        let runtime = Tokio::default();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let start = runtime.now();
        assert!(wall.abs_diff(Duration::from_nanos(start.as_nanos())) < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(runtime.now(), start, "the clock is paused");
        runtime.sleep_until(start + Duration::from_secs(3_600)).await;
        let slept = runtime.now().saturating_since(start);
        assert!((3_600_000..3_600_010).contains(&slept.as_millis()), "{slept:?}");
        runtime.sleep_until(start).await;
    }
}

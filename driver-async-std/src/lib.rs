//! A Kinesis producer for async-std. It does what the Amazon Kinesis Producer Library (KPL) does in C++, as a library
//! in your process.
//!
//! The first record, after `cargo add kpl-async-std`:
//!
//! ```no_run
//! #[async_std::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let producer = kpl_async_std::Producer::from_env().await?; // region and credentials as the AWS SDK finds them
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
//! # async fn example(producer: kpl_async_std::Producer) -> Result<(), kpl_async_std::PutError> {
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
//! # async fn example(outcome: kpl_async_std::Outcome) {
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
//! remaining records after a timeout. Every outcome resolves, also when the last handle is dropped.
//!
//! # Metrics
//!
//! The metrics and their names are the KPL's. With [`metrics_level`](ConfigBuilder::metrics_level) set,
//! [`Producer::metrics`] returns them at any time, and [`Producer::export_metrics_to`] sends them to a sink every
//! minute: CloudWatch, OpenTelemetry, Prometheus, DogStatsD, or your own. See [`metrics`].
//!
//! ```no_run
//! # async fn example(producer: kpl_async_std::Producer) {
//! use kpl_async_std::metrics::Metric;
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
//! # #[async_std::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use kpl_async_std::{Config, Producer};
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
//! # async-std is discontinued
//!
//! Its authors recommend smol instead (RUSTSEC-2025-0052). This crate is for applications that still run on async-std.
//! To migrate, write a driver for smol, which takes a few lines with kpl-driver: see `driver/examples/smol.rs` in the
//! repository.
//!
//! The producer logs throttling, resharding and similar events with `tracing`, never one line per record.

pub mod blocking;
pub mod http_client;

use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use aws_smithy_async::rt::sleep::{AsyncSleep, Sleep};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use futures_util::FutureExt;
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

/// A Kinesis producer on async-std. It is a handle that can be cloned: see [`kpl_driver::Producer`].
pub type Producer = kpl_driver::Producer<AsyncStd>;

/// async-std's runtime. A process has one.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsyncStd {
    clock: Clock,
}

impl Runtime for AsyncStd {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        async_std::task::sleep(self.clock.until(deadline))
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        // A panic must end its task only, not the executor's thread. The panic hook reports it.
        let future = AssertUnwindSafe(future).catch_unwind();
        async_std::task::spawn(async { drop(future.await) });
    }
}

impl AwsRuntime for AsyncStd {
    fn http_client(ca_pem: Option<&[u8]>) -> Result<SharedHttpClient, Box<dyn Error + Send + Sync>> {
        Ok(match ca_pem {
            Some(pem) => http_client::with_ca_bundle(pem)?,
            None => http_client::new(),
        })
    }

    fn sleep_impl() -> SharedAsyncSleep {
        SharedAsyncSleep::new(AsyncStdSleep)
    }

    fn never_connected(error: &(dyn Error + 'static)) -> bool {
        error.downcast_ref().is_some_and(http_client::CurlError::never_connected)
    }
}

#[derive(Debug)]
struct AsyncStdSleep;

impl AsyncSleep for AsyncStdSleep {
    fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(async_std::task::sleep(duration))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use async_std::future::timeout;
    use async_std::task::block_on;

    use super::*;

    #[test]
    fn a_sleep_ends_at_its_deadline_and_one_without_a_deadline_does_not() {
        let runtime = AsyncStd::default();
        block_on(async {
            let deadline = runtime.now() + Duration::from_millis(20);
            runtime.sleep_until(deadline).await;
            assert!(runtime.now() >= deadline);
            runtime.sleep_until(deadline).await; // the deadline has passed
            timeout(Duration::from_millis(50), runtime.sleep_until(Instant::NEVER)).await.unwrap_err();
            timeout(Duration::from_millis(50), AsyncStdSleep.sleep(Duration::MAX)).await.unwrap_err();
        });
    }

    #[test]
    fn a_panic_drops_its_task_and_does_not_affect_others() {
        struct SendsOnDrop(mpsc::Sender<&'static str>, &'static str);
        impl Drop for SendsOnDrop {
            fn drop(&mut self) {
                self.0.send(self.1).unwrap();
            }
        }
        let runtime = AsyncStd::default();
        let (sender, receiver) = mpsc::channel();
        for _ in 0..100 {
            let guard = SendsOnDrop(sender.clone(), "dropped");
            runtime.spawn(async move {
                let _guard = guard;
                async_std::task::yield_now().await;
                panic!("this panic is part of the test");
            });
            assert_eq!(receiver.recv_timeout(Duration::from_secs(5)), Ok("dropped"));
        }
        let guard = SendsOnDrop(sender, "ended");
        runtime.spawn(async move { drop(guard) });
        assert_eq!(receiver.recv_timeout(Duration::from_secs(5)), Ok("ended"));
    }
}

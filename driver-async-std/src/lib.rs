//! A Kinesis producer for async-std: what the Amazon Kinesis Producer Library is in C++, as a library in your process.
//!
//! From `cargo add kpl-async-std` to a record in a stream:
//!
//! ```no_run
//! #[async_std::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let producer = kpl_async_std::Producer::from_env().await?; // region and credentials as the AWS SDK finds them
//!     let outcome = producer.put("events", "user-123", "hello").await?; // waits for room, then hands back at once
//!     let receipt = outcome.await?;
//!     println!("{} at {}", receipt.shard_id(), receipt.sequence_number());
//!     producer.close().await;
//!     Ok(())
//! }
//! ```
//!
//! Records are packed into aggregated records, which consumers with the KCL, or any of AWS's deaggregation modules, take
//! apart. They are placed by shard, paced below what a shard takes, sent in full requests and retried by reason.
//!
//! # Many records
//!
//! A record waits for company for up to `record_max_buffered_time` (100 ms) before it is sent. Do not await each outcome
//! before the next put: keep the [`Outcome`]s and await them later, in any order, or drop them; dropping an outcome does
//! not cancel its record. One [`Producer`] serves any number of streams and tasks: clone it, it is a handle.
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
//! [`Producer::put`] waits while `max_outstanding_records` or `max_outstanding_bytes` are outstanding;
//! [`Producer::try_put`] gives the record back instead ([`PutError::Full`]). Memory is bounded by these two.
//!
//! # Failures
//!
//! What fails comes back, with the history of its attempts:
//!
//! ```no_run
//! # async fn example(outcome: kpl_async_std::Outcome) {
//! match outcome.await {
//!     Ok(receipt) => println!("stored after {} attempts", receipt.attempts().len()),
//!     // An attempt ended without an answer, a time-out for instance: putting the record again may make a duplicate.
//!     Err(failure) if failure.is_ambiguous() => println!("{failure}; it may be in the stream all the same"),
//!     Err(failure) => println!("{failure}; it is not in the stream: {:?}", failure.record),
//! }
//! # }
//! ```
//!
//! Throttled records wait for their shard, and everything that may pass is retried until `record_ttl` (30 s) is over.
//! What will not pass, such as a stream that does not exist, fails at once.
//!
//! # Shutdown
//!
//! [`Producer::close`] takes no more records and ends when all are resolved; [`Producer::close_or_fail`] gives up after a
//! time. Every outcome resolves, whatever happens: also when the last handle is dropped. Do close it before the program ends:
//! [`http_client`] tells why.
//!
//! # Metrics
//!
//! Those of the KPL, under their names. With [`metrics_level`](ConfigBuilder::metrics_level) set, [`Producer::metrics`] shows
//! them at any time, and [`Producer::export_metrics_to`] sends them to a sink every minute: CloudWatch, OpenTelemetry,
//! Prometheus, DogStatsD, or your own. See [`metrics`].
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
//! [`blocking::Producer`] has the same names, waits, and takes time-outs: from any thread, with no runtime of yours.
//!
//! # Settings
//!
//! Names and defaults are the KPL's: [`Config::builder`].
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
//! Region, endpoint and credentials are the AWS SDK's business: [`Producer::new`] takes a client,
//! [`Producer::from_sdk_config`] a config. [`http_client`] has HTTP clients for endpoints with certificates of their own.
//!
//! # async-std is discontinued
//!
//! Its authors have ended it, in favour of smol (RUSTSEC-2025-0052): this crate is for applications that run on it. The
//! way on is a driver for smol, which is a few lines over kpl-driver: `driver/examples/smol.rs` of the repository shows
//! one.
//!
//! The producer tells about throttling, resharding and the like by `tracing`, never a line a record.

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
    Attempt, AttemptError, Attempts, Config, ConfigBuilder, ConfigError, Consumers, Full, Instant, InvalidRecord,
    PutFailure, Receipt, RecordDistribution, RecordResult, ShardName, Stats, UserRecord, code,
};
pub use kpl_driver::{FromEnvError, Outcome, PutError, metrics};

/// A Kinesis producer on async-std: a handle, to be cloned. See [`kpl_driver::Producer`] for what it can do.
pub type Producer = kpl_driver::Producer<AsyncStd>;

/// async-std's runtime, of which there is one in a process.
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
        // A panic is told by the hook, and is no business of the executor's thread.
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
        error.downcast_ref().is_some_and(http_client::NoAnswer::never_connected)
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
            runtime.sleep_until(deadline).await; // it has passed
            timeout(Duration::from_millis(50), runtime.sleep_until(Instant::NEVER)).await.unwrap_err();
            timeout(Duration::from_millis(50), AsyncStdSleep.sleep(Duration::MAX)).await.unwrap_err();
        });
    }

    #[test]
    fn a_panic_drops_its_task_and_harms_no_other() {
        struct Tells(mpsc::Sender<&'static str>, &'static str);
        impl Drop for Tells {
            fn drop(&mut self) {
                self.0.send(self.1).unwrap();
            }
        }
        let runtime = AsyncStd::default();
        let (tell, told) = mpsc::channel();
        for _ in 0..100 {
            let tells = Tells(tell.clone(), "dropped");
            runtime.spawn(async move {
                let _tells = tells;
                async_std::task::yield_now().await;
                panic!("as it should in this test");
            });
            assert_eq!(told.recv_timeout(Duration::from_secs(5)), Ok("dropped"));
        }
        let ends = Tells(tell, "ended");
        runtime.spawn(async move { drop(ends) });
        assert_eq!(told.recv_timeout(Duration::from_secs(5)), Ok("ended"));
    }
}

//! A Kinesis producer for tokio: what the Amazon Kinesis Producer Library is in C++, as a library in your process.
//!
//! ```no_run
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let producer = kpl_tokio::Producer::from_env().await?; // region and credentials as the AWS SDK finds them
//! let outcome = producer.put("events", "user-123", "hello").await?; // waits for room, then hands back at once
//! let receipt = outcome.await?; // shard, sequence number, attempts
//! println!("{} {}", receipt.shard_id, receipt.sequence_number);
//! producer.close().await;
//! # Ok(()) }
//! ```
//!
//! - **Many records**: keep the [`Outcome`]s and await them later, or drop them; dropping one does not cancel its
//!   record. A record travels for `record_max_buffered_time` (100 ms) at most before it is sent, so awaiting each
//!   outcome before the next put is slow.
//! - **Backpressure**: [`Producer::put`] waits while too many records or bytes are outstanding, [`Producer::try_put`]
//!   gives the record back.
//! - **Failures** give the record back with the history of its attempts: [`PutFailure`]. If
//!   [`PutFailure::is_ambiguous`], the record may be in the stream all the same.
//! - **Shutdown**: [`Producer::close`], or [`Producer::close_within`] a time.
//! - **Settings**: [`Config::builder`]; the defaults are the KPL's.
//! - **Endpoints of your own**: make an `aws_sdk_kinesis::Client`, and [`Producer::new`] of it; [`http_client`] helps
//!   with TLS.

pub mod http_client;

use std::error::Error;
use std::future::Future;

use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use kpl_driver::{AwsRuntime, Clock, Runtime, SharedAsyncSleep};

pub use aws_config;
pub use aws_sdk_kinesis;
pub use kpl_driver::core::{
    Attempt, AttemptError, Attempts, Config, ConfigBuilder, ConfigError, Instant, InvalidRecord, PutFailure, Receipt,
    RecordDistribution, RecordResult, Stats, UserRecord, code,
};
pub use kpl_driver::{FromEnvError, Outcome, PutError};

/// A Kinesis producer on tokio: a handle, to be cloned. See [`kpl_driver::Producer`] for what it can do.
pub type Producer = kpl_driver::Producer<Tokio>;

/// The tokio runtime that was current when this was made.
#[derive(Clone, Debug)]
pub struct Tokio {
    /// The wall clock's time at `started`.
    origin: Instant,
    /// On tokio's own clock, so that the producer stands still when a test pauses time.
    started: tokio::time::Instant,
    handle: tokio::runtime::Handle,
}

impl Default for Tokio {
    /// # Panics
    ///
    /// Outside a tokio runtime.
    fn default() -> Self {
        let handle = tokio::runtime::Handle::current();
        Self { origin: Clock::new().now(), started: tokio::time::Instant::now(), handle }
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

//! The common part of all kpl drivers. Applications use a driver, such as `kpl-tokio`.
//!
//! A driver implements an async runtime ([`Runtime`]) and an HTTP client ([`AwsRuntime`]), both in a few lines. This
//! crate has the rest: the [`Producer`] handle, the drive loop around the state machine of `kpl-core`, the mapping to
//! and from the AWS SDK ([`AwsTransport`]), and the log. It uses only tokio's channels, which need no runtime.
//!
//! The way of a record:
//!
//! 1. [`Producer::put`] checks it in the caller's task, and puts it into the submission queue or the state machine.
//!    Keys are hashed outside the state machine's lock.
//! 2. The drive loop, one task, ticks the state machine when something is due, and carries out its actions.
//! 3. Each request is a separate task. It encodes, signs and sends outside the lock, and returns its batch with the
//!    reply, even if it panics or its runtime ends.
//! 4. The drive loop resolves the [`Outcome`].

mod aws;
mod batch;
pub mod blocking;
#[cfg(feature = "conformance")]
pub mod conformance;
mod dispatch;
mod drive;
mod error;
mod event_log;
pub mod metrics;
mod outcome;
mod park;
mod producer;
#[cfg(feature = "sink")]
mod record_sink;
mod requests;
mod runtime;
mod shared;
mod submission;
mod sync;
mod transport;
mod wait_queue;
mod wakers;

pub use aws::{AwsTransport, fresh_pool_after_timeout, with_current_profile};
pub use batch::{BatchOutcome, BatchRecord, PutBatchError, Refusal};
pub use error::{CaBundleError, FromEnvError, PutError};
pub use kpl_core as core;
pub use outcome::Outcome;
pub use producer::Producer;
#[cfg(feature = "sink")]
pub use record_sink::{RecordSink, SinkError};
pub use runtime::{AwsRuntime, Clock, Runtime, SharedAsyncSleep};
pub use transport::Transport;

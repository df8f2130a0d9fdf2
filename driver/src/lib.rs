//! What every kpl driver shares. Applications use a driver: `kpl-tokio`.
//!
//! A driver brings an async runtime ([`Runtime`]) and an HTTP client ([`AwsRuntime`]), both in a few lines, and gets the
//! rest from here: the [`Producer`] handle, the drive loop around the state machine of `kpl-core`, the mapping to and from
//! the AWS SDK ([`AwsTransport`]), and the log. Of tokio only the channels are used, which need no runtime.
//!
//! What happens to a record:
//!
//! 1. [`Producer::put`] checks it and hashes its key in the caller's task, without a lock; then, under the lock, the
//!    state machine takes it.
//! 2. The drive loop, one task, ticks the state machine when something is due and carries out what it wants.
//! 3. Each request is a task of its own: it encodes, signs and sends outside the lock, and gives its batch back with the
//!    reply, also when it panics or its runtime ends.
//! 4. The drive loop resolves the [`Outcome`].

mod aws;
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
mod runtime;
mod shared;
mod submission;
mod sync;
mod transport;
mod wait_queue;

pub use aws::AwsTransport;
pub use error::{CaBundleError, FromEnvError, PutError};
pub use kpl_core as core;
pub use outcome::Outcome;
pub use producer::Producer;
pub use runtime::{AwsRuntime, Clock, Runtime, SharedAsyncSleep};
pub use transport::Transport;

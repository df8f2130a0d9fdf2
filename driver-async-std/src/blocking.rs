//! The producer for code without an event loop. Its calls wait, on any thread.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let producer = kpl_async_std::blocking::Producer::from_env()?; // region and credentials as in the AWS SDK
//!     // Waits while the producer or the record's shard is full.
//!     let mut outcome = producer.put("events", "user-123", "hello")?;
//!     let receipt = outcome.wait(Duration::from_secs(30))?;
//!     println!("{} at {}", receipt.shard_id(), receipt.sequence_number());
//!     producer.close(Duration::from_secs(60))?;
//!     Ok(())
//! }
//! ```
//!
//! After a timeout, the record is still sent, and the call can be repeated. Inside an async task, calls that wait
//! return an error, because they would block the runtime. Inside `spawn_blocking` they wait. An async application gets
//! a blocking producer for such threads with `blocking::Producer::from(producer)`.

use crate::AsyncStd;

pub use kpl_driver::blocking::WaitError;

/// A Kinesis producer whose calls wait. It is a handle that can be cloned: see [`kpl_driver::blocking::Producer`].
pub type Producer = kpl_driver::blocking::Producer<AsyncStd>;

/// The future result of a record. See [`kpl_driver::blocking::Outcome`].
pub type Outcome = kpl_driver::blocking::Outcome<AsyncStd>;

/// The future results of a batch. See [`kpl_driver::blocking::BatchOutcome`].
pub type BatchOutcome = kpl_driver::blocking::BatchOutcome<AsyncStd>;

impl kpl_driver::blocking::BlockingRuntime for AsyncStd {
    fn for_threads() -> Self {
        Self::default()
    }

    fn in_async_task() -> bool {
        async_std::task::try_current().is_some()
    }
}

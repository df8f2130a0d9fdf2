//! The producer for code without an event loop: from any thread, by calls that wait.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let producer = kpl_async_std::blocking::Producer::from_env()?; // region and credentials as the AWS SDK finds them
//!     let mut outcome = producer.put("events", "user-123", "hello")?; // waits for room, then hands back at once
//!     let receipt = outcome.wait(Duration::from_secs(30))?;
//!     println!("{} at {}", receipt.shard_id(), receipt.sequence_number());
//!     producer.close(Duration::from_secs(60))?;
//!     Ok(())
//! }
//! ```
//!
//! A time-out is an error of the call only: the record stays on its way, and the call can be made again. Called inside an
//! async task, calls that wait give an error instead of stopping the runtime; inside `spawn_blocking` they wait. An async
//! application makes one of its producer for such threads by `blocking::Producer::from(producer)`.

use crate::AsyncStd;

pub use kpl_driver::blocking::WaitError;

/// A Kinesis producer whose calls wait: a handle, to be cloned. See [`kpl_driver::blocking::Producer`] for what it can do.
pub type Producer = kpl_driver::blocking::Producer<AsyncStd>;

/// What will become of a record. See [`kpl_driver::blocking::Outcome`].
pub type Outcome = kpl_driver::blocking::Outcome<AsyncStd>;

impl kpl_driver::blocking::BlockingRuntime for AsyncStd {
    fn for_threads() -> Self {
        Self::default()
    }

    fn in_async_task() -> bool {
        async_std::task::try_current().is_some()
    }
}

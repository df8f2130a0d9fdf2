//! The producer for code without an event loop. Its calls wait, on any thread.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let producer = kpl_tokio::blocking::Producer::from_env()?; // region and credentials as the AWS SDK finds them
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
//! return an error, because they would block the runtime. Inside `spawn_blocking` or `block_in_place` they wait. An
//! async application gets a blocking producer for such threads with `blocking::Producer::from(producer)`.
//!
//! All producers created by this module share one runtime with two threads. It starts with the first producer and never
//! ends.

use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::coop;

use crate::Tokio;

pub use kpl_driver::blocking::WaitError;

/// A Kinesis producer whose calls wait. It is a handle that can be cloned: see [`kpl_driver::blocking::Producer`].
pub type Producer = kpl_driver::blocking::Producer<Tokio>;

/// The future result of a record. See [`kpl_driver::blocking::Outcome`].
pub type Outcome = kpl_driver::blocking::Outcome<Tokio>;

/// The future results of a batch. See [`kpl_driver::blocking::BatchOutcome`].
pub type BatchOutcome = kpl_driver::blocking::BatchOutcome<Tokio>;

/// The runtime for threads without one. It is never dropped: that blocks, which async tasks must not do.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("kpl").enable_all().build();
    runtime.unwrap_or_else(|error| panic!("cannot start a runtime for blocking producers: {error}"))
});

impl kpl_driver::blocking::BlockingRuntime for Tokio {
    fn for_threads() -> Self {
        Self::new(RUNTIME.handle().clone())
    }

    /// Tokio has no public function for this. It gives tasks a budget of polls, and code that may block has none.
    fn in_async_task() -> bool {
        if Handle::try_current().is_err() {
            return false;
        }
        let mut noop = Context::from_waker(Waker::noop());
        // Its drop restores the budget, including the polls spent below.
        let Poll::Ready(_budget) = coop::poll_proceed(&mut noop) else { return true };
        (0..u8::MAX).any(|_| match coop::poll_proceed(&mut noop) {
            Poll::Ready(spent) => {
                spent.made_progress();
                false
            }
            Poll::Pending => true,
        })
    }
}

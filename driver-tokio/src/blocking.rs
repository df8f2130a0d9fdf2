//! The producer for code without an event loop: from any thread, by calls that wait.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let producer = kpl_tokio::blocking::Producer::from_env()?; // region and credentials as the AWS SDK finds them
//!     let mut outcome = producer.put("events", "user-123", "hello")?; // waits for room, then hands back at once
//!     let receipt = outcome.wait(Duration::from_secs(30))?;
//!     println!("{} at {}", receipt.shard_id(), receipt.sequence_number());
//!     producer.close(Duration::from_secs(60))?;
//!     Ok(())
//! }
//! ```
//!
//! A time-out is an error of the call only: the record stays on its way, and the call can be made again. Called inside an
//! async task, calls that wait give an error instead of stopping the runtime; inside `spawn_blocking` or
//! `block_in_place` they wait. An async application makes one of its producer for such threads by
//! `blocking::Producer::from(producer)`.
//!
//! All producers that are made here share one runtime, of two threads, which starts with the first of them and stays.

use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::coop;

use crate::Tokio;

pub use kpl_driver::blocking::WaitError;

/// A Kinesis producer whose calls wait: a handle, to be cloned. See [`kpl_driver::blocking::Producer`] for what it can do.
pub type Producer = kpl_driver::blocking::Producer<Tokio>;

/// What will become of a record. See [`kpl_driver::blocking::Outcome`].
pub type Outcome = kpl_driver::blocking::Outcome<Tokio>;

/// The runtime of threads that have none. It is never dropped: that would need a place where blocking is allowed.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("kpl").enable_all().build();
    runtime.unwrap_or_else(|error| panic!("no runtime for a blocking producer: {error}"))
});

impl kpl_driver::blocking::BlockingRuntime for Tokio {
    fn for_threads() -> Self {
        Self::new(RUNTIME.handle().clone())
    }

    /// What tokio runs as a task has a budget of polls, and what it lets block has none: no public name says it sooner.
    fn in_async_task() -> bool {
        if Handle::try_current().is_err() {
            return false;
        }
        let mut noop = Context::from_waker(Waker::noop());
        // Given back when it is dropped, and with it all that is taken below.
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

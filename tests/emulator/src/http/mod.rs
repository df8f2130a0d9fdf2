//! The HTTP server: awsJson1_1, which all AWS SDKs and the AWS CLI use, and CBOR, which the SDKs for Java use.

mod dispatch;
mod format;
mod server;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use server::Server;

use crate::api::CreateStream;
use crate::{Faults, Kinesis, Options, ServiceError};

/// A [`Kinesis`] on the wall clock, shared by its servers and by tests.
///
/// It outlives its servers: after a server is stopped and another is started on the same port, the records are still
/// stored.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// use kpl_emulator::{Emulator, Options, Server};
///
/// let emulator = Emulator::new(Options::default()).with_stream("events", 2);
/// let server = Server::start(&emulator).await?;
/// println!("aws kinesis list-streams --endpoint-url {}", server.url());
/// assert_eq!(emulator.with(|kinesis, _now| kinesis.counters().records_stored), 0);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Emulator {
    kinesis: Arc<Mutex<Kinesis>>,
    replies: Arc<AtomicU64>,
    started: (SystemTime, Instant),
}

impl Emulator {
    /// Creates a service without streams.
    pub fn new(mut options: Options) -> Self {
        let started = (SystemTime::now(), Instant::now());
        if options.incarnation == 0 {
            // Iterators of an earlier process on the same port must not be valid.
            let since = started.0.duration_since(UNIX_EPOCH).unwrap_or_default();
            options.incarnation = u64::try_from(since.as_nanos()).unwrap_or(0);
        }
        Self { kinesis: Arc::new(Mutex::new(Kinesis::new(options))), replies: Arc::default(), started }
    }

    /// Creates a stream and returns the emulator.
    ///
    /// # Panics
    ///
    /// If [`create_stream`](Self::create_stream) returns an error.
    #[must_use]
    pub fn with_stream(self, name: &str, shards: u32) -> Self {
        if let Err(error) = self.create_stream(name, shards) {
            panic!("cannot create the stream {name:?} with {shards} shards: {error}");
        }
        self
    }

    /// Creates a stream with this number of shards.
    ///
    /// # Errors
    ///
    /// If the name is not valid or already exists, or if there are too many shards.
    pub fn create_stream(&self, name: &str, shards: u32) -> Result<(), ServiceError> {
        self.with(|kinesis, now| kinesis.create_stream(now, &CreateStream::new(name, shards))).map(drop)
    }

    /// Calls `f` with the model and with the time since the Unix epoch.
    pub fn with<R>(&self, f: impl FnOnce(&mut Kinesis, Duration) -> R) -> R {
        // A test that panicked here has already failed. Others continue.
        let mut kinesis = self.kinesis.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, because the model's time must not go backwards.
        let (wall, monotonic) = self.started;
        let now = wall.duration_since(UNIX_EPOCH).unwrap_or_default() + monotonic.elapsed();
        f(&mut kinesis, now)
    }

    /// Returns the next request id, in the service's format.
    fn request_id(&self) -> String {
        let number = self.replies.fetch_add(1, Ordering::Relaxed) + 1;
        format!("00000000-0000-0000-0000-{number:012}")
    }

    /// Switches faults on or off.
    pub fn set_faults(&self, faults: Faults) {
        self.with(|kinesis, _| kinesis.set_faults(faults));
    }
}

//! The HTTP face: awsJson1_1, as every AWS SDK and the CLI speak it, and the same in CBOR, as those for Java do.

mod dispatch;
mod format;
mod server;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use server::Server;

use crate::api::CreateStream;
use crate::{Faults, Kinesis, Options, ServiceError};

/// A [`Kinesis`] on the wall clock, shared by the servers that serve it and the tests that look into it.
///
/// It outlives its servers: stop one, start another on the same port, and the records are still there.
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
    answers: Arc<AtomicU64>,
    started: (SystemTime, Instant),
}

impl Emulator {
    /// A service without streams.
    pub fn new(mut options: Options) -> Self {
        let started = (SystemTime::now(), Instant::now());
        if options.incarnation == 0 {
            // Iterators of the process that served this port before must not be taken for ours.
            let since = started.0.duration_since(UNIX_EPOCH).unwrap_or_default();
            options.incarnation = u64::try_from(since.as_nanos()).unwrap_or(0);
        }
        Self { kinesis: Arc::new(Mutex::new(Kinesis::new(options))), answers: Arc::default(), started }
    }

    /// Creates a stream, and returns the emulator.
    ///
    /// # Panics
    ///
    /// Panics where [`create_stream`](Self::create_stream) returns an error.
    #[must_use]
    pub fn with_stream(self, name: &str, shards: u32) -> Self {
        if let Err(error) = self.create_stream(name, shards) {
            panic!("cannot create the stream {name:?} with {shards} shards: {error}");
        }
        self
    }

    /// Creates a stream with so many shards.
    ///
    /// # Errors
    ///
    /// Returns the service's error: the name is not valid or exists already, or there are too many shards.
    pub fn create_stream(&self, name: &str, shards: u32) -> Result<(), ServiceError> {
        self.with(|kinesis, now| kinesis.create_stream(now, &CreateStream::new(name, shards))).map(drop)
    }

    /// Looks at the model, or changes it. Gives the time that its clock shows, since the Unix epoch.
    pub fn with<R>(&self, look: impl FnOnce(&mut Kinesis, Duration) -> R) -> R {
        // A test that panicked while it looked has its own report; the others go on.
        let mut kinesis = self.kinesis.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, or two threads could bring their times in the wrong order.
        let (wall, monotonic) = self.started;
        let now = wall.duration_since(UNIX_EPOCH).unwrap_or_default() + monotonic.elapsed();
        look(&mut kinesis, now)
    }

    /// What the next answer is called, in the form of the service's request ids.
    fn request_id(&self) -> String {
        let number = self.answers.fetch_add(1, Ordering::Relaxed) + 1;
        format!("00000000-0000-0000-0000-{number:012}")
    }

    /// Switches faults on or off.
    pub fn set_faults(&self, faults: Faults) {
        self.with(|kinesis, _| kinesis.set_faults(faults));
    }
}

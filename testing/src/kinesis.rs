//! Kinesis in the process of the test.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use kpl_core::Instant;
use kpl_emulator::consumer::{self, ConsumedRecord};
use kpl_emulator::{Emulator, Options};

use crate::comparison::Comparison;

/// The time at which virtual clocks start: 2026-01-01, 00:00 UTC.
pub const START: Duration = Duration::from_secs(1_767_225_600);

/// Kinesis Data Streams in the process of the test, without sockets. Clones share the streams.
///
/// It is an [`Emulator`] with producers: it has the service's limits, and the emulator's methods, for example for faults,
/// reshards and deletes. Its time is that of the runtime of its first producer, so it pauses with tokio's clock.
/// Everything random follows from the seed.
///
/// ```
/// # #[cfg(feature = "tokio")]
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use kpl_testing::Kinesis;
/// use kpl_tokio::Config;
///
/// let kinesis = Kinesis::new(1).stream("events", 2);
/// let producer = kinesis.producer(Config::default()); // a kpl_tokio::Producer
/// let outcome = producer.put("events", "user-123", "hello").await?;
/// assert!(outcome.await.is_ok());
/// kinesis.compare("events", [("user-123", "hello")]).assert_exactly_once();
/// # Ok(()) }
/// # #[cfg(not(feature = "tokio"))] fn main() {}
/// ```
///
/// With faults, and changes later:
///
/// ```
/// use std::time::Duration;
/// use kpl_testing::{Faults, Kinesis, OperationFault, ServiceError};
///
/// let kinesis = Kinesis::new(1).stream("events", 2);
/// kinesis.set_faults(Faults {
///     throttle_rate: 0.1,    // of the records
///     drop_reply_rate: 0.05, // of the requests: their records are stored, but the reply is lost
///     latency: Duration::from_millis(20),
///     latency_jitter: Duration::from_millis(30),
///     operations: vec![OperationFault {
///         operation: "ListShards",
///         latency: Duration::from_millis(5),
///         error: Some(ServiceError::denied("ListShards")),
///         first: Some(3), // the first three requests
///     }],
///     ..Faults::default()
/// });
/// kinesis.after(Duration::from_secs(60), |kinesis| kinesis.reshard("events", 4).unwrap());
/// kinesis.after(Duration::from_secs(90), |kinesis| kinesis.delete_stream("events").unwrap());
/// ```
#[derive(Clone, Debug)]
pub struct Kinesis {
    emulator: Emulator,
    clock: Clock,
    pub(crate) seed: u64,
    #[cfg(feature = "tokio")]
    runtime: Arc<OnceLock<kpl_tokio::Tokio>>,
}

impl Deref for Kinesis {
    type Target = Emulator;

    fn deref(&self) -> &Emulator {
        &self.emulator
    }
}

/// The time of the first runtime that uses it; [`START`] before.
#[derive(Clone, Default)]
struct Clock(Arc<OnceLock<Box<dyn Fn() -> Instant + Send + Sync>>>);

impl Clock {
    fn now(&self) -> Duration {
        self.0.get().map_or(START, |now| Duration::from_nanos(now().as_nanos()))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

impl Kinesis {
    /// Creates a service without streams, with the service's limits of shards.
    pub fn new(seed: u64) -> Self {
        Self::with_options(Options { seed, ..Options::default() })
    }

    /// Creates a service without streams, with other limits.
    pub fn with_options(options: Options) -> Self {
        let clock = Clock::default();
        let seed = options.seed;
        let emulator = Emulator::with_clock(options, {
            let clock = clock.clone();
            move || clock.now()
        });
        Self {
            emulator,
            clock,
            seed,
            #[cfg(feature = "tokio")]
            runtime: Arc::default(),
        }
    }

    /// Creates a stream and returns the service.
    ///
    /// # Panics
    ///
    /// If the name is not valid or the stream exists, or if there are no shards or more than 10,000.
    #[must_use]
    pub fn stream(mut self, name: &str, shards: u32) -> Self {
        self.emulator = self.emulator.with_stream(name, shards);
        self
    }

    /// Creates a producer of kpl-tokio on the current runtime. Its clock, and that of this service, starts at [`START`], so
    /// that two runs with a paused clock have the same times.
    ///
    /// A config without a seed gets that of this service, so that each run has the same jitter.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    #[cfg(feature = "tokio")]
    pub fn producer(&self, config: kpl_core::Config) -> kpl_tokio::Producer {
        let start = Instant::from_nanos(0) + START;
        let runtime = self.runtime.get_or_init(|| kpl_tokio::Tokio::starting_at(start));
        self.producer_on(runtime, config)
    }

    /// Returns the user records of a stream as a consumer with the KCL reads them: shard by shard, each in its order.
    /// Empty if the stream does not exist.
    pub fn records(&self, stream: &str) -> Vec<ConsumedRecord> {
        self.emulator.with(|kinesis, _| consumer::read_stream(kinesis, stream)).records
    }

    /// Compares the records of a stream with the partition keys and data that were put, in the order of the puts.
    pub fn compare<K, D>(&self, stream: &str, put: impl IntoIterator<Item = (K, D)>) -> Comparison
    where
        K: Into<String>,
        D: Into<Bytes>,
    {
        let put = put.into_iter().map(|(key, data)| (key.into(), data.into()));
        Comparison::new(stream, put.collect(), &self.records(stream))
    }

    /// Uses a clock, unless another is used already.
    pub(crate) fn set_clock(&self, now: impl Fn() -> Instant + Send + Sync + 'static) {
        let _ = self.clock.0.set(Box::new(now));
    }
}

//! Kinesis in the process of the test.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use kpl_core::Config;
#[cfg(feature = "tokio")]
use kpl_core::Instant;
use kpl_emulator::consumer::{self, ConsumedRecord};
use kpl_emulator::{Emulator, Options};

use crate::comparison::Comparison;

/// The time at which virtual clocks start: 2026-01-01, 00:00 UTC.
pub const START: Duration = Duration::from_secs(1_767_225_600);

/// Kinesis Data Streams in the process of the test, without sockets. Clones share the streams.
///
/// It is an [`Emulator`] with producers: it has the service's limits, and the emulator's methods, for example for faults,
/// reshards and deletes. Its time starts at [`START`] and passes as that of the runtime of its first producer, so it pauses
/// with tokio's clock. Everything random follows from the seed.
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
/// use kpl_testing::{Faults, Kinesis, OperationFault};
///
/// let kinesis = Kinesis::new(1).stream("events", 2);
/// kinesis.set_faults(Faults {
///     throttle_rate: 0.1,    // of the records
///     drop_reply_rate: 0.05, // of the requests: their records are stored, but the reply is lost
///     latency: Duration::from_millis(20),
///     latency_jitter: Duration::from_millis(30),
///     operations: vec![OperationFault::denied("ListShards").first(3)], // the first three requests
///     ..Faults::default()
/// });
/// kinesis.after(Duration::from_secs(60), |kinesis| kinesis.reshard("events", 4).unwrap());
/// kinesis.after(Duration::from_secs(90), |kinesis| kinesis.delete_stream("events").unwrap());
/// ```
#[derive(Clone, Debug)]
pub struct Kinesis {
    emulator: Emulator,
    clock: Clock,
    seed: u64,
    /// The number of producers with a seed of this service.
    producers: Arc<AtomicU64>,
}

impl Deref for Kinesis {
    type Target = Emulator;

    fn deref(&self) -> &Emulator {
        &self.emulator
    }
}

/// The time since the start on the clock of the first runtime that uses it, added to [`START`].
#[derive(Clone, Default)]
struct Clock(Arc<OnceLock<Box<dyn Fn() -> Duration + Send + Sync>>>);

impl Clock {
    fn now(&self) -> Duration {
        START + self.0.get().map_or(Duration::ZERO, |elapsed| elapsed())
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
        // Other random things of a test follow from the same seed, and should not be the same.
        let options = Options { seed: derived(seed, 0), ..options };
        let emulator = Emulator::with_clock(options, {
            let clock = clock.clone();
            move || clock.now()
        });
        Self { emulator, clock, seed, producers: Arc::default() }
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

    /// Creates a producer of kpl-tokio on the current runtime. Its clock is that of this service, so that two runs with a
    /// paused clock have the same times.
    ///
    /// A config without a seed gets one that follows from this service's, so that each run has the same jitter.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    #[cfg(feature = "tokio")]
    pub fn producer(&self, config: Config) -> kpl_tokio::Producer {
        let now = Instant::from_nanos(0) + self.clock.now();
        self.producer_on(&kpl_tokio::Tokio::starting_at(now), config)
    }

    /// Returns the user records of a stream as a consumer with the KCL reads them: shard by shard, each in its order.
    /// Empty if the stream does not exist.
    ///
    /// # Panics
    ///
    /// If an action of [`after`](Emulator::after) has panicked.
    pub fn records(&self, stream: &str) -> Vec<ConsumedRecord> {
        self.emulator.check_actions();
        self.emulator.with(|kinesis, _| consumer::read_stream(kinesis, stream)).records
    }

    /// Compares the records of a stream with the partition keys and data that were put, in the order of the puts.
    ///
    /// # Panics
    ///
    /// If an action of [`after`](Emulator::after) has panicked.
    pub fn compare<K, D>(&self, stream: &str, put: impl IntoIterator<Item = (K, D)>) -> Comparison
    where
        K: Into<String>,
        D: Into<Bytes>,
    {
        let put = put.into_iter().map(|(key, data)| (key.into(), data.into()));
        Comparison::new(self.seed, stream, put.collect(), &self.records(stream))
    }

    /// Uses the time that has passed on a clock, unless another clock is used already.
    pub(crate) fn set_clock(&self, elapsed: impl Fn() -> Duration + Send + Sync + 'static) {
        let _ = self.clock.0.set(Box::new(elapsed));
    }

    /// Returns the config with a seed.
    pub(crate) fn seeded(&self, config: Config) -> Config {
        seeded(config, derived(self.seed, 1 + self.producers.fetch_add(1, Ordering::Relaxed)))
    }
}

/// Returns the config, with `seed` if it has none: without one, each producer has a random one.
pub(crate) fn seeded(config: Config, seed: u64) -> Config {
    if config.seed() != 0 {
        return config;
    }
    config.to_builder().seed(seed).build().unwrap_or_else(|error| unreachable!("every seed is valid: {error}"))
}

/// Returns a seed for something of a service: not 0, and different for each.
fn derived(seed: u64, of: u64) -> u64 {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..=of).map(|_| rng.u64(1..)).last().unwrap_or(1)
}

//! A model that several servers, transports and tests share, on a clock.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::api::{CreateStream, DeleteStream, UpdateShardCount};
use crate::{Faults, Kinesis, Options, ServiceError};

/// A [`Kinesis`] on a clock, shared by its servers and by tests. By default, that is the wall clock.
///
/// It outlives its servers: after a server is stopped and another is started on the same port, the records are still
/// stored.
///
/// ```
/// # #[cfg(feature = "http")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// use kpl_emulator::{Emulator, Options, Server};
///
/// let emulator = Emulator::new(Options::default()).with_stream("events", 2);
/// let server = Server::start(&emulator).await?;
/// println!("aws kinesis list-streams --endpoint-url {}", server.url());
/// assert_eq!(emulator.with(|kinesis, _now| kinesis.counters().records_stored), 0);
/// # Ok(()) }
/// # #[cfg(not(feature = "http"))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct Emulator {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Fn() -> Duration + Send + Sync>,
}

struct State {
    kinesis: Kinesis,
    /// The latest time that the clock returned: the model's time must not go backwards.
    now: Duration,
    scheduled: Vec<Scheduled>,
    /// The panic of an action.
    failure: Option<String>,
    #[cfg(feature = "http")]
    replies: u64,
}

/// An action at a later time.
struct Scheduled {
    at: Duration,
    action: Box<dyn FnOnce(&Emulator) + Send>,
}

impl Emulator {
    /// Creates a service without streams, on the wall clock.
    pub fn new(mut options: Options) -> Self {
        let (wall, monotonic) = (SystemTime::now(), Instant::now());
        let started = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        if options.incarnation == 0 {
            // Iterators of an earlier process on the same port must not be valid.
            options.incarnation = u64::try_from(started.as_nanos()).unwrap_or(0);
        }
        Self::with_clock(options, move || started + monotonic.elapsed())
    }

    /// Creates a service without streams. `clock` returns the time since the Unix epoch.
    pub fn with_clock(options: Options, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        let kinesis = Kinesis::new(options);
        let state = State {
            kinesis,
            now: Duration::ZERO,
            scheduled: Vec::new(),
            failure: None,
            #[cfg(feature = "http")]
            replies: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), clock: Arc::new(clock) }
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

    /// Changes the number of a stream's shards, by splits and merges, as UpdateShardCount does.
    ///
    /// # Errors
    ///
    /// The errors of UpdateShardCount, for example for more than twice as many shards.
    pub fn reshard(&self, stream: &str, shards: u32) -> Result<(), ServiceError> {
        let request = UpdateShardCount { target_shard_count: shards.into(), ..UpdateShardCount::of(stream) };
        self.with(|kinesis, now| kinesis.update_shard_count(now, &request)).map(drop)
    }

    /// Deletes a stream with its records.
    ///
    /// # Errors
    ///
    /// `ResourceNotFoundException`.
    pub fn delete_stream(&self, stream: &str) -> Result<(), ServiceError> {
        self.with(|kinesis, _| kinesis.delete_stream(&DeleteStream::of(stream))).map(drop)
    }

    /// Calls `f` with the model and with the time since the Unix epoch. `f` must not call methods of this handle: they
    /// would wait for it for ever.
    pub fn with<R>(&self, f: impl FnOnce(&mut Kinesis, Duration) -> R) -> R {
        loop {
            let mut state = self.lock();
            // Read under the lock, so that the time does not go backwards between two calls.
            state.now = state.now.max((self.clock)());
            if state.scheduled.first().is_none_or(|scheduled| scheduled.at > state.now) {
                let State { kinesis, now, .. } = &mut *state;
                return f(kinesis, *now);
            }
            let due = state.scheduled.remove(0);
            drop(state);
            // It must not end the request during which it is due.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (due.action)(self))) {
                let message = panic.downcast_ref::<String>().cloned();
                let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                self.lock().failure.get_or_insert(message.unwrap_or_else(|| "no message".to_owned()));
            }
        }
    }

    /// Does something later: before the first request at least `delay` from now. If it panics, so does
    /// [`check_actions`](Self::check_actions).
    ///
    /// ```
    /// use std::time::Duration;
    /// use kpl_emulator::{Emulator, Options};
    ///
    /// let emulator = Emulator::new(Options::default()).with_stream("events", 2);
    /// emulator.after(Duration::from_secs(60), |emulator| emulator.reshard("events", 4).unwrap());
    /// ```
    pub fn after(&self, delay: Duration, action: impl FnOnce(&Self) + Send + 'static) {
        let at = self.with(|_, now| now.saturating_add(delay));
        let mut state = self.lock();
        let place = state.scheduled.partition_point(|scheduled| scheduled.at <= at);
        state.scheduled.insert(place, Scheduled { at, action: Box::new(action) });
    }

    /// Executes the actions of [`after`](Self::after) that are due.
    ///
    /// # Panics
    ///
    /// If an action has panicked, with its message.
    pub fn check_actions(&self) {
        self.with(|_, _| ());
        let failure = self.lock().failure.clone();
        if let Some(message) = failure {
            panic!("an action that was scheduled with `after` failed: {message}");
        }
    }

    /// Switches faults on or off.
    pub fn set_faults(&self, faults: Faults) {
        self.with(|kinesis, _| kinesis.set_faults(faults));
    }

    /// Returns the next request id, in the service's format.
    #[cfg(feature = "http")]
    pub(crate) fn request_id(&self) -> String {
        let mut state = self.lock();
        state.replies += 1;
        format!("00000000-0000-0000-0000-{:012}", state.replies)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked here has already failed. Others continue.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emulator").field("kinesis", &self.lock().kinesis).finish_non_exhaustive()
    }
}

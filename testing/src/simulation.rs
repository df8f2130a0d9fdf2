//! A runtime on one thread, in virtual time, whose order of tasks follows from a seed.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use fastrand::Rng;
use kpl_core::Instant;
use kpl_driver::Runtime;
use rustc_hash::FxHashMap;

use crate::START;

/// The maximum number of polls at one time. More are reported as an endless loop.
const POLLS_MAX: u64 = 1_000_000;

const DAY: Duration = Duration::from_secs(86_400);

/// The payload of [`end_task`].
struct TaskEnded;

/// A world of hosts on one thread, in virtual time. The same seed gives the same order of tasks, and the same times.
///
/// ```
/// use std::time::Duration;
/// use kpl_driver::Runtime;
/// use kpl_testing::{Kinesis, Simulation};
/// use kpl_testing::core::Config;
///
/// let simulation = Simulation::new(7);
/// let host = simulation.host();
/// let kinesis = Kinesis::new(7).stream("events", 2);
/// let producer = kinesis.producer_on(&host, Config::default());
/// let stored = simulation.run(async move {
///     host.sleep_until(host.now() + Duration::from_secs(3_600)).await; // takes no real time
///     let outcome = producer.put("events", "key", "data").await.unwrap();
///     outcome.await.is_ok()
/// });
/// assert!(stored);
/// ```
///
/// Its drop drops all tasks.
pub struct Simulation(Arc<World>);

/// The settings of a [`Simulation`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The seed of the order of tasks and of late timers.
    pub seed: u64,
    /// The time at the start. Default [`START`].
    pub start: Instant,
    /// Whether tasks that can run do so in random order. Otherwise they run in the order in which they were woken.
    /// Default `true`.
    pub any_order: bool,
    /// The maximum time by which the end of a sleep is late. Default 1 ms, the resolution of tokio's timers.
    pub oversleep: Duration,
    /// The maximum virtual time of [`Simulation::run`]. Default 24 h.
    pub duration_max: Duration,
}

impl Settings {
    /// Returns the defaults with a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            start: Instant::from_nanos(0) + START,
            any_order: true,
            oversleep: Duration::from_millis(1),
            duration_max: DAY,
        }
    }
}

/// A host of a [`Simulation`]: the runtime of its tasks, which end when it crashes. Clones are the same host.
#[derive(Clone)]
pub struct Host {
    world: Arc<World>,
    /// Whether it has crashed. It then drops new tasks.
    has_crashed: Arc<AtomicBool>,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(world) = self;
        f.debug_struct("Simulation")
            .field("settings", &world.settings)
            .field("now", &world.now())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("has_crashed", &self.has_crashed).finish_non_exhaustive()
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

struct World {
    settings: Settings,
    now: AtomicU64,
    tasks: Mutex<FxHashMap<u64, Task>>,
    ready: Arc<Mutex<VecDeque<u64>>>,
    timers: Mutex<BTreeMap<(Instant, u64), Waker>>,
    /// The next number of a task or a timer.
    next_number: AtomicU64,
    rng: Mutex<Rng>,
    has_ended: AtomicBool,
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    waker: Waker,
    task_waker: Arc<TaskWaker>,
    has_host_crashed: Arc<AtomicBool>,
}

/// Marks a task as ready, at most once until it runs.
struct TaskWaker {
    task: u64,
    is_ready: AtomicBool,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.is_ready.swap(true, Ordering::Relaxed) {
            lock(&self.ready).push_back(self.task);
        }
    }
}

impl Simulation {
    /// Creates a world without hosts.
    pub fn new(seed: u64) -> Self {
        Self::with_settings(Settings::new(seed))
    }

    /// Creates a world without hosts.
    pub fn with_settings(settings: Settings) -> Self {
        Self(Arc::new(World {
            now: AtomicU64::new(settings.start.as_nanos()),
            tasks: Mutex::default(),
            ready: Arc::default(),
            timers: Mutex::default(),
            next_number: AtomicU64::new(0),
            rng: Mutex::new(Rng::with_seed(settings.seed)),
            has_ended: AtomicBool::new(false),
            settings,
        }))
    }

    /// Creates a host.
    pub fn host(&self) -> Host {
        Host { world: self.0.clone(), has_crashed: Arc::default() }
    }

    /// Returns the current time.
    pub fn now(&self) -> Instant {
        self.0.now()
    }

    /// Runs all hosts, and time, until the future ends. It is not a task of a host, so no crash ends it.
    ///
    /// # Panics
    ///
    /// - If a task panics, with its message.
    /// - If nothing can ever happen again: no task can run, and none sleeps.
    /// - After [`Settings::duration_max`], for example because the future waits for something, while another task sleeps
    ///   periodically.
    /// - If a task runs for ever without time passing.
    ///
    /// The message has the seed.
    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let output = Arc::new(Mutex::new(None));
        let slot = output.clone();
        self.host().spawn(async move {
            let value = future.await;
            *lock(&slot) = Some(value);
        });
        let end = self.now() + self.0.settings.duration_max;
        let fail = |message: &str| -> ! {
            panic!("seed {}, after {:?}: {message}", self.0.settings.seed, self.elapsed());
        };
        loop {
            if let Err(message) = self.run_ready() {
                fail(&message);
            }
            if let Some(value) = lock(&output).take() {
                return value;
            }
            match self.next_wake() {
                Instant::NEVER => fail("the future never ends, since no task can run and none sleeps"),
                next if next > end => fail("the future has not ended within `duration_max`"),
                next => self.advance(next),
            }
        }
    }

    /// Returns the time since the start.
    pub fn elapsed(&self) -> Duration {
        self.now().saturating_since(self.0.settings.start)
    }

    /// Returns the time at which the next sleep ends; [`Instant::NEVER`] if no task sleeps. For worlds that have events
    /// of their own: with [`advance`](Self::advance) and [`run_ready`](Self::run_ready), they set the time themselves.
    pub fn next_wake(&self) -> Instant {
        lock(&self.0.timers).first_key_value().map_or(Instant::NEVER, |((at, _), _)| *at)
    }

    /// Sets the time to `now`, and wakes the tasks whose sleep has ended.
    pub fn advance(&self, now: Instant) {
        self.0.now.fetch_max(now.as_nanos(), Ordering::Relaxed);
        loop {
            let due = {
                let mut timers = lock(&self.0.timers);
                timers.first_entry().filter(|entry| entry.key().0 <= now).map(|entry| entry.remove())
            };
            let Some(waker) = due else { return };
            waker.wake();
        }
    }

    /// Runs tasks until none can run at this time.
    ///
    /// # Errors
    ///
    /// Returns the message of a task's panic, unless it is that of [`end_task`]; or an error after 10^6 polls.
    pub fn run_ready(&self) -> Result<(), String> {
        for _ in 0..POLLS_MAX {
            let Some(number) = self.0.next_ready() else { return Ok(()) };
            // The task runs without the lock, because it may spawn other tasks.
            let Some(mut task) = lock(&self.0.tasks).remove(&number) else { continue };
            task.task_waker.is_ready.store(false, Ordering::Relaxed);
            let waker = task.waker.clone();
            let polled = catch_unwind(AssertUnwindSafe(|| task.future.as_mut().poll(&mut Context::from_waker(&waker))));
            match polled {
                // It has crashed its own host.
                Ok(Poll::Pending) if task.has_host_crashed.load(Ordering::Relaxed) => drop(task),
                Ok(Poll::Pending) => drop(lock(&self.0.tasks).insert(number, task)),
                Ok(Poll::Ready(())) => {}
                // A runtime drops a task that panics.
                Err(panic) if panic.is::<TaskEnded>() => drop(task),
                Err(panic) => return Err(format!("a task panics: {}", panic_message(&*panic))),
            }
        }
        Err(format!("tasks are polled {POLLS_MAX} times at one time"))
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::Relaxed);
        self.0.drop_tasks(|_| true);
    }
}

impl World {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.now.load(Ordering::Relaxed))
    }

    fn next_ready(&self) -> Option<u64> {
        let mut ready = lock(&self.ready);
        if self.settings.any_order && ready.len() > 1 {
            let index = lock(&self.rng).usize(0..ready.len());
            return ready.swap_remove_front(index);
        }
        ready.pop_front()
    }

    fn drop_tasks(&self, is_dropped: impl Fn(&Task) -> bool) {
        let mut numbers: Vec<u64> = {
            let tasks = lock(&self.tasks);
            tasks.iter().filter(|(_, task)| is_dropped(task)).map(|(number, _)| *number).collect()
        };
        numbers.sort_unstable();
        for number in numbers {
            // The task is dropped without the lock, because the drop may wake other tasks.
            let task = lock(&self.tasks).remove(&number);
            drop(task);
        }
    }
}

impl Runtime for Host {
    fn now(&self) -> Instant {
        self.world.now()
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        let late = lock(&self.world.rng).u64(0..=self.world.settings.oversleep.as_micros() as u64);
        self.sleep_exactly_until(deadline + Duration::from_micros(late))
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        if self.has_crashed() || self.world.has_ended.load(Ordering::Relaxed) {
            return;
        }
        let number = self.world.next_number.fetch_add(1, Ordering::Relaxed);
        let ready = self.world.ready.clone();
        let task_waker = Arc::new(TaskWaker { task: number, is_ready: AtomicBool::new(false), ready });
        let waker = Waker::from(task_waker.clone());
        waker.wake_by_ref();
        let task = Task { future: Box::pin(future), waker, task_waker, has_host_crashed: self.has_crashed.clone() };
        lock(&self.world.tasks).insert(number, task);
    }
}

impl Host {
    /// Crashes it, and returns the host that takes its place, without tasks.
    #[must_use = "without it, there is no host any more: see `crash`"]
    pub fn restart(&self) -> Self {
        self.crash();
        Self { world: self.world.clone(), has_crashed: Arc::default() }
    }

    /// Drops all tasks of the host, and those that it spawns later. The drop of a producer's drive loop fails its
    /// records, so that outcomes are resolved which tasks of other hosts await.
    pub fn crash(&self) {
        self.has_crashed.store(true, Ordering::Relaxed);
        self.world.drop_tasks(|task| Arc::ptr_eq(&task.has_host_crashed, &self.has_crashed));
    }

    /// Returns whether it has crashed.
    pub fn has_crashed(&self) -> bool {
        self.has_crashed.load(Ordering::Relaxed)
    }

    /// Returns whether it has tasks.
    pub fn is_busy(&self) -> bool {
        lock(&self.world.tasks).values().any(|task| Arc::ptr_eq(&task.has_host_crashed, &self.has_crashed))
    }

    /// Waits for a time.
    pub async fn sleep(&self, time: Duration) {
        self.sleep_until(self.now() + time).await;
    }

    /// Waits until `deadline`, as [`sleep_until`](Runtime::sleep_until) does, but is never late.
    pub fn sleep_exactly_until(&self, deadline: Instant) -> Sleep {
        Sleep { world: self.world.clone(), deadline, timer: None }
    }
}

/// Ends the running task by a panic, as a fault. The other tasks go on, and no message is printed.
pub fn end_task() -> ! {
    // This does not call the panic hook, which would print a message.
    std::panic::resume_unwind(Box::new(TaskEnded))
}

/// A future that ends at its deadline.
#[must_use = "futures do nothing unless awaited"]
pub struct Sleep {
    world: Arc<World>,
    deadline: Instant,
    timer: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadline <= self.world.now() {
            return Poll::Ready(());
        }
        if self.deadline != Instant::NEVER {
            let world = self.world.clone();
            let deadline = self.deadline;
            let next_number = || world.next_number.fetch_add(1, Ordering::Relaxed);
            let key = *self.timer.get_or_insert_with(|| (deadline, next_number()));
            lock(&world.timers).insert(key, cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.timer {
            let waker = lock(&self.world.timers).remove(&key);
            drop(waker);
        }
    }
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    // There is one thread, and panics of tasks may poison the mutex.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

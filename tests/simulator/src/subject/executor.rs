//! A simulated runtime: the world runs its tasks and sets its time.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
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

/// The maximum number of polls at one time. More are reported as an endless loop.
const POLLS_MAX: u64 = 1_000_000;

/// The payload of [`Executor::panic`].
struct InjectedPanic;

/// Tasks, and timers that wake them. Clones share the tasks.
#[derive(Clone)]
pub(super) struct Executor(Arc<Inner>);

struct Inner {
    now: AtomicU64,
    tasks: Mutex<FxHashMap<u64, Task>>,
    ready: Arc<Mutex<VecDeque<u64>>>,
    timers: Mutex<BTreeMap<(Instant, u64), Waker>>,
    /// The next number of a task or a timer.
    next_number: AtomicU64,
    rng: Mutex<Rng>,
    /// Whether ready tasks run in random order. Otherwise they run in the order in which they were woken.
    any_order: bool,
    /// The maximum delay of the end of a sleep.
    oversleep: Duration,
    /// Whether the runtime has ended. It then drops new tasks.
    ended: AtomicBool,
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    waker: Waker,
    task_waker: Arc<TaskWaker>,
    /// Whether the task ends with the runtime. Otherwise it is a caller's task.
    of_runtime: bool,
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

impl Runtime for Executor {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.now.load(Ordering::Relaxed))
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        let late = lock(&self.0.rng).u64(0..=self.0.oversleep.as_micros() as u64);
        self.sleep_exactly_until(deadline + Duration::from_micros(late))
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        if !self.0.ended.load(Ordering::Relaxed) {
            self.start(Box::pin(future), true);
        }
    }
}

impl Executor {
    pub(super) fn new(now: Instant, any_order: bool, oversleep: Duration, rng: Rng) -> Self {
        Self(Arc::new(Inner {
            now: AtomicU64::new(now.as_nanos()),
            tasks: Mutex::default(),
            ready: Arc::default(),
            timers: Mutex::default(),
            next_number: AtomicU64::new(0),
            rng: Mutex::new(rng),
            any_order,
            oversleep,
            ended: AtomicBool::new(false),
        }))
    }

    /// Spawns a caller's task, which does not end with the runtime.
    pub(super) fn spawn_caller(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.start(Box::pin(future), false);
    }

    pub(super) fn sleep_exactly_until(&self, deadline: Instant) -> Sleep {
        Sleep { executor: self.clone(), deadline, timer: None }
    }

    /// Sets the time to `now` and wakes the tasks whose timers are due.
    pub(super) fn advance(&self, now: Instant) {
        self.0.now.store(now.as_nanos(), Ordering::Relaxed);
        loop {
            let due = {
                let mut timers = lock(&self.0.timers);
                timers.first_entry().filter(|entry| entry.key().0 <= now).map(|entry| entry.remove())
            };
            let Some(waker) = due else { return };
            waker.wake();
        }
    }

    pub(super) fn next_wake(&self) -> Instant {
        lock(&self.0.timers).first_key_value().map_or(Instant::NEVER, |((at, _), _)| *at)
    }

    /// Runs tasks until none is ready.
    ///
    /// # Errors
    ///
    /// Returns the message of a task's panic, unless it was injected; or an error after [`POLLS_MAX`] polls.
    pub(super) fn run(&self) -> Result<(), String> {
        for _ in 0..POLLS_MAX {
            let Some(number) = self.next_ready() else { return Ok(()) };
            // The task runs without the lock, because it may spawn other tasks.
            let Some(mut task) = lock(&self.0.tasks).remove(&number) else { continue };
            task.task_waker.is_ready.store(false, Ordering::Relaxed);
            let waker = task.waker.clone();
            let polled = catch_unwind(AssertUnwindSafe(|| task.future.as_mut().poll(&mut Context::from_waker(&waker))));
            match polled {
                Ok(Poll::Pending) => drop(lock(&self.0.tasks).insert(number, task)),
                Ok(Poll::Ready(())) => {}
                // A runtime drops a task that panics.
                Err(panic) if panic.is::<InjectedPanic>() => drop(task),
                Err(panic) => return Err(format!("a task panics: {}", panic_message(&*panic))),
            }
        }
        Err(format!("tasks are polled {POLLS_MAX} times at one time"))
    }

    /// Ends the runtime: drops its tasks and all tasks that are spawned later.
    pub(super) fn end(&self) {
        self.0.ended.store(true, Ordering::Relaxed);
        let mut numbers: Vec<u64> = {
            let tasks = lock(&self.0.tasks);
            tasks.iter().filter(|(_, task)| task.of_runtime).map(|(number, _)| *number).collect()
        };
        numbers.sort_unstable();
        for number in numbers {
            // The task is dropped without the lock, because the drop may wake other tasks.
            let task = lock(&self.0.tasks).remove(&number);
            drop(task);
        }
    }

    /// Returns whether a task of the runtime is left.
    pub(super) fn is_busy(&self) -> bool {
        lock(&self.0.tasks).values().any(|task| task.of_runtime)
    }

    /// Ends the running task by a panic.
    pub(super) fn panic() -> ! {
        // This does not call the panic hook, which would print a message.
        std::panic::resume_unwind(Box::new(InjectedPanic))
    }

    fn start(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>, of_runtime: bool) {
        let number = self.0.next_number.fetch_add(1, Ordering::Relaxed);
        let task_waker =
            Arc::new(TaskWaker { task: number, is_ready: AtomicBool::new(false), ready: self.0.ready.clone() });
        let waker = Waker::from(task_waker.clone());
        waker.wake_by_ref();
        lock(&self.0.tasks).insert(number, Task { future, waker, task_waker, of_runtime });
    }

    fn next_ready(&self) -> Option<u64> {
        let mut ready = lock(&self.0.ready);
        if self.0.any_order && ready.len() > 1 {
            let index = lock(&self.0.rng).usize(0..ready.len());
            return ready.swap_remove_front(index);
        }
        ready.pop_front()
    }
}

/// A future that ends at its deadline.
pub(super) struct Sleep {
    executor: Executor,
    deadline: Instant,
    timer: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadline <= self.executor.now() {
            return Poll::Ready(());
        }
        if self.deadline != Instant::NEVER {
            let inner = self.executor.0.clone();
            let deadline = self.deadline;
            let next_number = || inner.next_number.fetch_add(1, Ordering::Relaxed);
            let key = *self.timer.get_or_insert_with(|| (deadline, next_number()));
            lock(&inner.timers).insert(key, cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.timer {
            let waker = lock(&self.executor.0.timers).remove(&key);
            drop(waker);
        }
    }
}

pub(super) fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    // There is one thread, and injected panics may poison the mutex.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

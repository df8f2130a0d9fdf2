//! A runtime in which nothing happens by itself: tasks run when the world lets them, and time is what it says.

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

/// Polls at one time after which tasks are taken to wake each other for ever.
const POLLS_MAX: u64 = 1_000_000;

/// What [`Executor::panic`] panics with.
struct Told;

/// Tasks, and alarms that wake them. A handle, to be cloned.
#[derive(Clone)]
pub(super) struct Executor(Arc<Inner>);

struct Inner {
    now: AtomicU64,
    tasks: Mutex<FxHashMap<u64, Task>>,
    ready: Arc<Mutex<VecDeque<u64>>>,
    alarms: Mutex<BTreeMap<(Instant, u64), Waker>>,
    /// Numbers tasks and alarms.
    numbers: AtomicU64,
    dice: Mutex<Rng>,
    /// Whether tasks that are ready run in any order, or first come, first served.
    any_order: bool,
    /// By how much sleeps end late at the most.
    oversleep: Duration,
    /// The runtime has ended: what it is given is dropped.
    ended: AtomicBool,
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    waker: Waker,
    alarm: Arc<Alarm>,
    /// Whether it goes when the runtime ends; else it is a caller's.
    of_runtime: bool,
}

/// Makes a task ready, once until it runs.
struct Alarm {
    task: u64,
    is_ready: AtomicBool,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for Alarm {
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
        let late = lock(&self.0.dice).u64(0..=self.0.oversleep.as_micros() as u64);
        self.sleep_exactly_until(deadline + Duration::from_micros(late))
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        if !self.0.ended.load(Ordering::Relaxed) {
            self.start(Box::pin(future), true);
        }
    }
}

impl Executor {
    pub(super) fn new(now: Instant, any_order: bool, oversleep: Duration, dice: Rng) -> Self {
        Self(Arc::new(Inner {
            now: AtomicU64::new(now.as_nanos()),
            tasks: Mutex::default(),
            ready: Arc::default(),
            alarms: Mutex::default(),
            numbers: AtomicU64::new(0),
            dice: Mutex::new(dice),
            any_order,
            oversleep,
            ended: AtomicBool::new(false),
        }))
    }

    /// Runs a caller's future: it lives on when the runtime ends.
    pub(super) fn spawn_caller(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.start(Box::pin(future), false);
    }

    pub(super) fn sleep_exactly_until(&self, deadline: Instant) -> Sleep {
        Sleep { executor: self.clone(), deadline, alarm: None }
    }

    /// The time is now `now`. Wakes who wanted to be woken.
    pub(super) fn advance(&self, now: Instant) {
        self.0.now.store(now.as_nanos(), Ordering::Relaxed);
        loop {
            let due = {
                let mut alarms = lock(&self.0.alarms);
                alarms.first_entry().filter(|entry| entry.key().0 <= now).map(|entry| entry.remove())
            };
            let Some(waker) = due else { return };
            waker.wake();
        }
    }

    pub(super) fn next_wake(&self) -> Instant {
        lock(&self.0.alarms).first_key_value().map_or(Instant::NEVER, |((at, _), _)| *at)
    }

    /// Runs tasks until none is ready.
    ///
    /// # Errors
    ///
    /// What a task said that panicked without being told to; or that they go on for ever.
    pub(super) fn run(&self) -> Result<(), String> {
        for _ in 0..POLLS_MAX {
            let Some(number) = self.next_ready() else { return Ok(()) };
            // Outside the lock: a task may start others.
            let Some(mut task) = lock(&self.0.tasks).remove(&number) else { continue };
            task.alarm.is_ready.store(false, Ordering::Relaxed);
            let waker = task.waker.clone();
            let polled = catch_unwind(AssertUnwindSafe(|| task.future.as_mut().poll(&mut Context::from_waker(&waker))));
            match polled {
                Ok(Poll::Pending) => drop(lock(&self.0.tasks).insert(number, task)),
                Ok(Poll::Ready(())) => {}
                // A runtime drops a task that panics.
                Err(panic) if panic.is::<Told>() => drop(task),
                Err(panic) => return Err(format!("a task panics: {}", said(&*panic))),
            }
        }
        Err(format!("tasks wake each other {POLLS_MAX} times without an end"))
    }

    /// Ends the runtime: its tasks are dropped where they are, and it takes no more.
    pub(super) fn end(&self) {
        self.0.ended.store(true, Ordering::Relaxed);
        let mut numbers: Vec<u64> = {
            let tasks = lock(&self.0.tasks);
            tasks.iter().filter(|(_, task)| task.of_runtime).map(|(number, _)| *number).collect()
        };
        numbers.sort_unstable();
        for number in numbers {
            // Outside the lock: what is dropped may wake others.
            let task = lock(&self.0.tasks).remove(&number);
            drop(task);
        }
    }

    /// Whether any task of the runtime is left.
    pub(super) fn is_busy(&self) -> bool {
        lock(&self.0.tasks).values().any(|task| task.of_runtime)
    }

    /// Ends the task at work by a panic.
    pub(super) fn panic() -> ! {
        // No hook: nothing is printed.
        std::panic::resume_unwind(Box::new(Told))
    }

    fn start(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>, of_runtime: bool) {
        let number = self.0.numbers.fetch_add(1, Ordering::Relaxed);
        let alarm = Arc::new(Alarm { task: number, is_ready: AtomicBool::new(false), ready: self.0.ready.clone() });
        let waker = Waker::from(alarm.clone());
        waker.wake_by_ref();
        lock(&self.0.tasks).insert(number, Task { future, waker, alarm, of_runtime });
    }

    fn next_ready(&self) -> Option<u64> {
        let mut ready = lock(&self.0.ready);
        if self.0.any_order && ready.len() > 1 {
            let any = lock(&self.0.dice).usize(0..ready.len());
            return ready.swap_remove_front(any);
        }
        ready.pop_front()
    }
}

/// Ends at its deadline.
pub(super) struct Sleep {
    executor: Executor,
    deadline: Instant,
    alarm: Option<(Instant, u64)>,
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
            let key = *self.alarm.get_or_insert_with(|| (deadline, inner.numbers.fetch_add(1, Ordering::Relaxed)));
            lock(&inner.alarms).insert(key, cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.alarm {
            let alarm = lock(&self.executor.0.alarms).remove(&key);
            drop(alarm);
        }
    }
}

pub(super) fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    // One thread, and panics are part of the game.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("nothing")
}

//! Checks of spawn.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{TIME_LIMIT, fail, require, run, try_run};
use crate::drive::yield_now;
use crate::runtime::Runtime;

pub(super) fn check_basics<R: Runtime>(runtime: &R) {
    spawn_works_from_any_thread(runtime);
    spawn_returns_before_the_future_ends(runtime);
}

pub(super) fn check<R: Runtime>(runtime: &R) {
    tasks_can_spawn(runtime);
    a_detached_future_runs_to_its_end(runtime);
    a_waiting_future_does_not_block_others(runtime);
    a_future_that_yields_lets_others_run(runtime);
    a_wake_up_from_a_plain_thread_arrives(runtime);
    a_future_that_panics_is_dropped_and_others_continue(runtime);
    thousands_of_futures_run_at_once(runtime);
}

const CONCURRENT: &str =
    "`spawn` runs the future concurrently with its caller and returns at once (the drive loop spawns requests)";
const ANY_THREAD: &str = "`spawn` works from any thread, inside the runtime and outside";
const TO_THE_END: &str = "a spawned future runs to its end without a handle that holds or awaits it";
const SIDE_BY_SIDE: &str = "spawned futures run side by side: a waiting future does not block others";
const FAIR: &str = "a future that yields lets others run";
const WOKEN: &str = "a wake-up from a plain thread arrives";
const PANICS: &str = "a future that panics is dropped, and others continue (the drop of its guard returns its records)";
const THOUSANDS: &str = "thousands of futures run at once";

fn spawn_returns_before_the_future_ends<R: Runtime>(runtime: &R) {
    let (resume, resumed) = oneshot::channel::<()>();
    let (return_sender, returned) = channel();
    let (start_sender, started) = channel();
    let (end_sender, ended) = channel();
    let spawner = runtime.clone();
    // On a separate thread, since a spawn that does not return would block this one.
    thread::spawn(move || {
        spawner.spawn(async move {
            let _ = start_sender.send(());
            let _ = resumed.await;
            let _ = end_sender.send(());
        });
        let _ = return_sender.send(());
    });
    let has_returned = returned.recv_timeout(TIME_LIMIT).is_ok();
    require(has_returned, CONCURRENT, || "it waits for the end of the future".into());
    require(started.recv_timeout(TIME_LIMIT).is_ok(), TO_THE_END, || "it was never polled".into());
    // A faulty runtime may drop a waiting future only after a while.
    thread::sleep(Duration::from_millis(20));
    require(resume.send(()).is_ok(), TO_THE_END, || "it was dropped while it waited".into());
    require(ended.recv_timeout(TIME_LIMIT).is_ok(), TO_THE_END, || "it was not polled again".into());
}

fn spawn_works_from_any_thread<R: Runtime>(runtime: &R) {
    let spawner = runtime.clone();
    let (sender, ran) = channel();
    let thread = thread::spawn(move || {
        spawner.spawn(async move {
            let _ = sender.send(());
        });
    });
    require(thread.join().is_ok(), ANY_THREAD, || "it panicked on a plain thread".into());
    require(ran.recv_timeout(TIME_LIMIT).is_ok(), ANY_THREAD, || {
        "the future did not run when spawned from a plain thread".into()
    });
}

fn tasks_can_spawn<R: Runtime>(runtime: &R) {
    fn nest<R: Runtime>(runtime: R, depth: usize, sender: Sender<()>) {
        runtime.clone().spawn(async move {
            match depth {
                0 => drop(sender.send(())),
                _ => nest(runtime, depth - 1, sender),
            }
        });
    }
    let (sender, ended) = channel();
    nest(runtime.clone(), 1_000, sender);
    require(ended.recv_timeout(TIME_LIMIT).is_ok(), ANY_THREAD, || {
        "in a chain of 1,000 futures that spawn each other, the last did not run".into()
    });
}

fn a_detached_future_runs_to_its_end<R: Runtime>(runtime: &R) {
    let clock = runtime.clone();
    let (sender, ended) = channel();
    runtime.spawn(async move {
        for _ in 0..3 {
            clock.sleep_until(clock.now() + Duration::from_millis(5)).await;
            yield_now().await;
        }
        let _ = sender.send(());
    });
    require(ended.recv_timeout(TIME_LIMIT).is_ok(), TO_THE_END, || "it stopped after a few waits".into());
}

fn a_waiting_future_does_not_block_others<R: Runtime>(runtime: &R) {
    let (sender, receiver) = oneshot::channel::<()>();
    runtime.spawn(async move {
        let _ = receiver.await;
        pending::<()>().await;
    });
    run(runtime, SIDE_BY_SIDE, async {});
    drop(sender);
    run(runtime, SIDE_BY_SIDE, async {});
}

fn a_future_that_yields_lets_others_run<R: Runtime>(runtime: &R) {
    let stop = Arc::new(AtomicBool::new(false));
    // More than the number of threads on most machines.
    for _ in 0..64 {
        let stop = stop.clone();
        runtime.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                yield_now().await;
            }
        });
    }
    let ran = try_run(runtime, async {});
    stop.store(true, Ordering::Relaxed);
    require(ran.is_some(), FAIR, || "with 64 futures that yield forever, another did not run".into());
}

fn a_wake_up_from_a_plain_thread_arrives<R: Runtime>(runtime: &R) {
    for pause in [0, 1, 10] {
        let (sender, receiver) = oneshot::channel();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(pause));
            sender.send(())
        });
        let woken = run(runtime, WOKEN, receiver);
        require(woken.is_ok(), WOKEN, || "it did not arrive".into());
    }
}

fn a_future_that_panics_is_dropped_and_others_continue<R: Runtime>(runtime: &R) {
    let others_ended = Arc::new(AtomicUsize::new(0));
    let (resume, resumed) = oneshot::channel::<()>();
    let counter = others_ended.clone();
    runtime.spawn(async move {
        let _ = resumed.await;
        counter.fetch_add(1, Ordering::SeqCst);
    });
    for is_polled_twice in [false, true] {
        for _ in 0..4 {
            // Like the guard of a request, it acts when it is dropped.
            let (guard, dropped) = oneshot::channel::<()>();
            runtime.spawn(async move {
                let _guard = guard;
                if is_polled_twice {
                    yield_now().await;
                }
                panic!("this panic is part of the check");
            });
            let dropped = crate::park::wait_for(dropped, Some(TIME_LIMIT));
            require(dropped.is_some(), PANICS, || "the future that panicked was not dropped".into());
        }
    }
    run(runtime, PANICS, async {});
    let _ = resume.send(());
    let start = std::time::Instant::now();
    while others_ended.load(Ordering::SeqCst) == 0 {
        if start.elapsed() > TIME_LIMIT {
            fail(PANICS, "a future that was waiting at the time of the panic did not continue");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn thousands_of_futures_run_at_once<R: Runtime>(runtime: &R) {
    const COUNT: usize = 5_000;
    let arrived = Arc::new(AtomicUsize::new(0));
    let (sender, ended) = channel();
    for _ in 0..COUNT {
        let (arrived, sender, clock) = (arrived.clone(), sender.clone(), runtime.clone());
        runtime.spawn(async move {
            arrived.fetch_add(1, Ordering::SeqCst);
            // Each continues when all have arrived, so none can end before another begins.
            while arrived.load(Ordering::SeqCst) < COUNT {
                clock.sleep_until(clock.now() + Duration::from_millis(10)).await;
            }
            let _ = sender.send(());
        });
    }
    for done in 0..COUNT {
        require(ended.recv_timeout(TIME_LIMIT).is_ok(), THOUSANDS, || format!("only {done} of {COUNT} ended"));
    }
}

//! Running something beside.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{PATIENCE, broken, check as promised, must, on};
use crate::drive::yield_now;
use crate::runtime::Runtime;

pub(super) fn check_basics<R: Runtime>(runtime: &R) {
    it_works_from_any_thread(runtime);
    it_comes_back_before_the_future_ends(runtime);
}

pub(super) fn check<R: Runtime>(runtime: &R) {
    tasks_can_spawn(runtime);
    a_future_runs_to_its_end_with_nobody_looking(runtime);
    a_future_that_waits_holds_up_no_other(runtime);
    a_future_that_yields_lets_others_run(runtime);
    a_wake_from_a_plain_thread_arrives(runtime);
    a_future_that_panics_is_dropped_and_harms_no_other(runtime);
    thousands_run_at_once(runtime);
}

const BESIDE: &str =
    "`spawn` runs the future beside its caller and comes back at once (the drive loop spawns its requests)";
const ANY_THREAD: &str = "`spawn` works from any thread, inside the runtime and outside";
const TO_THE_END: &str = "a spawned future runs to its end, though nobody holds or awaits it";
const SIDE_BY_SIDE: &str = "spawned futures run side by side: one that waits holds up no other";
const FAIR: &str = "a future that yields lets others run";
const WOKEN: &str = "a wake-up from a plain thread arrives";
const PANICS: &str = "a future that panics is dropped, and no other is harmed (its guard gives its records back)";
const THOUSANDS: &str = "thousands of futures run at once";

fn it_comes_back_before_the_future_ends<R: Runtime>(runtime: &R) {
    let (go, gone) = oneshot::channel::<()>();
    let (back, came_back) = channel();
    let (begin, begun) = channel();
    let (end, ended) = channel();
    let spawner = runtime.clone();
    // On a thread of its own, since a spawn that does not come back would hang this one.
    thread::spawn(move || {
        spawner.spawn(async move {
            let _ = begin.send(());
            let _ = gone.await;
            let _ = end.send(());
        });
        let _ = back.send(());
    });
    let came_back = came_back.recv_timeout(PATIENCE).is_ok();
    promised(came_back, BESIDE, || "it waits for the end of the future".into());
    promised(begun.recv_timeout(PATIENCE).is_ok(), TO_THE_END, || "it was never polled".into());
    // Time for a runtime that drops what waits.
    thread::sleep(Duration::from_millis(20));
    promised(go.send(()).is_ok(), TO_THE_END, || "it was dropped while it waited".into());
    promised(ended.recv_timeout(PATIENCE).is_ok(), TO_THE_END, || "it was not polled again".into());
}

fn it_works_from_any_thread<R: Runtime>(runtime: &R) {
    let spawner = runtime.clone();
    let (ran, run) = channel();
    let thread = thread::spawn(move || {
        spawner.spawn(async move {
            let _ = ran.send(());
        });
    });
    promised(thread.join().is_ok(), ANY_THREAD, || "it panicked on a plain thread".into());
    promised(run.recv_timeout(PATIENCE).is_ok(), ANY_THREAD, || "from a plain thread, the future did not run".into());
}

fn tasks_can_spawn<R: Runtime>(runtime: &R) {
    fn nest<R: Runtime>(runtime: R, depth: usize, end: Sender<()>) {
        runtime.clone().spawn(async move {
            match depth {
                0 => drop(end.send(())),
                _ => nest(runtime, depth - 1, end),
            }
        });
    }
    let (end, ended) = channel();
    nest(runtime.clone(), 1_000, end);
    promised(ended.recv_timeout(PATIENCE).is_ok(), ANY_THREAD, || {
        "of a thousand that spawned each other, the last did not run".into()
    });
}

fn a_future_runs_to_its_end_with_nobody_looking<R: Runtime>(runtime: &R) {
    let clock = runtime.clone();
    let (end, ended) = channel();
    runtime.spawn(async move {
        for _ in 0..3 {
            clock.sleep_until(clock.now() + Duration::from_millis(5)).await;
            yield_now().await;
        }
        let _ = end.send(());
    });
    promised(ended.recv_timeout(PATIENCE).is_ok(), TO_THE_END, || "after a few waits it did not go on".into());
}

fn a_future_that_waits_holds_up_no_other<R: Runtime>(runtime: &R) {
    let (let_go, held) = oneshot::channel::<()>();
    runtime.spawn(async move {
        let _ = held.await;
        pending::<()>().await;
    });
    must(runtime, SIDE_BY_SIDE, async {});
    drop(let_go);
    must(runtime, SIDE_BY_SIDE, async {});
}

fn a_future_that_yields_lets_others_run<R: Runtime>(runtime: &R) {
    let stop = Arc::new(AtomicBool::new(false));
    // More than there are threads, on most machines.
    for _ in 0..64 {
        let stop = stop.clone();
        runtime.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                yield_now().await;
            }
        });
    }
    let ran = on(runtime, async {});
    stop.store(true, Ordering::Relaxed);
    promised(ran.is_some(), FAIR, || "beside 64 that yield for ever, another did not run".into());
}

fn a_wake_from_a_plain_thread_arrives<R: Runtime>(runtime: &R) {
    for pause in [0, 1, 10] {
        let (sender, receiver) = oneshot::channel();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(pause));
            sender.send(())
        });
        let woken = must(runtime, WOKEN, receiver);
        promised(woken.is_ok(), WOKEN, || "it did not".into());
    }
}

fn a_future_that_panics_is_dropped_and_harms_no_other<R: Runtime>(runtime: &R) {
    let bystander = Arc::new(AtomicUsize::new(0));
    let (go, gone) = oneshot::channel::<()>();
    let seen = bystander.clone();
    runtime.spawn(async move {
        let _ = gone.await;
        seen.fetch_add(1, Ordering::SeqCst);
    });
    for late in [false, true] {
        for _ in 0..4 {
            // The guard of a request tells by its drop.
            let (guard, dropped) = oneshot::channel::<()>();
            runtime.spawn(async move {
                let _guard = guard;
                if late {
                    yield_now().await;
                }
                panic!("this panic is part of the check: a task may panic");
            });
            let dropped = crate::park::wait_for(dropped, Some(PATIENCE));
            promised(dropped.is_some(), PANICS, || "the future that panicked was kept".into());
        }
    }
    must(runtime, PANICS, async {});
    let _ = go.send(());
    let start = std::time::Instant::now();
    while bystander.load(Ordering::SeqCst) == 0 {
        if start.elapsed() > PATIENCE {
            broken(PANICS, "one that was waiting meanwhile did not go on");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn thousands_run_at_once<R: Runtime>(runtime: &R) {
    const COUNT: usize = 5_000;
    let arrived = Arc::new(AtomicUsize::new(0));
    let (end, ended) = channel();
    for _ in 0..COUNT {
        let (arrived, end, clock) = (arrived.clone(), end.clone(), runtime.clone());
        runtime.spawn(async move {
            arrived.fetch_add(1, Ordering::SeqCst);
            // Each goes on when all have arrived: none may have to end before another begins.
            while arrived.load(Ordering::SeqCst) < COUNT {
                clock.sleep_until(clock.now() + Duration::from_millis(10)).await;
            }
            let _ = end.send(());
        });
    }
    for done in 0..COUNT {
        promised(ended.recv_timeout(PATIENCE).is_ok(), THOUSANDS, || format!("only {done} of {COUNT} ended"));
    }
}

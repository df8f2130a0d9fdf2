//! Checks of the clock and of sleeps.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use kpl_core::Instant;

use super::{require, run, try_run};
use crate::runtime::Runtime;

pub(super) fn check<R: Runtime>(runtime: &R) {
    the_clock_never_goes_backwards(runtime);
    the_clock_is_as_fast_as_the_monotonic_clock(runtime);
    a_sleep_until_a_past_deadline_ends_at_once(runtime);
    sleeps_end_soon_after_their_deadlines(runtime);
    the_latest_waker_is_woken(runtime);
    distant_deadlines_are_long_sleeps(runtime);
    dropped_sleeps_do_not_affect_others(runtime);
}

const ORDERED: &str = "`now` never goes backwards, across all threads";
const AS_FAST: &str = "`now` goes as fast as the machine's monotonic clock";
const PAST: &str = "`sleep_until` a time that has passed ends at once";
const NEVER_EARLY: &str = "`sleep_until` never ends before its deadline";
const SOON: &str = "`sleep_until` ends soon after its deadline (the latency of every record depends on it)";
const FAR: &str = "`sleep_until` the end of time is a long sleep, without a panic (an idle producer may call it)";
const WAKER: &str = "a sleep wakes the task that polled it last";
const DROPPED: &str = "dropped sleeps do not affect others (the drive loop drops one per wake-up)";

fn the_clock_never_goes_backwards<R: Runtime>(runtime: &R) {
    let latest = Arc::new(AtomicU64::new(0));
    let readers = (0..4).map(|_| {
        let (runtime, latest) = (runtime.clone(), latest.clone());
        thread::spawn(move || {
            let step_back = |_| {
                let before = latest.load(Ordering::SeqCst);
                let now = runtime.now().as_nanos();
                latest.fetch_max(now, Ordering::SeqCst);
                (now < before).then(|| before - now)
            };
            (0..20_000).find_map(step_back)
        })
    });
    // Collect first, to start all threads before the first join.
    for reader in readers.collect::<Vec<_>>() {
        let step_back = reader.join().unwrap_or_else(|_| super::fail(ORDERED, "it panicked on a plain thread"));
        require(step_back.is_none(), ORDERED, || format!("it went back by {} ns", step_back.unwrap_or_default()));
    }
}

fn the_clock_is_as_fast_as_the_monotonic_clock<R: Runtime>(runtime: &R) {
    let (start, clock) = (runtime.now(), std::time::Instant::now());
    thread::sleep(Duration::from_millis(200));
    let elapsed_min = clock.elapsed();
    let measured = runtime.now().saturating_since(start);
    let elapsed_max = clock.elapsed();
    // The two clocks are not read at the same time: one or two time slices may lie between the reads.
    let is_same =
        measured + Duration::from_millis(40) >= elapsed_min && measured <= elapsed_max + Duration::from_millis(200);
    require(is_same, AS_FAST, || format!("it advanced {measured:?} in {elapsed_min:?}"));
}

fn a_sleep_until_a_past_deadline_ends_at_once<R: Runtime>(runtime: &R) {
    for nanos_past in [0, 1, 1_000_000, u64::MAX] {
        let clock = runtime.clone();
        run(runtime, PAST, async move {
            let deadline = Instant::from_nanos(clock.now().as_nanos().saturating_sub(nanos_past));
            clock.sleep_until(deadline).await;
        });
    }
}

fn sleeps_end_soon_after_their_deadlines<R: Runtime>(runtime: &R) {
    // Many concurrent sleeps, with deadlines in no order.
    let (sender, ends) = std::sync::mpsc::channel();
    for n in 0..200_u64 {
        let (clock, sender) = (runtime.clone(), sender.clone());
        runtime.spawn(async move {
            let deadline = clock.now() + Duration::from_micros(n * 7_919 % 200 * 250 + 1);
            clock.sleep_until(deadline).await;
            let _ = sender.send((deadline, clock.now()));
        });
    }
    drop(sender);
    let mut late: Vec<Duration> = Vec::new();
    for _ in 0..200 {
        let Ok((deadline, end)) = ends.recv_timeout(super::TIME_LIMIT) else {
            super::fail(SOON, "it did not end within 10 s, or panicked");
        };
        require(end >= deadline, NEVER_EARLY, || format!("it ended {:?} early", deadline.saturating_since(end)));
        late.push(end.saturating_since(deadline));
    }
    late.sort_unstable();
    // A generous limit for the median, because a busy machine delays some sleeps, but not most.
    require(late[100] < Duration::from_millis(200), SOON, || format!("the median sleep ended {:?} late", late[100]));
}

fn the_latest_waker_is_woken<R: Runtime>(runtime: &R) {
    let clock = runtime.clone();
    run(runtime, WAKER, async move {
        let mut sleep = pin!(clock.sleep_until(clock.now() + Duration::from_millis(30)));
        let mut is_first = true;
        poll_fn(|cx| {
            // The first poll has a waker that does nothing; the second has this task's.
            if std::mem::take(&mut is_first) && sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
            {
                return Poll::Ready(());
            }
            sleep.as_mut().poll(cx)
        })
        .await;
    });
}

fn distant_deadlines_are_long_sleeps<R: Runtime>(runtime: &R) {
    let day = Duration::from_secs(86_400);
    let now = runtime.now();
    for deadline in [now + day, now + day * 365, now + day * 365 * 100, Instant::NEVER] {
        let clock = runtime.clone();
        let ended = try_run(runtime, async move {
            let mut sleep = pin!(clock.sleep_until(deadline));
            let mut short = pin!(clock.sleep_until(clock.now() + Duration::from_millis(50)));
            // The sleep may be polled several times.
            poll_fn(|cx| match (sleep.as_mut().poll(cx), short.as_mut().poll(cx)) {
                (Poll::Ready(()), _) => Poll::Ready(true),
                (Poll::Pending, short) => short.map(|()| false),
            })
            .await
        });
        require(ended == Some(false), FAR, || match ended {
            Some(_) => format!("it ended at once; the deadline was {deadline:?}"),
            None => format!("it panicked or blocked others; the deadline was {deadline:?}"),
        });
    }
}

fn dropped_sleeps_do_not_affect_others<R: Runtime>(runtime: &R) {
    let clock = runtime.clone();
    let late = run(runtime, DROPPED, async move {
        for n in 0..10_000 {
            let mut sleep = pin!(clock.sleep_until(clock.now() + Duration::from_millis(20 + n % 50)));
            poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx).is_ready())).await;
        }
        let deadline = clock.now() + Duration::from_millis(100);
        clock.sleep_until(deadline).await;
        clock.now().saturating_since(deadline)
    });
    require(late < Duration::from_secs(5), DROPPED, || {
        format!("after 10,000 dropped sleeps, a sleep ended {late:?} late")
    });
}

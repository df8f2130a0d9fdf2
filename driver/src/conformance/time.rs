//! The clock, and sleeping by it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use kpl_core::Instant;

use super::{check as promised, must, on};
use crate::runtime::Runtime;

pub(super) fn check<R: Runtime>(runtime: &R) {
    the_clock_never_goes_backwards(runtime);
    the_clock_goes_as_fast_as_others(runtime);
    a_deadline_that_has_passed_ends_at_once(runtime);
    sleeps_end_after_their_deadlines_and_soon(runtime);
    the_latest_waker_counts(runtime);
    far_deadlines_are_far(runtime);
    dropped_sleeps_leave_nothing_behind(runtime);
}

const ORDERED: &str = "`now` never goes backwards, whichever threads look";
const AS_FAST: &str = "`now` goes as fast as the machine's monotonic clock";
const PAST: &str = "`sleep_until` a time that has passed ends at once";
const NEVER_EARLY: &str = "`sleep_until` never ends before its deadline";
const SOON: &str = "`sleep_until` ends soon after its deadline (every record's latency hangs on it)";
const FAR: &str = "`sleep_until` the end of time is a long sleep, without a panic (an idle producer may ask for it)";
const WAKER: &str = "a sleep wakes the task that polled it last";
const DROPPED: &str = "dropped sleeps harm no others (the drive loop drops one with every wake-up)";

fn the_clock_never_goes_backwards<R: Runtime>(runtime: &R) {
    let latest = Arc::new(AtomicU64::new(0));
    let looks = (0..4).map(|_| {
        let (runtime, latest) = (runtime.clone(), latest.clone());
        thread::spawn(move || {
            let back = |_| {
                let before = latest.load(Ordering::SeqCst);
                let now = runtime.now().as_nanos();
                latest.fetch_max(now, Ordering::SeqCst);
                (now < before).then(|| before - now)
            };
            (0..20_000).find_map(back)
        })
    });
    // All of them are started before the first is waited for.
    for look in looks.collect::<Vec<_>>() {
        let back = look.join().unwrap_or_else(|_| super::broken(ORDERED, "it panicked on a plain thread"));
        promised(back.is_none(), ORDERED, || format!("it went back by {} ns", back.unwrap_or_default()));
    }
}

fn the_clock_goes_as_fast_as_others<R: Runtime>(runtime: &R) {
    let (start, clock) = (runtime.now(), std::time::Instant::now());
    thread::sleep(Duration::from_millis(200));
    let least = clock.elapsed();
    let shown = runtime.now().saturating_since(start);
    let most = clock.elapsed();
    // The two are not read at the same moment: that may cost a time slice or two at the beginning.
    let fits = shown + Duration::from_millis(40) >= least && shown <= most + Duration::from_millis(200);
    promised(fits, AS_FAST, || format!("it went on by {shown:?} in {least:?}"));
}

fn a_deadline_that_has_passed_ends_at_once<R: Runtime>(runtime: &R) {
    for before in [0, 1, 1_000_000, u64::MAX] {
        let clock = runtime.clone();
        must(runtime, PAST, async move {
            let deadline = Instant::from_nanos(clock.now().as_nanos().saturating_sub(before));
            clock.sleep_until(deadline).await;
        });
    }
}

fn sleeps_end_after_their_deadlines_and_soon<R: Runtime>(runtime: &R) {
    // All at once, and in no order.
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
        let Ok((deadline, end)) = ends.recv_timeout(super::PATIENCE) else {
            super::broken(SOON, "it did not end within 10 s, or panicked");
        };
        promised(end >= deadline, NEVER_EARLY, || format!("it ended {:?} early", deadline.saturating_since(end)));
        late.push(end.saturating_since(deadline));
    }
    late.sort_unstable();
    // The median, and generously: a busy machine delays some of them, but not most.
    promised(late[100] < Duration::from_millis(200), SOON, || format!("half of them ended {:?} late", late[100]));
}

fn the_latest_waker_counts<R: Runtime>(runtime: &R) {
    let clock = runtime.clone();
    must(runtime, WAKER, async move {
        let mut sleep = pin!(clock.sleep_until(clock.now() + Duration::from_millis(30)));
        let mut first = true;
        poll_fn(|cx| {
            // First for nobody, then for this task.
            if std::mem::take(&mut first) && sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                return Poll::Ready(());
            }
            sleep.as_mut().poll(cx)
        })
        .await;
    });
}

fn far_deadlines_are_far<R: Runtime>(runtime: &R) {
    let day = Duration::from_secs(86_400);
    let now = runtime.now();
    for deadline in [now + day, now + day * 365, now + day * 365 * 100, Instant::NEVER] {
        let clock = runtime.clone();
        let ended = on(runtime, async move {
            let mut sleep = pin!(clock.sleep_until(deadline));
            let mut awake = pin!(clock.sleep_until(clock.now() + Duration::from_millis(50)));
            // It may be polled again and again.
            poll_fn(|cx| match (sleep.as_mut().poll(cx), awake.as_mut().poll(cx)) {
                (Poll::Ready(()), _) => Poll::Ready(true),
                (Poll::Pending, awake) => awake.map(|()| false),
            })
            .await
        });
        promised(ended == Some(false), FAR, || match ended {
            Some(_) => format!("it ended at once; the deadline was {deadline:?}"),
            None => format!("it panicked, or did not let others go on; the deadline was {deadline:?}"),
        });
    }
}

fn dropped_sleeps_leave_nothing_behind<R: Runtime>(runtime: &R) {
    let clock = runtime.clone();
    let late = must(runtime, DROPPED, async move {
        for n in 0..10_000 {
            let mut sleep = pin!(clock.sleep_until(clock.now() + Duration::from_millis(20 + n % 50)));
            poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx).is_ready())).await;
        }
        let deadline = clock.now() + Duration::from_millis(100);
        clock.sleep_until(deadline).await;
        clock.now().saturating_since(deadline)
    });
    promised(late < Duration::from_secs(5), DROPPED, || format!("after ten thousand of them, one ended {late:?} late"));
}

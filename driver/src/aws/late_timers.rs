//! Timeouts of a process that stood still: stopped by a signal, frozen between two calls of a Lambda function, or on a
//! machine that slept.

use std::time::{Duration, Instant};

use aws_sdk_kinesis::config::{AsyncSleep, SharedAsyncSleep, Sleep};

/// The maximum of the additional wait. A runtime reads what has arrived within milliseconds; a busy machine takes
/// longer.
const ADDITIONAL_WAIT_MAX: Duration = Duration::from_secs(1);

/// A sleep for timeouts. If it ends late, it waits once more, as long as it was late, up to 1 s.
///
/// When a process continues, its timers end before it has read its sockets. Without the additional wait, a reply that
/// arrived in the meantime would be lost, and its records would be stored twice. The lateness is measured with the
/// monotonic clock, so tests that pause the runtime's clock wait no longer.
#[derive(Debug)]
pub(super) struct LenientSleep(pub(super) SharedAsyncSleep);

impl AsyncSleep for LenientSleep {
    fn sleep(&self, duration: Duration) -> Sleep {
        let runtime = self.0.clone();
        let start = Instant::now();
        let sleep = runtime.sleep(duration);
        Sleep::new(async move {
            sleep.await;
            let lateness = start.elapsed().saturating_sub(duration);
            runtime.sleep(lateness.min(ADDITIONAL_WAIT_MAX)).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::aws::tests::TokioSleep;

    const TIMEOUT: Duration = Duration::from_millis(10);

    /// A sleep that blocks the thread. Its first sleep ends late.
    #[derive(Debug)]
    struct Late {
        lateness: Duration,
        sleeps: Arc<Mutex<Vec<Duration>>>,
    }

    impl AsyncSleep for Late {
        fn sleep(&self, duration: Duration) -> Sleep {
            let mut sleeps = self.sleeps.lock().unwrap();
            if sleeps.is_empty() {
                std::thread::sleep(duration + self.lateness);
            }
            sleeps.push(duration);
            Sleep::new(std::future::ready(()))
        }
    }

    /// Returns the additional wait after a sleep that ended late.
    async fn additional_wait(lateness: Duration) -> Duration {
        let sleeps = Arc::<Mutex<_>>::default();
        let late = Late { lateness, sleeps: sleeps.clone() };
        LenientSleep(SharedAsyncSleep::new(late)).sleep(TIMEOUT).await;
        let sleeps = sleeps.lock().unwrap();
        assert_eq!(sleeps[..], [TIMEOUT, sleeps[1]]);
        sleeps[1]
    }

    #[tokio::test]
    async fn a_sleep_that_ends_late_waits_as_long_as_it_was_late_up_to_a_second() {
        let waited = additional_wait(Duration::from_millis(300)).await;
        assert!((300..1_000).contains(&waited.as_millis()), "{waited:?}");
        assert_eq!(additional_wait(Duration::from_millis(1_100)).await, ADDITIONAL_WAIT_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_paused_clock_a_sleep_is_not_late() {
        let start = tokio::time::Instant::now();
        LenientSleep(SharedAsyncSleep::new(TokioSleep)).sleep(TIMEOUT * 10_000).await;
        assert!(start.elapsed() < TIMEOUT * 10_001, "{:?}", start.elapsed());
    }
}

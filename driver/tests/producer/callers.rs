//! Callers that drop outcomes, keep them, or panic when they are woken: no other caller is affected.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Wake, Waker};

use bytes::Bytes;
use kpl_core::{Config, Delivery, RequestError};
use kpl_driver::Outcome;
use tokio::time::timeout;

use crate::rig::{Behavior, Producer, Service, ms};

struct PanickingWaker;

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        panic!("this panic is part of the test");
    }
}

/// Polls a future once with a waker that panics, and returns the future.
macro_rules! poll_with_panicking_waker {
    ($future:expr) => {{
        let mut future = Box::pin($future);
        let waker = Waker::from(Arc::new(PanickingWaker));
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        future
    }};
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_affects_no_other_caller() {
    let service = Service::replying_after(ms(5));
    let producer = service.producer(Config::builder().max_outstanding_records(2));
    let outcomes: Vec<Outcome> = (0..2).map(|n| producer.try_put("events", "k", n.to_string()).unwrap()).collect();
    let [first, second] = outcomes.try_into().unwrap();
    // Each kind of wait is woken at least once with such a waker, before or between callers with a good one.
    let first = poll_with_panicking_waker!(first);
    let flush = poll_with_panicking_waker!(producer.flush());
    let put = poll_with_panicking_waker!(producer.put("events", "k", "3"));
    let others = async {
        let put = producer.put("events", "k", "4").await.unwrap();
        (second.await.unwrap(), put.await.unwrap())
    };
    // The put at the front does not try again before its task polls it.
    let mut others = pin!(others);
    assert!(timeout(ms(1_000), &mut others).await.is_err());
    put.await.unwrap().await.unwrap();
    timeout(ms(1_000), others).await.expect("the next put is woken");
    flush.await;
    first.await.unwrap();

    let close = poll_with_panicking_waker!(producer.close());
    timeout(ms(1_000), producer.close()).await.expect("every close is woken");
    close.await;
}

/// Data that show whether they are freed.
struct Tracked(Arc<()>);

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        b"data"
    }
}

fn put(producer: &Producer, count: usize) -> (Vec<Outcome>, Vec<Weak<()>>) {
    let put = |n: usize| {
        let data = Tracked(Arc::new(()));
        let freed = Arc::downgrade(&data.0);
        (producer.try_put("events", format!("k{n}"), Bytes::from_owner(data)).unwrap(), freed)
    };
    (0..count).map(put).unzip()
}

#[tokio::test(start_paused = true)]
async fn a_failed_record_is_freed_when_its_outcome_is_dropped() {
    let refused = || RequestError::new(Delivery::Refused, "AccessDeniedException", "no");
    for dropped_first in [true, false] {
        let service = Service::new(move |_| Behavior::Fail(refused()));
        let producer = service.producer(Config::builder());
        let (outcomes, freed) = put(&producer, 1_000);
        // Outcomes of the same block are kept.
        let keep = |mut outcomes: Vec<Outcome>| {
            let mut n = 0;
            outcomes.retain(|_| {
                n += 1;
                n % 32 == 0
            });
            outcomes
        };
        let kept = if dropped_first {
            let kept = keep(outcomes);
            producer.flush().await;
            kept
        } else {
            producer.flush().await;
            assert!(freed.iter().all(|data| data.strong_count() == 1), "the failures contain the records");
            keep(outcomes)
        };
        assert_eq!((producer.outstanding_records(), kept.len()), (0, 31));
        assert_eq!(freed.iter().filter(|data| data.strong_count() > 0).count(), 31, "{dropped_first}");
        for outcome in kept {
            assert_eq!(outcome.await.unwrap_err().record.data, "data");
        }
    }
}

//! However it ends, every outcome resolves.

use std::time::Duration;

use kpl_core::{Config, code};
use kpl_driver::{Outcome, PutError};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Fate, Producer, Rig, Service, Spawn, ms};

const LONG: Duration = Duration::from_secs(3_600);

async fn put(producer: &Producer, count: usize) -> Vec<Outcome> {
    let mut outcomes = vec![];
    for n in 0..count {
        outcomes.push(producer.put("events", format!("k{n}"), n.to_string()).await.unwrap());
    }
    outcomes
}

#[tokio::test(start_paused = true)]
async fn close_drains_without_waiting_for_company_and_then_refuses() {
    let service = Service::answering_after(ms(500));
    let producer = service.producer(Config::builder().record_max_buffered_time(Duration::from_secs(20)));
    let outcomes = put(&producer, 100).await;
    let (other, start) = (producer.clone(), Instant::now());
    let closing = async { tokio::join!(producer.close(), other.close(), other.close_or_fail(Duration::from_secs(10))) };
    timeout(LONG, closing).await.expect("no close hangs");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    for mut outcome in outcomes {
        assert!(outcome.try_result().expect("resolved before close ends").is_ok());
    }
    let Err(PutError::Closed { record }) = other.put("events", "k", "late").await else { panic!("taken") };
    assert_eq!(record.data, "late");
    let Err(PutError::Closed { record }) = producer.try_put("events", "k", "late too") else { panic!("taken") };
    assert_eq!(record.data, "late too");
    timeout(ms(1), producer.close()).await.expect("closed already");
    timeout(ms(1), producer.flush()).await.expect("nothing to flush");
    sleep(ms(1)).await;
    assert!(!service.is_in_use(), "the drive loop has ended");
}

#[tokio::test(start_paused = true)]
async fn close_within_gives_back_what_is_not_stored_in_time() {
    let service = Service::new(|_| Fate::Hang);
    let producer = service.producer(Config::builder().record_ttl(Duration::MAX));
    let sent = put(&producer, 10).await;
    sleep(ms(200)).await;
    assert_eq!((service.requests(), service.under_way()), (1, 1));
    let start = Instant::now();
    // A close without a deadline is under way already, and gets one.
    timeout(ms(100), producer.close()).await.unwrap_err();
    timeout(LONG, producer.close_or_fail(ms(400))).await.expect("no close hangs");
    assert_eq!(start.elapsed().as_millis(), 500);
    assert_eq!(service.under_way(), 0, "the request's future is dropped");
    for (n, mut outcome) in sent.into_iter().enumerate() {
        let failure = outcome.try_result().expect("resolved before close ends").unwrap_err();
        assert_eq!((&*failure.error.code, &failure.record.data[..]), (code::CLOSED, n.to_string().as_bytes()));
        assert!(failure.is_ambiguous(), "it was under way: {failure:?}");
        assert_eq!(&*failure.attempts[0].error.as_ref().unwrap().code, "Cancelled");
    }
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_room_are_told_of_the_close() {
    let service = Service::new(|_| Fate::Hang);
    let producer = service.producer(Config::builder().max_outstanding_records(1));
    let _stuck = put(&producer, 1).await;
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let producer = producer.clone();
            tokio::spawn(async move { producer.put("events", "k", "x").await })
        })
        .collect();
    sleep(ms(200)).await;
    let start = Instant::now();
    let closing = tokio::spawn(async move { producer.close().await });
    for waiting in waiting {
        let refused = timeout(LONG, waiting).await.expect("no put hangs").unwrap();
        assert!(matches!(refused, Err(PutError::Closed { .. })));
    }
    assert!(start.elapsed() < ms(10), "{:?}", start.elapsed());
    closing.abort();
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_task_panics_is_retried_as_ambiguous() {
    let service = Service::new(|request| if request == 0 { Fate::Panic } else { Fate::Store(ms(5)) });
    let producer = service.producer(Config::builder());
    for outcome in put(&producer, 10).await {
        let receipt = timeout(LONG, outcome).await.expect("no outcome stays pending").unwrap();
        let first = receipt.attempts().iter().next().unwrap();
        assert_eq!((receipt.attempts().len(), &*first.error.as_ref().unwrap().code), (2, "Task Ended"));
        assert!(first.is_ambiguous());
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_last_handle_is_dropped_records_still_go_out() {
    let service = Service::answering_after(ms(50));
    let producer = service.producer(Config::builder().record_max_buffered_time(Duration::from_secs(20)));
    let outcomes = put(&producer, 10).await;
    drop(producer.clone());
    sleep(ms(200)).await;
    assert_eq!(service.requests(), 0, "one handle is left");
    drop(producer);
    for outcome in outcomes {
        timeout(Duration::from_secs(1), outcome).await.expect("sent at once").unwrap();
    }
    sleep(ms(1)).await;
    assert!(!service.is_in_use(), "the drive loop has ended");
}

#[tokio::test(start_paused = true)]
async fn an_idle_producer_ends_with_its_last_handle() {
    let service = Service::answering_after(ms(5));
    drop(service.producer(Config::builder()));
    sleep(ms(1)).await;
    assert!(!service.is_in_use());
}

#[test]
fn when_the_runtime_is_shut_down_every_outcome_resolves() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let service = Service::new(|_| Fate::Hang);
    let (producer, outcomes) = runtime.block_on(async {
        let producer = service.producer(Config::builder().record_ttl(Duration::MAX).max_outstanding_records(150));
        let mut outcomes = put(&producer, 100).await;
        sleep(ms(200)).await; // those are under way,
        outcomes.extend(put(&producer, 50).await); // and those wait
        (producer, outcomes)
    });
    let waiting = producer.clone();
    drop(runtime);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let patience = Duration::from_secs(10);
    runtime.block_on(async {
        for (n, outcome) in outcomes.into_iter().enumerate() {
            let failure = timeout(patience, outcome).await.expect("no outcome stays pending").unwrap_err();
            assert_eq!(&*failure.error.code, code::CLOSED);
            assert_eq!(failure.is_ambiguous(), n < 100, "{failure:?}");
        }
        assert!(matches!(waiting.put("events", "k", "late").await, Err(PutError::Closed { .. })));
        timeout(patience, producer.flush()).await.expect("no flush hangs");
        timeout(patience, producer.close()).await.expect("no close hangs");
    });
}

#[test]
fn when_the_runtime_ends_before_the_drive_loop_began_puts_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let service = Service::answering_after(ms(5));
    let (producer, outcome) = runtime.block_on(async {
        let producer = service.producer(Config::builder());
        let outcome = producer.try_put("events", "k", "x").unwrap();
        (producer, outcome)
    });
    drop(runtime);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let failure = timeout(ms(1_000), outcome).await.expect("no outcome stays pending").unwrap_err();
        assert_eq!(&*failure.error.code, code::CLOSED);
        assert!(matches!(producer.try_put("events", "k", "x"), Err(PutError::Closed { .. })));
    });
}

/// Puts from threads of their own, while the runtime is shut down at one moment or another.
#[test]
fn no_moment_of_a_shutdown_leaves_an_outcome_pending() {
    for round in 0..60 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let service = Service::answering_after(Duration::from_micros(300));
        let config = Config::builder().record_max_buffered_time(Duration::from_micros(200)).max_outstanding_records(40);
        let producer = runtime.block_on(async { service.producer(config) });
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let producer = producer.clone();
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        let mut outcomes = vec![];
                        let put = || timeout(Duration::from_secs(10), producer.put("events", "k", "x"));
                        while let Ok(outcome) = put().await.expect("no put hangs") {
                            outcomes.push(outcome);
                        }
                        for outcome in outcomes {
                            // Stored or not: it ends.
                            let _ = timeout(Duration::from_secs(10), outcome).await.expect("no outcome stays pending");
                        }
                        timeout(Duration::from_secs(10), producer.flush()).await.expect("no flush hangs");
                        timeout(Duration::from_secs(10), producer.close()).await.expect("no close hangs");
                    });
                })
            })
            .collect();
        std::thread::sleep(Duration::from_micros(100 * round));
        runtime.shutdown_background();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(producer.outstanding_records(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_drive_loop_panics_every_outcome_resolves() {
    // The loop itself, then two questions about the stream: so the request's spawn panics in the loop.
    let rig = Rig::spawning(|number| if number == 3 { Spawn::Panic } else { Spawn::Run });
    let service = Service::answering_after(ms(5));
    let config = Config::builder().record_ttl(Duration::MAX).build().unwrap();
    let producer = service.producer_on(rig, config);
    let outcomes = put(&producer, 10).await;
    let flushing = tokio::spawn({
        let producer = producer.clone();
        async move { producer.flush().await }
    });
    for outcome in outcomes {
        let failure = timeout(LONG, outcome).await.expect("no outcome stays pending").unwrap_err();
        assert_eq!(&*failure.error.code, code::CLOSED);
    }
    assert!(matches!(producer.try_put("events", "k", "late"), Err(PutError::Closed { .. })));
    timeout(LONG, producer.close()).await.expect("no close hangs");
    timeout(LONG, flushing).await.expect("no flush hangs").unwrap();
}

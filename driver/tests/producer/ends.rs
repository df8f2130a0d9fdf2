//! The end of a producer: close, drop, shutdown or panic. Every outcome resolves.

use std::time::Duration;

use kpl_core::{Config, code};
use kpl_driver::{Outcome, PutError};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Behavior, Producer, Rig, Service, Spawn, ms};

/// Longer than each test takes.
const TIME_LIMIT: Duration = Duration::from_secs(3_600);

async fn put(producer: &Producer, count: usize) -> Vec<Outcome> {
    let mut outcomes = vec![];
    for n in 0..count {
        outcomes.push(producer.put("events", format!("k{n}"), n.to_string()).await.unwrap());
    }
    outcomes
}

#[tokio::test(start_paused = true)]
async fn close_sends_all_records_at_once_and_then_refuses_puts() {
    let service = Service::replying_after(ms(500));
    let producer = service.producer(Config::builder().record_max_buffered_time(Duration::from_secs(20)));
    let outcomes = put(&producer, 100).await;
    let (other, start) = (producer.clone(), Instant::now());
    let closing = async { tokio::join!(producer.close(), other.close(), other.close_or_fail(Duration::from_secs(10))) };
    timeout(TIME_LIMIT, closing).await.expect("a close hangs");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    for mut outcome in outcomes {
        assert!(outcome.try_result().expect("resolved before close ends").is_ok());
    }
    let Err(PutError::Closed { record }) = other.put("events", "k", "late").await else { panic!("accepted") };
    assert_eq!(record.data, "late");
    let Err(PutError::Closed { record }) = producer.try_put("events", "k", "late too") else { panic!("accepted") };
    assert_eq!(record.data, "late too");
    timeout(ms(1), producer.close()).await.expect("the producer is closed already");
    timeout(ms(1), producer.flush()).await.expect("nothing to flush");
    sleep(ms(1)).await;
    assert!(!service.is_in_use(), "the drive loop has ended");
}

#[tokio::test(start_paused = true)]
async fn close_or_fail_returns_records_not_stored_in_time() {
    let service = Service::new(|_| Behavior::Hang);
    let producer = service.producer(Config::builder().record_ttl(Duration::MAX));
    let sent = put(&producer, 10).await;
    sleep(ms(200)).await;
    assert_eq!((service.requests(), service.in_flight()), (1, 1));
    let start = Instant::now();
    // The close in progress has no deadline; the second close sets one.
    timeout(ms(100), producer.close()).await.unwrap_err();
    timeout(TIME_LIMIT, producer.close_or_fail(ms(400))).await.expect("a close hangs");
    assert_eq!(start.elapsed().as_millis(), 500);
    assert_eq!(service.in_flight(), 0, "the request's future is dropped");
    for (n, mut outcome) in sent.into_iter().enumerate() {
        let failure = outcome.try_result().expect("resolved before close ends").unwrap_err();
        assert_eq!((&*failure.error.code, &failure.record.data[..]), (code::CLOSED, n.to_string().as_bytes()));
        assert!(failure.is_ambiguous(), "its request was in flight: {failure:?}");
        assert_eq!(&*failure.attempts.first().unwrap().error.as_ref().unwrap().code, "Cancelled");
    }
}

#[tokio::test(start_paused = true)]
async fn puts_that_wait_for_room_end_with_the_close() {
    let service = Service::new(|_| Behavior::Hang);
    let producer = service.producer(Config::builder().max_outstanding_records(1));
    let _outstanding = put(&producer, 1).await;
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
        let refused = timeout(TIME_LIMIT, waiting).await.expect("a put hangs").unwrap();
        assert!(matches!(refused, Err(PutError::Closed { .. })));
    }
    assert!(start.elapsed() < ms(10), "{:?}", start.elapsed());
    closing.abort();
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_task_panics_is_retried_as_ambiguous() {
    let service = Service::new(|request| if request == 0 { Behavior::Panic } else { Behavior::Store(ms(5)) });
    let producer = service.producer(Config::builder());
    for outcome in put(&producer, 10).await {
        let receipt = timeout(TIME_LIMIT, outcome).await.expect("an outcome stays pending").unwrap();
        let first = receipt.attempts().iter().next().unwrap();
        assert_eq!((receipt.attempts().len(), &*first.error.as_ref().unwrap().code), (2, "Task Ended"));
        assert!(first.is_ambiguous());
    }
}

#[tokio::test(start_paused = true)]
async fn records_are_sent_after_the_last_handle_is_dropped() {
    let service = Service::replying_after(ms(50));
    let producer = service.producer(Config::builder().record_max_buffered_time(Duration::from_secs(20)));
    let outcomes = put(&producer, 10).await;
    drop(producer.clone());
    sleep(ms(200)).await;
    assert_eq!(service.requests(), 0, "a handle remains");
    drop(producer);
    for outcome in outcomes {
        timeout(Duration::from_secs(1), outcome).await.expect("records are not sent at once").unwrap();
    }
    sleep(ms(1)).await;
    assert!(!service.is_in_use(), "the drive loop has ended");
}

#[tokio::test(start_paused = true)]
async fn an_idle_producer_ends_with_its_last_handle() {
    let service = Service::replying_after(ms(5));
    drop(service.producer(Config::builder()));
    sleep(ms(1)).await;
    assert!(!service.is_in_use());
}

#[test]
fn every_outcome_resolves_when_the_runtime_shuts_down() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let service = Service::new(|_| Behavior::Hang);
    let (producer, outcomes) = runtime.block_on(async {
        let producer = service.producer(Config::builder().record_ttl(Duration::MAX).max_outstanding_records(150));
        let mut outcomes = put(&producer, 100).await;
        sleep(ms(200)).await; // these are in flight
        outcomes.extend(put(&producer, 50).await); // these are buffered
        (producer, outcomes)
    });
    let waiting = producer.clone();
    drop(runtime);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let time_limit = Duration::from_secs(10);
    runtime.block_on(async {
        for (n, outcome) in outcomes.into_iter().enumerate() {
            let failure = timeout(time_limit, outcome).await.expect("an outcome stays pending").unwrap_err();
            assert_eq!(&*failure.error.code, code::CLOSED);
            assert_eq!(failure.is_ambiguous(), n < 100, "{failure:?}");
        }
        assert!(matches!(waiting.put("events", "k", "late").await, Err(PutError::Closed { .. })));
        timeout(time_limit, producer.flush()).await.expect("a flush hangs");
        timeout(time_limit, producer.close()).await.expect("a close hangs");
    });
}

#[test]
fn puts_are_refused_when_the_runtime_ends_before_the_drive_loop_starts() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let service = Service::replying_after(ms(5));
    let (producer, outcome) = runtime.block_on(async {
        let producer = service.producer(Config::builder());
        let outcome = producer.try_put("events", "k", "x").unwrap();
        (producer, outcome)
    });
    drop(runtime);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let failure = timeout(ms(1_000), outcome).await.expect("an outcome stays pending").unwrap_err();
        assert_eq!(&*failure.error.code, code::CLOSED);
        assert!(matches!(producer.try_put("events", "k", "x"), Err(PutError::Closed { .. })));
    });
}

/// Separate threads put records, and the runtime shuts down after a delay that differs per round.
#[test]
fn no_timing_of_a_shutdown_leaves_an_outcome_pending() {
    for round in 0..60 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let service = Service::replying_after(Duration::from_micros(300));
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
                        while let Ok(outcome) = put().await.expect("a put hangs") {
                            outcomes.push(outcome);
                        }
                        for outcome in outcomes {
                            // The result may be stored or failed.
                            let _ = timeout(Duration::from_secs(10), outcome).await.expect("an outcome stays pending");
                        }
                        timeout(Duration::from_secs(10), producer.flush()).await.expect("a flush hangs");
                        timeout(Duration::from_secs(10), producer.close()).await.expect("a close hangs");
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
async fn every_outcome_resolves_when_the_drive_loop_panics() {
    // After the drive loop and two metadata requests, the spawn of the first request panics in the loop.
    let rig = Rig::with_spawn(|number| if number == 3 { Spawn::Panic } else { Spawn::Run });
    let service = Service::replying_after(ms(5));
    let config = Config::builder().record_ttl(Duration::MAX).build().unwrap();
    let producer = service.producer_on(rig, config);
    let outcomes = put(&producer, 10).await;
    let flushing = tokio::spawn({
        let producer = producer.clone();
        async move { producer.flush().await }
    });
    for outcome in outcomes {
        let failure = timeout(TIME_LIMIT, outcome).await.expect("an outcome stays pending").unwrap_err();
        assert_eq!(&*failure.error.code, code::CLOSED);
    }
    assert!(matches!(producer.try_put("events", "k", "late"), Err(PutError::Closed { .. })));
    timeout(TIME_LIMIT, producer.close()).await.expect("a close hangs");
    timeout(TIME_LIMIT, flushing).await.expect("a flush hangs").unwrap();
}

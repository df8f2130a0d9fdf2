//! Faults of the service or the runtime: they lose no record and leave no outcome pending.

use std::time::Duration;

use kpl_core::{Config, code};
use kpl_driver::{Outcome, PutError};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Behavior, MetadataBehavior, MetadataRequest, Producer, Rig, Service, Spawn, ms};

/// The time limit of a test. It is longer than each time-to-live here.
const TIME_LIMIT: Duration = Duration::from_secs(600);

fn put(producer: &Producer, count: usize) -> Vec<Outcome> {
    (0..count).map(|n| producer.try_put("events", format!("k{n}"), n.to_string()).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn records_wait_for_the_shard_list_until_the_start_timeout_and_for_the_description_until_their_deadline() {
    for (without_reply, wait) in [(MetadataRequest::ListShards, ms(5_000)), (MetadataRequest::DescribeStream, ms(100))]
    {
        let behavior = move |request, _| match request == without_reply {
            true => MetadataBehavior::Hang,
            false => MetadataBehavior::Reply,
        };
        let service = Service::replying_after(ms(5)).with_metadata(behavior);
        let producer = service.producer(Config::builder());
        let start = Instant::now();
        for outcome in put(&producer, 20) {
            let receipt = timeout(TIME_LIMIT, outcome).await.expect("an outcome stays pending").unwrap();
            assert_eq!(
                (receipt.sub_sequence_number().is_none(), receipt.attempts().len()),
                (without_reply == MetadataRequest::ListShards, 1)
            );
        }
        assert!(start.elapsed() >= wait && start.elapsed() < wait + ms(50), "{without_reply:?}: {:?}", start.elapsed());
        assert_eq!(service.user_records(), 20);
        // The close does not wait for the metadata request, but drops it.
        assert_eq!(service.in_flight(), 1);
        timeout(ms(100), producer.close()).await.expect("nothing is outstanding");
    }
}

#[tokio::test(start_paused = true)]
async fn a_metadata_request_that_panics_loses_no_record_and_is_retried() {
    for faulty in [MetadataRequest::ListShards, MetadataRequest::DescribeStream] {
        let behavior = move |request, before| match (request, before) == (faulty, 0) {
            true => MetadataBehavior::Panic,
            false => MetadataBehavior::Reply,
        };
        let service = Service::replying_after(ms(5)).with_metadata(behavior);
        let producer = service.producer(Config::builder());
        for outcome in put(&producer, 20) {
            let receipt = timeout(TIME_LIMIT, outcome).await.expect("an outcome stays pending").unwrap();
            assert_eq!(receipt.attempts().len(), 1, "{faulty:?}");
        }
        sleep(Duration::from_secs(60)).await;
        assert_eq!(service.metadata_requests(faulty), 2, "{faulty:?}");
        for outcome in put(&producer, 20) {
            let receipt = outcome.await.unwrap();
            assert!(receipt.sub_sequence_number().is_some(), "the retry did not complete the metadata: {faulty:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_requests_that_always_panic_lose_no_record() {
    let service = Service::replying_after(ms(5)).with_metadata(|_, _| MetadataBehavior::Panic);
    let producer = service.producer(Config::builder());
    for outcome in put(&producer, 20) {
        timeout(TIME_LIMIT, outcome).await.expect("an outcome stays pending").unwrap();
    }
    assert_eq!(service.stored().len(), 20, "without metadata, records are not aggregated");
}

#[tokio::test(start_paused = true)]
async fn records_of_requests_that_always_panic_expire_as_ambiguous() {
    let service = Service::new(|_| Behavior::Panic);
    let producer = service.producer(Config::builder().record_ttl(Duration::from_secs(3)));
    for (n, outcome) in put(&producer, 10).into_iter().enumerate() {
        let failure = timeout(TIME_LIMIT, outcome).await.expect("an outcome stays pending").unwrap_err();
        assert_eq!((&*failure.error.code, &failure.record.data[..]), (code::EXPIRED, n.to_string().as_bytes()));
        assert!(failure.is_ambiguous() && failure.attempts.len() > 1, "{failure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_with_a_deadline_drops_metadata_requests() {
    let service = Service::new(|_| Behavior::Hang).with_metadata(|_, _| MetadataBehavior::Hang);
    let producer = service.producer(Config::builder().record_ttl(Duration::MAX).start_timeout(Duration::ZERO));
    let outcomes = put(&producer, 10);
    sleep(ms(200)).await;
    assert_eq!(service.in_flight(), 3);
    timeout(TIME_LIMIT, producer.close_or_fail(ms(100))).await.expect("a close hangs");
    for mut outcome in outcomes {
        assert_eq!(&*outcome.try_result().expect("resolved before close ends").unwrap_err().error.code, code::CLOSED);
    }
    sleep(ms(1)).await;
    assert_eq!((service.in_flight(), service.is_in_use()), (0, false));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_runtime_drops_is_retried() {
    let rig = Rig::with_spawn(|number| if number == 3 { Spawn::Drop } else { Spawn::Run });
    let service = Service::replying_after(ms(5));
    let producer = service.producer_on(rig, Config::default());
    for outcome in put(&producer, 10) {
        let receipt = timeout(TIME_LIMIT, outcome).await.expect("an outcome stays pending").unwrap();
        assert_eq!(receipt.attempts().len(), 2);
        assert_eq!(&*receipt.attempts().iter().next().unwrap().error.as_ref().unwrap().code, "Task Ended");
    }
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_drops_every_future_except_the_drive_loop_loses_no_outcome() {
    let rig = Rig::with_spawn(|number| if number == 0 { Spawn::Run } else { Spawn::Drop });
    let service = Service::replying_after(ms(5));
    let config = Config::builder().record_ttl(Duration::from_secs(3)).build().unwrap();
    let producer = service.producer_on(rig, config);
    for outcome in put(&producer, 10) {
        let failure = timeout(TIME_LIMIT, outcome).await.expect("an outcome stays pending").unwrap_err();
        assert_eq!(&*failure.error.code, code::EXPIRED);
    }
    assert_eq!(service.requests(), 0);
    timeout(TIME_LIMIT, producer.close()).await.expect("a close hangs");
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_never_polled_return_their_records_when_dropped() {
    let rig = Rig::with_spawn(|number| if number == 0 { Spawn::Run } else { Spawn::Keep });
    let service = Service::replying_after(ms(5));
    let config = Config::builder().record_ttl(Duration::MAX).build().unwrap();
    let producer = service.producer_on(rig.clone(), config);
    let outcomes = put(&producer, 10);
    sleep(ms(500)).await;
    let closing = tokio::spawn({
        let producer = producer.clone();
        async move { producer.close_or_fail(Duration::ZERO).await }
    });
    sleep(ms(1)).await;
    rig.drop_kept();
    for outcome in outcomes {
        let failure = timeout(TIME_LIMIT, outcome).await.expect("an outcome stays pending").unwrap_err();
        assert_eq!(&*failure.error.code, code::CLOSED);
    }
    timeout(TIME_LIMIT, closing).await.expect("a close hangs").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drive_loop_that_is_never_polled_returns_its_records_when_dropped() {
    let rig = Rig::with_spawn(|_| Spawn::Keep);
    let service = Service::replying_after(ms(5));
    let producer = service.producer_on(rig.clone(), Config::default());
    let outcomes = put(&producer, 10);
    let flushing = tokio::spawn({
        let producer = producer.clone();
        async move { producer.flush().await }
    });
    sleep(ms(500)).await;
    rig.drop_kept();
    for outcome in outcomes {
        let failure = timeout(TIME_LIMIT, outcome).await.expect("an outcome stays pending").unwrap_err();
        assert_eq!((&*failure.error.code, failure.is_ambiguous()), (code::CLOSED, false));
    }
    timeout(TIME_LIMIT, flushing).await.expect("a flush hangs").unwrap();
    timeout(TIME_LIMIT, producer.close()).await.expect("a close hangs");
}

#[tokio::test(start_paused = true)]
async fn every_outcome_put_flush_and_close_ends_when_the_drive_loop_is_dropped() {
    let (rig, service) = (Rig::new(), Service::new(|_| Behavior::Hang));
    let config = Config::builder().record_ttl(Duration::MAX).max_outstanding_records(15).build().unwrap();
    let producer = service.producer_on(rig.clone(), config);
    let mut outcomes = put(&producer, 10);
    sleep(ms(200)).await; // these are in flight
    assert_eq!(service.in_flight(), 1);
    let (flushing, closing) = (producer.clone(), producer.clone());
    let flushing = tokio::spawn(async move { flushing.flush().await });
    sleep(ms(1)).await;
    outcomes.extend(put(&producer, 5)); // these wait in an aggregate
    let waiting: Vec<_> = (0..5)
        .map(|n| {
            let producer = producer.clone();
            tokio::spawn(async move { producer.put("events", "k", n.to_string()).await })
        })
        .collect(); // these wait for room
    sleep(ms(1)).await;
    rig.drop_drive_loop();
    for (n, outcome) in outcomes.into_iter().enumerate() {
        let failure = timeout(TIME_LIMIT, outcome).await.expect("an outcome stays pending").unwrap_err();
        assert_eq!((&*failure.error.code, failure.is_ambiguous()), (code::CLOSED, n < 10), "{failure:?}");
    }
    for (n, waiting) in waiting.into_iter().enumerate() {
        let refused = timeout(TIME_LIMIT, waiting).await.expect("a put hangs").unwrap();
        let Err(PutError::Closed { record }) = refused else { panic!("accepted") };
        assert_eq!(record.data, n.to_string());
    }
    timeout(TIME_LIMIT, flushing).await.expect("a flush hangs").unwrap();
    timeout(TIME_LIMIT, closing.close()).await.expect("a close hangs");
    assert_eq!((service.in_flight(), producer.outstanding_records()), (0, 0));
}

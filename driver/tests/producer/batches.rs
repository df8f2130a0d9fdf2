//! Batches: `put_batch` and `try_put_batch`.

use std::time::Duration;

use kpl_core::{Config, Delivery, RequestError, UserRecord};
use kpl_driver::{BatchRecord, PutBatchError, Refusal};

use crate::rig::{Behavior, Service, ms};

fn records(numbers: std::ops::Range<usize>) -> Vec<BatchRecord> {
    numbers.map(|n| BatchRecord::new(format!("key-{n}"), format!("data-{n}"))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_the_result_of_each_record_by_index() {
    // The first request fails for good, the others succeed.
    let service = Service::new(|request| match request {
        0 => Behavior::Fail(RequestError::new(Delivery::Refused, "AccessDeniedException", "no")),
        _ => Behavior::Store(Duration::ZERO),
    });
    let producer = service.producer(Config::builder().aggregation_enabled(false).collection_max_count(10));
    let mut outcome = producer.put_batch("events", records(0..30)).await.unwrap();
    assert_eq!((outcome.len(), outcome.try_results().is_none()), (30, true));
    producer.flush().await;
    assert_eq!(outcome.result(30), None, "there is no such record");
    let one = outcome.result(12).unwrap();
    let results = outcome.await;
    assert_eq!(results[12], one);
    let failed: Vec<usize> = (0..30).filter(|n| results[*n].is_err()).collect();
    assert_eq!(failed.len(), 10);
    for n in failed {
        let failure = results[n].clone().unwrap_err();
        assert_eq!(failure.record, UserRecord::new("events", format!("key-{n}"), format!("data-{n}")));
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_batch_is_resolved_at_once() {
    let service = Service::replying_after(Duration::ZERO);
    let producer = service.producer(Config::builder());
    let outcome = producer.put_batch("events", records(0..0)).await.unwrap();
    assert!(outcome.is_empty());
    assert_eq!(outcome.await, []);
    assert_eq!(producer.stats().user_records_put, 0);
}

#[tokio::test(start_paused = true)]
async fn one_invalid_record_refuses_the_whole_batch() {
    let service = Service::replying_after(Duration::ZERO);
    let producer = service.producer(Config::builder());
    let mut batch = records(0..5);
    batch[3].partition_key.clear();
    let PutBatchError { index, refusal, accepted, rest, .. } =
        producer.put_batch("events", batch.clone()).await.unwrap_err();
    assert_eq!((index, accepted.len()), (3, 0));
    assert!(matches!(refusal, Refusal::Invalid(_)), "{refusal}");
    assert_eq!(rest, batch, "all records are returned");
    assert_eq!(producer.outstanding_records(), 0);
    let error = producer.try_put_batch("a b", records(0..1)).unwrap_err();
    assert!(error.to_string().starts_with("record 0 of the batch: stream is \"a b\""), "{error}");
}

#[tokio::test(start_paused = true)]
async fn try_put_batch_accepts_what_there_is_room_for() {
    let service = Service::replying_after(ms(50));
    let producer = service.producer(Config::builder().max_outstanding_records(10));
    let one = producer.put("events", "k", "single").await.unwrap();
    let PutBatchError { index, refusal, accepted, rest, .. } =
        producer.try_put_batch("events", records(0..12)).unwrap_err();
    assert_eq!((index, accepted.len()), (9, 9));
    assert!(matches!(refusal, Refusal::Full(_)), "{refusal}");
    assert_eq!(rest, records(9..12));
    assert!(accepted.await.into_iter().all(|result| result.is_ok()));
    let rest = producer.try_put_batch("events", rest).unwrap();
    assert_eq!(rest.await.len(), 3);
    assert!(one.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn put_batch_waits_for_room_and_puts_in_order() {
    let service = Service::replying_after(ms(50));
    let producer = service.producer(Config::builder().max_outstanding_records(10).aggregation_enabled(false));
    let (first, second) =
        tokio::join!(async { producer.put_batch("events", records(0..40)).await.unwrap().await }, async {
            producer.put_batch("events", records(40..70)).await.unwrap().await
        });
    assert!(first.iter().chain(&second).all(Result::is_ok));
    assert_eq!((first.len(), second.len()), (40, 30));
    let stored = service.stored();
    let numbers: Vec<usize> =
        stored.iter().filter_map(|data| data.strip_prefix("data-")?.parse().ok()).filter(|n| *n < 40).collect();
    assert_eq!(numbers, (0..40).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_dropped_while_it_waits_sends_what_was_accepted() {
    let service = Service::replying_after(ms(50));
    let producer = service.producer(Config::builder().max_outstanding_records(10));
    let put = producer.put_batch("events", records(0..25));
    assert!(tokio::time::timeout(ms(10), put).await.is_err());
    producer.flush().await;
    assert_eq!(service.user_records(), 10);
    assert!(producer.put_batch("events", records(0..10)).await.is_ok(), "no room is lost");
}

#[tokio::test(start_paused = true)]
async fn a_closed_producer_returns_the_records() {
    let service = Service::replying_after(Duration::ZERO);
    let producer = service.producer(Config::builder());
    producer.close_or_fail(Duration::ZERO).await;
    let error = producer.put_batch("events", records(0..3)).await.unwrap_err();
    assert_eq!((error.index, error.refusal, error.rest), (0, Refusal::Closed, records(0..3)));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_put_behind_earlier_puts() {
    let service = Service::replying_after(Duration::ZERO);
    let producer = service.producer(Config::builder().aggregation_enabled(false));
    for n in 0..5 {
        drop(producer.put("events", format!("key-{n}"), format!("data-{n}")).await.unwrap());
    }
    let batch = producer.put_batch("events", records(5..40)).await.unwrap();
    drop(producer.put("events", "key-40", "data-40").await.unwrap());
    assert!(batch.await.iter().all(Result::is_ok));
    producer.flush().await;
    assert_eq!(service.stored(), (0..41).map(|n| format!("data-{n}")).collect::<Vec<_>>());
}

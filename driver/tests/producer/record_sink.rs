//! The producer as a `futures::Sink`.

use std::pin::pin;
use std::time::Duration;

use futures_util::{Sink, SinkExt, StreamExt, stream};
use kpl_core::{Config, Delivery, RequestError, UserRecord};
use kpl_driver::{PutError, SinkError};

use crate::rig::{Behavior, Service, ms};

fn record(n: usize) -> UserRecord {
    UserRecord::new("events", format!("key-{n}"), format!("data-{n}"))
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_forwarded_with_backpressure_and_stored_before_the_end() {
    let service = Service::replying_after(ms(20));
    let producer = service.producer(Config::builder().max_outstanding_records(10));
    stream::iter(0..1_000).map(|n| Ok(record(n))).forward(producer.sink()).await.unwrap();
    assert_eq!((producer.stats().user_records_succeeded, producer.outstanding_records()), (1_000, 0));
    // The end of a stream closes its sink. The producer belongs to others, too.
    producer.put_record(record(0)).await.unwrap().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sink_keeps_no_more_results_than_twice_what_is_outstanding() {
    let service = Service::replying_after(ms(20));
    let producer = service.producer(Config::builder().max_outstanding_records(100));
    let mut sink = producer.sink();
    for n in 0..5_000 {
        sink.feed(record(n)).await.unwrap();
    }
    let debug = format!("{sink:?}");
    let outcomes: usize = debug.split("outcomes: ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    assert!(outcomes <= 200, "{debug}");
    sink.flush().await.unwrap();
    assert_eq!(producer.stats().user_records_succeeded, 5_000);
}

#[tokio::test(start_paused = true)]
async fn each_failure_is_one_error_and_the_sink_goes_on() {
    // The first request fails for good, the others succeed.
    let service = Service::new(|request| match request {
        0 => Behavior::Fail(RequestError::new(Delivery::Refused, "AccessDeniedException", "no")),
        _ => Behavior::Store(Duration::ZERO),
    });
    let producer = service.producer(Config::builder().aggregation_enabled(false).collection_max_count(2));
    let mut sink = producer.sink();
    for n in 0..6 {
        sink.feed(record(n)).await.unwrap();
    }
    let mut failed = Vec::new();
    while let Err(error) = sink.flush().await {
        let SinkError::Failed(failure) = error else { panic!("{error}") };
        failed.push(failure.record);
    }
    assert_eq!(failed.len(), 2);
    sink.send(record(6)).await.unwrap();
    assert_eq!(producer.stats().user_records_succeeded, 5);
    sink.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_refused_record_is_in_the_error() {
    let service = Service::replying_after(Duration::ZERO);
    let producer = service.producer(Config::builder());
    let mut sink = producer.sink();
    let invalid = UserRecord::new("events", "", "data");
    let error = sink.send(invalid.clone()).await.unwrap_err();
    assert!(matches!(&error, SinkError::Refused(error) if *error.record() == invalid));
    producer.close().await;
    let error = sink.send(record(1)).await.unwrap_err();
    assert!(matches!(error, SinkError::Refused(PutError::Closed { record: back }) if *back == record(1)));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_was_not_asked_whether_it_is_ready_loses_nothing() {
    let service = Service::replying_after(ms(20));
    let producer = service.producer(Config::builder().max_outstanding_records(2));
    let mut sink = pin!(producer.sink());
    for n in 0..3 {
        sink.as_mut().start_send(record(n)).unwrap();
    }
    let error = sink.as_mut().start_send(record(3)).unwrap_err();
    assert!(matches!(error, SinkError::Refused(PutError::Full { record: back, .. }) if *back == record(3)));
    sink.flush().await.unwrap();
    assert_eq!(producer.stats().user_records_succeeded, 3);
}

#[tokio::test(start_paused = true)]
async fn a_close_after_a_flush_that_was_dropped_stores_all() {
    let service = Service::replying_after(ms(50));
    let producer = service.producer(Config::builder());
    let mut sink = producer.sink();
    sink.feed(record(0)).await.unwrap();
    tokio::time::timeout(ms(10), sink.flush()).await.unwrap_err();
    sink.close().await.unwrap();
    assert_eq!(producer.stats().user_records_succeeded, 1);
}

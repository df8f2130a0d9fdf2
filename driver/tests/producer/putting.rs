//! Puts, backpressure and flushes.

use std::collections::HashSet;
use std::time::Duration;

use kpl_core::{Config, Full, InvalidRecord, UserRecord};
use kpl_driver::PutError;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Behavior, MetadataRequest, Service, ms};

/// Longer than each test takes, so that a test that hangs fails.
const TIME_LIMIT: Duration = Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn a_put_returns_a_receipt() {
    let service = Service::replying_after(ms(5));
    let producer = service.producer(Config::builder());
    let mut outcome = producer.put("events", "key", "hello").await.unwrap();
    assert_eq!(outcome.try_result(), None);
    assert_eq!((producer.outstanding_records(), producer.outstanding_bytes()), (1, 8));
    sleep(ms(50)).await;
    assert!(producer.oldest_record_age().unwrap() >= ms(50));
    let receipt = outcome.await.unwrap();
    let [stored] = &service.records()[..] else { panic!("one record is stored") };
    assert_eq!((receipt.shard_id(), receipt.sequence_number()), (&*stored.shard_id, &*stored.sequence_number));
    assert_eq!((receipt.sub_sequence_number(), receipt.attempts().len()), (None, 1));
    assert_eq!(service.stored(), ["hello"]);
    assert_eq!((producer.outstanding_records(), producer.oldest_record_age()), (0, None));
    assert_eq!((producer.stats().user_records_succeeded, producer.stats().requests), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_outcome_can_be_polled_and_dropping_it_does_not_cancel_the_record() {
    let service = Service::replying_after(ms(5));
    let producer = service.producer(Config::builder().aggregation_enabled(false));
    let mut kept = producer.try_put("events", "key", "kept").unwrap();
    drop(producer.try_put("events", "key", "dropped").unwrap());
    timeout(TIME_LIMIT, producer.flush()).await.expect("a flush hangs");
    assert!(kept.try_result().unwrap().is_ok());
    assert_eq!(kept.try_result(), None, "the result is returned once");
    assert_eq!(service.stored(), ["kept", "dropped"]);
}

#[tokio::test]
async fn handles_and_futures_can_move_between_threads() {
    fn check<T: Send + Sync + Unpin>(_: &T) {}
    fn check_future<T: Send>(_: T) {}
    let producer = Service::replying_after(ms(0)).producer(Config::builder());
    check(&producer);
    check_future(producer.put("events", "k", "x"));
    check_future(producer.flush());
    check_future(producer.close());
    check(&producer.try_put("events", "k", "x").unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_invalid_record_is_returned() {
    let producer = Service::replying_after(ms(5)).producer(Config::builder());
    let record = UserRecord::new("events", "", "data");
    let Err(error) = producer.put_record(record.clone()).await else { panic!("accepted") };
    assert!(matches!(error, PutError::Invalid { reason: InvalidRecord::EmptyPartitionKey, .. }));
    assert_eq!(error.to_string(), "partition_key is empty, but must have 1 to 256 characters");
    assert_eq!(error.into_record(), record);
}

#[tokio::test(start_paused = true)]
async fn try_put_returns_the_record_when_there_is_no_room() {
    let service = Service::replying_after(ms(5));
    let producer = service.producer(Config::builder().max_outstanding_records(2));
    let outcomes = [producer.try_put("events", "k", "1").unwrap(), producer.try_put("events", "k", "2").unwrap()];
    let record = UserRecord::new("events", "k", "3").explicit_hash_key("7");
    let Err(error) = producer.try_put_record(record.clone()) else { panic!("accepted") };
    assert!(matches!(error, PutError::Full { full: Full::Producer { records: 2, bytes: 4 }, .. }), "{error:?}");
    assert_eq!(*error.record(), record);
    for outcome in outcomes {
        outcome.await.unwrap();
    }
    drop(producer.try_put_record(error.into_record()).unwrap());
}

#[tokio::test(start_paused = true)]
async fn puts_that_wait_for_room_are_accepted_in_order() {
    let service = Service::replying_after(ms(5));
    let config = Config::builder().aggregation_enabled(false).max_outstanding_records(3);
    let producer = service.producer(config.record_max_buffered_time(ms(1)));
    let mut puts = JoinSet::new();
    for n in 0..200 {
        let producer = producer.clone();
        puts.spawn(async move {
            drop(producer.put("events", "k", format!("{n}")).await.unwrap());
            // A second put of the same task queues behind the puts that wait.
            if n < 3 {
                sleep(Duration::from_micros(1)).await;
                drop(producer.put("events", "k", format!("{}", 200 + n)).await.unwrap());
            }
        });
    }
    timeout(TIME_LIMIT, puts.join_all()).await.expect("a put hangs");
    timeout(TIME_LIMIT, producer.flush()).await.expect("a flush hangs");
    let expected: Vec<_> = (0..203).map(|n| n.to_string()).collect();
    assert_eq!(service.stored(), expected);
}

#[tokio::test(start_paused = true)]
async fn small_records_do_not_starve_a_large_record() {
    let service = Service::replying_after(ms(5));
    let config = Config::builder().aggregation_enabled(false).max_outstanding_bytes(2_000);
    let producer = service.producer(config.record_max_buffered_time(ms(1)));
    drop(producer.put("events", "k", "a".repeat(1_000)).await.unwrap());
    let mut puts = JoinSet::new();
    for n in 0..100 {
        let producer = producer.clone();
        puts.spawn(async move { producer.put("events", "k", "b".repeat(if n == 0 { 1_900 } else { 10 })).await });
    }
    timeout(TIME_LIMIT, puts.join_all()).await.expect("a put hangs");
    timeout(TIME_LIMIT, producer.flush()).await.expect("a flush hangs");
    assert_eq!(service.stored()[1].len(), 1_900);
    assert_eq!(service.stored().len(), 101);
}

#[tokio::test(start_paused = true)]
async fn a_put_dropped_while_it_waits_puts_nothing_and_blocks_no_other_put() {
    let service = Service::replying_after(ms(50));
    let producer = service.producer(Config::builder().aggregation_enabled(false).max_outstanding_records(1));
    drop(producer.put("events", "k", "first").await.unwrap());
    let mut waiting = JoinSet::new();
    for n in 0..10 {
        let producer = producer.clone();
        // Every second put times out, among them the first in the queue.
        let time_limit = if n % 2 == 0 { ms(10) } else { Duration::from_secs(60) };
        waiting.spawn(async move { timeout(time_limit, producer.put("events", "k", n.to_string())).await.is_ok() });
    }
    let accepted = waiting.join_all().await;
    assert_eq!(accepted.iter().filter(|is_accepted| **is_accepted).count(), 5);
    timeout(TIME_LIMIT, producer.flush()).await.expect("a flush hangs");
    assert_eq!(service.stored(), ["first", "1", "3", "5", "7", "9"]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_covers_only_records_put_before_it() {
    let service = Service::replying_after(ms(500));
    let config = Config::builder().record_max_buffered_time(Duration::from_secs(20)).aggregation_enabled(false);
    let producer = service.producer(config);
    let start = Instant::now();
    let before = producer.put("events", "k", "before").await.unwrap();
    let flush = tokio::spawn({
        let producer = producer.clone();
        async move { producer.flush().await }
    });
    tokio::task::yield_now().await; // let the flush begin
    let mut after = producer.put("events", "k", "after").await.unwrap();
    timeout(TIME_LIMIT, flush).await.expect("a flush hangs").unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    before.await.unwrap();
    assert_eq!((after.try_result(), producer.outstanding_records()), (None, 1));
    assert_eq!(service.stored(), ["before"]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_ends_while_other_tasks_put() {
    let service = Service::replying_after(ms(20));
    let producer = service.producer(Config::builder());
    let putting = tokio::spawn({
        let producer = producer.clone();
        async move {
            loop {
                drop(producer.put("events", "k", "more").await.unwrap());
                sleep(ms(1)).await;
            }
        }
    });
    sleep(ms(500)).await;
    timeout(ms(200), producer.flush()).await.expect("later records delay the flush");
    assert!(producer.outstanding_records() > 0);
    putting.abort();
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_is_dropped_continues() {
    let service = Service::replying_after(ms(5));
    let producer = service.producer(Config::builder().record_max_buffered_time(Duration::from_secs(20)));
    let outcome = producer.put("events", "k", "x").await.unwrap();
    timeout(Duration::ZERO, producer.flush()).await.unwrap_err();
    timeout(Duration::from_secs(1), outcome).await.expect("the record is not flushed").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failure_has_the_record_and_its_attempts() {
    use kpl_core::{Delivery, RequestError};
    let service =
        Service::new(|_| Behavior::Fail(RequestError::new(Delivery::NotSent, "Connection Failed", "no route")));
    let producer = service.producer(Config::builder().record_ttl(Duration::from_secs(1)));
    let record = UserRecord::new("events", "k", "x").explicit_hash_key("7");
    let failure = producer.put_record(record.clone()).await.unwrap().await.unwrap_err();
    assert_eq!((&*failure.error.code, &failure.record), (kpl_core::code::EXPIRED, &record));
    assert!(failure.attempts.len() > 1 && !failure.is_ambiguous(), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_puts_of_many_tasks_lose_no_record() {
    const TASKS: usize = 64;
    const PUTS: usize = 500;
    let service = Service::replying_after(ms(1));
    let config = Config::builder().max_outstanding_records(300).record_max_buffered_time(ms(5));
    let producer = service.producer(config.rate_limit_records_per_shard(1_000_000).rate_limit_bytes_per_shard(1 << 30));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let producer = producer.clone();
        tasks.spawn(async move {
            let mut outcomes = vec![];
            for n in 0..PUTS {
                outcomes.push(producer.put("events", format!("{task}-{n}"), "x").await.unwrap());
                if n % 100 == 99 {
                    timeout(TIME_LIMIT, producer.flush()).await.expect("a flush hangs");
                }
            }
            let mut positions = vec![];
            for outcome in outcomes {
                let receipt = outcome.await.unwrap();
                positions.push((receipt.sequence_number().to_string(), receipt.sub_sequence_number()));
            }
            positions
        });
    }
    let finished = timeout(Duration::from_secs(60), tasks.join_all()).await.expect("a task hangs");
    let positions: HashSet<_> = finished.into_iter().flatten().collect();
    assert_eq!(positions.len(), TASKS * PUTS, "two records have the same sequence number");
    assert_eq!(service.user_records(), TASKS * PUTS);
    producer.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_record_of_a_stream_lists_its_shards_at_once() {
    let service = Service::replying_after(ms(5));
    let producer = service.producer(Config::builder().record_max_buffered_time(Duration::from_secs(10)));
    drop(producer.put("events", "k", "x").await.unwrap());
    sleep(ms(100)).await;
    for (streams, stream) in [(1, "events"), (2, "visits"), (2, "events"), (2, "visits"), (3, "clicks")] {
        drop(producer.put(stream, "k", "x").await.unwrap());
        sleep(ms(1)).await;
        assert_eq!(service.metadata_requests(MetadataRequest::ListShards), streams, "the drive loop was not woken");
    }
    producer.flush().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn records_of_a_task_keep_their_order_across_threads_and_handles() {
    let service = Service::replying_after(Duration::from_micros(100));
    // Only one request at a time, because concurrent requests can change the order.
    let config = Config::builder().max_in_flight_requests(1).record_max_buffered_time(ms(5));
    let producer = service.producer(config.rate_limit_records_per_shard(1_000_000).rate_limit_bytes_per_shard(1 << 30));
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let producer = producer.clone();
        tasks.spawn(async move {
            let mut outcomes = vec![];
            for n in 0..3_000 {
                outcomes.push(producer.clone().put("events", format!("{task}-{n}"), "x").await.unwrap());
                if n % 7 == task % 7 {
                    tokio::task::yield_now().await; // may continue on another thread
                }
            }
            let mut positions = vec![];
            for outcome in outcomes {
                let receipt = outcome.await.unwrap();
                positions.push((receipt.sequence_number().to_owned(), receipt.sub_sequence_number()));
            }
            let wrong: Vec<_> = positions.windows(2).enumerate().filter(|(_, w)| w[0] >= w[1]).take(5).collect();
            assert!(wrong.is_empty(), "not in the order of the puts: {wrong:?}");
        });
    }
    while let Some(task) = timeout(TIME_LIMIT, tasks.join_next()).await.expect("a task hangs") {
        task.unwrap();
    }
    assert_eq!(service.user_records(), 8 * 3_000);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_put_is_accepted_as_soon_as_a_record_is_resolved() {
    let limits = [Config::builder().max_outstanding_records(1), Config::builder().max_outstanding_bytes(1_024)];
    for limit in limits {
        let service = Service::replying_after(ms(500));
        let producer = service.producer(limit.aggregation_enabled(false));
        let start = Instant::now();
        let first = producer.put("events", "k", "a".repeat(600)).await.unwrap();
        let waiting = tokio::spawn({
            let producer = producer.clone();
            async move { (producer.put("events", "k", "b".repeat(600)).await.unwrap(), start.elapsed()) }
        });
        sleep(ms(490)).await;
        assert!(!waiting.is_finished(), "there is no room yet");
        first.await.unwrap();
        let resolved = start.elapsed();
        let (second, accepted) = timeout(TIME_LIMIT, waiting).await.expect("a put hangs").unwrap();
        assert!(resolved >= ms(500) && accepted - resolved < ms(5), "resolved {resolved:?}, accepted {accepted:?}");
        second.await.unwrap();
        assert_eq!(service.requests(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thousands_of_concurrent_puts_are_accepted_with_little_room() {
    let service = Service::replying_after(ms(1));
    let config = Config::builder().max_outstanding_records(16).record_max_buffered_time(ms(1));
    let producer = service.producer(config.rate_limit_records_per_shard(1_000_000));
    let mut puts = JoinSet::new();
    for n in 0..2_000 {
        let producer = producer.clone();
        puts.spawn(async move {
            let outcome = producer.put("events", format!("{n}"), "x").await.unwrap();
            assert!(producer.outstanding_records() <= 16);
            outcome.await.unwrap()
        });
    }
    let receipts = timeout(Duration::from_secs(60), puts.join_all()).await.expect("a put hangs");
    assert_eq!((receipts.len(), service.user_records(), producer.outstanding_records()), (2_000, 2_000, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn puts_dropped_at_any_time_leak_no_room() {
    let service = Service::replying_after(Duration::from_micros(300));
    let config = Config::builder().max_outstanding_records(4).record_max_buffered_time(Duration::from_micros(200));
    let producer = service.producer(config.rate_limit_records_per_shard(1_000_000));
    let mut puts = JoinSet::new();
    for n in 0..1_000_u64 {
        let producer = producer.clone();
        puts.spawn(async move {
            let time_limit = if n % 3 == 0 { Duration::from_secs(60) } else { ms(n * 7 % 400) };
            let put = timeout(time_limit, producer.put("events", format!("{n}"), "x")).await;
            assert!(put.is_ok() || n % 3 != 0, "a dropped put blocks another put");
            match put {
                Ok(outcome) => outcome.unwrap().await.map(|_| true).unwrap(),
                Err(_) => false,
            }
        });
    }
    let accepted = puts.join_all().await.into_iter().filter(|is_accepted| *is_accepted).count();
    assert!(accepted < 1_000, "no put timed out");
    assert_eq!((service.user_records(), producer.outstanding_records()), (accepted, 0));
    for n in 0..4 {
        drop(producer.try_put("events", format!("{n}"), "all room is free").unwrap());
    }
}

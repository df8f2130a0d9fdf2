//! Puts, backpressure and flushes.

use std::collections::HashSet;
use std::time::Duration;

use kpl_core::{Config, Full, InvalidRecord, UserRecord};
use kpl_driver::PutError;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Fate, Question, Service, ms};

/// Longer than anything here takes, so that what hangs fails.
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn a_put_gives_a_receipt() {
    let service = Service::answering_after(ms(5));
    let producer = service.producer(Config::builder());
    let mut outcome = producer.put("events", "key", "hello").await.unwrap();
    assert_eq!(outcome.try_result(), None);
    assert_eq!((producer.outstanding_records(), producer.outstanding_bytes()), (1, 8));
    sleep(ms(50)).await;
    assert!(producer.oldest_record_age().unwrap() >= ms(50));
    let receipt = outcome.await.unwrap();
    assert_eq!((receipt.shard_id(), receipt.sequence_number()), ("shardId-000000000000", "1"));
    assert_eq!((receipt.sub_sequence_number(), receipt.attempts().len()), (None, 1));
    assert_eq!(service.stored(), ["hello"]);
    assert_eq!((producer.outstanding_records(), producer.oldest_record_age()), (0, None));
    assert_eq!((producer.stats().user_records_succeeded, producer.stats().requests), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_outcome_can_be_looked_at_and_dropping_it_does_not_cancel_the_record() {
    let service = Service::answering_after(ms(5));
    let producer = service.producer(Config::builder().aggregation_enabled(false));
    let mut kept = producer.try_put("events", "key", "kept").unwrap();
    drop(producer.try_put("events", "key", "dropped").unwrap());
    timeout(PATIENCE, producer.flush()).await.expect("no flush hangs");
    assert!(kept.try_result().unwrap().is_ok());
    assert_eq!(kept.try_result(), None, "given once");
    assert_eq!(service.stored(), ["kept", "dropped"]);
}

#[tokio::test]
async fn handles_and_futures_go_between_threads() {
    fn check<T: Send + Sync + Unpin>(_: &T) {}
    fn check_future<T: Send>(_: T) {}
    let producer = Service::answering_after(ms(0)).producer(Config::builder());
    check(&producer);
    check_future(producer.put("events", "k", "x"));
    check_future(producer.flush());
    check_future(producer.close());
    check(&producer.try_put("events", "k", "x").unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_bad_record_comes_back() {
    let producer = Service::answering_after(ms(5)).producer(Config::builder());
    let record = UserRecord::new("events", "", "data");
    let Err(error) = producer.put_record(record.clone()).await else { panic!("taken") };
    assert!(matches!(error, PutError::Invalid { reason: InvalidRecord::EmptyPartitionKey, .. }));
    assert_eq!(error.to_string(), "partition_key is empty, but must have 1 to 256 characters");
    assert_eq!(error.into_record(), record);
}

#[tokio::test(start_paused = true)]
async fn try_put_gives_the_record_back_when_there_is_no_room() {
    let service = Service::answering_after(ms(5));
    let producer = service.producer(Config::builder().max_outstanding_records(2));
    let outcomes = [producer.try_put("events", "k", "1").unwrap(), producer.try_put("events", "k", "2").unwrap()];
    let record = UserRecord::new("events", "k", "3").explicit_hash_key("7");
    let Err(error) = producer.try_put_record(record.clone()) else { panic!("taken") };
    assert!(matches!(error, PutError::Full { full: Full::Producer { records: 2, bytes: 4 }, .. }), "{error:?}");
    assert_eq!(*error.record(), record);
    for outcome in outcomes {
        outcome.await.unwrap();
    }
    drop(producer.try_put_record(error.into_record()).unwrap());
}

#[tokio::test(start_paused = true)]
async fn puts_that_wait_for_room_get_in_in_the_order_of_their_coming() {
    let service = Service::answering_after(ms(5));
    let config = Config::builder().aggregation_enabled(false).max_outstanding_records(3);
    let producer = service.producer(config.record_max_buffered_time(ms(1)));
    let mut puts = JoinSet::new();
    for n in 0..200 {
        let producer = producer.clone();
        puts.spawn(async move {
            drop(producer.put("events", "k", format!("{n}")).await.unwrap());
            // Whoever comes back for more lines up behind those who wait.
            if n < 3 {
                sleep(Duration::from_micros(1)).await;
                drop(producer.put("events", "k", format!("{}", 200 + n)).await.unwrap());
            }
        });
    }
    timeout(PATIENCE, puts.join_all()).await.expect("no put hangs");
    timeout(PATIENCE, producer.flush()).await.expect("no flush hangs");
    let expected: Vec<_> = (0..203).map(|n| n.to_string()).collect();
    assert_eq!(service.stored(), expected);
}

#[tokio::test(start_paused = true)]
async fn small_records_do_not_starve_a_large_one() {
    let service = Service::answering_after(ms(5));
    let config = Config::builder().aggregation_enabled(false).max_outstanding_bytes(2_000);
    let producer = service.producer(config.record_max_buffered_time(ms(1)));
    drop(producer.put("events", "k", "a".repeat(1_000)).await.unwrap());
    let mut puts = JoinSet::new();
    for n in 0..100 {
        let producer = producer.clone();
        puts.spawn(async move { producer.put("events", "k", "b".repeat(if n == 0 { 1_900 } else { 10 })).await });
    }
    timeout(PATIENCE, puts.join_all()).await.expect("no put hangs");
    timeout(PATIENCE, producer.flush()).await.expect("no flush hangs");
    assert_eq!(service.stored()[1].len(), 1_900);
    assert_eq!(service.stored().len(), 101);
}

#[tokio::test(start_paused = true)]
async fn a_put_dropped_while_it_waits_puts_nothing_and_holds_nobody_up() {
    let service = Service::answering_after(ms(50));
    let producer = service.producer(Config::builder().aggregation_enabled(false).max_outstanding_records(1));
    drop(producer.put("events", "k", "first").await.unwrap());
    let mut waiting = JoinSet::new();
    for n in 0..10 {
        let producer = producer.clone();
        // Every other one gives up: the first in line among them, and some behind it.
        let patience = if n % 2 == 0 { ms(10) } else { Duration::from_secs(60) };
        waiting.spawn(async move { timeout(patience, producer.put("events", "k", n.to_string())).await.is_ok() });
    }
    let got_in = waiting.join_all().await;
    assert_eq!(got_in.iter().filter(|got_in| **got_in).count(), 5);
    timeout(PATIENCE, producer.flush()).await.expect("no flush hangs");
    assert_eq!(service.stored(), ["first", "1", "3", "5", "7", "9"]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_covers_what_was_put_before_it_and_nothing_else() {
    let service = Service::answering_after(ms(500));
    let patient = Config::builder().record_max_buffered_time(Duration::from_secs(20)).aggregation_enabled(false);
    let producer = service.producer(patient);
    let start = Instant::now();
    let before = producer.put("events", "k", "before").await.unwrap();
    let flush = tokio::spawn({
        let producer = producer.clone();
        async move { producer.flush().await }
    });
    tokio::task::yield_now().await; // now the flush is under way
    let mut after = producer.put("events", "k", "after").await.unwrap();
    timeout(PATIENCE, flush).await.expect("no flush hangs").unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    before.await.unwrap();
    assert_eq!((after.try_result(), producer.outstanding_records()), (None, 1));
    assert_eq!(service.stored(), ["before"]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_ends_although_others_go_on_putting() {
    let service = Service::answering_after(ms(20));
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
    timeout(ms(200), producer.flush()).await.expect("others' records do not keep a flush from ending");
    assert!(producer.outstanding_records() > 0);
    putting.abort();
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_is_dropped_goes_on() {
    let service = Service::answering_after(ms(5));
    let producer = service.producer(Config::builder().record_max_buffered_time(Duration::from_secs(20)));
    let outcome = producer.put("events", "k", "x").await.unwrap();
    timeout(Duration::ZERO, producer.flush()).await.unwrap_err();
    timeout(Duration::from_secs(1), outcome).await.expect("flushed").unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_fails_comes_back_with_its_history() {
    use kpl_core::{Delivery, RequestError};
    let service = Service::new(|_| Fate::Fail(RequestError::new(Delivery::NotSent, "Connection Failed", "no route")));
    let producer = service.producer(Config::builder().record_ttl(Duration::from_secs(1)));
    let record = UserRecord::new("events", "k", "x").explicit_hash_key("7");
    let failure = producer.put_record(record.clone()).await.unwrap().await.unwrap_err();
    assert_eq!((&*failure.error.code, &failure.record), (kpl_core::code::EXPIRED, &record));
    assert!(failure.attempts.len() > 1 && !failure.is_ambiguous(), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_on_many_threads_lose_nothing() {
    const TASKS: usize = 64;
    const PUTS: usize = 500;
    let service = Service::answering_after(ms(1));
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
                    timeout(PATIENCE, producer.flush()).await.expect("no flush hangs");
                }
            }
            let mut places = vec![];
            for outcome in outcomes {
                let receipt = outcome.await.unwrap();
                places.push((receipt.sequence_number().to_string(), receipt.sub_sequence_number()));
            }
            places
        });
    }
    let finished = timeout(Duration::from_secs(60), tasks.join_all()).await.expect("nothing hangs");
    let places: HashSet<_> = finished.into_iter().flatten().collect();
    assert_eq!(places.len(), TASKS * PUTS, "each record has a place of its own");
    assert_eq!(service.user_records(), TASKS * PUTS);
    producer.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_streams_first_record_asks_for_its_shards_at_once() {
    let service = Service::answering_after(ms(5));
    let producer = service.producer(Config::builder().record_max_buffered_time(Duration::from_secs(10)));
    drop(producer.put("events", "k", "x").await.unwrap());
    sleep(ms(100)).await;
    for (streams, stream) in [(1, "events"), (2, "visits"), (2, "events"), (2, "visits"), (3, "clicks")] {
        drop(producer.put(stream, "k", "x").await.unwrap());
        sleep(ms(1)).await;
        assert_eq!(service.asked(Question::Shards), streams, "the drive loop would not come by for seconds");
    }
    producer.flush().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_task_puts_keeps_its_order_whatever_threads_and_handles_it_uses() {
    let service = Service::answering_after(Duration::from_micros(100));
    // With one request at a time, nothing else changes the order.
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
                    tokio::task::yield_now().await; // and goes on, on another thread perhaps
                }
            }
            let mut places: Vec<(u64, Option<u64>)> = vec![];
            for outcome in outcomes {
                let receipt = outcome.await.unwrap();
                places.push((receipt.sequence_number().parse().unwrap(), receipt.sub_sequence_number()));
            }
            let wrong: Vec<_> = places.windows(2).enumerate().filter(|(_, w)| w[0] >= w[1]).take(5).collect();
            assert!(wrong.is_empty(), "in the order in which they were put: {wrong:?}");
        });
    }
    while let Some(task) = timeout(PATIENCE, tasks.join_next()).await.expect("nothing hangs") {
        task.unwrap();
    }
    assert_eq!(service.user_records(), 8 * 3_000);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_put_goes_on_as_soon_as_a_record_is_resolved() {
    let limits = [Config::builder().max_outstanding_records(1), Config::builder().max_outstanding_bytes(1_024)];
    for limit in limits {
        let service = Service::answering_after(ms(500));
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
        let (second, got_in) = timeout(PATIENCE, waiting).await.expect("no put hangs").unwrap();
        assert!(resolved >= ms(500) && got_in - resolved < ms(5), "resolved {resolved:?}, got in {got_in:?}");
        second.await.unwrap();
        assert_eq!(service.requests(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thousands_of_puts_at_once_get_through_a_small_room() {
    let service = Service::answering_after(ms(1));
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
    let receipts = timeout(Duration::from_secs(60), puts.join_all()).await.expect("nobody is forgotten");
    assert_eq!((receipts.len(), service.user_records(), producer.outstanding_records()), (2_000, 2_000, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn puts_given_up_at_any_moment_take_no_room_with_them() {
    let service = Service::answering_after(Duration::from_micros(300));
    let config = Config::builder().max_outstanding_records(4).record_max_buffered_time(Duration::from_micros(200));
    let producer = service.producer(config.rate_limit_records_per_shard(1_000_000));
    let mut puts = JoinSet::new();
    for n in 0..1_000_u64 {
        let producer = producer.clone();
        puts.spawn(async move {
            let patience = if n % 3 == 0 { Duration::from_secs(60) } else { ms(n * 7 % 400) };
            let put = timeout(patience, producer.put("events", format!("{n}"), "x")).await;
            assert!(put.is_ok() || n % 3 != 0, "a put was held up by those who gave up");
            match put {
                Ok(outcome) => outcome.unwrap().await.map(|_| true).unwrap(),
                Err(_) => false,
            }
        });
    }
    let got_in = puts.join_all().await.into_iter().filter(|got_in| *got_in).count();
    assert!(got_in < 1_000, "some gave up");
    assert_eq!((service.user_records(), producer.outstanding_records()), (got_in, 0));
    for n in 0..4 {
        drop(producer.try_put("events", format!("{n}"), "all the room is there").unwrap());
    }
}

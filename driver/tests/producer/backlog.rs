//! A shard with a full backlog: only puts for this shard wait.

use std::time::Duration;

use kpl_core::{Config, ConfigBuilder, Full, UserRecord};
use kpl_driver::{Outcome, PutError};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Producer, Service, ms};

const SEC: Duration = Duration::from_secs(1);

/// Shards accept 100 records per second. The records of [`record`] have 1,000 bytes and are not aggregated.
fn config() -> ConfigBuilder {
    Config::builder().aggregation_enabled(false).rate_limit_records_per_shard(100)
}

fn record(service: &Service, shard: u32) -> UserRecord {
    UserRecord::new("events", "key", vec![b'x'; 1_000]).explicit_hash_key(service.start_of(shard).to_string())
}

/// Puts `per_second` records in total, into the shards in turn, and returns the latency of each.
async fn put_steadily(
    producer: Producer,
    service: Service,
    shards: &[u32],
    per_second: u32,
    seconds: u32,
) -> Vec<Duration> {
    let mut tasks = vec![];
    let start = Instant::now();
    for n in 0..per_second * seconds {
        tokio::time::sleep_until(start + SEC / per_second * n).await;
        let put_at = Instant::now();
        let outcome = producer.put_record(record(&service, shards[n as usize % shards.len()])).await.unwrap();
        tasks.push(tokio::spawn(async move {
            outcome.await.unwrap();
            put_at.elapsed()
        }));
    }
    let mut latencies = vec![];
    for task in tasks {
        latencies.push(task.await.unwrap());
    }
    latencies
}

#[tokio::test(start_paused = true)]
async fn one_hot_key_at_ten_times_its_shards_rate_delays_no_other_shard() {
    let service = Service::replying_after(ms(20)).with_shards(4);
    let producer = service.producer(config());
    let hot = {
        let (producer, service) = (producer.clone(), service.clone());
        tokio::spawn(async move {
            let start = Instant::now();
            let mut outcomes: Vec<Outcome> = vec![];
            for n in 0..20_000_u32 {
                tokio::time::sleep_until(start + ms(1) * n).await;
                outcomes.push(producer.put_record(record(&service, 0)).await.unwrap());
                if start.elapsed() > 20 * SEC {
                    break;
                }
            }
            outcomes
        })
    };
    sleep(5 * SEC).await;
    // Three shards at 90 % of their rate.
    let mut latencies = put_steadily(producer.clone(), service.clone(), &[1, 2, 3], 270, 10).await;
    assert_eq!(latencies.len(), 2_700, "no put waits");
    latencies.sort_unstable();
    let p99 = latencies[latencies.len() * 99 / 100];
    assert!(p99 < ms(200), "{p99:?}");
    let outcomes = hot.await.unwrap();
    assert!(outcomes.len() > 1_900, "the hot shard has a load above its rate: {}", outcomes.len());
    for outcome in outcomes {
        outcome.await.expect("a record expires");
    }
}

#[tokio::test(start_paused = true)]
async fn try_put_reports_the_full_shard_and_puts_for_it_wait_in_order() {
    let service = Service::replying_after(ms(20)).with_shards(2);
    let producer = service.producer(config().max_shard_backlog(Some(SEC)));
    producer.put_record(record(&service, 1)).await.unwrap().await.unwrap();
    let full = loop {
        match producer.try_put_record(record(&service, 0)) {
            Ok(outcome) => drop(outcome),
            Err(error) => break error,
        }
    };
    let PutError::Full { full: Full::Shard { shard, backlog }, record: returned } = full else { panic!("{full:?}") };
    assert_eq!((&*shard.stream, shard.shard_id.as_deref()), ("events", Some("shardId-000000000000")));
    assert!(backlog > SEC && backlog < 2 * SEC, "{backlog:?}");
    assert_eq!(*returned, record(&service, 0));
    drop(producer.try_put_record(record(&service, 1)).expect("the other shard has room"));

    let outstanding = producer.outstanding_records();
    let waiting: Vec<_> = (0..50)
        .map(|n| {
            let (producer, record) = (producer.clone(), record(&service, 0));
            tokio::spawn(async move {
                sleep(ms(1) * n).await;
                drop(producer.put_record(record).await.unwrap());
                Instant::now()
            })
        })
        .collect();
    sleep(ms(40)).await;
    assert!(producer.outstanding_records() <= outstanding + 6, "most puts wait");
    let mut accepted = vec![];
    for put in waiting {
        accepted.push(timeout(20 * SEC, put).await.expect("a put waits forever").unwrap());
    }
    assert!(accepted.is_sorted(), "puts are not accepted in order");
    producer.close().await;
    assert_eq!(service.user_records(), 2 + outstanding + 50 - 1);
}

#[tokio::test(start_paused = true)]
async fn puts_that_wait_for_a_shard_end_with_the_close() {
    let service = Service::replying_after(ms(20)).with_shards(2);
    let producer = service.producer(config().max_shard_backlog(Some(SEC)));
    producer.put_record(record(&service, 1)).await.unwrap().await.unwrap();
    while let Ok(outcome) = producer.try_put_record(record(&service, 0)) {
        drop(outcome);
    }
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let (producer, record) = (producer.clone(), record(&service, 0));
            tokio::spawn(async move { producer.put_record(record).await })
        })
        .collect();
    sleep(ms(1)).await;
    producer.close_or_fail(Duration::ZERO).await;
    for put in waiting {
        let refused = timeout(SEC, put).await.expect("a put waits forever").unwrap();
        assert!(matches!(refused, Err(PutError::Closed { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn puts_in_the_put_buffer_count_toward_the_backlog_of_their_shard() {
    // Small records go through the lanes of the put buffer, and are aggregated.
    let service = Service::replying_after(ms(20)).with_shards(2);
    // The shard needs 16 s for all records, and no record may wait for 8 s.
    let config = Config::builder().rate_limit_bytes_per_shard(100_000).record_ttl(8 * SEC);
    let producer = service.producer(config);
    producer.put_record(record(&service, 1)).await.unwrap().await.unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (producer, record) = (producer.clone(), record(&service, 0));
            tokio::spawn(async move {
                let mut outcomes = vec![];
                for _ in 0..100 {
                    outcomes.push(producer.put_record(record.clone()).await.unwrap());
                }
                for outcome in outcomes {
                    outcome.await.expect("a record expires");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

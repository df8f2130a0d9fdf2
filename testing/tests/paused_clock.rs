//! With tokio's paused clock, time costs nothing, and two runs are the same.

use std::time::Duration;

use kpl_testing::simulation::Settings;
use kpl_testing::{Faults, Kinesis, OperationFault, Simulation};
use kpl_tokio::{Config, Receipt};

/// Puts records in the hour in which the service fails, and returns what became of them.
async fn an_hour_of_failures(seed: u64) -> (Vec<Receipt>, Duration) {
    let started = tokio::time::Instant::now();
    let kinesis = Kinesis::new(seed).stream("events", 2);
    kinesis.set_faults(Faults { http_500_rate: 1.0, ..Faults::default() });
    kinesis.after(Duration::from_secs(3_600), |kinesis| kinesis.set_faults(Faults::default()));
    let config = Config::builder().record_ttl(Duration::from_secs(7_200)).build().unwrap();
    let producer = kinesis.producer(config);
    let mut outcomes = Vec::new();
    for n in 0..100 {
        outcomes.push(producer.put("events", format!("user {}", n % 10), format!("event {n}")).await.unwrap());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut receipts = Vec::new();
    for outcome in outcomes {
        receipts.push(outcome.await.expect("its time-to-live is two hours"));
    }
    let put = (0..100).map(|n| (format!("user {}", n % 10), format!("event {n}")));
    kinesis.compare("events", put).assert_exactly_once();
    (receipts, started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_retries_takes_no_time_and_is_the_same_each_time() {
    let real = std::time::Instant::now();
    let (receipts, virtual_time) = an_hour_of_failures(1).await;
    println!("{virtual_time:.0?} of virtual time in {:.0?} of real time", real.elapsed());
    assert!(virtual_time >= Duration::from_secs(3_600));
    assert!(receipts.iter().all(|receipt| receipt.attempts().len() > 100));
    // Attempts with their times, sequence numbers and shards.
    let (same, _) = an_hour_of_failures(1).await;
    assert_eq!(format!("{receipts:?}"), format!("{same:?}"));
    let (other, _) = an_hour_of_failures(2).await;
    assert_ne!(format!("{receipts:?}"), format!("{other:?}"), "another seed has another jitter");
}

#[tokio::test(start_paused = true)]
async fn records_are_stored_while_lists_are_denied_replies_lost_and_shards_split() {
    let kinesis = Kinesis::new(1).stream("events", 2);
    kinesis.set_faults(Faults {
        throttle_rate: 0.2,
        internal_failure_rate: 0.1,
        drop_reply_rate: 0.1,
        latency: Duration::from_millis(20),
        latency_jitter: Duration::from_secs(8), // some are longer than the timeout of a request
        operations: vec![
            OperationFault::denied("ListShards").first(2),
            OperationFault::denied("DescribeStreamSummary").first(2),
        ],
        ..Faults::default()
    });
    kinesis.after(Duration::from_secs(5), |kinesis| kinesis.reshard("events", 4).unwrap());
    kinesis.after(Duration::from_secs(8), |kinesis| kinesis.reshard("events", 3).unwrap());
    let producer = kinesis.producer(Config::builder().record_ttl(Duration::MAX).build().unwrap());
    let records: Vec<_> = (0..2_000).map(|n| (format!("user {}", n % 50), format!("event {n}"))).collect();
    let mut outcomes = Vec::new();
    for (key, data) in &records {
        outcomes.push(producer.put("events", key, data.clone()).await.unwrap());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    producer.close().await;
    for outcome in outcomes {
        outcome.await.expect("no record expires");
    }
    let comparison = kinesis.compare("events", records);
    comparison.assert_none_lost();
    assert!(!comparison.duplicates.is_empty(), "replies were lost, so records were stored twice");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_stream_fails_records_and_gives_them_back() {
    let kinesis = Kinesis::new(1).stream("events", 1);
    let producer = kinesis.producer(Config::default());
    assert!(producer.put("events", "key", "before").await.unwrap().await.is_ok());
    kinesis.delete_stream("events").unwrap();
    let failure = producer.put("events", "key", "after").await.unwrap().await.unwrap_err();
    assert_eq!(failure.record.data, "after");
    assert_eq!(kinesis.records("events"), []);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "lost: 1\n  key \"b\", data b\"2\"")]
async fn a_lost_record_is_printed() {
    let kinesis = Kinesis::new(1).stream("events", 1);
    let producer = kinesis.producer(Config::default());
    producer.put("events", "a", "1").await.unwrap().await.unwrap();
    kinesis.compare("events", [("a", "1"), ("b", "2")]).assert_none_lost();
}

#[test]
fn a_producer_of_each_runtime_works() {
    let kinesis = Kinesis::new(1).stream("events", 1);
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let producer = kinesis.producer(Config::default());
            producer.put("events", "key", "data").await.unwrap().await.unwrap();
        });
    }
    assert_eq!(kinesis.records("events").len(), 2);
}

/// Limits of shards are refilled, and actions come at their time, whatever the first time of the runtime's clock is.
#[test]
fn time_passes_as_on_any_clock() {
    for start in [0, 1_000_000_000_000_000_000, 3_000_000_000_000_000_000] {
        let mut settings = Settings::new(1);
        settings.start = kpl_testing::core::Instant::from_nanos(start);
        let simulation = Simulation::with_settings(settings);
        let host = simulation.host();
        let kinesis = Kinesis::new(1).stream("events", 1);
        kinesis.after(Duration::from_secs(2), |kinesis| kinesis.create_stream("later", 1).unwrap());
        let producer = kinesis.producer_on(&host, Config::builder().aggregation_enabled(false).build().unwrap());
        let service = kinesis.clone();
        simulation.run(async move {
            producer.put("events", "key", "first").await.unwrap().await.unwrap();
            assert!(service.with(|kinesis, _| kinesis.open_shards("later").next().is_none()), "its time has not come");
            for n in 1..3_000 {
                drop(producer.put("events", "key", n.to_string()).await.unwrap());
            }
            producer.close().await;
        });
        assert_eq!(kinesis.records("events").len(), 3_000);
        assert!(simulation.elapsed() >= Duration::from_secs(2), "{:?}: 1,000 records a second", simulation.elapsed());
        assert!(kinesis.with(|kinesis, _| kinesis.open_shards("later").next().is_some()));
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "an action that was scheduled with `after` failed: called `Result::unwrap()`")]
async fn an_action_that_fails_fails_the_test() {
    let kinesis = Kinesis::new(1).stream("events", 1);
    let producer = kinesis.producer(Config::default());
    kinesis.after(Duration::from_secs(1), |kinesis| kinesis.reshard("missing", 2).unwrap());
    tokio::time::sleep(Duration::from_secs(2)).await;
    producer.put("events", "a", "1").await.unwrap().await.unwrap();
    kinesis.compare("events", [("a", "1")]).assert_exactly_once();
}

/// A request that is on its way arrives, also when its host crashes or no longer waits for it.
#[test]
fn a_request_without_a_client_is_stored_late() {
    let simulation = Simulation::new(1);
    let (host, observer) = (simulation.host(), simulation.host());
    let kinesis = Kinesis::new(1).stream("events", 1);
    let producer = kinesis.producer_on(&host, Config::default());
    let service = kinesis.clone();
    simulation.run(async move {
        producer.put("events", "warm", "up").await.unwrap().await.unwrap();
        service.set_faults(Faults { latency: Duration::from_secs(4), ..Faults::default() });
        drop(producer.put("events", "key", "data").await.unwrap());
        observer.sleep(Duration::from_secs(1)).await;
        host.crash();
        assert_eq!(service.records("events").len(), 1);
        observer.sleep(Duration::from_secs(2)).await;
        assert_eq!(service.records("events").len(), 2);
    });
}

#[test]
#[should_panic(expected = "the future has not ended within `duration_max`")]
fn a_future_that_never_ends_is_reported_although_another_task_sleeps() {
    let simulation = Simulation::new(9);
    let host = simulation.host();
    kpl_driver::Runtime::spawn(&simulation.host(), async move {
        loop {
            host.sleep(Duration::from_secs(10)).await;
        }
    });
    simulation.run(std::future::pending::<()>());
}

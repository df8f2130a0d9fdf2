//! Tests of the blocking producer, with threads and over HTTP.

use std::process::Command;
use std::sync::atomic::{self, AtomicUsize};
use std::time::{Duration, Instant};

use kpl_emulator::{Emulator, Faults, Options, Server, consumer};
use kpl_tokio::blocking::{Producer, WaitError};
use kpl_tokio::{Config, ConfigBuilder, Full, Ordering, PutError, UserRecord, http_client};

use crate::rig::client;

const TIMEOUT: Duration = Duration::from_secs(20);

struct Rig {
    emulator: Emulator,
    server: Server,
}

impl Rig {
    fn new() -> Self {
        let emulator = Emulator::new(Options::default()).with_stream("events", 3);
        let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None).unwrap();
        Self { emulator, server }
    }

    fn with_latency(latency: Duration) -> Self {
        let rig = Self::new();
        rig.emulator.set_faults(Faults { latency, ..Faults::default() });
        rig
    }

    fn producer(&self, config: ConfigBuilder) -> Producer {
        Producer::new(client(&self.server.url(), http_client::new()), config.build().unwrap())
    }

    fn stored(&self) -> usize {
        self.emulator.with(|kinesis, _| consumer::read_stream(kinesis, "events")).records.len()
    }
}

#[test]
fn threads_put_flush_wait_and_close() {
    let rig = Rig::new();
    let producer = rig.producer(Config::builder());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let producer = producer.clone();
            scope.spawn(move || {
                let put = |n| producer.put("events", format!("key-{thread}-{n}"), "data").unwrap();
                let outcomes: Vec<_> = (0..500).map(put).collect();
                producer.flush(TIMEOUT).unwrap();
                for mut outcome in outcomes {
                    let receipt = outcome.try_result().expect("the flush resolves it").unwrap();
                    assert!(receipt.shard_id().starts_with("shardId-"));
                    assert_eq!(outcome.wait(TIMEOUT), Err(WaitError::AlreadyTaken));
                }
            });
        }
    });
    let record = UserRecord::new("events", "key", "data").explicit_hash_key("42");
    let receipt = producer.put_record(record).unwrap().wait(TIMEOUT).unwrap();
    assert_eq!(receipt.shard_id(), "shardId-000000000000");
    producer.close(TIMEOUT).unwrap();
    assert_eq!((rig.stored(), producer.outstanding_records()), (4_001, 0));
    assert!(matches!(producer.put("events", "k", "late"), Err(PutError::Closed { record }) if record.data == "late"));
}

/// Each put begins after that of another thread has returned.
#[test]
fn threads_that_put_in_turn_keep_the_order_of_a_key() {
    const THREADS: usize = 4;
    const PUTS: usize = 8_000;
    let rig = Rig::new();
    let jitter = Duration::from_millis(20);
    rig.emulator.set_faults(Faults { latency_jitter: jitter, throttle_rate: 0.1, ..Faults::default() });
    let producer = rig.producer(Config::builder().ordering(Ordering::PerKey));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (producer, next) = (producer.clone(), &next);
            scope.spawn(move || {
                for n in (thread..PUTS).step_by(THREADS) {
                    while next.load(atomic::Ordering::Acquire) != n {
                        std::thread::yield_now();
                    }
                    let _ = producer.put("events", "key", n.to_string()).unwrap();
                    next.store(n + 1, atomic::Ordering::Release);
                }
            });
        }
    });
    producer.close(TIMEOUT).unwrap();
    let reading = rig.emulator.with(|kinesis, _| consumer::read_stream(kinesis, "events"));
    let read: Vec<String> =
        reading.records.iter().map(|record| String::from_utf8_lossy(&record.data).into_owned()).collect();
    assert!(read.iter().map(String::as_str).eq((0..PUTS).map(|n| n.to_string()).collect::<Vec<_>>()), "{read:?}");
}

#[test]
fn after_a_timeout_the_record_is_still_sent() {
    let rig = Rig::with_latency(Duration::from_millis(400));
    let producer = rig.producer(Config::builder());
    let mut outcome = producer.put("events", "key", "data").unwrap();
    let short = Duration::from_millis(20);
    let start = Instant::now();
    let timed_out = Err(WaitError::TimedOut { timeout: short });
    assert_eq!(outcome.wait(short), timed_out);
    assert!(start.elapsed() >= short);
    assert_eq!(producer.flush(short).unwrap_err(), *timed_out.as_ref().unwrap_err());
    assert_eq!(producer.close(short).unwrap_err(), *timed_out.as_ref().unwrap_err());
    assert_eq!(producer.outstanding_records(), 1);
    outcome.wait(TIMEOUT).unwrap();
    producer.close(TIMEOUT).unwrap();
    assert_eq!(rig.stored(), 1);
}

#[test]
fn close_or_fail_returns_records_not_stored_in_time() {
    let rig = Rig::with_latency(Duration::from_secs(60));
    let producer = rig.producer(Config::builder());
    let mut outcome = producer.put("events", "key", "data").unwrap();
    producer.close_or_fail(Duration::from_millis(200)).unwrap();
    let Err(WaitError::Failed(failure)) = outcome.wait(Duration::ZERO) else { panic!("the record did not fail") };
    assert_eq!((&*failure.error.code, failure.record), ("Closed", UserRecord::new("events", "key", "data")));
}

#[test]
fn a_full_producer_makes_puts_wait() {
    let rig = Rig::with_latency(Duration::from_millis(300));
    let producer = rig.producer(Config::builder().max_outstanding_records(1));
    let first = producer.put("events", "key", "first").unwrap();
    let record = UserRecord::new("events", "key", "second");
    let full = producer.try_put_record(record.clone()).unwrap_err();
    assert!(matches!(&full, PutError::Full { full: Full::Producer { records: 1, .. }, .. }), "{full}");
    let full = producer.put_timeout(record.clone(), Duration::from_millis(20)).unwrap_err();
    assert!(matches!(&full, PutError::Full { full: Full::Producer { records: 1, bytes: 8 }, .. }), "{full}");
    assert_eq!(full.into_record(), record);
    // A dropped outcome does not cancel its record.
    drop(first);
    drop(producer.put_record(record).unwrap());
    producer.flush(TIMEOUT).unwrap();
    assert_eq!(rig.stored(), 2);
}

#[test]
fn a_full_shard_makes_only_its_own_puts_wait() {
    let rig = Rig::new();
    let config = Config::builder().aggregation_enabled(false).rate_limit_records_per_shard(10);
    let producer = rig.producer(config.max_shard_backlog(Some(Duration::from_secs(1))));
    let record = |hash_key: u128| UserRecord::new("events", "key", "data").explicit_hash_key(hash_key.to_string());
    drop(producer.put_record(record(0)).unwrap());
    producer.flush(TIMEOUT).unwrap();
    while let Ok(outcome) = producer.try_put_record(record(0)) {
        drop(outcome);
    }
    let full = producer.put_timeout(record(0), Duration::from_millis(20)).unwrap_err();
    assert!(
        matches!(&full, PutError::Full { full: Full::Shard { shard, .. }, .. } if shard.shard_id.is_some()),
        "{full}"
    );
    let start = Instant::now();
    let mut other = producer.put_record(record(u128::MAX)).unwrap();
    other.wait(TIMEOUT).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    // The put succeeds when the shard has stored other records.
    drop(producer.put_timeout(record(0), TIMEOUT).unwrap());
    producer.close(TIMEOUT).unwrap();
}

#[test]
fn invalid_records_are_returned() {
    let producer = Rig::new().producer(Config::builder());
    let error = producer.put("events", "", "data").unwrap_err();
    assert!(matches!(&error, PutError::Invalid { record, .. } if record.data == "data"), "{error}");
}

/// Checks that calls that wait return an error, and that calls that do not wait work.
fn check_in_async_task(producer: &Producer) {
    let error = producer.put("events", "key", "data").unwrap_err();
    assert!(matches!(&error, PutError::AsyncTask { record } if record.data == "data"), "{error}");
    let mut outcome = producer.try_put("events", "key", "data").unwrap();
    assert_eq!(outcome.wait(TIMEOUT), Err(WaitError::AsyncTask));
    assert_eq!(producer.flush(TIMEOUT), Err(WaitError::AsyncTask));
    assert_eq!(producer.close(TIMEOUT), Err(WaitError::AsyncTask));
    assert_eq!(producer.close_or_fail(TIMEOUT), Err(WaitError::AsyncTask));
    let error = Producer::from_env().unwrap_err();
    assert!(error.to_string().contains("inside an async task"), "{error}");
}

#[test]
fn inside_async_tasks_calls_that_wait_return_an_error() {
    let rig = Rig::new();
    let producer = rig.producer(Config::builder());
    let one = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let two = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for runtime in [one, two] {
        runtime.block_on(async {
            check_in_async_task(&producer);
            let clone = producer.clone();
            tokio::spawn(async move {
                check_in_async_task(&clone);
                tokio::task::yield_now().await;
                check_in_async_task(&clone);
            })
            .await
            .unwrap();
            // The checks must not use up the task's budget of polls.
            for _ in 0..1_000 {
                assert!(producer.flush(TIMEOUT).is_err());
            }
            assert!(tokio::task::coop::has_budget_remaining());
            // A thread of `spawn_blocking` may block. Outcomes can be awaited.
            let clone = producer.clone();
            let outcome = tokio::task::spawn_blocking(move || {
                clone.put("events", "key", "data").unwrap().wait(TIMEOUT).unwrap();
                clone.put("events", "key", "data").unwrap()
            });
            outcome.await.unwrap().await.unwrap();
        });
        if runtime.metrics().num_workers() > 1 {
            let blocking = async {
                tokio::task::block_in_place(|| producer.put("events", "k", "x").unwrap().wait(TIMEOUT).unwrap())
            };
            runtime.block_on(async { tokio::spawn(async {}).await.unwrap() });
            runtime.block_on(blocking);
        }
        // Inside the runtime, but outside a task.
        let _entered = runtime.enter();
        producer.put("events", "key", "data").unwrap().wait(TIMEOUT).unwrap();
    }
    producer.flush(TIMEOUT).unwrap();
    assert_eq!(rig.stored(), 2 * (3 + 2 + 1) + 1);
}

#[test]
fn a_blocking_producer_can_be_created_from_an_async_one() {
    let rig = Rig::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let async_producer = runtime.block_on(async { rig.producer(Config::builder()).as_async().clone() });
    let producer = Producer::from(async_producer.clone());
    producer.put("events", "key", "data").unwrap().wait(TIMEOUT).unwrap();
    runtime.block_on(async_producer.close());
    assert!(matches!(producer.put("events", "key", "data"), Err(PutError::Closed { .. })));
}

/// The variable that marks a child process.
const CHILD: &str = "KPL_TEST_IN_THE_CHILD";

#[test]
fn a_producer_can_be_created_from_the_environment() {
    if std::env::var_os(CHILD).is_some() {
        match Producer::from_env() {
            Ok(producer) => {
                producer.put("events", "key", "from the environment").unwrap().wait(TIMEOUT).unwrap();
                producer.close(TIMEOUT).unwrap();
                println!("stored");
            }
            Err(error) => println!("error: {error}"),
        }
        return;
    }
    let rig = Rig::new();
    let run_child = |region: &str| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["blocking::a_producer_can_be_created_from_the_environment", "--exact", "--nocapture"])
            .env_clear()
            .env(CHILD, "1");
        child.envs([("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_REGION", region)]);
        child.envs([("AWS_CONFIG_FILE", "/nowhere"), ("AWS_EC2_METADATA_DISABLED", "true")]);
        let output = child.env("AWS_ENDPOINT_URL", rig.server.url()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    };
    let output = run_child("us-east-1");
    assert!(output.contains("stored"), "{output}");
    assert_eq!(rig.stored(), 1);
    let output = run_child("");
    assert!(output.contains("error: no AWS region is set"), "{output}");
}

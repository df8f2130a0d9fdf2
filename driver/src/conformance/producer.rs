//! Checks of the real producer on the runtime.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use kpl_core::{
    Batch, Config, ConfigBuilder, DescribeStreamRequest, ListShardsRequest, RecordReply, RecordResult, Reply,
    RequestError, ShardPage, StreamSummary, code,
};

use super::{TIME_LIMIT, require, run};
use crate::drive::race;
use crate::park::wait_for;
use crate::runtime::Runtime;
use crate::transport::Transport;
use crate::{Outcome, Producer};

pub(super) fn check<R: Runtime>(runtime: &R) {
    thousands_of_concurrent_puts_are_each_stored_once(runtime);
    close_or_fail_ends_in_time_without_replies(runtime);
    a_request_that_panics_returns_its_records(runtime);
    puts_and_flushes_can_be_dropped(runtime);
    records_are_sent_after_the_drop_of_the_last_handle(runtime);
}

const ALL_ARRIVE: &str = "records of thousands of concurrent puts, from tasks and from threads, are each stored once";
const CLOSES: &str = "with a service that never replies, `close_or_fail` ends in time and returns all records";
const PANICS: &str = "records of requests that panic fail at their time-to-live, marked as ambiguous";
const CANCELLED: &str = "a put that is dropped while it waits puts nothing; a flush that is dropped continues";
const STILL_SENT: &str = "records outstanding when the last handle is dropped are still sent";

/// The reaction of the service to requests.
#[derive(Clone, Copy)]
enum Behavior {
    Store,
    Hang,
    Panic,
}

/// A service whose stream has one shard.
#[derive(Clone)]
struct Service {
    behavior: Behavior,
    stored: Arc<AtomicUsize>,
}

impl Service {
    fn new(behavior: Behavior) -> Self {
        Self { behavior, stored: Arc::default() }
    }

    fn stored(&self) -> usize {
        self.stored.load(Ordering::SeqCst)
    }

    fn producer<R: Runtime>(&self, runtime: &R, config: ConfigBuilder) -> Producer<R> {
        let config = config.build().unwrap_or_else(|error| unreachable!("the config of a check: {error}"));
        Producer::with_transport(runtime.clone(), self.clone(), config)
    }
}

impl Transport for Service {
    async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
        match self.behavior {
            Behavior::Store => {}
            Behavior::Hang => pending().await,
            Behavior::Panic => panic!("this panic is part of the check"),
        }
        let stored = batch.records().iter().map(|record| {
            let before = self.stored.fetch_add(record.user_records(), Ordering::SeqCst);
            RecordReply::stored("shardId-000000000000", before.to_string())
        });
        Reply::Records(stored.collect())
    }

    async fn list_shards(&self, _: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        Ok(ShardPage::default())
    }

    async fn describe_stream(&self, _: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
        Ok(StreamSummary::default())
    }
}

/// Waits for the result of a record.
fn result(outcome: Outcome, promise: &str) -> RecordResult {
    wait_for(outcome, Some(TIME_LIMIT)).unwrap_or_else(|| super::fail(promise, "a record was never resolved"))
}

fn short_buffering() -> ConfigBuilder {
    Config::builder().record_max_buffered_time(Duration::from_millis(10))
}

fn thousands_of_concurrent_puts_are_each_stored_once<R: Runtime>(runtime: &R) {
    const TASKS: usize = 2_000;
    const THREADS: usize = 4;
    const EACH: usize = 5;
    let service = Service::new(Behavior::Store);
    // Most puts wait for room.
    let config = short_buffering().rate_limit_records_per_shard(1_000_000).max_outstanding_records(500);
    let producer = service.producer(runtime, config);
    let (sender, results) = channel();
    for _ in 0..TASKS {
        let (producer, sender) = (producer.clone(), sender.clone());
        runtime.spawn(async move {
            for n in 0..EACH {
                let result = match producer.put("events", format!("key {n}"), "data").await {
                    Ok(outcome) => outcome.await.is_ok(),
                    Err(_) => false,
                };
                let _ = sender.send(result);
            }
        });
    }
    for _ in 0..THREADS {
        let (producer, sender) = (producer.clone(), sender.clone());
        thread::spawn(move || {
            for n in 0..EACH {
                let put = wait_for(producer.put("events", format!("key {n}"), "data"), Some(TIME_LIMIT));
                let result = put.and_then(Result::ok).and_then(|outcome| wait_for(outcome, Some(TIME_LIMIT)));
                let _ = sender.send(matches!(result, Some(Ok(_))));
            }
        });
    }
    drop(sender);
    let puts = (TASKS + THREADS) * EACH;
    for done in 0..puts {
        let result = results.recv_timeout(TIME_LIMIT);
        require(result == Ok(true), ALL_ARRIVE, || match result {
            Ok(_) => "a record failed".into(),
            Err(_) => format!("only {done} of {puts} were resolved"),
        });
    }
    let stored = service.stored();
    require(stored == puts, ALL_ARRIVE, || format!("of {puts}, {stored} were stored"));
}

fn close_or_fail_ends_in_time_without_replies<R: Runtime>(runtime: &R) {
    let producer = Service::new(Behavior::Hang).producer(runtime, short_buffering());
    let puts = (0..10).map(|n| producer.try_put("events", n.to_string(), "data"));
    let outcomes: Vec<_> = puts.flatten().collect();
    require(outcomes.len() == 10, CLOSES, || "a put was refused".into());
    let clock = runtime.clone();
    run(runtime, CLOSES, async move {
        // Wait until the requests are in flight.
        clock.sleep_until(clock.now() + Duration::from_millis(50)).await;
        producer.close_or_fail(Duration::from_millis(50)).await;
    });
    for outcome in outcomes {
        let is_closed = result(outcome, CLOSES).is_err_and(|failure| &*failure.error.code == code::CLOSED);
        require(is_closed, CLOSES, || "a record did not fail as closed".into());
    }
}

fn a_request_that_panics_returns_its_records<R: Runtime>(runtime: &R) {
    let config = short_buffering().record_ttl(Duration::from_millis(500));
    let producer = Service::new(Behavior::Panic).producer(runtime, config);
    for n in 0..10 {
        let Ok(outcome) = producer.try_put("events", n.to_string(), "data") else {
            super::fail(PANICS, "a put was refused");
        };
        if n == 9 {
            let is_ambiguous = result(outcome, PANICS).is_err_and(|failure| failure.is_ambiguous());
            require(is_ambiguous, PANICS, || "the record did not fail, or not as ambiguous".into());
        }
    }
    run(runtime, PANICS, async move { producer.close().await });
}

fn puts_and_flushes_can_be_dropped<R: Runtime>(runtime: &R) {
    let service = Service::new(Behavior::Store);
    // Nothing is sent without a flush, so the second put has to wait.
    let config = Config::builder().record_max_buffered_time(Duration::from_secs(60)).record_ttl(Duration::MAX);
    let producer = service.producer(runtime, config.max_outstanding_records(1));
    let Ok(outcome) = producer.try_put("events", "first", "data") else {
        super::fail(CANCELLED, "a put was refused");
    };
    let (clock, handle) = (runtime.clone(), producer.clone());
    run(runtime, CANCELLED, async move {
        let delay = || clock.sleep_until(clock.now() + Duration::from_millis(20));
        let second = race(pin!(handle.put("events", "second", "data")), delay()).await;
        require(second.is_none(), CANCELLED, || "a put did not wait for room".into());
        // Poll the flush once and drop it.
        let _ = race(handle.flush(), async {}).await;
    });
    let is_stored = result(outcome, CANCELLED).is_ok();
    require(is_stored, CANCELLED, || "the record before the flush failed".into());
    let outstanding = producer.outstanding_records();
    require((service.stored(), outstanding) == (1, 0), CANCELLED, || "the dropped put put its record".into());
    run(runtime, CANCELLED, async move {
        let third = producer.put("events", "third", "data").await;
        require(third.is_ok(), CANCELLED, || "after the dropped put, no put is accepted".into());
        producer.close().await;
    });
}

fn records_are_sent_after_the_drop_of_the_last_handle<R: Runtime>(runtime: &R) {
    let producer = Service::new(Behavior::Store).producer(runtime, short_buffering());
    let Ok(outcome) = producer.try_put("events", "key", "data") else {
        super::fail(STILL_SENT, "a put was refused");
    };
    drop(producer);
    require(result(outcome, STILL_SENT).is_ok(), STILL_SENT, || "the record failed".into());
}

//! The producer that ships, on the runtime.

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

use super::{PATIENCE, check as promised, must};
use crate::drive::race;
use crate::park::wait_for;
use crate::runtime::Runtime;
use crate::transport::Transport;
use crate::{Outcome, Producer};

pub(super) fn check<R: Runtime>(runtime: &R) {
    thousands_of_puts_at_once_all_arrive(runtime);
    a_service_that_never_answers_does_not_hold_up_a_close(runtime);
    a_request_that_panics_gives_its_records_back(runtime);
    puts_and_flushes_can_be_dropped(runtime);
    the_last_handle_may_go_early(runtime);
}

const ALL_ARRIVE: &str = "records of thousands of concurrent puts, from tasks and from threads, are each stored once";
const CLOSES: &str = "with a service that never answers, `close_or_fail` ends in time and gives all records back";
const PANICS: &str = "when requests panic, their records fail by their time-to-live, marked as ambiguous";
const CANCELLED: &str = "a put that is dropped while it waits puts nothing; a flush that is dropped goes on";
const GOES_OUT: &str = "what is outstanding when the last handle is dropped still goes out";

/// What the service does with requests.
#[derive(Clone, Copy)]
enum Manner {
    Stores,
    NeverAnswers,
    Panics,
}

/// A service of one shard, as far as anybody knows.
#[derive(Clone)]
struct Service {
    manner: Manner,
    stored: Arc<AtomicUsize>,
}

impl Service {
    fn new(manner: Manner) -> Self {
        Self { manner, stored: Arc::default() }
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
        match self.manner {
            Manner::Stores => {}
            Manner::NeverAnswers => pending().await,
            Manner::Panics => panic!("this panic is part of the check: a request may panic"),
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

/// How a record ended.
fn end(outcome: Outcome, promise: &str) -> RecordResult {
    wait_for(outcome, Some(PATIENCE)).unwrap_or_else(|| super::broken(promise, "a record was never resolved"))
}

fn quick() -> ConfigBuilder {
    Config::builder().record_max_buffered_time(Duration::from_millis(10))
}

fn thousands_of_puts_at_once_all_arrive<R: Runtime>(runtime: &R) {
    const TASKS: usize = 2_000;
    const THREADS: usize = 4;
    const EACH: usize = 5;
    let service = Service::new(Manner::Stores);
    // Most have to wait for room, and all are waited for side by side.
    let fast = quick().rate_limit_records_per_shard(1_000_000).max_outstanding_records(500);
    let producer = service.producer(runtime, fast);
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
                let put = wait_for(producer.put("events", format!("key {n}"), "data"), Some(PATIENCE));
                let result = put.and_then(Result::ok).and_then(|outcome| wait_for(outcome, Some(PATIENCE)));
                let _ = sender.send(matches!(result, Some(Ok(_))));
            }
        });
    }
    drop(sender);
    let puts = (TASKS + THREADS) * EACH;
    for done in 0..puts {
        let result = results.recv_timeout(PATIENCE);
        promised(result == Ok(true), ALL_ARRIVE, || match result {
            Ok(_) => "a record failed".into(),
            Err(_) => format!("only {done} of {puts} were resolved"),
        });
    }
    let stored = service.stored();
    promised(stored == puts, ALL_ARRIVE, || format!("of {puts}, {stored} were stored"));
}

fn a_service_that_never_answers_does_not_hold_up_a_close<R: Runtime>(runtime: &R) {
    let producer = Service::new(Manner::NeverAnswers).producer(runtime, quick());
    let puts = (0..10).map(|n| producer.try_put("events", n.to_string(), "data"));
    let outcomes: Vec<_> = puts.flatten().collect();
    promised(outcomes.len() == 10, CLOSES, || "a put was refused".into());
    let clock = runtime.clone();
    must(runtime, CLOSES, async move {
        // The requests are under way.
        clock.sleep_until(clock.now() + Duration::from_millis(50)).await;
        producer.close_or_fail(Duration::from_millis(50)).await;
    });
    for outcome in outcomes {
        let closed = end(outcome, CLOSES).is_err_and(|failure| &*failure.error.code == code::CLOSED);
        promised(closed, CLOSES, || "a record did not fail as closed".into());
    }
}

fn a_request_that_panics_gives_its_records_back<R: Runtime>(runtime: &R) {
    let config = quick().record_ttl(Duration::from_millis(500));
    let producer = Service::new(Manner::Panics).producer(runtime, config);
    for n in 0..10 {
        let Ok(outcome) = producer.try_put("events", n.to_string(), "data") else {
            super::broken(PANICS, "a put was refused");
        };
        if n == 9 {
            let ambiguous = end(outcome, PANICS).is_err_and(|failure| failure.is_ambiguous());
            promised(ambiguous, PANICS, || "the record did not fail, or not as ambiguous".into());
        }
    }
    must(runtime, PANICS, async move { producer.close().await });
}

fn puts_and_flushes_can_be_dropped<R: Runtime>(runtime: &R) {
    let service = Service::new(Manner::Stores);
    // Nothing leaves by itself, so the second put has to wait.
    let config = Config::builder().record_max_buffered_time(Duration::from_secs(60)).record_ttl(Duration::MAX);
    let producer = service.producer(runtime, config.max_outstanding_records(1));
    let Ok(outcome) = producer.try_put("events", "first", "data") else {
        super::broken(CANCELLED, "a put was refused");
    };
    let (clock, handle) = (runtime.clone(), producer.clone());
    must(runtime, CANCELLED, async move {
        let soon = || clock.sleep_until(clock.now() + Duration::from_millis(20));
        let second = race(pin!(handle.put("events", "second", "data")), soon()).await;
        promised(second.is_none(), CANCELLED, || "a put did not wait for room".into());
        // Polled once, and dropped.
        let _ = race(handle.flush(), async {}).await;
    });
    let stored = end(outcome, CANCELLED).is_ok();
    promised(stored, CANCELLED, || "the record before the flush failed".into());
    let outstanding = producer.outstanding_records();
    promised((service.stored(), outstanding) == (1, 0), CANCELLED, || "the dropped put was put all the same".into());
    must(runtime, CANCELLED, async move {
        let third = producer.put("events", "third", "data").await;
        promised(third.is_ok(), CANCELLED, || "after it, no put gets in any more".into());
        producer.close().await;
    });
}

fn the_last_handle_may_go_early<R: Runtime>(runtime: &R) {
    let producer = Service::new(Manner::Stores).producer(runtime, quick());
    let Ok(outcome) = producer.try_put("events", "key", "data") else {
        super::broken(GOES_OUT, "a put was refused");
    };
    drop(producer);
    promised(end(outcome, GOES_OUT).is_ok(), GOES_OUT, || "the record failed".into());
}

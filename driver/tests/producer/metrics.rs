//! What is measured, and sinks that do well and badly.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kpl_core::{Config, ConfigBuilder};
use kpl_driver::metrics::{
    BoxFuture, EXPORT_TIMEOUT, InMemorySink, Metric, MetricsLevel, MetricsReport, MetricsSink, NullSink, REPORTS_KEPT,
    SinkError, StatisticSet,
};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Fate, Producer, Service, ms};

const PATIENCE: Duration = Duration::from_secs(600);
const INTERVAL: Duration = Duration::from_secs(10);

fn config() -> ConfigBuilder {
    Config::builder().metrics_level(MetricsLevel::Detailed).metrics_upload_interval(INTERVAL)
}

async fn put(producer: &Producer, times: usize) {
    for _ in 0..times {
        producer.put("events", "key", "data").await.unwrap().await.unwrap();
    }
}

/// What a sink does with a report.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Takes,
    Fails,
    Hangs,
    Panics,
}

#[derive(Default)]
struct Sink {
    manner: Mutex<Option<Manner>>,
    offered: AtomicUsize,
    taken: Mutex<Vec<MetricsReport>>,
}

impl Sink {
    fn new(manner: Manner) -> Arc<Self> {
        Arc::new(Self { manner: Mutex::new(Some(manner)), ..Self::default() })
    }

    fn turn(&self, manner: Manner) {
        *self.manner.lock().unwrap() = Some(manner);
    }

    fn offered(&self) -> usize {
        self.offered.load(Ordering::Relaxed)
    }

    /// User records in each report that was taken.
    fn taken(&self) -> Vec<f64> {
        self.taken.lock().unwrap().iter().map(|report| report.global(Metric::UserRecordsPut).sum).collect()
    }
}

impl MetricsSink for Sink {
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        self.offered.fetch_add(1, Ordering::Relaxed);
        let manner = self.manner.lock().unwrap().unwrap_or(Manner::Takes);
        Box::pin(async move {
            match manner {
                Manner::Takes => {
                    sleep(ms(50)).await;
                    self.taken.lock().unwrap().push(report.clone());
                    Ok(())
                }
                Manner::Fails => Err("no".into()),
                Manner::Hangs => std::future::pending().await,
                Manner::Panics => panic!("told to panic"),
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_can_be_looked_at_at_any_time() {
    let service = Service::answering_after(ms(5));
    let producer = service.producer(config());
    assert!(producer.metrics().is_empty());
    put(&producer, 3).await;
    let metrics = producer.metrics();
    let three = StatisticSet { count: 3, sum: 3.0, min: 1.0, max: 1.0 };
    assert_eq!(metrics.global(Metric::UserRecordsPut), three);
    assert_eq!(metrics.stream(Metric::UserRecordsPut, "events"), three);
    assert_eq!(metrics.shard(Metric::UserRecordsPut, "events", "shardId-000000000000"), three);
    assert_eq!(metrics.latency().unwrap().put_to_ack.max().unwrap().as_millis(), 105);
    sleep(Duration::from_secs(5)).await;
    put(&producer, 1).await;
    assert_eq!(producer.metrics_of_last(2).global(Metric::UserRecordsPut).count, 1);
    assert_eq!(producer.metrics_of_last(60).global(Metric::UserRecordsPut).count, 4);
    // Nobody has switched it on.
    let producer = service.producer(Config::builder());
    put(&producer, 1).await;
    assert!(producer.metrics().is_empty() && producer.metrics_of_last(60).is_empty());
}

#[tokio::test(start_paused = true)]
async fn sinks_get_a_report_each_interval_and_a_last_one() {
    let producer = Service::answering_after(ms(5)).producer(config());
    let (sink, kept) = (Sink::new(Manner::Takes), Arc::new(InMemorySink::new(2)));
    producer.export_metrics_to(sink.clone());
    producer.export_metrics_to(kept.clone());
    producer.export_metrics_to(NullSink);
    put(&producer, 2).await;
    sleep(INTERVAL).await;
    put(&producer, 3).await;
    sleep(5 * INTERVAL).await;
    assert_eq!(sink.taken(), [2.0, 3.0], "an interval without anything has no report");
    put(&producer, 4).await;
    producer.close().await;
    assert_eq!(sink.taken(), [2.0, 3.0, 4.0], "the last one before the close ends");
    let kept: Vec<f64> = kept.reports().iter().map(|report| report.global(Metric::UserRecordsPut).sum).collect();
    assert_eq!(kept, [3.0, 4.0], "two are kept");
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_does_badly_harms_nobody_and_gets_its_reports_later() {
    for manner in [Manner::Fails, Manner::Hangs, Manner::Panics] {
        let producer = Service::answering_after(ms(5)).producer(config());
        let (bad, good) = (Sink::new(manner), Sink::new(Manner::Takes));
        producer.export_metrics_to(bad.clone());
        producer.export_metrics_to(good.clone());
        for round in 1..=3 {
            let start = Instant::now();
            put(&producer, 1).await;
            assert_eq!(start.elapsed(), ms(105), "records do not wait for it");
            sleep(2 * INTERVAL).await;
            assert_eq!((bad.offered(), good.taken().len()), (round, round), "one try with each report");
        }
        bad.turn(Manner::Takes);
        put(&producer, 5).await;
        producer.close().await;
        assert_eq!(bad.taken(), [1.0, 1.0, 1.0, 5.0], "all of it, in order");
    }
}

#[tokio::test(start_paused = true)]
async fn only_so_many_reports_are_kept() {
    let producer = Service::answering_after(ms(5)).producer(config());
    let sink = Sink::new(Manner::Fails);
    producer.export_metrics_to(sink.clone());
    for _ in 0..REPORTS_KEPT + 3 {
        put(&producer, 1).await;
        sleep(INTERVAL).await;
    }
    assert_eq!(sink.offered(), REPORTS_KEPT + 3);
    sink.turn(Manner::Takes);
    producer.close().await;
    assert_eq!(sink.taken(), [1.0; REPORTS_KEPT]);
    let oldest = sink.taken.lock().unwrap()[0].start.unwrap();
    assert_eq!(oldest.as_nanos() / INTERVAL.as_nanos() as u64, 3, "three went");
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_holds_up_a_close_for_its_timeout_at_most() {
    for (close_timeout, most) in [(None, EXPORT_TIMEOUT), (Some(ms(100)), Duration::from_secs(1))] {
        let producer = Service::answering_after(ms(5)).producer(config());
        producer.export_metrics_to(Sink::new(Manner::Hangs));
        put(&producer, 1).await;
        let start = Instant::now();
        match close_timeout {
            None => timeout(PATIENCE, producer.close()).await.unwrap(),
            Some(close_timeout) => timeout(PATIENCE, producer.close_or_fail(close_timeout)).await.unwrap(),
        }
        assert!(start.elapsed() <= most + ms(10), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_throttled_is_an_error_with_its_code() {
    let throttled = "ProvisionedThroughputExceededException";
    let service = Service::new(|request| if request == 0 { Fate::Throttle } else { Fate::Store(ms(5)) });
    let producer = service.producer(config());
    put(&producer, 1).await;
    let metrics = producer.metrics();
    assert_eq!((metrics.errors(throttled).sum, metrics.global(Metric::AllErrors).sum), (1.0, 1.0));
    assert_eq!(metrics.global(Metric::RetriesPerRecord).sum, 1.0);
}

//! Metrics, and sinks with and without faults.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kpl_core::{Config, ConfigBuilder};
use kpl_driver::metrics::{
    BoxFuture, EXPORT_TIMEOUT, InMemorySink, Metric, MetricsLevel, MetricsReport, MetricsSink, NullSink, REPORTS_KEPT,
    SinkError, StatisticSet,
};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Behavior, Producer, Service, ms};

const TIME_LIMIT: Duration = Duration::from_secs(600);
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
enum SinkBehavior {
    Accept,
    Fail,
    Hang,
    Panic,
}

#[derive(Default)]
struct Sink {
    behavior: Mutex<Option<SinkBehavior>>,
    offered: AtomicUsize,
    accepted: Mutex<Vec<MetricsReport>>,
}

impl Sink {
    fn new(behavior: SinkBehavior) -> Arc<Self> {
        Arc::new(Self { behavior: Mutex::new(Some(behavior)), ..Self::default() })
    }

    fn set_behavior(&self, behavior: SinkBehavior) {
        *self.behavior.lock().unwrap() = Some(behavior);
    }

    fn offered(&self) -> usize {
        self.offered.load(Ordering::Relaxed)
    }

    /// The number of user records in each report that was accepted.
    fn accepted(&self) -> Vec<f64> {
        self.accepted.lock().unwrap().iter().map(|report| report.global(Metric::UserRecordsPut).sum).collect()
    }
}

impl MetricsSink for Sink {
    fn export<'a>(&'a self, report: &'a MetricsReport) -> BoxFuture<'a, Result<(), SinkError>> {
        self.offered.fetch_add(1, Ordering::Relaxed);
        let behavior = self.behavior.lock().unwrap().unwrap_or(SinkBehavior::Accept);
        Box::pin(async move {
            match behavior {
                SinkBehavior::Accept => {
                    sleep(ms(50)).await;
                    self.accepted.lock().unwrap().push(report.clone());
                    Ok(())
                }
                SinkBehavior::Fail => Err("refused".into()),
                SinkBehavior::Hang => std::future::pending().await,
                SinkBehavior::Panic => panic!("this panic is part of the test"),
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn metrics_can_be_read_at_any_time() {
    let service = Service::replying_after(ms(5));
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
    // With the default level, there are no metrics.
    let producer = service.producer(Config::builder());
    put(&producer, 1).await;
    assert!(producer.metrics().is_empty() && producer.metrics_of_last(60).is_empty());
}

#[tokio::test(start_paused = true)]
async fn sinks_receive_a_report_per_interval_and_a_last_one() {
    let producer = Service::replying_after(ms(5)).producer(config());
    let (sink, kept) = (Sink::new(SinkBehavior::Accept), Arc::new(InMemorySink::new(2)));
    let none_kept = Arc::new(InMemorySink::new(0));
    producer.export_metrics_to(sink.clone());
    producer.export_metrics_to(kept.clone());
    producer.export_metrics_to(none_kept.clone());
    producer.export_metrics_to(NullSink);
    put(&producer, 2).await;
    sleep(INTERVAL).await;
    put(&producer, 3).await;
    sleep(5 * INTERVAL).await;
    assert_eq!(sink.accepted(), [2.0, 3.0], "an interval without activity has no report");
    put(&producer, 4).await;
    producer.close().await;
    assert_eq!(sink.accepted(), [2.0, 3.0, 4.0], "the last report arrives before the close ends");
    let kept: Vec<f64> = kept.reports().iter().map(|report| report.global(Metric::UserRecordsPut).sum).collect();
    assert_eq!(kept, [3.0, 4.0], "two reports are kept");
    assert!(none_kept.reports().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_faulty_sink_delays_no_record_or_sink_and_receives_its_reports_later() {
    for behavior in [SinkBehavior::Fail, SinkBehavior::Hang, SinkBehavior::Panic] {
        let producer = Service::replying_after(ms(5)).producer(config());
        let (faulty, good) = (Sink::new(behavior), Sink::new(SinkBehavior::Accept));
        producer.export_metrics_to(faulty.clone());
        producer.export_metrics_to(good.clone());
        for round in 1..=3 {
            let start = Instant::now();
            put(&producer, 1).await;
            assert_eq!(start.elapsed(), ms(105), "a record waits for the sink");
            sleep(2 * INTERVAL).await;
            assert_eq!((faulty.offered(), good.accepted().len()), (round, round), "one attempt per report");
        }
        faulty.set_behavior(SinkBehavior::Accept);
        put(&producer, 5).await;
        producer.close().await;
        assert_eq!(faulty.accepted(), [1.0, 1.0, 1.0, 5.0], "all reports, in order");
    }
}

#[tokio::test(start_paused = true)]
async fn the_oldest_reports_above_the_maximum_are_dropped() {
    let producer = Service::replying_after(ms(5)).producer(config());
    let sink = Sink::new(SinkBehavior::Fail);
    producer.export_metrics_to(sink.clone());
    for _ in 0..REPORTS_KEPT + 3 {
        put(&producer, 1).await;
        sleep(INTERVAL).await;
    }
    assert_eq!(sink.offered(), REPORTS_KEPT + 3);
    sink.set_behavior(SinkBehavior::Accept);
    producer.close().await;
    assert_eq!(sink.accepted(), [1.0; REPORTS_KEPT]);
    let oldest = sink.accepted.lock().unwrap()[0].start.unwrap();
    assert_eq!(oldest.as_nanos() / INTERVAL.as_nanos() as u64, 3, "three reports are dropped");
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_delays_a_close_by_its_timeout_at_most() {
    for (close_timeout, limit) in [(None, EXPORT_TIMEOUT), (Some(ms(100)), Duration::from_secs(1))] {
        let producer = Service::replying_after(ms(5)).producer(config());
        producer.export_metrics_to(Sink::new(SinkBehavior::Hang));
        put(&producer, 1).await;
        let start = Instant::now();
        match close_timeout {
            None => timeout(TIME_LIMIT, producer.close()).await.unwrap(),
            Some(close_timeout) => timeout(TIME_LIMIT, producer.close_or_fail(close_timeout)).await.unwrap(),
        }
        assert!(start.elapsed() <= limit + ms(10), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_records_count_as_errors_with_their_code() {
    let throttled = "ProvisionedThroughputExceededException";
    let service = Service::new(|request| if request == 0 { Behavior::Throttle } else { Behavior::Store(ms(5)) });
    let producer = service.producer(config());
    put(&producer, 1).await;
    let metrics = producer.metrics();
    assert_eq!((metrics.errors(throttled).sum, metrics.global(Metric::AllErrors).sum), (1.0, 1.0));
    assert_eq!(metrics.global(Metric::RetriesPerRecord).sum, 1.0);
}

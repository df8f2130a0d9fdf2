//! kpl's drivers, at full speed and at a rate.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use kpl_core::{Ordering, Receipt, RecordResult};
use kpl_driver::{AwsRuntime, BatchOutcome, Outcome, Producer};

use crate::setup::{Endpoint, Measured, client, config};
use crate::usage::Start;
use crate::work::Work;

/// Measures kpl with all costs of an application, including the wait for all outcomes.
pub(super) async fn run<R: AwsRuntime>(
    endpoint: &Endpoint,
    work: &Work,
    order: Ordering,
    in_batches: bool,
) -> anyhow::Result<Measured> {
    let producer = Producer::<R>::new(client::<R>(endpoint)?, config(work).ordering(order).build()?);
    // Opens a connection and reads the shard lists before the measurement.
    let mut warm = Vec::new();
    for stream in work.stream_names() {
        warm.push(producer.put(stream, "warm", "up").await?);
    }
    for outcome in warm {
        outcome.await?;
    }
    let source = work.source();

    let start = Start::now();
    let mut done = Vec::new();
    for task in 0..work.tasks {
        let (producer, work, source) = (producer.clone(), work.clone(), source.clone());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        done.push(receiver);
        let put = async move {
            let put = if work.rate > 0 && !in_batches {
                at_rate(&producer, &work, &source, task).await
            } else if in_batches {
                batches(&producer, &work, &source, task).await
            } else {
                at_full_speed(&producer, &work, &source, task).await
            };
            let _ = sender.send(put);
        };
        kpl_driver::Runtime::spawn(&R::default(), put);
    }
    let mut all = Latencies::new()?;
    for done in done {
        all.add(&done.await.context("a task panicked")??)?;
    }
    let usage = start.usage();
    producer.close().await;
    let latency = (work.rate > 0).then(|| quantiles(&all.records));
    let requests = Some(quantiles(&all.requests));
    Ok(Measured { usage, stored: all.stored, latency, requests, outstanding: Some(all.outstanding), held: None })
}

struct Latencies {
    stored: u64,
    /// The maximum of outstanding bytes.
    outstanding: u64,
    records: Histogram<u64>,
    requests: Histogram<u64>,
}

impl Latencies {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            stored: 0,
            outstanding: 0,
            records: Histogram::new_with_max(60_000_000, 3)?,
            requests: Histogram::new_with_max(60_000_000, 3)?,
        })
    }

    fn record(&mut self, since: Instant, result: &RecordResult) {
        let Ok(receipt) = result else { return };
        self.stored += 1;
        self.records.saturating_record(since.elapsed().as_micros() as u64);
        self.record_request(receipt);
    }

    fn record_request(&mut self, receipt: &Receipt) {
        let attempt = receipt.attempts().last();
        self.requests.saturating_record(attempt.end.saturating_since(attempt.start).as_micros() as u64);
    }

    /// Counts a result, and records the request of every 64th, so that this takes little of the CPU time.
    fn count(&mut self, result: RecordResult) {
        let Ok(receipt) = result else { return };
        self.stored += 1;
        if self.stored % 64 == 1 {
            self.record_request(&receipt);
        }
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.stored += other.stored;
        self.outstanding = self.outstanding.max(other.outstanding);
        self.records.add(&other.records)?;
        self.requests.add(&other.requests)?;
        Ok(())
    }
}

fn quantiles(histogram: &Histogram<u64>) -> [u64; 3] {
    [0.5, 0.99, 0.999].map(|quantile| histogram.value_at_quantile(quantile))
}

/// The streams, in turn.
struct Streams {
    names: Vec<Arc<str>>,
    next: usize,
}

impl Streams {
    fn new(work: &Work) -> Self {
        Self { names: work.stream_names(), next: 0 }
    }

    fn next(&mut self) -> Arc<str> {
        let name = self.names[self.next].clone();
        self.next = if self.next + 1 == self.names.len() { 0 } else { self.next + 1 };
        name
    }
}

/// Puts as fast as the producer accepts records. Awaits outcomes in order, up to [`Work::outstanding_per_task`] puts later.
async fn at_full_speed<R: AwsRuntime>(
    producer: &Producer<R>,
    work: &Work,
    source: &Bytes,
    task: u64,
) -> anyhow::Result<Latencies> {
    let outcomes_max = work.outstanding_per_task();
    // The number of records per sample of the outstanding bytes, which takes a lock.
    let sample_interval = ((1 << 20) / work.record_size()).max(1) as usize;
    let mut streams = Streams::new(work);
    let mut latencies = Latencies::new()?;
    let mut outcomes: VecDeque<Outcome> = VecDeque::with_capacity(outcomes_max + 1);
    for (i, n) in (task..work.records).step_by(work.tasks as usize).enumerate() {
        outcomes.push_back(producer.put(streams.next(), work.key(n), work.data(source, n)).await?);
        if i % sample_interval == 0 {
            latencies.outstanding = latencies.outstanding.max(producer.outstanding_bytes() as u64);
        }
        if outcomes.len() > outcomes_max
            && let Some(outcome) = outcomes.pop_front()
        {
            latencies.count(outcome.await);
        }
    }
    for outcome in outcomes {
        latencies.count(outcome.await);
    }
    Ok(latencies)
}

/// Puts as [`at_full_speed`] does, in batches.
async fn batches<R: AwsRuntime>(
    producer: &Producer<R>,
    work: &Work,
    source: &Bytes,
    task: u64,
) -> anyhow::Result<Latencies> {
    const BATCH: usize = 256;
    let outcomes_max = work.outstanding_per_task() / BATCH;
    let mut streams = Streams::new(work);
    let mut latencies = Latencies::new()?;
    let mut outcomes: VecDeque<BatchOutcome> = VecDeque::with_capacity(outcomes_max + 1);
    let mut numbers = (task..work.records).step_by(work.tasks as usize).peekable();
    while numbers.peek().is_some() {
        let batch = numbers.by_ref().take(BATCH).map(|n| (work.key(n), work.data(source, n)));
        outcomes.push_back(producer.put_batch(streams.next(), batch).await?);
        latencies.outstanding = latencies.outstanding.max(producer.outstanding_bytes() as u64);
        if outcomes.len() > outcomes_max
            && let Some(outcome) = outcomes.pop_front()
        {
            outcome.await.into_iter().for_each(|result| latencies.count(result));
        }
    }
    for outcome in outcomes {
        outcome.await.into_iter().for_each(|result| latencies.count(result));
    }
    Ok(latencies)
}

/// Puts records at a rate, in steps of a millisecond, and awaits each outcome separately. A record's latency starts at
/// its put, or at its due time if that was earlier, so that it includes the time in which the producer delays puts.
async fn at_rate<R: AwsRuntime>(
    producer: &Producer<R>,
    work: &Work,
    source: &Bytes,
    task: u64,
) -> anyhow::Result<Latencies> {
    let (mut streams, runtime) = (Streams::new(work), R::default());
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let waiter = {
        let (done, end) = tokio::sync::oneshot::channel();
        kpl_driver::Runtime::spawn(&runtime, async move {
            let latencies = async {
                let mut latencies = Latencies::new()?;
                let mut outcomes = FuturesUnordered::new();
                let mut is_putting = true;
                while is_putting || !outcomes.is_empty() {
                    tokio::select! {
                        put = receiver.recv(), if is_putting => match put {
                            Some((since, outcome)) => {
                                let outcome: Outcome = outcome;
                                outcomes.push(async move { (since, outcome.await) });
                            }
                            None => is_putting = false,
                        },
                        Some((since, result)) = outcomes.next() => latencies.record(since, &result),
                    }
                }
                Ok(latencies)
            };
            let _ = done.send(latencies.await);
        });
        end
    };
    let start = Instant::now();
    for n in (task..work.records).step_by(work.tasks as usize) {
        let due = Duration::from_nanos((u128::from(n) * 1_000_000_000 / u128::from(work.rate)) as u64);
        let early = due.saturating_sub(start.elapsed());
        // Puts everything that is due within a millisecond.
        if early > Duration::from_millis(1) {
            kpl_driver::Runtime::sleep_until(&runtime, kpl_driver::Runtime::now(&runtime) + early).await;
        }
        let since = Instant::now().min(start + due);
        let outcome = producer.put(streams.next(), work.key(n), work.data(source, n)).await?;
        let _ = sender.send((since, outcome));
    }
    drop(sender);
    waiter.await.context("the waiting task panicked")?
}

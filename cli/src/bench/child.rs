//! What is measured, in a process of its own: kpl's drivers, the AWS SDK alone, and the least that there is to do.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::retry::RetryConfig;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region, StalledStreamProtectionConfig};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use base64_simd::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use kpl_core::{Config, ConfigBuilder, RecordResult};
use kpl_driver::{AwsRuntime, Outcome, Producer};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::task::JoinSet;

use super::hold::{self, Held};
use super::usage::{Start, Usage};
use super::work::{KEY_SIZE, Work};
use super::{Order, Subject};

/// The stream of every run.
pub(super) const STREAM: &str = "bench";

/// What a child prints for its parent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) usage: Usage,
    /// Records that were stored.
    pub(super) stored: u64,
    /// From put to receipt: median, 99 %, 99.9 %, in microseconds. With a rate only: flat out, it is the queue's length.
    pub(super) latency: Option<[u64; 3]>,
    /// The same of requests, signing and encoding included.
    pub(super) requests: Option<[u64; 3]>,
    /// Bytes that were outstanding at most, data and keys.
    pub(super) outstanding: Option<u64>,
    /// What memory held of records that were held back.
    pub(super) held: Option<Held>,
}

pub(super) fn run(order: Order) -> anyhow::Result<Measured> {
    match order.subject {
        Subject::Tokio => tokio()?.block_on(ours::<kpl_tokio::Tokio>(&order)),
        #[cfg(feature = "async-std")]
        Subject::AsyncStd => {
            let (done, end) = std::sync::mpsc::channel();
            // In a task of its executor's threads, as an application would.
            kpl_driver::Runtime::spawn(&kpl_async_std::AsyncStd::default(), async move {
                let _ = done.send(ours::<kpl_async_std::AsyncStd>(&order).await);
            });
            end.recv().context("the task panicked")?
        }
        Subject::RawSdk => tokio()?.block_on(raw_sdk(&order.url, &order.work)),
        Subject::Floor => floor(&order.url, &order.work, true),
        Subject::FloorScalar => floor(&order.url, &order.work, false),
    }
}

async fn ours<R: AwsRuntime>(order: &Order) -> anyhow::Result<Measured> {
    if order.hold { hold::run::<R>(&order.url, &order.work).await } else { put::<R>(&order.url, &order.work).await }
}

fn tokio() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")
}

pub(super) fn client<R: AwsRuntime>(url: &str) -> anyhow::Result<Client> {
    let http_client = R::http_client(None).map_err(|error| anyhow::anyhow!("{error}"))?;
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("AKIDBENCH", "secret", None, None, "bench"))
        .endpoint_url(url)
        .http_client(http_client)
        .sleep_impl(R::sleep_impl())
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    Ok(Client::from_conf(config.build()))
}

/// Defaults, but for shards that take what comes: what is measured is the producer.
pub(super) fn config() -> ConfigBuilder {
    Config::builder().rate_limit_records_per_shard(1_000_000).rate_limit_bytes_per_shard(1 << 30)
}

/// kpl: everything that an application pays for, the awaiting of all outcomes included.
async fn put<R: AwsRuntime>(url: &str, work: &Work) -> anyhow::Result<Measured> {
    let producer = Producer::<R>::new(client::<R>(url)?, config().build()?);
    // Connected, and the shards are known.
    producer.put(STREAM, "warm", "up").await?.await?;
    let source = work.source();

    let start = Start::now();
    let mut done = Vec::new();
    for task in 0..work.tasks {
        let (producer, work, source) = (producer.clone(), work.clone(), source.clone());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        done.push(receiver);
        let put = async move {
            let put = if work.rate > 0 {
                at_rate(&producer, &work, &source, task).await
            } else {
                flat_out(&producer, &work, &source, task).await
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
    let requests = (work.rate > 0).then(|| quantiles(&all.requests));
    Ok(Measured { usage, stored: all.stored, latency, requests, outstanding: Some(all.outstanding), held: None })
}

struct Latencies {
    stored: u64,
    /// Bytes, at most.
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

    fn take(&mut self, since: Instant, result: &RecordResult) {
        let Ok(receipt) = result else { return };
        self.stored += 1;
        self.records.saturating_record(since.elapsed().as_micros() as u64);
        let attempt = receipt.attempts().last();
        self.requests.saturating_record(attempt.end.saturating_since(attempt.start).as_micros() as u64);
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

/// Puts as fast as the producer takes records. Outcomes are awaited in order, some way behind.
async fn flat_out<R: AwsRuntime>(
    producer: &Producer<R>,
    work: &Work,
    source: &Bytes,
    task: u64,
) -> anyhow::Result<Latencies> {
    // All tasks together: less than the producer takes, so that none waits for room.
    const BEHIND: u64 = 60_000;
    let behind = (BEHIND / work.tasks) as usize;
    // One look at what is outstanding for each so many records: looking costs a lock.
    let looks = ((1 << 20) / work.record_size()).max(1) as usize;
    let stream = Arc::<str>::from(STREAM);
    let mut latencies = Latencies::new()?;
    let mut outcomes: VecDeque<Outcome> = VecDeque::with_capacity(behind + 1);
    for (i, n) in (task..work.records).step_by(work.tasks as usize).enumerate() {
        outcomes.push_back(producer.put(stream.clone(), work.key(n), work.data(source, n)).await?);
        if i % looks == 0 {
            latencies.outstanding = latencies.outstanding.max(producer.outstanding_bytes() as u64);
        }
        if outcomes.len() > behind
            && let Some(outcome) = outcomes.pop_front()
        {
            latencies.stored += u64::from(outcome.await.is_ok());
        }
    }
    for outcome in outcomes {
        latencies.stored += u64::from(outcome.await.is_ok());
    }
    Ok(latencies)
}

/// Puts so many records each millisecond, and waits for each of them by itself. Time counts from a record's put, or from
/// when it was due, if that was earlier: what a producer holds up is not left out.
async fn at_rate<R: AwsRuntime>(
    producer: &Producer<R>,
    work: &Work,
    source: &Bytes,
    task: u64,
) -> anyhow::Result<Latencies> {
    let (stream, runtime) = (Arc::<str>::from(STREAM), R::default());
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let awaiting = {
        let (done, end) = tokio::sync::oneshot::channel();
        kpl_driver::Runtime::spawn(&runtime, async move {
            let latencies = async {
                let mut latencies = Latencies::new()?;
                let mut outcomes = FuturesUnordered::new();
                let mut putting = true;
                while putting || !outcomes.is_empty() {
                    tokio::select! {
                        put = receiver.recv(), if putting => match put {
                            Some((since, outcome)) => {
                                let outcome: Outcome = outcome;
                                outcomes.push(async move { (since, outcome.await) });
                            }
                            None => putting = false,
                        },
                        Some((since, result)) = outcomes.next() => latencies.take(since, &result),
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
        // Whatever is due within a millisecond goes now.
        if early > Duration::from_millis(1) {
            kpl_driver::Runtime::sleep_until(&runtime, kpl_driver::Runtime::now(&runtime) + early).await;
        }
        let since = Instant::now().min(start + due);
        let outcome = producer.put(stream.clone(), work.key(n), work.data(source, n)).await?;
        let _ = sender.send((since, outcome));
    }
    drop(sender);
    awaiting.await.context("the waiting task panicked")?
}

/// The AWS SDK alone: requests of 500 records, 24 under way.
async fn raw_sdk(url: &str, work: &Work) -> anyhow::Result<Measured> {
    const RECORDS: u64 = 500;
    const UNDER_WAY: usize = 24;
    // A request has at most 10 MiB.
    let most = RECORDS.min((9 << 20) / work.record_size()).max(1);
    let client = client::<kpl_tokio::Tokio>(url)?;
    let source = work.source();
    let warm = client.put_record().stream_name(STREAM).partition_key("warm").data(Blob::new("up"));
    warm.send().await?;

    let start = Start::now();
    let mut requests = JoinSet::new();
    let (mut stored, mut first, mut outstanding) = (0, 0, 0);
    while first < work.records || !requests.is_empty() {
        if first == work.records || requests.len() == UNDER_WAY {
            stored += requests.join_next().await.context("a request")???;
            continue;
        }
        let end = work.records.min(first + most);
        let entries = (first..end).map(|n| {
            let data = Blob::new(Vec::from(work.data(&source, n)));
            PutRecordsRequestEntry::builder().partition_key(work.key(n)).data(data).build()
        });
        let entries: Vec<_> = entries.collect::<Result<_, _>>()?;
        let call = client.put_records().stream_name(STREAM).set_records(Some(entries));
        requests.spawn(async move {
            let output = call.send().await?;
            anyhow::Ok(output.records.iter().filter(|record| record.sequence_number.is_some()).count() as u64)
        });
        outstanding = outstanding.max(requests.len() as u64 * most * work.record_size());
        first = end;
    }
    Ok(Measured { usage: start.usage(), stored, outstanding: Some(outstanding), ..Measured::default() })
}

/// The least: what the wire format and the protocol force, in one thread. The key's MD5, one copy into an aggregate of
/// 50 KiB and its MD5 (not for a record too large for company), base64, the body's SHA-256 for the signature, and a
/// request that is written and answered. MD5 in SIMD lanes, as kpl has it, or one by one.
fn floor(url: &str, work: &Work, lanes: bool) -> anyhow::Result<Measured> {
    const AGGREGATE: usize = 51_200;
    const AGGREGATES: usize = 24;
    const KEYS: usize = 16;
    // As many bytes as the fields of a key and of a record take.
    const FIELDS: usize = 11;
    let address = url.strip_prefix("http://").context("a plain URL")?;
    let mut connection = std::net::TcpStream::connect(address)?;
    connection.set_nodelay(true)?;
    let source = work.source();
    let in_aggregate = work.record_size() as usize + FIELDS;
    let alone = 2 * in_aggregate > AGGREGATE;
    let new = || {
        let mut aggregate = Vec::with_capacity(AGGREGATE + 16);
        aggregate.extend_from_slice(b"\xF3\x89\x9A\xC2");
        aggregate
    };

    let start = Start::now();
    let (mut aggregates, mut body, mut stored) = (vec![new()], String::new(), 0_u64);
    let mut in_body = 0;
    let mut keys = Vec::with_capacity(KEYS);
    let mut checked = 0_u8;
    for n in 0..work.records {
        let (key, data) = (work.key(n), work.data(&source, n));
        in_body += 1;
        if alone {
            entry(&mut body, &data);
        } else if let Some(aggregate) = aggregates.last_mut() {
            aggregate.extend_from_slice(&[10, KEY_SIZE as u8]);
            aggregate.extend_from_slice(key.as_bytes());
            aggregate.extend_from_slice(&[26, 0, 0, 8, 0, 0, 26, 0, 0]);
            aggregate.extend_from_slice(&data);
        }
        let last = n + 1 == work.records;
        keys.push(key);
        if last || keys.len() == KEYS {
            let mut digests = [[0; 16]; KEYS];
            md5(lanes, keys.iter().map(String::as_bytes).zip(&mut digests));
            checked ^= digests[0][0];
            keys.clear();
        }
        let is_full = match aggregates.last() {
            _ if alone => body.len() + in_aggregate * 4 / 3 > AGGREGATES * AGGREGATE * 4 / 3,
            Some(aggregate) if aggregate.len() + in_aggregate + 16 > AGGREGATE => {
                let is_full = aggregates.len() == AGGREGATES;
                if !is_full && !last {
                    aggregates.push(new());
                }
                is_full
            }
            _ => false,
        };
        if last || is_full {
            if !alone {
                let mut digests = [[0; 16]; AGGREGATES];
                md5(lanes, aggregates.iter().map(|aggregate| &aggregate[4..]).zip(&mut digests));
                for (mut aggregate, digest) in aggregates.drain(..).zip(digests) {
                    aggregate.extend_from_slice(&digest);
                    entry(&mut body, &aggregate);
                }
                aggregates.push(new());
            }
            body.push_str("}],\"StreamName\":\"bench\"}");
            checked ^= Sha256::digest(&body)[0];
            request(&mut connection, address, &body)?;
            stored += in_body;
            in_body = 0;
            body.clear();
        }
    }
    std::hint::black_box(checked);
    Ok(Measured { usage: start.usage(), stored, ..Measured::default() })
}

fn md5<'a>(lanes: bool, messages: impl Iterator<Item = (&'a [u8], &'a mut [u8; 16])>) {
    if lanes {
        kpl_md5::digest_each(messages);
    } else {
        messages.for_each(|(message, digest)| *digest = Md5::digest(message).into());
    }
}

/// A Kinesis record in a request's body.
fn entry(body: &mut String, data: &[u8]) {
    body.push_str(if body.is_empty() { "{\"Records\":[{\"Data\":\"" } else { "},{\"Data\":\"" });
    STANDARD.encode_append(data, body);
    body.push_str("\",\"PartitionKey\":\"a\",\"ExplicitHashKey\":\"170141183460469231731687303715884105728\"");
}

fn request(connection: &mut std::net::TcpStream, host: &str, body: &str) -> anyhow::Result<()> {
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {host}\r\nx-amz-target: Kinesis_20131202.PutRecords\r\n\
         content-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes())?;
    connection.write_all(body.as_bytes())?;
    let mut reply = Vec::new();
    let mut part = [0; 16_384];
    loop {
        let size = connection.read(&mut part)?;
        ensure!(size > 0, "the emulator has closed the connection");
        reply.extend_from_slice(&part[..size]);
        let Some(end) = reply.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&reply[..end]).to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200"), "{}", String::from_utf8_lossy(&reply));
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).context("a length")?;
        if reply.len() == end + 4 + length.trim().parse::<usize>()? {
            return Ok(());
        }
    }
}

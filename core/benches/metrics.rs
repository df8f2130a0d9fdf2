//! What metrics cost: the whole way of a record through the state machine, at each level, in one run.
//!
//!     cargo bench -p kpl-core --bench metrics
//!
//! Hashing keys is done before, and data is not encoded: those happen outside the state machine.

#![allow(missing_docs, reason = "criterion makes a function")]

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kpl_core::metrics::{MetricsGranularity, MetricsLevel};
use kpl_core::{
    Action, Config, Instant, ListedShard, PreparedRecord, Producer, RecordReply, Reply, ShardPage, StreamSummary,
    UserRecord,
};

const RECORDS: usize = 10_000;
const SHARDS: u128 = 4;

fn shards() -> Vec<ListedShard> {
    let width = u128::MAX / SHARDS;
    let shard = |n| ListedShard {
        id: format!("shardId-{n:012}").into(),
        start: width * n + u128::from(n > 0),
        end: if n + 1 == SHARDS { u128::MAX } else { width * (n + 1) },
        closed: false,
        parents: [None, None],
    };
    (0..SHARDS).map(shard).collect()
}

/// A producer that knows its stream, and shards that take what comes.
fn producer(level: MetricsLevel, granularity: MetricsGranularity) -> Producer<usize> {
    let config = Config::builder()
        .metrics_level(level)
        .metrics_granularity(granularity)
        .rate_limit_records_per_shard(1_000_000)
        .rate_limit_bytes_per_shard(1 << 30)
        .build()
        .unwrap();
    let mut producer = Producer::new(config, Instant::from_nanos(0));
    drive(&mut producer, Instant::from_nanos(0), records(1));
    producer
}

fn records(count: usize) -> Vec<PreparedRecord> {
    let stream = std::sync::Arc::<str>::from("events");
    let record = |n: usize| UserRecord::new(stream.clone(), format!("user-{n}"), vec![b'x'; 100]).prepare().unwrap();
    (0..count).map(record).collect()
}

/// Puts records, answers every request, and takes every result. The time at the end.
fn drive(producer: &mut Producer<usize>, mut now: Instant, records: Vec<PreparedRecord>) -> Instant {
    let (mut left, mut sequence) = (records.len(), 0_u64);
    for (ticket, record) in records.into_iter().enumerate() {
        producer.put(now, record, ticket).unwrap();
        now = now + Duration::from_micros(1);
    }
    producer.flush(now);
    while left > 0 {
        producer.tick(now);
        while let Some(action) = producer.poll_action() {
            match action {
                Action::SendBatch(batch) => {
                    let stored = batch.records().iter().map(|record| {
                        let hash = record.explicit_hash_key();
                        sequence += 1;
                        let shard = (hash / (u128::MAX / SHARDS + 1)).min(SHARDS - 1);
                        RecordReply::stored(format!("shardId-{shard:012}"), sequence.to_string())
                    });
                    let reply = Reply::Records(stored.collect());
                    producer.respond(now + Duration::from_millis(5), batch, reply);
                }
                Action::ListShards(request) => {
                    let page = ShardPage { shards: shards(), next_token: None };
                    producer.respond_shards(now, &request, Ok(page));
                }
                Action::DescribeStream(request) => {
                    producer.respond_stream(now, &request, Ok(StreamSummary::default()));
                }
                Action::Resolve(records) => {
                    left -= records.inspect(|(_, result)| assert!(result.is_ok())).count();
                }
                _ => {}
            }
        }
        now = producer.next_tick().unwrap_or(now);
    }
    now
}

fn levels(criterion: &mut Criterion) {
    use MetricsGranularity::{Global, Shard};
    use MetricsLevel::{Detailed, None, Summary};
    let mut group = criterion.benchmark_group("put to resolve");
    group.throughput(Throughput::Elements(RECORDS as u64));
    for (level, granularity) in [(None, Shard), (Summary, Shard), (Detailed, Shard), (Detailed, Global)] {
        let mut producer = producer(level, granularity);
        let mut now = Instant::from_nanos(1_000_000_000);
        let id = BenchmarkId::new(format!("{level:?}"), format!("{granularity:?}"));
        group.bench_function(id, |bencher| {
            let run = |records| now = drive(&mut producer, now, records) + Duration::from_millis(1);
            bencher.iter_batched(|| records(RECORDS), run, BatchSize::LargeInput);
        });
    }
    group.finish();
}

criterion_group!(benches, levels);
criterion_main!(benches);

//! Benchmarks of the parts of a record's way, and of how they scale.
//!
//!     cargo bench -p kpl-core --bench parts [-- FILTER]
//!
//! Times are per record, except for the group `codec`: there, per request or per aggregate of 50 KiB.

#![allow(missing_docs, reason = "criterion's macro defines a function")]

mod world;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kpl_core::codec::{decode, encode};
use kpl_core::{Action, Batch, CheckedRecord, Config, HashKeyCache, Instant, Producer, UserRecord, hash_key};

use world::{Scale, World, records};

const SIZE: usize = 100;

/// Hashing of partition keys of 12 bytes, with and without [`HashKeyCache`].
fn keys(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash key");
    group.throughput(Throughput::Elements(1));
    let keys: Vec<String> = (0..1 << 20).map(|n| format!("{:012x}", n * 0x9E37_79B9_u64)).collect();
    let mut next = (0..keys.len()).cycle();
    group.bench_function("md5", |bencher| bencher.iter(|| hash_key(&keys[next.next().unwrap()])));
    let mut cache = HashKeyCache::default();
    group.bench_function("miss", |bencher| bencher.iter(|| cache.hash_key(&keys[next.next().unwrap()])));
    let mut few = (0..100).cycle();
    group.bench_function("hit", |bencher| bencher.iter(|| cache.hash_key(&keys[few.next().unwrap()])));
    group.throughput(Throughput::Elements(16));
    let sixteen = |next: &mut dyn Iterator<Item = usize>| -> Vec<_> {
        let record = |n: usize| UserRecord::new("events", keys[n].clone(), "").check().unwrap();
        next.take(16).map(record).collect()
    };
    group.bench_function("16 misses side by side", |bencher| {
        let fresh = || sixteen(&mut next);
        bencher.iter_batched_ref(
            fresh,
            |records| CheckedRecord::hash_keys(records.iter_mut(), &mut cache),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn prepare(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prepare");
    group.throughput(Throughput::Elements(1));
    let stream = Arc::<str>::from("events");
    let record = || UserRecord::new(stream.clone(), "0123456789ab", &[b'x'; SIZE][..]);
    group.bench_function("md5", |bencher| {
        bencher.iter_batched(record, |record| black_box(record.prepare()), BatchSize::SmallInput);
    });
    let mut cache = HashKeyCache::default();
    group.bench_function("hit", |bencher| {
        bencher.iter_batched(
            record,
            |record| black_box(record.check().unwrap().prepare(&mut cache)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// The state machine alone: keys are hashed before, and nothing is encoded.
fn put_to_resolve(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("put to resolve");
    group.sample_size(20);
    let small = Scale { shards: 10, streams: 1, outstanding: 10_000 };
    let scales = [
        small,
        Scale { shards: 1_000, outstanding: 1_000_000, ..small },
        Scale { shards: 10_000, outstanding: 1_000_000, ..small },
        Scale { streams: 1_000, outstanding: 1_000_000, ..small },
        Scale { outstanding: 1_000, ..small },
        Scale { outstanding: 1_000_000, ..small },
    ];
    for scale in scales {
        group.throughput(Throughput::Elements(scale.outstanding as u64));
        let mut world = World::new(scale);
        group.bench_function(BenchmarkId::from_parameter(scale), |bencher| {
            bencher.iter_custom(|rounds| (0..rounds).map(|_| world.round(scale, SIZE).iter().sum::<Duration>()).sum());
        });
    }
    group.finish();
}

/// The three parts of [`put_to_resolve`].
fn parts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("part");
    group.sample_size(20);
    let scale = Scale { shards: 10, streams: 1, outstanding: 10_000 };
    group.throughput(Throughput::Elements(scale.outstanding as u64));
    for (part, name) in ["put", "handle_reply", "resolve"].into_iter().enumerate() {
        let mut world = World::new(scale);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| (0..rounds).map(|_| world.round(scale, SIZE)[part]).sum());
        });
    }
    group.finish();
}

fn shard_lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard lookup");
    group.throughput(Throughput::Elements(1));
    let hash_keys: Vec<u128> = (0..1 << 16).map(|n| hash_key(&format!("{n:012x}"))).collect();
    for shards in [10, 1_000, 10_000] {
        let world = World::new(Scale { shards, streams: 1, outstanding: 1 });
        let (stream, mut next) = (&world.streams[0], hash_keys.iter().cycle());
        group.bench_function(BenchmarkId::from_parameter(format!("{shards} shards")), |bencher| {
            bencher.iter(|| world.producer.shard(stream, *next.next().unwrap()).unwrap());
        });
    }
    group.finish();
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let batch = full_batch();
    let size: usize = batch.records().iter().map(|record| record.data().len()).sum();
    group.throughput(Throughput::Bytes(size as u64));
    group.bench_function(format!("encode a request of {} aggregates", batch.records().len()), |bencher| {
        bencher.iter(|| batch.encode_each(|_, data| _ = black_box(data.len())));
    });
    let aggregate = batch.records()[0].data();
    let records = decode(aggregate.clone()).unwrap();
    group.throughput(Throughput::Bytes(aggregate.len() as u64));
    group.bench_function("encode one aggregate", |bencher| bencher.iter(|| encode(&records)));
    group.bench_function("decode one aggregate", |bencher| bencher.iter(|| decode(aggregate.clone())));
    group.finish();
}

/// Returns a request of twenty full aggregates.
fn full_batch() -> Batch<usize> {
    let scale = Scale { shards: 4, streams: 1, outstanding: 9_000 };
    let mut world = World::new(scale);
    for (ticket, record) in records(&world.streams, 0..scale.outstanding, SIZE).into_iter().enumerate() {
        world.producer.put(world.now, record, ticket).unwrap();
    }
    world.producer.flush(world.now);
    let batches = std::iter::from_fn(|| world.producer.poll_action()).filter_map(|action| match action {
        Action::SendBatch(batch) => Some(batch),
        _ => None,
    });
    batches.max_by_key(|batch| batch.records().len()).unwrap()
}

/// An idle producer has no tick due, even after it has sent to 10,000 shards.
fn idle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("idle");
    let scale = Scale { shards: 10_000, streams: 1, outstanding: 100_000 };
    let mut world = World::new(scale);
    let _ = world.round(scale, SIZE);
    // The last timers: those of the start, and the one that retires the idle stream.
    while let Some(next) = world.producer.next_tick() {
        world.producer.tick(next);
    }
    group.bench_function("next tick, 10,000 shards", |bencher| {
        bencher.iter(|| assert_eq!(black_box(&world.producer).next_tick(), None));
    });
    let fresh = Producer::<usize>::new(Config::default(), Instant::from_nanos(0));
    group.bench_function("next tick, no streams", |bencher| {
        bencher.iter(|| assert_eq!(black_box(&fresh).next_tick(), None));
    });
    group.finish();
}

criterion_group!(benches, keys, prepare, shard_lookup, parts, put_to_resolve, codec, idle);
criterion_main!(benches);

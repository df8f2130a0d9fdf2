//! Benchmark of the cost of metrics: a record's whole way through the state machine, at each level.
//!
//!     cargo bench -p kpl-core --bench metrics
//!
//! Keys are hashed before, and data is not encoded: both happen outside the state machine.

#![allow(missing_docs, reason = "criterion's macro defines a function")]

mod world;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kpl_core::metrics::{MetricsGranularity, MetricsLevel};

use world::{Scale, World};

const SCALE: Scale = Scale { shards: 4, streams: 1, outstanding: 10_000 };

fn levels(criterion: &mut Criterion) {
    use MetricsGranularity::{Global, Shard};
    use MetricsLevel::{Detailed, None, Summary};
    let mut group = criterion.benchmark_group("put to resolve");
    group.throughput(Throughput::Elements(SCALE.outstanding as u64));
    for (level, granularity) in [(None, Shard), (Summary, Shard), (Detailed, Shard), (Detailed, Global)] {
        let mut world = World::with_metrics(SCALE, level, granularity);
        let id = BenchmarkId::new(format!("{level:?}"), format!("{granularity:?}"));
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|rounds| (0..rounds).map(|_| world.round(SCALE, 100).iter().sum::<Duration>()).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, levels);
criterion_main!(benches);

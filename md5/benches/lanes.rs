//! All implementations that this CPU supports, on the messages that a producer hashes: records of a request, and keys.
//!
//!     cargo bench -p kpl-md5 --bench lanes

#![allow(missing_docs, reason = "criterion generates a function")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kpl_md5::Implementation;

fn lanes(criterion: &mut Criterion) {
    for (count, size) in [(20, 50_000), (5, 50_000), (1, 50_000), (64, 12), (16, 12), (8, 36)] {
        let mut group = criterion.benchmark_group(format!("{count} of {size} bytes"));
        group.throughput(Throughput::Bytes((count * size) as u64));
        let messages: Vec<Vec<u8>> = (0..count).map(|i| (0..size).map(|j| (31 * i + 7 * j) as u8).collect()).collect();
        let mut digests = vec![[0; 16]; count];
        for implementation in Implementation::available() {
            group.bench_function(BenchmarkId::from_parameter(implementation.name), |bencher| {
                bencher.iter(|| implementation.digest_each(messages.iter().map(Vec::as_slice).zip(&mut digests)));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, lanes);
criterion_main!(benches);

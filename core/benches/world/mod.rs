//! The state machine with a service that answers at once, in various sizes.

#![allow(clippy::disallowed_methods, reason = "benchmarks read the clock")]
#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use kpl_core::metrics::{MetricsGranularity, MetricsLevel};
use kpl_core::{
    Action, Config, Instant, ListedShard, PreparedRecord, Producer, RecordReply, Reply, ShardPage, StreamSummary,
    UserRecord,
};

/// The size of a benchmark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    /// The number of shards of each stream.
    pub(crate) shards: usize,
    /// The number of streams.
    pub(crate) streams: usize,
    /// The number of records that are put before the first request is answered.
    pub(crate) outstanding: usize,
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} streams of {} shards, {} outstanding", self.streams, self.shards, self.outstanding)
    }
}

/// A producer, and a service that stores every record.
pub(crate) struct World {
    pub(crate) producer: Producer<usize>,
    pub(crate) now: Instant,
    pub(crate) streams: Vec<Arc<str>>,
    shards: usize,
    sequence: u64,
}

impl World {
    /// Creates a producer that has the metadata of all streams, without metrics.
    pub(crate) fn new(scale: Scale) -> Self {
        Self::with_metrics(scale, MetricsLevel::None, MetricsGranularity::Shard)
    }

    /// Creates a producer that has the metadata of all streams.
    pub(crate) fn with_metrics(scale: Scale, level: MetricsLevel, granularity: MetricsGranularity) -> Self {
        let config = Config::builder()
            .metrics_level(level)
            .metrics_granularity(granularity)
            .rate_limit_records_per_shard(1_000_000)
            .rate_limit_bytes_per_shard(1 << 30)
            .max_outstanding_records(10_000_000)
            .max_outstanding_bytes(1 << 40)
            .build()
            .unwrap();
        let now = Instant::from_nanos(0);
        let streams = (0..scale.streams).map(|n| format!("stream-{n}").into()).collect();
        let mut world = Self { producer: Producer::new(config, now), now, streams, shards: scale.shards, sequence: 0 };
        let _ = world.round(Scale { outstanding: scale.streams, ..scale }, 1);
        world.now = world.now + Duration::from_secs(1);
        world
    }

    /// Puts `scale.outstanding` records, answers every request, and takes every result. Returns the time of each of
    /// these three parts.
    pub(crate) fn round(&mut self, scale: Scale, size: usize) -> [Duration; 3] {
        let (mut left, mut times) = (scale.outstanding, [Duration::ZERO; 3]);
        for first in (0..scale.outstanding).step_by(CHUNK) {
            let records = records(&self.streams, first..scale.outstanding.min(first + CHUNK), size);
            let start = Clock::now();
            for (ticket, record) in records.into_iter().enumerate() {
                self.producer.put(self.now, record, ticket).unwrap();
                self.now = self.now + Duration::from_nanos(50);
            }
            times[0] += start.elapsed();
        }
        self.producer.flush(self.now);
        while left > 0 {
            let start = Clock::now();
            self.producer.tick(self.now);
            times[1] += start.elapsed();
            while let Some(action) = self.producer.poll_action() {
                match action {
                    Action::SendBatch(batch) => {
                        let stored = batch.records().iter().map(|record| {
                            self.sequence += 1;
                            let shard = record.explicit_hash_key() / (u128::MAX / self.shards as u128 + 1);
                            RecordReply::stored(format!("shardId-{shard:012}"), self.sequence.to_string())
                        });
                        let reply = Reply::Records(stored.collect());
                        self.now = self.now + Duration::from_micros(5);
                        let start = Clock::now();
                        self.producer.handle_reply(self.now, batch, reply);
                        times[1] += start.elapsed();
                    }
                    Action::ListShards(request) => {
                        let page = ShardPage { shards: self.listed(), next_token: None };
                        self.producer.handle_shards(self.now, &request, Ok(page));
                    }
                    Action::DescribeStream(request) => {
                        self.producer.handle_stream_summary(self.now, &request, Ok(StreamSummary::default()));
                    }
                    Action::Resolve(records) => {
                        let start = Clock::now();
                        left -= records.inspect(|(_, result)| assert!(result.is_ok())).count();
                        times[2] += start.elapsed();
                    }
                    _ => {}
                }
            }
            self.now = self.producer.next_tick().unwrap_or(self.now);
        }
        times
    }

    fn listed(&self) -> Vec<ListedShard> {
        let width = u128::MAX / self.shards as u128 + 1;
        let shard = |n: u128| ListedShard {
            id: format!("shardId-{n:012}").into(),
            start: width * n,
            end: (width * n).saturating_add(width - 1),
            closed: false,
            parents: [None, None],
        };
        (0..self.shards as u128).map(shard).collect()
    }
}

/// The number of records that are created before they are put. An application puts a record soon after its creation,
/// while it is in the cache.
const CHUNK: usize = 1_000;

/// Creates records for all streams in turn, each with a different key.
pub(crate) fn records(streams: &[Arc<str>], numbers: Range<usize>, size: usize) -> Vec<PreparedRecord> {
    let data = bytes::Bytes::from(vec![b'x'; size]);
    let record = |n: usize| {
        let key = format!("{:012x}", (n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16);
        UserRecord::new(streams[n % streams.len()].clone(), key, data.clone()).prepare().unwrap()
    };
    numbers.map(record).collect()
}

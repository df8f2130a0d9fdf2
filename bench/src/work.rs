//! The records of a run, the same for all subjects.

use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use serde::{Deserialize, Serialize};

/// The first stream of every run.
pub(crate) const STREAM: &str = "bench";

/// The maximum size of a record without its key, in bytes.
const SIZE_MAX: u64 = (10 << 20) - KEY_SIZE as u64;

/// The number of bytes of each partition key.
pub(crate) const KEY_SIZE: usize = 12;

/// The records of a run.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[command(next_help_heading = "Records")]
pub(crate) struct Work {
    /// Number of records per run
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) records: u64,
    /// Bytes of data per record; with its key of 12 bytes, at most 10 MiB
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u64).range(..=SIZE_MAX))]
    pub(crate) size: u64,
    /// Number of different partition keys, used in turn; 0: each record has its own
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keys: u64,
    /// Number of shards of the stream
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) shards: u32,
    /// Number of streams that the records go to in turn, each with this number of shards; more than one only for kpl's
    /// drivers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) streams: u32,
    /// Records per second; 0: full speed
    ///
    /// With a rate, the latency of kpl's drivers is measured.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) rate: u64,
    /// Number of tasks that put, each an equal part of the records
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) tasks: u64,
    /// Maximum number of outstanding records at full speed [default: 60000; without aggregation 14000, about as many as
    /// the AWS SDK has in flight]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) outstanding: Option<u64>,
    /// Whether kpl's drivers aggregate records
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub(crate) aggregation_enabled: bool,
    /// Apply the limits of Kinesis to each shard: 1,000 records and 1 MiB per second
    ///
    /// Without it, neither the emulator nor the producer limits a shard, so that the producer is measured.
    #[arg(long)]
    pub(crate) shard_limits: bool,
    /// Allocate the data of each record separately, instead of a slice of one buffer
    ///
    /// Then memory includes the data, as in most applications, and the table shows the number of copies in memory: the
    /// growth of resident memory at its peak, divided by the maximum of outstanding bytes.
    #[arg(long)]
    pub(crate) own_data: bool,
}

impl Work {
    /// Returns the partition key of record `n`.
    pub(crate) fn key(&self, n: u64) -> String {
        // A multiple of an odd number: keys of equal length, in no order.
        let n = if self.keys == 0 { n } else { n % self.keys };
        let mut key = String::with_capacity(KEY_SIZE);
        let mut rest = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for _ in 0..KEY_SIZE {
            key.push(char::from(b'a' + (rest % 26) as u8));
            rest /= 26;
        }
        key
    }

    /// Returns the names of all streams.
    pub(crate) fn stream_names(&self) -> Vec<Arc<str>> {
        let name = |n| if n == 0 { STREAM.into() } else { format!("{STREAM}-{n}").into() };
        (0..self.streams).map(name).collect()
    }

    /// Returns the buffer of all data, for [`Self::data`]. Call it before the measurement starts.
    pub(crate) fn source(&self) -> Bytes {
        (0..self.size + 4_096).map(|n| (n * 7 % 251) as u8).collect::<Vec<u8>>().into()
    }

    /// Returns the data of record `n`: with `--own-data` a copy, otherwise a slice of `source`, as from an application
    /// that has the data in a buffer.
    pub(crate) fn data(&self, source: &Bytes, n: u64) -> Bytes {
        let start = (n * 61 % 4_096) as usize;
        let data = start..start + self.size as usize;
        if self.own_data { Bytes::copy_from_slice(&source[data]) } else { source.slice(data) }
    }

    /// Returns the maximum number of outstanding records of one task at full speed.
    pub(crate) fn outstanding_per_task(&self) -> usize {
        (self.outstanding_max() / self.tasks).max(1) as usize
    }

    /// Returns the maximum number of outstanding records at full speed.
    pub(crate) fn outstanding_max(&self) -> u64 {
        self.outstanding.unwrap_or(if self.aggregation_enabled { 60_000 } else { 14_000 })
    }

    /// Returns the number of bytes of a record, data and key.
    pub(crate) fn record_size(&self) -> u64 {
        self.size + KEY_SIZE as u64
    }
}

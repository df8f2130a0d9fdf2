//! What is put: the same for all that are compared.

use bytes::Bytes;
use clap::Args;
use serde::{Deserialize, Serialize};

/// The largest record there is, without its key.
const SIZE_MAX: u64 = (10 << 20) - KEY_SIZE as u64;

/// Bytes of each partition key.
pub(crate) const KEY_SIZE: usize = 12;

/// The records of a run.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[command(next_help_heading = "What is put")]
pub(crate) struct Work {
    /// Records to put in each run
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) records: u64,
    /// Bytes of data in a record; with its key of 12 bytes, at most 10 MiB
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u64).range(..=SIZE_MAX))]
    pub(crate) size: u64,
    /// Different partition keys, which come one after the other; 0: each record has its own
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) keys: u64,
    /// Shards of the stream
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) shards: u32,
    /// Records a second; 0: flat out
    ///
    /// With a rate, latency is measured, of kpl's drivers.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) rate: u64,
    /// Tasks that put, each its part
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) tasks: u64,
    /// Each record's data is an allocation of its own, and not a slice of one buffer
    ///
    /// Then data count as memory, as in most applications, and the table shows how many copies of them were alive: the
    /// growth of resident memory at its peak, by the bytes that were outstanding at most.
    #[arg(long)]
    pub(crate) own_data: bool,
}

impl Work {
    /// The partition key of a record.
    pub(crate) fn key(&self, n: u64) -> String {
        // A multiple of an odd number: keys of one length, in no order.
        let n = if self.keys == 0 { n } else { n % self.keys };
        let mut key = String::with_capacity(KEY_SIZE);
        let mut rest = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for _ in 0..KEY_SIZE {
            key.push(char::from(b'a' + (rest % 26) as u8));
            rest /= 26;
        }
        key
    }

    /// What data are cut from, by [`Self::data`]; to be made before anything is measured.
    pub(crate) fn source(&self) -> Bytes {
        (0..self.size + 4_096).map(|n| (n * 7 % 251) as u8).collect::<Vec<u8>>().into()
    }

    /// The data of a record: without a copy or an allocation, as from an application that has it in a buffer, unless
    /// it is to be its own.
    pub(crate) fn data(&self, source: &Bytes, n: u64) -> Bytes {
        let start = (n * 61 % 4_096) as usize;
        let data = start..start + self.size as usize;
        if self.own_data { Bytes::copy_from_slice(&source[data]) } else { source.slice(data) }
    }

    /// Bytes of a record, data and key.
    pub(crate) fn record_size(&self) -> u64 {
        self.size + KEY_SIZE as u64
    }
}

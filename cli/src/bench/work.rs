//! What is put: the same for all that are compared.

use bytes::Bytes;
use clap::Args;
use serde::{Deserialize, Serialize};

/// The records of a run.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
pub(super) struct Work {
    /// Records to put in each run
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub(super) records: u64,
    /// Bytes of data in a record
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub(super) size: usize,
    /// Different partition keys, which come one after the other; 0: each record has its own
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) keys: u64,
    /// Shards of the stream
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(super) shards: u32,
    /// Records a second; 0: flat out
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) rate: u64,
    /// Tasks that put, each its part
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) tasks: u64,
}

impl Work {
    /// The partition key of a record.
    pub(super) fn key(&self, n: u64) -> String {
        // A multiple of an odd number: keys of one length, in no order.
        let n = if self.keys == 0 { n } else { n % self.keys };
        let mut key = String::with_capacity(12);
        let mut rest = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for _ in 0..12 {
            key.push(char::from(b'a' + (rest % 26) as u8));
            rest /= 26;
        }
        key
    }

    /// What data are cut from, by [`Self::data`].
    pub(super) fn source(&self) -> Bytes {
        (0..self.size + 4_096).map(|n| (n * 7 % 251) as u8).collect::<Vec<u8>>().into()
    }

    /// The data of a record: without a copy or an allocation, as from an application that has it in a buffer.
    pub(super) fn data(&self, source: &Bytes, n: u64) -> Bytes {
        let start = (n * 61 % 4_096) as usize;
        source.slice(start..start + self.size)
    }
}

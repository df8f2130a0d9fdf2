//! The KPL's aggregation format: several user records in one Kinesis record.
//!
//! An aggregated record consists of the magic number `F3 89 9A C2`, a protobuf message (`AggregatedRecord` in the KPL's
//! `messages.proto`), and the MD5 of the message. The message has tables of keys, with each key once, in the order of
//! first use; user records refer to keys by index. The KPL's `aggregation-format.md` describes the format. The encoder
//! returns the same bytes as the C++ KPL.
//!
//! ```
//! use kpl_core::codec::{AggregatedUserRecord, decode, encode};
//!
//! let records = vec![
//!     AggregatedUserRecord { partition_key: "a".into(), explicit_hash_key: None, data: "hello".into() },
//!     AggregatedUserRecord { partition_key: "b".into(), explicit_hash_key: Some(42), data: "world".into() },
//! ];
//! let blob = encode(&records);
//! assert_eq!(blob[..4], kpl_core::codec::MAGIC);
//! assert_eq!(decode(blob)?, records);
//! # Ok::<(), kpl_core::codec::DecodeError>(())
//! ```

mod decode;
mod encode;
mod key_table;
#[cfg(any(test, feature = "proto"))]
pub mod proto;

use alloc::sync::Arc;
use core::fmt;

use bytes::Bytes;

pub use decode::{DecodeError, DecodeErrorKind, decode};
pub use encode::encode;
pub(crate) use encode::{EncodeItem, Encoder, encode_message};
pub(crate) use key_table::{KeyTables, Placement, message_size_max};

/// The first bytes of an aggregated record.
pub const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];

/// The number of bytes of the MD5 at the end of an aggregated record.
pub const DIGEST_SIZE: usize = 16;

/// The partition key of an aggregate, as in the KPL. The aggregate's explicit hash key chooses the shard, so any
/// partition key works; a short one saves space.
pub const AGGREGATE_PARTITION_KEY: &str = "a";

/// The number of bytes around the protobuf message.
pub(crate) const FRAME_SIZE: usize = MAGIC.len() + DIGEST_SIZE;

/// A user record of an aggregated record. Its `Debug` output has the number of bytes of the data, not the data.
#[derive(Clone, PartialEq, Eq)]
pub struct AggregatedUserRecord {
    /// The partition key. Decoded records with the same key share it.
    pub partition_key: Arc<str>,
    /// The explicit hash key, if the record was put with one.
    pub explicit_hash_key: Option<u128>,
    /// The payload. Of a decoded record, it is a slice of the aggregated record, not a copy.
    pub data: Bytes,
}

impl fmt::Debug for AggregatedUserRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition_key, explicit_hash_key, data } = self;
        f.debug_struct("AggregatedUserRecord")
            .field("partition_key", partition_key)
            .field("explicit_hash_key", explicit_hash_key)
            .field("data", &format_args!("{} bytes", data.len()))
            .finish()
    }
}

/// Whether `blob` starts with [`MAGIC`]. A consumer treats anything else as one plain user record.
pub fn is_aggregated(blob: &[u8]) -> bool {
    blob.starts_with(&MAGIC)
}

/// Returns the number of bytes of `n` as a protobuf varint.
pub(crate) fn varint_len(n: usize) -> usize {
    prost::length_delimiter_len(n)
}

#[cfg(test)]
mod tests;

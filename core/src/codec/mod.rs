//! The KPL's aggregation format: several user records in one Kinesis record.
//!
//! An aggregated record is the magic number `F3 89 9A C2`, a protobuf message (`AggregatedRecord` in the KPL's `messages.proto`), and the
//! MD5 of the message. Keys stand in tables, each once, in the order of their first use; records refer to them by
//! index. The format is described in the KPL's `aggregation-format.md`; the encoding here is byte for byte the one of
//! the C++ KPL.
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

use bytes::Bytes;

pub use decode::{DecodeError, DecodeErrorKind, decode};
pub use encode::encode;
pub(crate) use encode::{EncodeItem, Encoder, encode_message};
pub(crate) use key_table::{KeyTables, Placement, message_size_max};

/// The first bytes of an aggregated record.
pub const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];

/// Bytes of the MD5 at the end of an aggregated record.
pub const DIGEST_SIZE: usize = 16;

/// The partition key of an aggregated Kinesis record. Its explicit hash key places it, so the key may be anything;
/// the KPL saves space.
pub const AGGREGATE_PARTITION_KEY: &str = "a";

/// Bytes around the protobuf message.
pub(crate) const FRAME_SIZE: usize = MAGIC.len() + DIGEST_SIZE;

/// One user record of an aggregated record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregatedUserRecord {
    /// Its own partition key; records with the same key share it.
    pub partition_key: Arc<str>,
    /// Its explicit hash key, if it was put with one.
    pub explicit_hash_key: Option<u128>,
    /// Its payload: a slice of the aggregated record, not a copy.
    pub data: Bytes,
}

/// Whether `blob` starts as an aggregated record does. A consumer takes anything else as one plain user record.
pub fn is_aggregated(blob: &[u8]) -> bool {
    blob.starts_with(&MAGIC)
}

/// Bytes that a number takes as a protobuf varint.
pub(crate) fn varint_len(n: usize) -> usize {
    prost::length_delimiter_len(n)
}

#[cfg(test)]
mod tests;

//! User records to an aggregated record, in two passes over the records and one allocation.

use alloc::vec::Vec;
use core::fmt::Write;
use core::hash::BuildHasher;

use bytes::BufMut;
use hashbrown::DefaultHashBuilder;

use super::key_table::{KeyTables, record_size};
use super::{AggregatedUserRecord, DIGEST_SIZE, FRAME_SIZE, MAGIC, Placement};
use crate::record::hash_key::decimal_len;

/// A user record to be encoded, with its keys' places in the tables.
#[derive(Clone, Copy)]
pub(crate) struct EncodeItem<'a> {
    pub(crate) partition_key: &'a str,
    pub(crate) partition_key_index: u32,
    /// The explicit hash key and its index.
    pub(crate) explicit_hash_key: Option<(u128, u32)>,
    pub(crate) data: &'a [u8],
}

/// Encodes user records as one aggregated record, whatever their number.
///
/// The producer itself sends a single user record plain; this function aggregates it all the same.
pub fn encode(records: &[AggregatedUserRecord]) -> Vec<u8> {
    let (mut tables, hasher) = (KeyTables::default(), DefaultHashBuilder::default());
    let keys_at = |i: usize| (&*records[i].partition_key, records[i].explicit_hash_key);
    let mut message_size = 0;
    let placements: Vec<Placement> = records
        .iter()
        .enumerate()
        .map(|(position, record)| {
            let AggregatedUserRecord { partition_key, explicit_hash_key, data } = record;
            let hash = hasher.hash_one(partition_key) as u32;
            let placement = tables.place(partition_key, hash, *explicit_hash_key, data.len(), keys_at);
            tables.append(position, hash, *explicit_hash_key, placement);
            message_size += placement.message_size;
            placement
        })
        .collect();
    encode_message(
        records.iter().zip(&placements).map(|(record, placement)| EncodeItem {
            partition_key: &record.partition_key,
            partition_key_index: placement.partition_key_index,
            explicit_hash_key: record.explicit_hash_key.zip(placement.explicit_hash_key_index),
            data: &record.data,
        }),
        message_size,
    )
}

/// Encodes records whose places in the tables, and the size of whose message, are known.
pub(crate) fn encode_message<'a>(items: impl Iterator<Item = EncodeItem<'a>> + Clone, message_size: usize) -> Vec<u8> {
    let mut encoder = Encoder { buffer: Vec::with_capacity(FRAME_SIZE + message_size), ends: Vec::new() };
    encoder.push(items, message_size);
    encoder.seal();
    encoder.buffer
}

/// So many aggregated records are encoded at a time: as many as MD5 takes side by side, and no more than a core's own cache
/// takes, from where they are copied on.
const GROUP: usize = 32;
const GROUP_SIZE: usize = 1 << 19;

/// Encodes aggregated records, one behind the other in one buffer.
#[derive(Default)]
pub(crate) struct Encoder {
    buffer: Vec<u8>,
    /// Where each aggregated record ends.
    ends: Vec<usize>,
}

impl Encoder {
    pub(crate) fn clear(&mut self) {
        self.buffer.clear();
        self.ends.clear();
    }

    /// Whether the next record should come into this group.
    pub(crate) fn has_room(&self) -> bool {
        self.ends.len() < GROUP && self.buffer.len() < GROUP_SIZE
    }

    /// Appends an aggregated record, with room for its MD5.
    pub(crate) fn push<'a>(&mut self, items: impl Iterator<Item = EncodeItem<'a>> + Clone, message_size: usize) {
        let blob = &mut self.buffer;
        let start = blob.len();
        blob.reserve(FRAME_SIZE + message_size);
        blob.put_slice(&MAGIC);

        // Indexes count up in the order of first use: a record whose index comes next brings its key.
        let mut keys = 0;
        for item in items.clone() {
            if item.partition_key_index == keys {
                keys += 1;
                put_bytes(blob, 0x0A, item.partition_key.as_bytes());
            }
        }
        keys = 0;
        for (key, index) in items.clone().filter_map(|item| item.explicit_hash_key) {
            if index == keys {
                keys += 1;
                blob.put_u8(0x12);
                put_varint(blob, decimal_len(key));
                put_decimal(blob, key);
            }
        }
        for item in items {
            let explicit_hash_key_index = item.explicit_hash_key.map(|(_, index)| index);
            blob.put_u8(0x1A);
            put_varint(blob, record_size(item.partition_key_index, explicit_hash_key_index, item.data.len()));
            blob.put_u8(0x08);
            put_varint(blob, item.partition_key_index as usize);
            if let Some(index) = explicit_hash_key_index {
                blob.put_u8(0x10);
                put_varint(blob, index as usize);
            }
            put_bytes(blob, 0x1A, item.data);
        }
        debug_assert_eq!(blob.len() - start, MAGIC.len() + message_size, "the predicted size is the encoded size");
        blob.put_bytes(0, DIGEST_SIZE);
        self.ends.push(blob.len());
    }

    /// Writes the MD5 sums.
    fn seal(&mut self) {
        let mut rest = &mut self.buffer[..];
        let mut start = 0;
        let to_digest = self.ends.iter().filter_map(|end| {
            let (blob, others) = core::mem::take(&mut rest).split_at_mut(end - start);
            (rest, start) = (others, *end);
            let (message, digest) = blob.split_last_chunk_mut::<DIGEST_SIZE>()?;
            Some((&message[MAGIC.len()..], digest))
        });
        kpl_md5::digest_each(to_digest);
    }

    /// The aggregated records.
    pub(crate) fn finish(&mut self) -> impl Iterator<Item = &[u8]> {
        self.seal();
        let starts = core::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.buffer[start..*end])
    }
}

fn put_bytes(blob: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    blob.put_u8(tag);
    put_varint(blob, bytes.len());
    blob.put_slice(bytes);
}

fn put_varint(blob: &mut Vec<u8>, n: usize) {
    prost::encoding::encode_varint(n as u64, blob);
}

fn put_decimal(blob: &mut Vec<u8>, n: u128) {
    struct Utf8<'a>(&'a mut Vec<u8>);
    impl Write for Utf8<'_> {
        fn write_str(&mut self, s: &str) -> core::fmt::Result {
            self.0.extend_from_slice(s.as_bytes());
            Ok(())
        }
    }
    // Writing to a vector cannot fail.
    let _ = write!(Utf8(blob), "{n}");
}

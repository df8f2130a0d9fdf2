//! The encoder of aggregated records. It takes two passes over the user records and one allocation.

use alloc::vec::Vec;
use core::fmt::Write;
use core::hash::BuildHasher;

use bytes::BufMut;
use hashbrown::DefaultHashBuilder;

use super::key_table::{KeyTables, record_size};
use super::{AggregatedUserRecord, DIGEST_SIZE, FRAME_SIZE, MAGIC, Placement};
use crate::record::hash_key::decimal_len;

/// A user record to be encoded, with the indexes of its keys in the key tables.
#[derive(Clone, Copy)]
pub(crate) struct EncodeItem<'a> {
    pub(crate) partition_key: &'a str,
    pub(crate) partition_key_index: u32,
    /// The explicit hash key and its index.
    pub(crate) explicit_hash_key: Option<(u128, u32)>,
    pub(crate) data: &'a [u8],
}

/// Encodes any number of user records as one aggregated record. Its size is not limited, so it may exceed the limit of
/// a stream, which is 1 MiB by default.
///
/// This function aggregates a single user record, too; the producer sends it as it is.
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

/// Encodes user records with known key indexes and a known message size.
pub(crate) fn encode_message<'a>(items: impl Iterator<Item = EncodeItem<'a>> + Clone, message_size: usize) -> Vec<u8> {
    let mut encoder = Encoder { buffer: Vec::with_capacity(FRAME_SIZE + message_size), ends: Vec::new() };
    encoder.push(items, message_size);
    encoder.seal();
    encoder.buffer
}

/// The maximum number of aggregated records that are encoded at a time: the number of messages that MD5 hashes in
/// parallel.
const GROUP_MAX: usize = 32;
/// No record is added to a group of this many bytes or more: the group should fit into a core's own cache, since it is
/// copied from there.
const GROUP_SIZE: usize = 1 << 19;

/// An encoder of several aggregated records into one buffer.
#[derive(Default)]
pub(crate) struct Encoder {
    buffer: Vec<u8>,
    /// The end of each aggregated record in the buffer.
    ends: Vec<usize>,
}

impl Encoder {
    pub(crate) fn clear(&mut self) {
        self.buffer.clear();
        self.ends.clear();
    }

    /// Whether the group can take another record.
    pub(crate) fn has_room(&self) -> bool {
        self.ends.len() < GROUP_MAX && self.buffer.len() < GROUP_SIZE
    }

    /// Appends an aggregated record, with space for its MD5.
    pub(crate) fn push<'a>(&mut self, items: impl Iterator<Item = EncodeItem<'a>> + Clone, message_size: usize) {
        let blob = &mut self.buffer;
        let start = blob.len();
        blob.reserve(FRAME_SIZE + message_size);
        blob.put_slice(&MAGIC);

        // Indexes are assigned in the order of first use, so the record with the next index adds its key to the table.
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
        debug_assert_eq!(blob.len() - start, MAGIC.len() + message_size, "the encoded size is the predicted size");
        blob.put_bytes(0, DIGEST_SIZE);
        self.ends.push(blob.len());
    }

    /// Writes the MD5 sums of all records.
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

    /// Returns the aggregated records, complete with MD5 sums.
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

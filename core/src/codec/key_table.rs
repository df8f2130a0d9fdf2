//! The key tables of an open aggregate.

use core::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::varint_len;
use crate::record::hash_key::decimal_len;

/// The indexes of a user record's keys in the key tables, and the size that the record adds to the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) partition_key_index: u32,
    pub(crate) explicit_hash_key_index: Option<u32>,
    /// The bytes that the record adds to the protobuf message, new keys included.
    pub(crate) message_size: usize,
}

/// Returns the maximum number of bytes that a record can add to a message of `records` records: those of a record with
/// new keys.
pub(crate) fn message_size_max(records: usize, partition_key: &str, has_explicit: bool, data_len: usize) -> usize {
    const DECIMAL_LEN_MAX: usize = 39;
    let index = records as u32;
    let body = record_size(index, has_explicit.then_some(index), data_len);
    let explicit = if has_explicit { string_field_size(DECIMAL_LEN_MAX) } else { 0 };
    string_field_size(partition_key.len()) + explicit + 1 + varint_len(body) + body
}

/// The indexes of an aggregate's keys. The tables do not contain the keys: each slot has the position of the record
/// that used the key first.
#[derive(Debug, Default)]
pub(crate) struct KeyTables {
    partition_keys: HashTable<Slot>,
    explicit_hash_keys: HashTable<Slot>,
    hasher: DefaultHashBuilder,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    index: u32,
    /// The position of the record that used the key first.
    position: u32,
}

impl KeyTables {
    /// Removes all keys, and keeps the capacity.
    pub(crate) fn clear(&mut self) {
        self.partition_keys.clear();
        self.explicit_hash_keys.clear();
    }

    /// Returns the placement of the next record, without a change of the tables.
    ///
    /// `hash` is a hash of the partition key; all records of the aggregate must use the same hash function. `keys_at`
    /// returns the keys of an earlier record.
    pub(crate) fn place<'a>(
        &self,
        partition_key: &str,
        hash: u32,
        explicit_hash_key: Option<u128>,
        data_len: usize,
        keys_at: impl Fn(usize) -> (&'a str, Option<u128>),
    ) -> Placement {
        let mut size = 0;
        let found = self
            .partition_keys
            .find(spread(hash), |slot| slot.hash == hash && keys_at(slot.position as usize).0 == partition_key);
        let partition_key_index = found.map_or_else(
            || {
                size += string_field_size(partition_key.len());
                self.partition_keys.len() as u32
            },
            |slot| slot.index,
        );
        let explicit_hash_key_index = explicit_hash_key.map(|key| {
            let hash = self.hash(key);
            let found = self
                .explicit_hash_keys
                .find(spread(hash), |slot| slot.hash == hash && keys_at(slot.position as usize).1 == Some(key));
            found.map_or_else(
                || {
                    size += string_field_size(decimal_len(key));
                    self.explicit_hash_keys.len() as u32
                },
                |slot| slot.index,
            )
        });
        let body = record_size(partition_key_index, explicit_hash_key_index, data_len);
        size += 1 + varint_len(body) + body;
        Placement { partition_key_index, explicit_hash_key_index, message_size: size }
    }

    /// Adds the keys of the record at `position`. `placement` is the result of the preceding [`place`](Self::place).
    pub(crate) fn append(&mut self, position: usize, hash: u32, explicit_hash_key: Option<u128>, placement: Placement) {
        let position = position as u32;
        let insert = |table: &mut HashTable<Slot>, hash, index| {
            if index as usize == table.len() {
                table.insert_unique(spread(hash), Slot { hash, index, position }, |slot| spread(slot.hash));
            }
        };
        insert(&mut self.partition_keys, hash, placement.partition_key_index);
        if let (Some(index), Some(key)) = (placement.explicit_hash_key_index, explicit_hash_key) {
            let hash = self.hash(key);
            insert(&mut self.explicit_hash_keys, hash, index);
        }
    }

    fn hash(&self, explicit_hash_key: u128) -> u32 {
        self.hasher.hash_one(explicit_hash_key) as u32
    }
}

/// Spreads a hash over 64 bits: the hash table uses its lowest and its highest bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Returns the number of bytes of a length-delimited field with a field number below 16.
pub(super) fn string_field_size(len: usize) -> usize {
    1 + varint_len(len) + len
}

/// Returns the number of bytes of a `Record` message.
pub(super) fn record_size(partition_key_index: u32, explicit_hash_key_index: Option<u32>, data_len: usize) -> usize {
    let index_size = |index: u32| 1 + varint_len(index as usize);
    index_size(partition_key_index) + explicit_hash_key_index.map_or(0, index_size) + string_field_size(data_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_the_same_hash_have_different_indexes() {
        let (mut tables, keys) = (KeyTables::default(), ["a", "b", "a", "b", "c"]);
        let mut indexes = [0; 5];
        for (position, key) in keys.iter().enumerate() {
            let placement = tables.place(key, 7, None, 0, |position| (keys[position], None));
            tables.append(position, 7, None, placement);
            indexes[position] = placement.partition_key_index;
        }
        assert_eq!(indexes, [0, 1, 0, 1, 2]);
    }
}

//! The tables of keys in an aggregated record, while it is being filled.

use core::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::varint_len;
use crate::hash_key::decimal_len;

/// Where a user record's keys stand in the tables, and what it adds to the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) partition_key_index: u32,
    pub(crate) explicit_hash_key_index: Option<u32>,
    /// Bytes that the record adds to the protobuf message, new keys included.
    pub(crate) message_size: usize,
    /// Of the partition key, by the tables' own hasher.
    partition_key_hash: u64,
}

impl Placement {
    /// Of a record that goes alone: it has no tables.
    pub(crate) const ALONE: Self =
        Self { partition_key_index: 0, explicit_hash_key_index: Some(0), message_size: 0, partition_key_hash: 0 };
}

/// Which keys the aggregate already has, by index. It holds no keys: it finds them in the records that used them
/// first, whose positions it keeps.
#[derive(Debug, Default)]
pub(crate) struct KeyTables {
    partition_keys: HashTable<Slot>,
    explicit_hash_keys: HashTable<Slot>,
    hasher: DefaultHashBuilder,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    index: u32,
    /// The record that used the key first.
    position: u32,
}

impl KeyTables {
    /// Forgets all keys and keeps the room.
    pub(crate) fn clear(&mut self) {
        self.partition_keys.clear();
        self.explicit_hash_keys.clear();
    }

    /// Where the keys of the record to be appended at `position` would stand. Changes nothing.
    ///
    /// `keys_at` gives the keys of an earlier record.
    pub(crate) fn place<'a>(
        &self,
        partition_key: &str,
        explicit_hash_key: Option<u128>,
        data_len: usize,
        keys_at: impl Fn(usize) -> (&'a str, Option<u128>),
    ) -> Placement {
        let mut size = 0;
        let partition_key_hash = self.hasher.hash_one(partition_key);
        let found =
            self.partition_keys.find(partition_key_hash, |slot| keys_at(slot.position as usize).0 == partition_key);
        let partition_key_index = found.map_or_else(
            || {
                size += string_field_size(partition_key.len());
                self.partition_keys.len() as u32
            },
            |slot| slot.index,
        );
        let explicit_hash_key_index = explicit_hash_key.map(|key| {
            let found = self
                .explicit_hash_keys
                .find(self.hasher.hash_one(key), |slot| keys_at(slot.position as usize).1 == Some(key));
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
        Placement { partition_key_index, explicit_hash_key_index, message_size: size, partition_key_hash }
    }

    /// Remembers the keys of the record appended at `position`, which [`place`](Self::place) has just placed.
    pub(crate) fn append<'a>(
        &mut self,
        position: usize,
        placement: Placement,
        keys_at: impl Fn(usize) -> (&'a str, Option<u128>),
    ) {
        let Self { partition_keys, explicit_hash_keys, hasher } = self;
        let explicit_hash_key = keys_at(position).1;
        let position = position as u32;
        if placement.partition_key_index as usize == partition_keys.len() {
            let slot = Slot { index: placement.partition_key_index, position };
            partition_keys.insert_unique(placement.partition_key_hash, slot, |slot| {
                hasher.hash_one(keys_at(slot.position as usize).0)
            });
        }
        if let (Some(index), Some(key)) = (placement.explicit_hash_key_index, explicit_hash_key)
            && index as usize == explicit_hash_keys.len()
        {
            let slot = Slot { index, position };
            explicit_hash_keys.insert_unique(hasher.hash_one(key), slot, |slot| {
                // A slot is only made for a record that has the key.
                keys_at(slot.position as usize).1.map_or(0, |key| hasher.hash_one(key))
            });
        }
    }
}

/// Bytes of a length-delimited field with a tag below 16.
pub(super) fn string_field_size(len: usize) -> usize {
    1 + varint_len(len) + len
}

/// Bytes of a `Record` message.
pub(super) fn record_size(partition_key_index: u32, explicit_hash_key_index: Option<u32>, data_len: usize) -> usize {
    let index_size = |index: u32| 1 + varint_len(index as usize);
    index_size(partition_key_index) + explicit_hash_key_index.map_or(0, index_size) + string_field_size(data_len)
}

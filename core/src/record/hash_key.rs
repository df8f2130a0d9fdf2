//! Hash keys: positions in a stream's hash key space of 128 bits.

use alloc::vec::Vec;
use core::fmt;
use core::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;
use md5::{Digest, Md5};

/// Returns the hash key of a partition key: its MD5 as a big-endian number, as the service computes it.
///
/// Source: `PartitionKey` in the API reference of
/// [PutRecords](https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecordsRequestEntry.html).
///
/// ```
/// assert_eq!(kpl_core::hash_key("a"), 0x0cc1_75b9_c0f1_b6a8_31c3_99e2_6977_2661);
/// ```
pub fn hash_key(partition_key: &str) -> u128 {
    u128::from_be_bytes(Md5::digest(partition_key.as_bytes()).into())
}

/// A cache of the hash keys of repeated partition keys. A hit costs a fraction of the MD5; a miss costs little more
/// than the MD5.
///
/// The cache has 1,024 entries, 64 KiB in total. Each entry has the last key that was hashed to it. Keys longer than 46
/// bytes are not cached.
///
/// ```
/// let mut keys = kpl_core::HashKeyCache::default();
/// assert_eq!(keys.hash_key("user-123"), kpl_core::hash_key("user-123"));
/// assert_eq!(keys.hash_key("user-123"), kpl_core::hash_key("user-123")); // without MD5
/// ```
#[derive(Clone, Default)]
pub struct HashKeyCache {
    /// Empty before the first key.
    entries: Vec<CachedKey>,
    hasher: DefaultHashBuilder,
}

/// An entry of the cache, as large as a cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct CachedKey {
    hash_key: [u8; 16],
    /// The length of the partition key; 0 if the entry is empty.
    len: u8,
    partition_key: [u8; CACHED_LEN_MAX],
}

const CACHED_LEN_MAX: usize = 46;
const ENTRIES: usize = 1_024;

impl HashKeyCache {
    /// Returns the hash key of a partition key: the same as [`hash_key`].
    pub fn hash_key(&mut self, partition_key: &str) -> u128 {
        let key = partition_key.as_bytes();
        if !(1..=CACHED_LEN_MAX).contains(&key.len()) {
            return hash_key(partition_key);
        }
        if self.entries.is_empty() {
            let empty = CachedKey { hash_key: [0; 16], len: 0, partition_key: [0; CACHED_LEN_MAX] };
            self.entries = alloc::vec![empty; ENTRIES];
        }
        let entry = &mut self.entries[self.hasher.hash_one(key) as usize % ENTRIES];
        if entry.partition_key[..usize::from(entry.len)] != *key {
            entry.hash_key = hash_key(partition_key).to_be_bytes();
            entry.len = key.len() as u8;
            entry.partition_key[..key.len()].copy_from_slice(key);
        }
        u128::from_be_bytes(entry.hash_key)
    }

    /// Hashes partition keys and writes each hash key, big-endian, to the array of its item.
    ///
    /// If the CPU has SIMD lanes for MD5, the keys are hashed in parallel, which costs no more than a look-up.
    /// Otherwise each key is looked up.
    pub(crate) fn hash_each<'a>(&mut self, keys: impl Iterator<Item = (&'a str, &'a mut [u8; 16])>) {
        if kpl_md5::has_lanes() {
            kpl_md5::digest_each(keys.map(|(partition_key, to)| (partition_key.as_bytes(), to)));
        } else {
            keys.for_each(|(partition_key, to)| *to = self.hash_key(partition_key).to_be_bytes());
        }
    }
}

impl fmt::Debug for HashKeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.entries.iter().filter(|entry| entry.len > 0).count();
        f.debug_struct("HashKeyCache").field("keys", &keys).finish()
    }
}

/// Parses an explicit hash key as the service does: decimal digits, below 2^128, no sign, no leading zero except in
/// `0`.
pub(crate) fn parse_explicit_hash_key(text: &str) -> Option<u128> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    if digits && canonical { text.parse().ok() } else { None }
}

/// Returns the number of decimal digits of `hash_key`.
pub(crate) fn decimal_len(hash_key: u128) -> usize {
    hash_key.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn cached_hash_keys_are_correct(keys in proptest::collection::vec("[a-d]{0,3}|.{0,12}|k{40,50}", 1..300)) {
            let mut cache = HashKeyCache::default();
            for key in keys {
                prop_assert_eq!(cache.hash_key(&key), hash_key(&key));
            }
        }
    }

    #[test]
    fn keys_that_share_an_entry_are_distinguished() {
        let mut cache = HashKeyCache::default();
        // Four keys for each entry on average. Some keys are prefixes of others: k1, k10, k100 and so on.
        for round in 0..2 {
            for n in 0..4 * ENTRIES {
                let key = alloc::format!("k{n}");
                assert_eq!(cache.hash_key(&key), hash_key(&key), "round {round}");
            }
        }
        assert_eq!(size_of::<CachedKey>(), 64);
    }

    #[test]
    fn hash_key_is_the_md5_of_the_partition_key() {
        // The first two are from RFC 1321.
        assert_eq!(hash_key(""), 0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e);
        assert_eq!(hash_key("abc"), 0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72);
        assert_eq!(hash_key("ä"), 0x8419_b71c_87a2_25a2_c70b_5048_6fbe_e545);
    }

    #[test]
    fn explicit_hash_keys_are_canonical_decimals_below_2_to_the_128() {
        assert_eq!(parse_explicit_hash_key("0"), Some(0));
        assert_eq!(parse_explicit_hash_key(&u128::MAX.to_string()), Some(u128::MAX));
        for bad in ["", "00", "01", "-1", "+1", " 1", "1 ", "0x1", "340282366920938463463374607431768211456", "１"] {
            assert_eq!(parse_explicit_hash_key(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn decimal_len_is_the_length_of_the_text() {
        for n in [0, 1, 9, 10, 99, 100, u128::MAX / 10, u128::MAX] {
            assert_eq!(decimal_len(n), n.to_string().len());
        }
    }
}

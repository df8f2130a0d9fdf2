//! Where a key falls in a stream's hash key space of 128 bits.

use md5::{Digest, Md5};

/// The hash key of a partition key: its MD5 as a big-endian number, as the service computes it.
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

/// Reads an explicit hash key as the service does: decimal digits, below 2^128, no sign, no leading zero but in `0`.
pub(crate) fn parse_explicit_hash_key(text: &str) -> Option<u128> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let canonical = text == "0" || !text.starts_with('0');
    if digits && canonical { text.parse().ok() } else { None }
}

/// How many decimal digits `hash_key` has.
pub(crate) fn decimal_len(hash_key: u128) -> usize {
    hash_key.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_partition_keys_hash_key_is_its_md5() {
        // The first two are those of RFC 1321.
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
    fn decimal_length_is_that_of_the_text() {
        for n in [0, 1, 9, 10, 99, 100, u128::MAX / 10, u128::MAX] {
            assert_eq!(decimal_len(n), n.to_string().len());
        }
    }
}

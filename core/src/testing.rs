//! Helpers for unit tests.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;
use proptest::prelude::*;

use crate::record::attempt::FailedAttempts;
use crate::record::kinesis_record::{KinesisRecord, Pending, ShardRef};
use crate::record::user_record::Entry;
use crate::time::Instant;

pub(crate) fn ms(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

pub(crate) fn shard(slot: u32) -> ShardRef {
    ShardRef { slot, id: alloc::format!("shardId-{slot:012}").into() }
}

/// Returns a user record with this ticket.
pub(crate) fn user(ticket: usize, partition_key: &str, explicit_hash_key: Option<u128>, size: usize) -> Pending<usize> {
    Pending { ticket, ..pending(partition_key, explicit_hash_key, vec![ticket as u8; size].into()) }
}

/// Returns a user record with this data.
pub(crate) fn pending(partition_key: &str, explicit_hash_key: Option<u128>, data: Bytes) -> Pending<usize> {
    let hash_key = explicit_hash_key.unwrap_or_else(|| crate::hash_key(partition_key));
    let entry = Entry::new(partition_key.into(), hash_key, explicit_hash_key.is_some(), data);
    Pending { entry, ticket: 0, put_at: ms(0), generation: 0, failed: FailedAttempts::default() }
}

/// Returns a Kinesis record of one user record, with `size` bytes including its key.
pub(crate) fn single(
    ticket: usize,
    slot: Option<u32>,
    size: usize,
    deadline: Instant,
    expiry: Instant,
) -> KinesisRecord<usize> {
    let user = Pending { put_at: deadline, ..user(ticket, "k", None, size - 1) };
    KinesisRecord::single(user, slot.map(shard), deadline, expiry)
}

pub(crate) fn tickets<'a>(records: impl IntoIterator<Item = &'a KinesisRecord<usize>>) -> Vec<usize> {
    records.into_iter().flat_map(|record| record.users.iter()).map(|packed| packed.user.ticket).collect()
}

/// Partition keys, with few and with many different values, and around the lengths where a protobuf length takes
/// another byte.
pub(crate) fn partition_keys() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]", "\\PC{1,40}", "k{126,130}", "[a-z]{2}"]
}

/// No explicit hash key, one of three, or any.
pub(crate) fn explicit_hash_keys() -> impl Strategy<Value = Option<u128>> {
    prop_oneof![Just(None), (0..3_u128).prop_map(Some), any::<u128>().prop_map(Some)]
}

/// Sizes of data: mostly small, and around those where a protobuf length takes another byte.
pub(crate) fn data_sizes() -> impl Strategy<Value = usize> {
    prop_oneof![20 => 0..8_usize, 4 => 120..135_usize, 1 => 16_370..16_390_usize]
}

/// Whether every window has at most the records and bytes of its length plus one second. The bytes of the last record
/// beyond one second do not count: it may leave the token bucket in debt.
pub(crate) fn keeps_rate_limit(sent: &[(Instant, usize)], records_per_second: u64, bytes_per_second: u64) -> bool {
    (0..sent.len()).all(|first| {
        let (start, _) = sent[first];
        let mut bytes = 0;
        sent[first..].iter().zip(1..).all(|((at, size), records)| {
            bytes += *size as u64;
            let seconds = at.saturating_since(start).as_secs_f64() + 1.0;
            let debt = (*size as u64).saturating_sub(bytes_per_second);
            f64::from(records) <= records_per_second as f64 * seconds + 1e-6
                && (bytes - debt) as f64 <= bytes_per_second as f64 * seconds + 1e-6
        })
    })
}

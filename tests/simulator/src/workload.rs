//! The user records of a run.

use std::hash::Hasher;
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use kpl_core::UserRecord;
use rustc_hash::FxHasher;

use crate::options::{Keys, Work};

/// The partition key of records of other producers.
pub(crate) const OTHERS: &str = "others";

/// Creates a user record that contains its ticket: in its data if there is room, else in its partition key.
pub(crate) fn record(
    work: &Work,
    rng: &mut Rng,
    ticket: u64,
    stream: &Arc<str>,
    shards: &[(String, (u128, u128))],
) -> UserRecord {
    let size = rng.usize(0..=work.size_max);
    let in_data = size >= 8;
    let mut data = vec![ticket as u8; size];
    if in_data {
        data[..8].copy_from_slice(&ticket.to_le_bytes());
    }
    let key = match work.keys {
        _ if !in_data => format!("#{ticket}"),
        Keys::Hot => "hot".into(),
        Keys::Few | Keys::Borders => format!("few-{}", rng.u8(0..=20)),
        Keys::Distinct => format!("distinct-{ticket}"),
    };
    let record = UserRecord::new(stream.clone(), key, data);
    match work.keys {
        Keys::Borders if !shards.is_empty() => {
            let (_, (first, last)) = shards[rng.usize(0..shards.len())];
            let keys = [first, last, first.saturating_add(1)];
            record.explicit_hash_key(keys[rng.usize(0..keys.len())].to_string())
        }
        _ if rng.u8(..) < work.explicit => record.explicit_hash_key(rng.u128(..).to_string()),
        _ => record,
    }
}

/// Returns the ticket of a user record that a consumer reads; `None` for records of other producers.
pub(crate) fn ticket_of(partition_key: &str, data: &[u8]) -> Option<u64> {
    if partition_key == OTHERS {
        return None;
    }
    match data.first_chunk() {
        Some(bytes) => Some(u64::from_le_bytes(*bytes)),
        None => partition_key.strip_prefix('#').and_then(|ticket| ticket.parse().ok()),
    }
}

/// Returns a hash of the partition key and the data.
pub(crate) fn fingerprint(partition_key: &str, data: &Bytes) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(partition_key.as_bytes());
    hasher.write(data);
    hasher.finish()
}

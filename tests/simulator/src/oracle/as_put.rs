use bytes::Bytes;
use kpl_core::UserRecord;

use super::{Check, Put, broken};
use crate::workload::fingerprint;

const PROMISE: &str = "a record is read, or returned to the caller, as it was put";

pub(super) fn returned(put: &Put, ticket: u64, record: &UserRecord) -> Check {
    let explicit = record.explicit_hash_key.as_ref().map(|key| key.parse().unwrap_or(0));
    let same = fingerprint(&record.partition_key, &record.data) == put.fingerprint
        && explicit == put.explicit_hash_key
        && record.stream.strip_prefix('s') == Some(put.stream.to_string().as_str());
    if same { Ok(()) } else { broken!("record {ticket} is returned as {record:?}") }
}

pub(super) fn read(
    put: &Put,
    ticket: u64,
    partition_key: &str,
    explicit_hash_key: Option<u128>,
    data: &Bytes,
) -> Check {
    if fingerprint(partition_key, data) != put.fingerprint {
        return broken!("record {ticket} is read with the key {partition_key:?} and {} bytes", data.len());
    }
    if explicit_hash_key != put.explicit_hash_key {
        return broken!(
            "record {ticket} has the explicit hash key {:?} and is read with {explicit_hash_key:?}",
            put.explicit_hash_key
        );
    }
    Ok(())
}

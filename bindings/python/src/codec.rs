//! The KPL's aggregation format, and hash keys.

use kpl_core::codec::proto::{self, AggregatedRecord, Tag};
use kpl_core::codec::{self, AggregatedUserRecord};
use prost::Message;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// A user record: partition key, data, explicit hash key.
type Record<'py> = (String, Bound<'py, PyBytes>, Option<u128>);

/// The tags of a user record: names, and values if they have any.
type Tags = Vec<(String, Option<String>)>;

/// Returns an aggregate of user records, as the KPL encodes it.
#[pyfunction]
pub(crate) fn encode_aggregated<'py>(py: Python<'py>, records: Vec<Record<'py>>) -> Bound<'py, PyBytes> {
    let records: Vec<AggregatedUserRecord> = records
        .into_iter()
        .map(|(partition_key, data, explicit_hash_key)| AggregatedUserRecord {
            partition_key: partition_key.into(),
            explicit_hash_key,
            data: data.as_bytes().to_vec().into(),
        })
        .collect();
    PyBytes::new(py, &codec::encode(&records))
}

/// Returns the message of an aggregate with tags, without the bytes around it.
#[pyfunction]
pub(crate) fn encode_message<'py>(py: Python<'py>, records: Vec<(Record<'py>, Tags)>) -> Bound<'py, PyBytes> {
    let mut message = AggregatedRecord::default();
    let index = |table: &mut Vec<String>, key: String| {
        let found = table.iter().position(|known| *known == key);
        found.unwrap_or_else(|| {
            table.push(key);
            table.len() - 1
        }) as u64
    };
    for ((partition_key, data, explicit_hash_key), tags) in records {
        let record = proto::Record {
            partition_key_index: index(&mut message.partition_key_table, partition_key),
            explicit_hash_key_index: explicit_hash_key
                .map(|key| index(&mut message.explicit_hash_key_table, key.to_string())),
            data: data.as_bytes().to_vec().into(),
            tags: tags.into_iter().map(|(key, value)| Tag { key, value }).collect(),
        };
        message.records.push(record);
    }
    PyBytes::new(py, &message.encode_to_vec())
}

/// Returns the tags of each user record of an aggregate; an empty list if no record has any.
#[pyfunction]
pub(crate) fn decode_tags(payload: &[u8]) -> Vec<Tags> {
    let end = payload.len().saturating_sub(codec::DIGEST_SIZE);
    let message = payload.get(codec::MAGIC.len()..end).and_then(|message| AggregatedRecord::decode(message).ok());
    let records = message.map(|message| message.records).unwrap_or_default();
    if records.iter().all(|record| record.tags.is_empty()) {
        return Vec::new();
    }
    let tags = |record: proto::Record| record.tags.into_iter().map(|Tag { key, value }| (key, value)).collect();
    records.into_iter().map(tags).collect()
}

/// Returns the user records of an aggregate. Raises ValueError if it is none, or damaged.
#[pyfunction]
pub(crate) fn decode_aggregated<'py>(py: Python<'py>, payload: &[u8]) -> PyResult<Vec<Record<'py>>> {
    let records = codec::decode(payload.to_vec()).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let record = |record: AggregatedUserRecord| {
        (record.partition_key.to_string(), PyBytes::new(py, &record.data), record.explicit_hash_key)
    };
    Ok(records.into_iter().map(record).collect())
}

/// Whether a payload begins as an aggregate and is long enough for one.
#[pyfunction]
pub(crate) fn is_aggregated(payload: &[u8]) -> bool {
    codec::is_aggregated(payload) && payload.len() >= codec::MAGIC.len() + codec::DIGEST_SIZE
}

/// Returns the MD5 of a partition key as a number.
#[pyfunction]
pub(crate) fn md5_hash_key(partition_key: &str) -> u128 {
    kpl_core::hash_key(partition_key)
}

//! The KPL's aggregation format, and hash keys.

use kpl_core::codec::{self, AggregatedUserRecord};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// A user record: partition key, data, explicit hash key.
type Record<'py> = (String, Bound<'py, PyBytes>, Option<u128>);

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

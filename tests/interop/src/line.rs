//! The format of the input and output of peers: one JSON value per line for each user record or Kinesis record.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kpl_core::UserRecord;
use kpl_core::codec::AggregatedUserRecord;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A user record, or a Kinesis record that a producer sends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) partition_key: String,
    /// The explicit hash key, in decimal.
    pub(crate) explicit_hash_key: Option<String>,
    #[serde(with = "blob")]
    pub(crate) data: Bytes,
}

/// A user record that a consumer reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Read {
    pub(crate) shard_id: String,
    pub(crate) sequence_number: String,
    pub(crate) sub_sequence_number: u64,
    pub(crate) partition_key: String,
    /// The explicit hash key, in decimal. `None` also if the consumer does not report it.
    pub(crate) explicit_hash_key: Option<String>,
    #[serde(with = "blob")]
    pub(crate) data: Bytes,
}

impl Record {
    pub(crate) fn new(partition_key: impl Into<String>, explicit_hash_key: Option<u128>, data: &[u8]) -> Self {
        let explicit_hash_key = explicit_hash_key.map(|key| key.to_string());
        Self { partition_key: partition_key.into(), explicit_hash_key, data: Bytes::copy_from_slice(data) }
    }

    /// Converts it to a record of kpl.
    pub(crate) fn record(&self, stream: &str) -> UserRecord {
        let record = UserRecord::new(stream, &*self.partition_key, self.data.clone());
        UserRecord { explicit_hash_key: self.explicit_hash_key.clone(), ..record }
    }
}

impl From<AggregatedUserRecord> for Record {
    fn from(record: AggregatedUserRecord) -> Self {
        Self {
            partition_key: record.partition_key.to_string(),
            explicit_hash_key: record.explicit_hash_key.map(|key| key.to_string()),
            data: record.data,
        }
    }
}

impl TryFrom<&Record> for AggregatedUserRecord {
    type Error = std::num::ParseIntError;

    fn try_from(user: &Record) -> Result<Self, Self::Error> {
        let explicit_hash_key = user.explicit_hash_key.as_ref().map(|key| key.parse()).transpose()?;
        Ok(Self { partition_key: (&*user.partition_key).into(), explicit_hash_key, data: user.data.clone() })
    }
}

/// Writes each item as a line.
pub(crate) fn write<T: Serialize>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| serde_json::to_string(&item).expect("only strings and numbers") + "\n").collect()
}

/// Parses each line as an item.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> anyhow::Result<Vec<T>> {
    let parse = |line: &str| serde_json::from_str(line).map_err(|error| anyhow::anyhow!("{error} in {line:.200}"));
    text.lines().map(parse).collect()
}

/// Serialization of bytes in base64.
pub(crate) mod blob {
    use super::{Bytes, Deserialize, Deserializer, Engine, STANDARD, Serializer};

    pub(crate) fn serialize<S: Serializer>(data: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(data))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(serde::de::Error::custom)
    }
}

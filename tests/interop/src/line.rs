//! What goes to and from peers: a line of JSON for each user record or Kinesis record.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kpl_core::UserRecord;
use kpl_core::codec::AggregatedUserRecord;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A user record, or a Kinesis record as a producer sends it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) partition_key: String,
    /// In decimal.
    pub(crate) explicit_hash_key: Option<String>,
    #[serde(with = "blob")]
    pub(crate) data: Bytes,
}

/// A user record as a consumer reads it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Read {
    pub(crate) shard_id: String,
    pub(crate) sequence_number: String,
    pub(crate) sub_sequence_number: u64,
    pub(crate) partition_key: String,
    /// In decimal; none also where the consumer does not tell it.
    pub(crate) explicit_hash_key: Option<String>,
    #[serde(with = "blob")]
    pub(crate) data: Bytes,
}

impl Record {
    pub(crate) fn new(partition_key: impl Into<String>, explicit_hash_key: Option<u128>, data: &[u8]) -> Self {
        let explicit_hash_key = explicit_hash_key.map(|key| key.to_string());
        Self { partition_key: partition_key.into(), explicit_hash_key, data: Bytes::copy_from_slice(data) }
    }

    /// For our producer.
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

/// Each as a line.
pub(crate) fn write<T: Serialize>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| serde_json::to_string(&item).expect("strings and numbers") + "\n").collect()
}

/// Each line as one.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> anyhow::Result<Vec<T>> {
    let parse = |line: &str| serde_json::from_str(line).map_err(|error| anyhow::anyhow!("{error} in {line:.200}"));
    text.lines().map(parse).collect()
}

/// Base64.
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

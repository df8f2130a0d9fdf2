//! Requests and replies, with the names and shapes of the API reference
//! (<https://docs.aws.amazon.com/kinesis/latest/APIReference/>).
//!
//! The JSON format is that of awsJson1_1: blobs in base64, times in seconds. The CBOR format is that of the SDKs for
//! Java: blobs as byte strings, times in milliseconds with tag 1.

#![expect(missing_docs, reason = "the fields are those of the API reference")]

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A request that names its stream, by name or by ARN.
pub trait Target {
    fn stream_name(&self) -> Option<&str>;
    fn stream_arn(&self) -> Option<&str>;
}

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident { $($(#[$meta:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        pub struct $name {
            pub stream_name: Option<String>,
            #[serde(rename = "StreamARN")]
            pub stream_arn: Option<String>,
            $($(#[$meta])* pub $field: $type,)*
        }

        impl $name {
            /// Creates a request to a stream by its name, with the defaults of all other fields.
            pub fn of(stream: impl Into<String>) -> Self {
                Self { stream_name: Some(stream.into()), ..Self::default() }
            }
        }

        impl Target for $name {
            fn stream_name(&self) -> Option<&str> {
                self.stream_name.as_deref()
            }
            fn stream_arn(&self) -> Option<&str> {
                self.stream_arn.as_deref()
            }
        }
    )*};
}

requests! {
    /// Deletes a stream with all its records.
    DeleteStream {}
    /// Describes a stream without its shards.
    DescribeStreamSummary {}
    /// Describes a stream with its shards. Clients that are older than ListShards use it.
    DescribeStream { limit: Option<i64>, exclusive_start_shard_id: Option<String>, }
    /// Lists the shards of a stream, in pages.
    ListShards {
        next_token: Option<String>,
        exclusive_start_shard_id: Option<String>,
        max_results: Option<i64>,
        shard_filter: Option<ShardFilter>,
    }
    /// Puts one record.
    PutRecord {
        partition_key: String,
        explicit_hash_key: Option<String>,
        #[serde(with = "blob")]
        data: Bytes,
    }
    /// Puts up to 500 records.
    PutRecords { records: Vec<PutRecordsEntry>, }
    /// Splits a shard into two.
    SplitShard { shard_to_split: String, new_starting_hash_key: String, }
    /// Merges two adjacent shards.
    MergeShards { shard_to_merge: String, adjacent_shard_to_merge: String, }
    /// Splits and merges shards until there are `target_shard_count` of equal size.
    UpdateShardCount { target_shard_count: i64, }
    /// Sets the maximum record size, in KiB.
    UpdateMaxRecordSize { #[serde(rename = "MaxRecordSizeInKiB")] max_record_size_in_kib: Option<i64>, }
    /// Sets whether keys choose the shards of records (`USER_PARTITION_KEY`) or Kinesis does (`AUTO`).
    UpdateStreamRecordDistributionStrategy { record_distribution_strategy: String, }
    /// Returns an iterator at a position of a shard.
    GetShardIterator {
        shard_id: String,
        shard_iterator_type: String,
        starting_sequence_number: Option<String>,
        #[serde(deserialize_with = "timestamp")] timestamp: Option<f64>,
    }
}

impl PutRecord {
    /// Creates a request that puts a record into a stream, by the stream's name.
    pub fn new(stream: impl Into<String>, partition_key: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self {
            stream_name: Some(stream.into()),
            partition_key: partition_key.into(),
            data: data.into(),
            ..Self::default()
        }
    }
}

/// Creates a stream.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateStream {
    pub stream_name: String,
    pub shard_count: Option<i64>,
    pub stream_mode_details: Option<StreamModeDetails>,
    #[serde(rename = "MaxRecordSizeInKiB")]
    pub max_record_size_in_kib: Option<i64>,
    pub record_distribution_strategy: Option<String>,
}

impl CreateStream {
    /// Creates a request for a stream with this number of shards.
    pub fn new(stream: impl Into<String>, shards: u32) -> Self {
        Self { stream_name: stream.into(), shard_count: Some(shards.into()), ..Self::default() }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StreamModeDetails {
    pub stream_mode: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ListStreams {
    pub limit: Option<i64>,
    pub exclusive_start_stream_name: Option<String>,
    pub next_token: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct GetRecords {
    pub shard_iterator: String,
    pub limit: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ShardFilter {
    pub r#type: String,
    pub shard_id: Option<String>,
    #[serde(deserialize_with = "timestamp")]
    pub timestamp: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct PutRecordsEntry {
    pub partition_key: String,
    pub explicit_hash_key: Option<String>,
    #[serde(with = "blob")]
    pub data: Bytes,
}

impl PutRecordsEntry {
    /// Returns the size that the limits of the service apply to: the bytes of the data and the partition key.
    pub fn size(&self) -> usize {
        self.data.len() + self.partition_key.len()
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PutRecordOutput {
    pub shard_id: String,
    pub sequence_number: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PutRecordsOutput {
    pub failed_record_count: usize,
    pub records: Vec<PutRecordsResult>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PutRecordsResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListStreamsOutput {
    pub has_more_streams: bool,
    pub stream_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_token: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListShardsOutput {
    pub shards: Vec<Shard>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_token: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Shard {
    pub shard_id: String,
    pub hash_key_range: HashKeyRange,
    pub sequence_number_range: SequenceNumberRange,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_shard_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adjacent_parent_shard_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HashKeyRange {
    #[serde(serialize_with = "decimal")]
    pub starting_hash_key: u128,
    #[serde(serialize_with = "decimal")]
    pub ending_hash_key: u128,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SequenceNumberRange {
    pub starting_sequence_number: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ending_sequence_number: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DescribeStreamSummaryOutput {
    pub stream_description_summary: StreamSummary,
}

/// The fields that are both in DescribeStreamSummary and in DescribeStream.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StreamSummary {
    pub stream_name: String,
    #[serde(rename = "StreamARN")]
    pub stream_arn: String,
    pub stream_status: &'static str,
    pub stream_mode_details: StreamModeDetails,
    pub retention_period_hours: u32,
    #[serde(serialize_with = "time")]
    pub stream_creation_timestamp: Duration,
    pub enhanced_monitoring: [EnhancedMonitoring; 1],
    pub encryption_type: &'static str,
    pub open_shard_count: usize,
    pub consumer_count: usize,
    #[serde(rename = "MaxRecordSizeInKiB")]
    pub max_record_size_in_kib: usize,
    pub record_distribution_strategy: &'static str,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct EnhancedMonitoring {
    pub shard_level_metrics: [String; 0],
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DescribeStreamOutput {
    pub stream_description: StreamDescription,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct StreamDescription {
    #[serde(flatten)]
    pub summary: StreamSummary,
    pub has_more_shards: bool,
    pub shards: Vec<Shard>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateShardCountOutput {
    pub stream_name: String,
    #[serde(rename = "StreamARN")]
    pub stream_arn: String,
    pub current_shard_count: usize,
    pub target_shard_count: usize,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetShardIteratorOutput {
    pub shard_iterator: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetRecordsOutput {
    pub records: Vec<Record>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_shard_iterator: Option<String>,
    pub millis_behind_latest: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub child_shards: Option<Vec<ChildShard>>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Record {
    pub sequence_number: String,
    #[serde(serialize_with = "time")]
    pub approximate_arrival_timestamp: Duration,
    #[serde(with = "blob")]
    pub data: Bytes,
    pub partition_key: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ChildShard {
    pub shard_id: String,
    pub parent_shards: Vec<String>,
    pub hash_key_range: HashKeyRange,
}

/// The empty reply of a successful request.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Done {}

fn decimal<S: Serializer>(hash_key: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(hash_key)
}

fn time<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // The service returns milliseconds.
    let millis = time.as_millis() as u64;
    if serializer.is_human_readable() {
        return serializer.serialize_f64(millis as f64 / 1_000.0);
    }
    #[cfg(feature = "http")]
    return ciborium::tag::Required::<u64, 1>(millis).serialize(serializer);
    #[cfg(not(feature = "http"))]
    serializer.serialize_u64(millis)
}

fn timestamp<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    if deserializer.is_human_readable() {
        return Option::deserialize(deserializer);
    }
    // The deserializer skips the tag.
    Ok(Option::<i64>::deserialize(deserializer)?.map(|millis| millis as f64 / 1_000.0))
}

/// Bytes: base64 in JSON, byte strings in CBOR.
mod blob {
    use std::fmt;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use serde::de::{Error, Visitor};

    use super::{Bytes, Cow, Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&STANDARD.encode(bytes))
        } else {
            serializer.serialize_bytes(bytes)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        if !deserializer.is_human_readable() {
            return deserializer.deserialize_byte_buf(BytesVisitor);
        }
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        let Text(text) = Text::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text.as_bytes()).map_err(Error::custom)?;
        Ok(bytes.into())
    }

    struct BytesVisitor;

    impl Visitor<'_> for BytesVisitor {
        type Value = Bytes;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a byte string")
        }

        fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
            Ok(bytes.into())
        }
    }
}

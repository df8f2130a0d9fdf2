//! The protobuf messages of the aggregation format, with derived prost code.
//!
//! The library's own encoder and decoder are written by hand. They save a pass over the data, and report the position
//! of every error. These messages are the reference for its tests, and let other programs build unusual aggregates.

use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;

/// The body of an aggregated record.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AggregatedRecord {
    /// The partition keys, each once, in the order of first use.
    #[prost(string, repeated, tag = "1")]
    pub partition_key_table: Vec<String>,
    /// The explicit hash keys in decimal, each once, in the order of first use.
    #[prost(string, repeated, tag = "2")]
    pub explicit_hash_key_table: Vec<String>,
    /// The user records.
    #[prost(message, repeated, tag = "3")]
    pub records: Vec<Record>,
}

/// A user record.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Record {
    /// The index of its partition key in the table.
    #[prost(uint64, required, tag = "1")]
    pub partition_key_index: u64,
    /// The index of its explicit hash key in the table.
    #[prost(uint64, optional, tag = "2")]
    pub explicit_hash_key_index: Option<u64>,
    /// The payload.
    #[prost(bytes = "bytes", required, tag = "3")]
    pub data: Bytes,
    /// The tags. The KPL does not use them.
    #[prost(message, repeated, tag = "4")]
    pub tags: Vec<Tag>,
}

/// A name and a value that belong to a user record. The KPL's format has tags, but no producer sets them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Tag {
    /// The name.
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

//! The protobuf messages of the aggregation format, as prost derives them.
//!
//! The library encodes and decodes by hand, in one pass and with the position of every error; these messages are the
//! reference that its tests compare with, and a way for others to build unusual aggregates.

use alloc::string::String;
use alloc::vec::Vec;

use bytes::Bytes;

/// The body of an aggregated record.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AggregatedRecord {
    /// Each partition key once, in the order of first use.
    #[prost(string, repeated, tag = "1")]
    pub partition_key_table: Vec<String>,
    /// Each explicit hash key once, in decimal, in the order of first use.
    #[prost(string, repeated, tag = "2")]
    pub explicit_hash_key_table: Vec<String>,
    /// The user records.
    #[prost(message, repeated, tag = "3")]
    pub records: Vec<Record>,
}

/// One user record.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Record {
    /// Its place in the table of partition keys.
    #[prost(uint64, required, tag = "1")]
    pub partition_key_index: u64,
    /// Its place in the table of explicit hash keys.
    #[prost(uint64, optional, tag = "2")]
    pub explicit_hash_key_index: Option<u64>,
    /// Its payload.
    #[prost(bytes = "bytes", required, tag = "3")]
    pub data: Bytes,
    /// Unused by the KPL.
    #[prost(message, repeated, tag = "4")]
    pub tags: Vec<Tag>,
}

/// A name and a value at a user record. The KPL's format has them; no producer sets them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Tag {
    /// Its name.
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

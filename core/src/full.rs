//! Why a put has to wait.

use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;

/// What has no room for another record: see [`PutError::Full`](crate::PutError::Full).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Full {
    /// As many records or bytes are outstanding as `max_outstanding_records` and `max_outstanding_bytes` allow.
    #[error("the producer is full: {records} records and {bytes} bytes are outstanding")]
    Producer {
        /// The number of records outstanding.
        records: usize,
        /// The number of bytes outstanding.
        bytes: usize,
    },
    /// The backlog of the record's shard is as long as `max_shard_backlog` allows, or takes more of the producer than is left
    /// for others. Records for other shards are accepted.
    #[error("{shard} is full: its backlog takes {backlog:.1?}")]
    Shard {
        /// The shard.
        shard: ShardName,
        /// The time that the backlog takes at half the shard's present pace.
        backlog: Duration,
    },
}

/// A shard of a stream, or the stream as a whole while its shards are not known or its keys do not count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct ShardName {
    /// The stream's name or ARN, as it was put.
    pub stream: Arc<str>,
    /// The shard's id; `None` for the stream as a whole.
    pub shard_id: Option<Arc<str>>,
}

impl ShardName {
    /// Creates the name of a shard, or of a stream as a whole.
    pub fn new(stream: impl Into<Arc<str>>, shard_id: Option<Arc<str>>) -> Self {
        Self { stream: stream.into(), shard_id }
    }
}

impl fmt::Display for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shard_id {
            Some(shard_id) => write!(f, "{shard_id} of the stream {}", self.stream),
            None => write!(f, "the stream {}", self.stream),
        }
    }
}

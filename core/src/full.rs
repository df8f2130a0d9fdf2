//! The reasons for which a put has to wait.

use alloc::sync::Arc;
use core::fmt;
use core::time::Duration;

/// The reason for [`PutError::Full`](crate::PutError::Full).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Full {
    /// The producer has reached `max_outstanding_records` or `max_outstanding_bytes`.
    #[error("the producer is full: {records} records and {bytes} bytes are outstanding")]
    Producer {
        /// The number of outstanding records.
        records: usize,
        /// The number of outstanding bytes.
        bytes: usize,
    },
    /// The backlog of the record's shard has reached `max_shard_backlog`, or has more records or bytes than the
    /// producer's free room. Records for other shards are accepted.
    #[error("{shard} is full: its backlog takes {backlog:.1?}")]
    Shard {
        /// The shard.
        shard: ShardName,
        /// The time that the backlog takes at half the shard's current rate.
        backlog: Duration,
    },
}

/// A shard of a stream. Without a shard ID, it means the whole stream: the record's shard is not known, or the stream
/// ignores keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct ShardName {
    /// The stream's name or ARN, as in the record.
    pub stream: Arc<str>,
    /// The shard's ID; `None` for the whole stream.
    pub shard_id: Option<Arc<str>>,
}

impl ShardName {
    /// Creates the name of a shard; without `shard_id`, that of the whole stream.
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

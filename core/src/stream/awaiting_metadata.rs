//! The first records of a stream, which wait for the stream's metadata.

use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use hashbrown::HashMap;

use crate::config::{Config, Ordering, RecordDistribution};
use crate::context::user_records_per_kinesis_record;
use crate::put_buffer::Room;
use crate::record::kinesis_record::Pending;
use crate::stream::sequencer::assumed_time_of;
use crate::stream::shard_rate::{RateLimit, ShardRate};
use crate::time::Instant;

/// Records in the order of their puts, with their deadlines.
///
/// All of them may belong to one shard, so the limit of one shard's backlog applies.
#[derive(Debug)]
pub(super) struct AwaitingMetadata<T> {
    records: Vec<(Pending<T>, Instant)>,
    bytes: usize,
    /// With [`Ordering::PerKey`], the number of records of each hash key, and the largest of these numbers, if the records
    /// may have to be sent without aggregation.
    per_hash_key: HashMap<u128, u32>,
    longest: u32,
    /// Whether a put was refused.
    pub(super) has_refused: bool,
}

impl<T> Default for AwaitingMetadata<T> {
    fn default() -> Self {
        Self { records: Vec::new(), bytes: 0, per_hash_key: HashMap::new(), longest: 0, has_refused: false }
    }
}

impl<T> AwaitingMetadata<T> {
    pub(super) fn push(&mut self, user: Pending<T>, deadline: Instant, config: &Config) {
        let is_aggregated = config.aggregation_enabled() && config.record_distribution() != RecordDistribution::Detect;
        if config.ordering() == Ordering::PerKey && !is_aggregated {
            let length = self.per_hash_key.entry(user.entry.hash_key()).or_default();
            *length += 1;
            self.longest = self.longest.max(*length);
        }
        self.bytes += user.entry.size();
        self.records.push((user, deadline));
    }

    /// Removes and returns all records.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (Pending<T>, Instant)> + use<T> {
        (self.bytes, self.longest) = (0, 0);
        self.per_hash_key = HashMap::new();
        mem::take(&mut self.records).into_iter()
    }

    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.records.first().map(|(_, deadline)| *deadline)
    }

    /// Whether there are so many records that puts are checked against the limit.
    pub(super) fn has_long_backlog(&self, config: &Config) -> bool {
        !self.records.is_empty() && self.backlog(config) > config.start_backlog_limit() / 4
    }

    /// Refuses a put if there are too many records, as [`Limiter::refuse`](super::limiter::Limiter::refuse) does.
    /// Returns how long the records take if the put is refused.
    pub(super) fn refuse(&mut self, room: Room, config: &Config) -> Option<Duration> {
        let (backlog, limit) = (self.backlog(config), config.start_backlog_limit());
        let is_long = backlog > limit / 4;
        let is_full = backlog > limit || is_long && (self.records.len() > room.records || self.bytes > room.bytes);
        self.has_refused |= is_full;
        is_full.then_some(backlog)
    }

    /// Records that a put was refused. Returns how long the records take.
    pub(super) fn note_refused(&mut self, config: &Config) -> Duration {
        self.has_refused = true;
        self.backlog(config)
    }

    /// Returns how long the records take if all of them belong to one shard, at half the shard's rate.
    ///
    /// Aggregated, they are few Kinesis records, unless there is no shard list: then each hash key needs its own. The
    /// time is two thirds of what they need then. With the default settings, 22,500 records are
    /// accepted, which one shard takes in 22.5 s.
    fn backlog(&self, config: &Config) -> Duration {
        let kinesis_records = self.records.len() / user_records_per_kinesis_record(config);
        let rate = RateLimit::of_shard(config);
        let at_half_rate =
            ShardRate::new().time_for(Instant::from_nanos(0), kinesis_records, self.bytes, rate).saturating_mul(2);
        at_half_rate.max(assumed_time_of(self.longest))
    }
}

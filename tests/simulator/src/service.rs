//! The service of a world: the emulator's model of Kinesis, with additional faults in its replies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kpl_core::{Delivery, Instant, ListShardsRequest, ListedShard, Reply, RequestError, ShardPage, StreamSummary};
use kpl_emulator::api::{
    CreateStream, DeleteStream, ListShards, MergeShards, PutRecordsEntry, SplitShard,
    UpdateStreamRecordDistributionStrategy,
};
use kpl_emulator::{Faults, Kinesis};
use kpl_testing::wire;

use crate::choices::Choices;
use crate::options::{self, Options};
use crate::workload::OTHERS;

/// Error codes of refused requests that are retried.
const TRANSIENT: [&str; 5] =
    ["ExpiredTokenException", "ThrottlingException", "InternalFailure", "KMSThrottlingException", "SomethingNew"];
/// Error codes of refused requests that are not retried.
const PERMANENT: [&str; 3] = [DENIED, "KMSDisabledException", "UnknownOperationException"];
pub(crate) const DENIED: &str = "AccessDeniedException";
/// The same by a gateway, and throttling by it.
pub(crate) const GATEWAY_DENIED: &str = "HTTP 403";
pub(crate) const GATEWAY_THROTTLED: &str = "HTTP 429";

/// Whether records that fail with this code are not retried, unless `retry_if_denied` says so.
pub(crate) fn is_permanent(code: &str) -> bool {
    PERMANENT.contains(&code) || code == GATEWAY_DENIED
}

#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) kinesis: Kinesis,
    options: options::Service,
    pub(crate) streams: Vec<Stream>,
    healed: bool,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) name: Arc<str>,
    shards: u32,
    pub(crate) exists: bool,
    /// The number of times that a stream of this name was created.
    pub(crate) incarnation: u32,
    auto: bool,
    created_at: Instant,
    /// The open shards before each reshard.
    past: Vec<Vec<ListedShard>>,
}

impl Service {
    pub(crate) fn new(now: Instant, options: &Options) -> Self {
        let service = &options.service;
        let mut kinesis = Kinesis::new(kpl_emulator::Options {
            seed: options.config.seed,
            oversized_record_fails_alone: service.oversized_fails_alone,
            ..Default::default()
        });
        kinesis.set_faults(Faults {
            throttle_rate: f64::from(service.throttle) / 256.0,
            internal_failure_rate: f64::from(service.internal_failure) / 256.0,
            ..Faults::default()
        });
        let streams = (0..options.work.streams).map(|n| Stream {
            name: format!("s{n}").into(),
            shards: options.work.shards,
            exists: false,
            incarnation: 0,
            auto: service.auto,
            created_at: now,
            past: Vec::new(),
        });
        let mut this = Self { kinesis, options: service.clone(), streams: streams.collect(), healed: false };
        for stream in 0..this.streams.len() {
            this.create(now, stream);
        }
        this
    }

    /// Ends all faults.
    pub(crate) fn heal(&mut self, now: Instant) {
        self.healed = true;
        self.kinesis.set_faults(Faults::default());
        for stream in 0..self.streams.len() {
            self.create(now, stream);
        }
    }

    pub(crate) fn index_of(&self, name: &str) -> usize {
        // There are at most 5 streams.
        self.streams.iter().position(|stream| &*stream.name == name).unwrap_or(0)
    }

    /// Returns the maximum size of a record in bytes.
    pub(crate) fn record_size_max(&self) -> usize {
        self.options.record_kib.map_or(1 << 20, |kib| kib * 1_024)
    }

    /// Returns the error if the request is refused as a whole.
    pub(crate) fn refusal(
        &self,
        now: Instant,
        stream: usize,
        records: &[PutRecordsEntry],
        c: &mut Choices<'_, '_>,
    ) -> Option<RequestError> {
        let refused = |code: &str| Some(RequestError::new(Delivery::Refused, code, "injected fault"));
        let size = || records.iter().map(PutRecordsEntry::size).sum::<usize>();
        if self.healed {
            return None;
        }
        if self.options.request_size_max.is_some_and(|max| size() > max) {
            return refused("HTTP 413");
        }
        if now < self.streams[stream].created_at + self.options.unknown_for && c.chance(128) {
            return refused("ResourceNotFoundException");
        }
        if !c.chance(self.options.refused) {
            return None;
        }
        let code = if self.options.permanent { c.pick(&PERMANENT) } else { c.pick(&TRANSIENT) };
        refused(match code {
            DENIED if self.options.status_only => GATEWAY_DENIED,
            "ThrottlingException" if self.options.status_only => GATEWAY_THROTTLED,
            code => code,
        })
    }

    pub(crate) fn put_records(&mut self, now: Instant, stream: &str, records: Vec<PutRecordsEntry>) -> Reply {
        wire::put_records(&mut self.kinesis, wall(now), stream, records)
    }

    pub(crate) fn list_shards(
        &mut self,
        now: Instant,
        request: &ListShardsRequest,
        c: &mut Choices<'_, '_>,
    ) -> Result<ShardPage, RequestError> {
        if self.options.list_denied && !self.healed {
            return Err(RequestError::new(Delivery::Refused, "AccessDeniedException", "no permission to list"));
        }
        let fails = if self.healed { 0 } else { self.options.list_fails };
        if c.chance(fails) {
            return Err(if c.chance(128) {
                crate::network::timeout()
            } else {
                RequestError::new(Delivery::Refused, "LimitExceededException", "injected fault")
            });
        }
        let small_pages = self.options.small_pages && !self.healed;
        let page_size = if small_pages { Some(c.int(1..=3)) } else { None };
        let ShardPage { mut shards, next_token } = wire::list_shards(&self.kinesis, wall(now), request, page_size)?;
        if !self.healed && c.chance(self.options.list_wrong) {
            let past = &self.streams[self.index_of(&request.stream)].past;
            let old = || past.last().cloned().unwrap_or_default();
            match c.int(0..=2) {
                0 if !past.is_empty() => shards = past[c.int(0..=past.len() - 1)].clone(),
                1 => shards.extend(old()),
                _ if shards.len() > 1 => drop(shards.swap_remove(c.int(0..=shards.len() - 1))),
                _ => {}
            }
        }
        Ok(ShardPage { shards, next_token })
    }

    pub(crate) fn describe(
        &mut self,
        now: Instant,
        stream: &str,
        c: &mut Choices<'_, '_>,
    ) -> Result<StreamSummary, RequestError> {
        let fails = if self.healed { 0 } else { self.options.describe_fails };
        if c.chance(fails) {
            return Err(if c.chance(128) {
                crate::network::timeout()
            } else {
                RequestError::new(Delivery::Refused, "AccessDeniedException", "no permission to describe")
            });
        }
        wire::describe_stream(&self.kinesis, wall(now), stream)
    }

    /// Returns the open shards of a stream with their ranges, ordered by range.
    pub(crate) fn open_shards(&self, stream: usize) -> Vec<(String, (u128, u128))> {
        let shards = self.kinesis.open_shards(&self.streams[stream].name);
        shards.map(|(id, range)| (id.to_owned(), range)).collect()
    }

    /// Splits a shard or merges two. Returns a description.
    pub(crate) fn reshard(&mut self, now: Instant, stream: usize, c: &mut Choices<'_, '_>) -> Option<String> {
        let shards = self.open_shards(stream);
        if shards.is_empty() {
            return None;
        }
        let at = c.int(0..=shards.len() - 1);
        let (id, (first, last)) = &shards[at];
        let name = self.streams[stream].name.to_string();
        self.save_open_shards(now, stream);
        if c.chance(128) || shards.len() == at + 1 {
            let request = SplitShard {
                stream_name: Some(name),
                shard_to_split: id.clone(),
                new_starting_hash_key: (first + (last - first) / c.int(2..=5)).to_string(),
                stream_arn: None,
            };
            self.kinesis.split_shard(wall(now), &request).ok()?;
            Some(format!("{id} is split"))
        } else {
            let other = &shards[at + 1].0;
            let request = MergeShards {
                stream_name: Some(name),
                shard_to_merge: id.clone(),
                adjacent_shard_to_merge: other.clone(),
                stream_arn: None,
            };
            self.kinesis.merge_shards(wall(now), &request).ok()?;
            Some(format!("{id} and {other} are merged"))
        }
    }

    /// Creates a stream if it does not exist.
    pub(crate) fn create(&mut self, now: Instant, stream: usize) {
        let Stream { name, shards, exists, incarnation, auto, past, created_at } = &mut self.streams[stream];
        if *exists {
            return;
        }
        *created_at = now;
        // A stream that is created again may have another number of shards.
        let shards = *shards + *incarnation % 3;
        let request = CreateStream {
            record_distribution_strategy: auto.then(|| "AUTO".to_owned()),
            ..CreateStream::new(&**name, shards)
        };
        *exists = self.kinesis.create_stream(wall(now), &request).is_ok();
        *incarnation += 1;
        past.clear();
        if let Some(kib) = self.options.record_kib {
            self.kinesis.limit_record_size(name, kib);
        }
    }

    pub(crate) fn delete(&mut self, stream: usize) {
        let Stream { name, exists, .. } = &mut self.streams[stream];
        *exists = false;
        let _ = self.kinesis.delete_stream(&DeleteStream::of(&**name));
    }

    /// Switches the record distribution of a stream between hash keys and `AUTO`. Returns whether it is `AUTO`.
    pub(crate) fn switch_auto(&mut self, stream: usize) -> bool {
        let Stream { name, auto, .. } = &mut self.streams[stream];
        *auto = !*auto;
        let request = UpdateStreamRecordDistributionStrategy {
            stream_name: Some(name.to_string()),
            stream_arn: None,
            record_distribution_strategy: if *auto { "AUTO" } else { "USER_PARTITION_KEY" }.into(),
        };
        let _ = self.kinesis.update_record_distribution(&request);
        *auto
    }

    /// Puts records of other producers, which use the shards' throughput.
    pub(crate) fn put_by_other_producers(&mut self, now: Instant) {
        for stream in 0..self.streams.len() {
            for (_, (first, _)) in self.open_shards(stream).into_iter().take(20) {
                let record = PutRecordsEntry {
                    partition_key: OTHERS.into(),
                    explicit_hash_key: Some(first.to_string()),
                    data: Bytes::from_static(&[0; 100_000]),
                };
                // The result does not matter: the record may be throttled.
                let _ = self.put_records(now, &self.streams[stream].name.clone(), vec![record]);
            }
        }
    }

    fn save_open_shards(&mut self, now: Instant, stream: usize) {
        let open = self.kinesis.list_shards(wall(now), &ListShards::of(&*self.streams[stream].name));
        let shards = open.map(|page| page.shards).unwrap_or_default().into_iter().map(wire::listed_shard);
        self.streams[stream].past.push(shards.filter(|shard| !shard.closed).collect());
    }
}

/// Returns the same time on the service's clock.
fn wall(now: Instant) -> Duration {
    Duration::from_nanos(now.as_nanos())
}

//! The metadata of a stream, and the requests for it.

use alloc::string::String;
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use super::Stream;
use crate::action::{Action, DescribeStreamRequest, ListShardsRequest, LogEvent};
use crate::config::{Config, Consumers, RecordDistribution};
use crate::context::Context;
use crate::limits;
use crate::record::kinesis_record::{KinesisRecord, ShardRef};
use crate::reply::{Delivery, ListedShard, RequestError, ShardPage, StreamSummary};
use crate::stream::classify::{ErrorClass, RESOURCE_NOT_FOUND, classify};
use crate::stream::limiter::WHOLE_STREAM;
use crate::stream::refresh::{Failure, RefreshSchedule};
use crate::stream::shard_map::{MapChange, ShardMap};
use crate::time::Instant;

/// The maximum number of pages of one shard list, against endless lists. A page has up to 1,000 shards.
const SHARD_PAGES_MAX: usize = 1_000;

/// The number of misrouted Kinesis records since the last description after which the description is requested again:
/// the stream may ignore keys now.
const WRONG_SHARDS_TO_DESCRIBE: usize = 10;

/// While records depend on the description, it is requested again after this time.
const DESCRIPTION_VALID_FOR: Duration = Duration::from_secs(60);

/// The metadata of a stream, from the service or the config.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) map: ShardMap,
    shards: RefreshSchedule,
    /// The shards on the received pages of the list in flight.
    listed: Vec<ListedShard>,
    pages: usize,
    /// Whether the next list has closed shards, too.
    include_closed: bool,
    description: RefreshSchedule,
    max_record_size: usize,
    auto_distribution: bool,
    /// Whether `auto_distribution` is from the config or the stream's description, not a guess.
    distribution_known: bool,
    wrong_shards: usize,
    /// Whether records wait for the first replies.
    starting: bool,
    /// The time until which records wait for the shard list.
    start_by: Instant,
    /// The error of the last failed request for the shard list.
    shards_error: Option<RequestError>,
    /// Whether a request for the description failed.
    description_failed: bool,
    /// Whether the description was refused for good.
    description_refused: bool,
    /// Whether the last reply that tells it says that the stream exists.
    stream_exists: bool,
}

impl Metadata {
    pub(super) fn new<T>(now: Instant, context: &mut Context<T>) -> Self {
        let config = &context.config;
        let distribution = config.record_distribution();
        let auto = distribution == RecordDistribution::Auto;
        let max_record_size = config.max_record_size();
        let described = distribution != RecordDistribution::Detect && max_record_size.is_some();
        Self {
            map: ShardMap::default(),
            shards: RefreshSchedule::new(if auto { Instant::NEVER } else { now }),
            listed: Vec::new(),
            pages: 0,
            include_closed: false,
            description: RefreshSchedule::new(if described {
                Instant::NEVER
            } else {
                context.reserve_description(now)
            }),
            // Until the description is known, the service's hard limit: larger records that it refuses are handled.
            max_record_size: max_record_size.unwrap_or(limits::RECORD_SIZE_MAX),
            auto_distribution: auto,
            distribution_known: distribution != RecordDistribution::Detect,
            wrong_shards: 0,
            starting: !(auto && described),
            start_by: now + context.config.start_wait(),
            shards_error: None,
            description_failed: false,
            description_refused: false,
            stream_exists: false,
        }
    }

    /// Whether records wait for metadata, until [`wait_ends`](Self::wait_ends).
    pub(super) fn is_awaited(&self) -> bool {
        self.starting
    }

    /// Returns when records whose first deadline is `deadline` stop waiting: for the shard list, and for a description
    /// that they need, up to `start_timeout`; for a description that they do not need, at their deadline.
    pub(super) fn wait_ends(&self, deadline: Instant) -> Instant {
        let is_needed = self.shards.awaits_first_reply() || self.needs_description();
        if is_needed { self.start_by } else { self.start_by.min(deadline) }
    }

    /// Whether records wait for a reply. They wait for a second request for the description only if they need it.
    fn is_awaiting_replies(&self) -> bool {
        let awaits_description = self.description.awaits_first_reply();
        self.shards.awaits_first_reply() || awaits_description && (!self.description_failed || self.needs_description())
    }

    /// Whether records cannot be aggregated without the description: without a shard list, only it says whether the
    /// stream ignores keys.
    fn needs_description(&self) -> bool {
        self.map.open_shards() == 0 && !self.distribution_known
    }

    /// Whether the stream exists, as far as replies about its metadata show.
    pub(super) fn stream_exists(&self) -> bool {
        self.stream_exists
    }

    /// Whether the stream ignores keys.
    pub(super) fn ignores_keys(&self) -> bool {
        self.auto_distribution
    }

    pub(super) fn max_record_size(&self) -> usize {
        self.max_record_size
    }

    /// Returns the shard of `hash_key`, if it is known and the stream does not ignore keys.
    pub(super) fn shard(&self, hash_key: u128) -> Option<&ShardRef> {
        if self.auto_distribution { None } else { self.map.shard(hash_key) }
    }

    pub(super) fn is_request_in_flight(&self) -> bool {
        self.shards.is_in_flight() || self.description.is_in_flight()
    }

    /// Whether records may be aggregated, given the `shard` of a record. Consumers drop user records outside their
    /// shard's range. Without a shard, those of one hash key are in it, unless the stream ignores keys.
    pub(super) fn can_aggregate(&self, shard: Option<&ShardRef>, config: &Config) -> bool {
        config.aggregation_enabled()
            && !self.auto_distribution
            && (shard.is_some() || self.distribution_known || config.consumers() == Consumers::AnyShard)
    }

    pub(super) fn next_refresh(&self) -> Instant {
        self.shards.next().min(self.description.next())
    }

    /// Requests new metadata after a record sent at `sent` was stored on another shard than predicted.
    pub(super) fn note_misrouted<T>(&mut self, now: Instant, sent: Instant, context: &Context<T>) {
        if self.auto_distribution {
            return;
        }
        self.shards.request(now, sent);
        self.wrong_shards += 1;
        if self.wrong_shards >= WRONG_SHARDS_TO_DESCRIBE
            && context.config.record_distribution() == RecordDistribution::Detect
        {
            self.description.request(now, sent);
        }
    }

    /// Requests a new shard list after a reply named an unknown shard. The list includes closed shards, since that
    /// shard may already be closed again.
    pub(super) fn note_unknown_shard(&mut self, now: Instant) {
        self.include_closed = true;
        self.shards.request(now, now);
    }

    /// Retries metadata requests sooner after the service accepted a record without a predicted shard.
    pub(super) fn note_reachable(&mut self, now: Instant) {
        self.shards.expedite(now);
        self.description.expedite(now);
    }

    /// Requests an old description again while records depend on it: while they wait for the rate limit of the stream as a
    /// whole, which the number of shards sets, or fail because the stream ignores keys.
    pub(super) fn note_description_used(&mut self, now: Instant) {
        let is_old = self.description.last_answered_at().is_some_and(|at| at + DESCRIPTION_VALID_FOR <= now);
        if is_old && !self.description_refused {
            self.description.request(now, now);
        }
    }
}

impl<T> Stream<T> {
    /// Sends the metadata requests that are due at `now`, as far as `max_in_flight_requests` allows.
    pub(super) fn send_refreshes(&mut self, now: Instant, context: &mut Context<T>) {
        if context.abandoned {
            return;
        }
        if context.slots.has_free_for_metadata() && self.metadata.shards.take_due(now) {
            self.metadata.listed.clear();
            self.metadata.pages = 0;
            self.list_shards(None, context);
        }
        if context.slots.has_free_for_metadata() && self.metadata.description.take_due(now) {
            context.slots.take_for_metadata();
            let request = DescribeStreamRequest { stream: self.name.clone() };
            context.actions.push_back(Action::DescribeStream(request));
        }
    }

    /// Handles a page of the shard list; after the last page, applies the list.
    pub(crate) fn on_shards(&mut self, now: Instant, reply: Result<ShardPage, RequestError>, context: &mut Context<T>) {
        if !self.metadata.shards.is_in_flight() {
            return; // a reply to another producer's request
        }
        context.slots.free_of_metadata();
        let page = match reply {
            Ok(page) => page,
            Err(error) => return self.shards_failed(now, error, context),
        };
        let metadata = &mut self.metadata;
        metadata.listed.extend(page.shards);
        metadata.pages += 1;
        match page.next_token {
            Some(_) if metadata.pages >= SHARD_PAGES_MAX => {
                let message = alloc::format!("the list has more than {SHARD_PAGES_MAX} pages");
                self.shards_failed(now, RequestError::new(Delivery::Refused, "Too Many Pages", message), context);
            }
            Some(token) => self.list_shards(Some(token), context),
            None if metadata.listed.iter().all(|shard| shard.closed) => {
                let error = RequestError::new(Delivery::Refused, "No Shards", "the list has no open shard");
                self.shards_failed(now, error, context);
            }
            None => {
                metadata.shards.succeeded();
                metadata.stream_exists = true;
                self.apply_shard_list(now, context);
            }
        }
    }

    /// Handles the stream's description.
    pub(crate) fn on_description(
        &mut self,
        now: Instant,
        reply: Result<StreamSummary, RequestError>,
        context: &mut Context<T>,
    ) {
        let metadata = &mut self.metadata;
        if !metadata.description.is_in_flight() {
            return; // a reply to another producer's request
        }
        context.slots.free_of_metadata();
        let awaits_first_reply = metadata.description.awaits_first_reply();
        match reply {
            Ok(summary) => {
                metadata.description.succeeded();
                metadata.description.settle();
                metadata.stream_exists = true;
                metadata.wrong_shards = 0;
                if context.config.max_record_size().is_none() {
                    let size = summary.max_record_size.unwrap_or(limits::RECORD_SIZE_DEFAULT);
                    metadata.max_record_size = size.clamp(1_024, limits::RECORD_SIZE_MAX);
                }
                if context.config.record_distribution() == RecordDistribution::Detect {
                    if metadata.auto_distribution && !summary.auto_distribution {
                        // Keys count again, and the shards may have changed.
                        metadata.shards.request(now, now);
                    }
                    metadata.auto_distribution = summary.auto_distribution;
                    metadata.distribution_known = true;
                }
                if let Some(shards) = summary.open_shards {
                    self.shard_count.set_known(shards);
                    self.limiter.set_stream_shards(self.shard_count.shards());
                }
                context.log(LogEvent::StreamDescribed {
                    stream: self.name.clone(),
                    max_record_size: metadata.max_record_size,
                    auto_distribution: metadata.auto_distribution,
                });
                if self.is_order_impossible() {
                    self.fail_all_unordered(now, context);
                }
            }
            Err(error) => {
                // Without permission, or for a stream that does not exist, the defaults apply.
                metadata.description_failed = true;
                metadata.stream_exists &= !is_refused_as(&error, ErrorClass::NotFound);
                let retry_in = if is_refused_for_good(&error) {
                    metadata.description.succeeded();
                    metadata.description_refused = true;
                    None
                } else {
                    metadata.description.failed(now, Failure::of(&error), &mut context.rng)
                };
                if awaits_first_reply && context.config.max_record_size().is_none() {
                    metadata.max_record_size = limits::RECORD_SIZE_DEFAULT;
                }
                context.log(LogEvent::RefreshFailed {
                    stream: self.name.clone(),
                    operation: "DescribeStreamSummary",
                    code: error.code,
                    message: error.message,
                    retry_in,
                });
            }
        }
        self.start(now, context);
    }

    /// Discards the metadata and requests it again, after the service reported that the stream does not exist: a new
    /// stream of the same name may have other shards.
    pub(super) fn on_stream_not_found(&mut self, now: Instant, context: &mut Context<T>) {
        if self.metadata.auto_distribution {
            return;
        }
        let change = self.metadata.map.clear();
        self.reroute(now, change, context);
        self.metadata.shards.request(now, now);
        if context.config.record_distribution() == RecordDistribution::Detect {
            self.metadata.description.request(now, now);
        }
    }

    /// Requests a page of the shard list. The next page takes the slot of the one before.
    fn list_shards(&mut self, next_token: Option<String>, context: &mut Context<T>) {
        context.slots.take_for_metadata();
        context.actions.push_back(Action::ListShards(ListShardsRequest {
            stream: self.name.clone(),
            next_token,
            include_closed: self.metadata.include_closed,
        }));
    }

    fn shards_failed(&mut self, now: Instant, error: RequestError, context: &mut Context<T>) {
        let failure =
            if is_refused_as(&error, ErrorClass::Throttled) { Failure::Throttled } else { Failure::of(&error) };
        let Some(retry_in) = self.metadata.shards.failed(now, failure, &mut context.rng) else { return };
        self.metadata.stream_exists &= !is_refused_as(&error, ErrorClass::NotFound);
        if is_refused_for_good(&error) {
            self.metadata.shards.give_up_waiting();
        }
        self.metadata.shards_error = Some(error.clone());
        context.log(LogEvent::RefreshFailed {
            stream: self.name.clone(),
            operation: "ListShards",
            code: error.code,
            message: error.message,
            retry_in: Some(retry_in),
        });
        self.start(now, context);
    }

    fn apply_shard_list(&mut self, now: Instant, context: &mut Context<T>) {
        let had_closed = mem::take(&mut self.metadata.include_closed);
        let listed = mem::take(&mut self.metadata.listed);
        let change = self.metadata.map.replace(now, listed);
        let is_complete = change.is_complete;
        let closed = change.closed.len();
        let moved = self.reroute(now, change, context);
        context.log(LogEvent::ShardMapRefreshed {
            stream: self.name.clone(),
            open: self.metadata.map.open_shards(),
            closed,
            moved,
        });
        let all_verified = self.verify_misrouted(now, had_closed && is_complete, context);
        self.metadata.include_closed = !all_verified;
        if is_complete && all_verified {
            self.metadata.shards.settle();
        } else {
            self.metadata.shards.request_after_backoff(now, &mut context.rng);
        }
        self.start(now, context);
    }

    /// Routes the records again that wait for closed or changed shards or have no shard. Returns the number of user
    /// records.
    fn reroute(&mut self, now: Instant, change: MapChange, context: &mut Context<T>) -> usize {
        let MapChange { closed: mut slots, forgotten, .. } = change;
        let has_shards = self.metadata.map.open_shards() > 0;
        if has_shards {
            // Records whose shard was not known.
            slots.push(WHOLE_STREAM);
        }
        // The oldest records of a shard first.
        let mut records: Vec<KinesisRecord<T>> = Vec::new();
        for slot in &slots {
            self.take_waiting(now, *slot, &mut records, context);
        }
        let in_doubt = self.take_sequenced(now, &slots, &mut records);
        for slot in slots {
            records.extend(self.aggregator.close(slot));
        }
        if has_shards {
            records.extend(self.hash_key_aggregator.close_all());
            self.count_upstream(now, WHOLE_STREAM);
        }
        if let Some(metrics) = &mut self.metrics {
            metrics.forget(&forgotten);
        }
        for slot in forgotten {
            self.limiter.forget(slot);
            if let Some(sequencer) = &mut self.sequencer {
                sequencer.forget(slot);
            }
        }
        let mut moved = 0;
        for record in records {
            let deadline = record.deadline;
            for user in record.into_users() {
                moved += 1;
                self.route(now, user, deadline, context);
            }
        }
        for range in in_doubt {
            self.send_ready(now, range, context);
        }
        moved
    }

    /// Moves the backlog of a shard to `records`.
    pub(super) fn take_waiting(
        &mut self,
        now: Instant,
        slot: u32,
        records: &mut Vec<KinesisRecord<T>>,
        context: &mut Context<T>,
    ) {
        let (waiting, refused) = self.limiter.take_all(now, slot);
        records.extend(waiting);
        if let Some(refused) = refused {
            self.report_room(refused.shard_id, context);
        }
    }

    /// Routes the first records if all metadata that they wait for is known.
    fn start(&mut self, now: Instant, context: &mut Context<T>) {
        if self.metadata.starting && !self.metadata.is_awaiting_replies() {
            self.stop_waiting(now, context);
        }
    }

    /// Routes the first records with the metadata that is known.
    pub(super) fn stop_waiting(&mut self, now: Instant, context: &mut Context<T>) {
        self.metadata.starting = false;
        if self.metadata.map.open_shards() == 0 && !self.metadata.auto_distribution {
            let timeout = || {
                let message = alloc::format!("no reply within start_timeout ({:?})", context.config.start_timeout());
                RequestError::new(Delivery::Unanswered, "Timeout", message)
            };
            let RequestError { code, message, .. } = self.metadata.shards_error.take().unwrap_or_else(timeout);
            // For a stream that does not exist, each record fails with that error anyway.
            if &*code != RESOURCE_NOT_FOUND {
                let aggregated = self.metadata.can_aggregate(None, &context.config);
                let (stream, denied) = (self.name.clone(), classify(&code) == ErrorClass::Denied);
                context.log(LogEvent::WithoutShardList { stream, code, message, aggregated, denied });
            }
        }
        self.route_awaiting_metadata(now, context);
    }
}

/// Whether the service refused a request about a stream, and would refuse it again.
fn is_refused_for_good(error: &RequestError) -> bool {
    error.delivery == Delivery::Refused && classify(&error.code).is_final()
}

/// Whether the service refused a request for this reason.
fn is_refused_as(error: &RequestError, class: ErrorClass) -> bool {
    error.delivery == Delivery::Refused && classify(&error.code) == class
}

impl Failure {
    fn of(error: &RequestError) -> Self {
        match error.delivery {
            Delivery::NotSent | Delivery::Unanswered => Self::Transient,
            Delivery::Refused => Self::Refused,
        }
    }
}

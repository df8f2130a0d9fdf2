//! The pipeline of one stream: from an accepted record to a request, and from a reply to a resolved record.

pub(crate) mod aggregator;
mod awaiting_metadata;
mod classify;
mod collector;
mod due;
mod hash_key_aggregator;
mod in_order;
mod limiter;
mod lingering;
mod metadata;
mod refresh;
mod retrier;
mod room;
mod sequencer;
mod shard_count;
mod shard_map;
mod shard_rate;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

pub(crate) use self::aggregator::FollowUp;
use self::aggregator::{Aggregate, AggregateLimits, Aggregator, Times};
pub(crate) use self::limiter::RELEASE_INTERVAL;
use crate::codec::AGGREGATE_PARTITION_KEY;
use crate::config::Ordering;
use crate::context::Context;
use crate::metrics::{MetricsSnapshot, MetricsWindow, StreamMetrics};
use crate::record::attempt::{AttemptError, code};
use crate::record::kinesis_record::{KinesisRecord, Pending};
use crate::stream::awaiting_metadata::AwaitingMetadata;
use crate::stream::collector::Collector;
use crate::stream::hash_key_aggregator::HashKeyAggregator;
use crate::stream::limiter::{Limiter, WHOLE_STREAM};
use crate::stream::metadata::Metadata;
use crate::stream::retrier::Misrouted;
use crate::stream::sequencer::Sequencer;
use crate::stream::shard_count::ShardCount;
use crate::time::Instant;
use crate::time::deadline_queue::DeadlineQueue;

/// An upper bound of the bytes that an aggregate of one record has in addition to its data and partition key: the frame,
/// an explicit hash key, and the fields' tags and lengths.
const FIELDS_SIZE_MAX: usize = 128;

/// A stream that is idle for this long is retired. Its metadata would be out of date anyway.
const RETIRED_AFTER: Duration = Duration::from_secs(300);

/// The state of one stream. An idle stream costs no processing time.
#[derive(Debug)]
pub(crate) struct Stream<T> {
    name: Arc<str>,
    /// The shards and the description of the stream.
    metadata: Metadata,
    /// Records that wait for the stream's metadata, with their deadlines. The first deadline ends the wait.
    awaiting_metadata: AwaitingMetadata<T>,
    aggregator: Aggregator<T>,
    /// The aggregator of records whose shard is not known.
    hash_key_aggregator: HashKeyAggregator<T>,
    /// The number of shards that sets the rate limit of records whose shard is not known.
    shard_count: ShardCount,
    /// With [`Ordering::PerKey`], the Kinesis records that wait for others of the same hash keys.
    sequencer: Option<Box<Sequencer<T>>>,
    limiter: Limiter<T>,
    collector: Collector<T>,
    /// Parts of refused requests, each to be sent as one request.
    split: VecDeque<Vec<KinesisRecord<T>>>,
    /// Records in backoff, ordered by its end.
    backing_off: DeadlineQueue<Vec<Pending<T>>>,
    /// Aggregates that were stored on a shard whose range is not known yet, ordered by expiry.
    unverified: DeadlineQueue<Misrouted<T>>,
    /// The metrics; `None` with `metrics_level` none.
    metrics: Option<Box<StreamMetrics>>,
    /// The number of outstanding user records.
    outstanding: usize,
    /// Whether a record was stored, so access was allowed.
    has_stored: bool,
    /// The number of requests in flight.
    in_flight: usize,
    /// The time of the last accepted record or the last reply.
    last_used: Instant,
    /// The part of [`Context::long_backlogs`] that comes from this stream.
    long_backlogs: usize,
    /// Whether the stream is queued because no more requests may be in flight. Until its turn, it sends nothing.
    awaits_request: bool,
    /// Whether the stream is queued because no more metadata requests may be in flight.
    awaits_refresh: bool,
}

impl<T> Stream<T> {
    /// Creates a stream. `metrics` are those from before it was retired.
    pub(crate) fn new(
        now: Instant,
        name: Arc<str>,
        metrics: Option<Box<StreamMetrics>>,
        context: &mut Context<T>,
    ) -> Self {
        let new_metrics = || StreamMetrics::new(context.config.metrics_level(), context.config.metrics_granularity());
        let metrics = metrics.or_else(new_metrics);
        Self {
            name,
            metadata: Metadata::new(now, context),
            awaiting_metadata: AwaitingMetadata::default(),
            aggregator: Aggregator::default(),
            hash_key_aggregator: HashKeyAggregator::default(),
            shard_count: ShardCount::default(),
            sequencer: (context.config.ordering() == Ordering::PerKey).then(Box::default),
            limiter: Limiter::new(&context.config),
            collector: Collector::default(),
            split: VecDeque::new(),
            backing_off: DeadlineQueue::default(),
            unverified: DeadlineQueue::default(),
            metrics,
            outstanding: 0,
            has_stored: false,
            in_flight: 0,
            last_used: now,
            long_backlogs: 0,
            awaits_request: false,
            awaits_refresh: false,
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the shard of a hash key, if it is known.
    pub(crate) fn shard(&self, hash_key: u128) -> Option<&Arc<str>> {
        self.metadata.shard(hash_key).map(|shard| &shard.id)
    }

    /// Returns the maximum size of a record in bytes; before the description is known, an upper bound.
    pub(crate) fn max_record_size(&self) -> usize {
        self.metadata.max_record_size()
    }

    /// Accepts a new record, to be sent by `deadline`.
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        user: Pending<T>,
        deadline: Instant,
        context: &mut Context<T>,
    ) -> FollowUp {
        self.outstanding += 1;
        self.last_used = now;
        self.enter(now, user, deadline, context)
    }

    /// Passes a new or retried record to the first stage.
    fn enter(&mut self, now: Instant, user: Pending<T>, deadline: Instant, context: &mut Context<T>) -> FollowUp {
        if self.metadata.is_awaited() {
            self.awaiting_metadata.push(user, deadline, &context.config);
            return FollowUp::Send;
        }
        self.route(now, user, deadline, context)
    }

    /// Returns the metrics; `None` with `metrics_level` none.
    pub(crate) fn metrics(&mut self) -> Option<&mut StreamMetrics> {
        self.metrics.as_deref_mut()
    }

    /// Adds the observations since the last export to `snapshot`.
    pub(crate) fn report_metrics(&mut self, now: Instant, snapshot: &mut MetricsSnapshot) {
        if let Some(metrics) = self.metrics.as_deref_mut().filter(|metrics| metrics.is_dirty()) {
            snapshot.report(now, &self.name, metrics);
        }
    }

    /// Adds the observations in `window` to `snapshot`.
    pub(crate) fn snapshot_metrics(&mut self, now: Instant, snapshot: &mut MetricsSnapshot, window: MetricsWindow) {
        if let Some(metrics) = self.metrics.as_deref_mut() {
            snapshot.look(now, Some(&self.name), metrics, window);
        }
    }

    /// Adds a record to its shard's aggregate, or passes it to the limiter unaggregated.
    fn route(&mut self, now: Instant, user: Pending<T>, deadline: Instant, context: &mut Context<T>) -> FollowUp {
        let (size, limit) = (user.entry.size(), self.metadata.max_record_size());
        if size > limit {
            let message = alloc::format!("data and partition_key have {size} bytes, but the stream's limit is {limit}");
            self.fail(now, user, AttemptError::new(code::RECORD_TOO_LARGE, message), context);
            return FollowUp::Send;
        }
        if self.is_order_impossible() {
            self.fail_unordered(now, [user], context);
            self.metadata.note_description_used(now);
            return FollowUp::Send;
        }
        let expiry = context.expiry(&user);
        let deadline = match deadline {
            _ if context.is_urgent(&user) => now,
            deadline if deadline < expiry => deadline,
            // A record that expires before its deadline is sent halfway to its expiry.
            _ => now + expiry.saturating_since(now) / 2,
        };
        let config = &context.config;
        let hash_key = user.entry.hash_key();
        let shard = self.metadata.shard(hash_key);
        let slot = shard.map_or(WHOLE_STREAM, |shard| shard.slot);
        let limit = limit - AGGREGATE_PARTITION_KEY.len();
        let sequence = self.sequencer.is_some().then(|| self.sequence(shard, hash_key, config));
        let size_max = match (&self.sequencer, sequence) {
            (Some(sequencer), Some(sequence)) if sequencer.is_in_doubt(sequence.range) => {
                in_order::size_max(config).min(limit)
            }
            _ => config.aggregation_max_size().min(limit),
        };
        // While the shard has a backlog, its aggregate stays open, and records that do not fit must not overtake it.
        let in_order = sequence.is_some() || size + FIELDS_SIZE_MAX > size_max && self.limiter.is_backlogged(slot);
        let limits = AggregateLimits { count: config.aggregation_max_count(), size: size_max, in_order };
        let can_release = !self.awaits_request;
        let mut pass = |record| {
            if let Some(record) = in_order::pass(&mut self.sequencer, now, sequence, record) {
                self.limiter.push(now, slot, record, can_release, |record| self.collector.push(record, config));
            }
        };
        if !self.metadata.can_aggregate(shard, config) {
            pass(KinesisRecord::single(user, shard.cloned(), deadline, expiry));
        } else if shard.is_none() {
            self.hash_key_aggregator.add(user, deadline, expiry, limits, pass);
        } else if self.aggregator.add(user, slot, shard, Times { deadline, expiry }, limits, pass) == FollowUp::None {
            return FollowUp::None;
        }
        // The backlog may have reached the limit.
        if slot == WHOLE_STREAM || sequence.is_some() {
            self.count_upstream(now, slot);
        }
        FollowUp::Send
    }

    /// Handles everything that is due at `now`, except requests: see [`take_request`](Self::take_request).
    pub(crate) fn handle_timeout(&mut self, now: Instant, context: &mut Context<T>) {
        self.send_refreshes(now, context);
        if self.awaiting_metadata_deadline() <= now {
            self.stop_waiting(now, context);
        }
        while let Some(users) = self.backing_off.pop_due(now) {
            self.retry(now, users, context);
        }
        self.expire_unverified(now, context);
        self.expire_split(now, context);
        self.expire_sequenced(now, context);
        // Records of an expired Kinesis record may close an aggregate, and a closed aggregate may expire.
        loop {
            while let Some(slot) = self.limiter.pop_due(now) {
                self.release(now, slot, context);
            }
            self.close_due(now, context);
            self.expire_collected(now, context);
            let timers =
                [self.limiter.next_timer(), self.aggregator.next_timer(), self.hash_key_aggregator.next_timer()];
            if timers.into_iter().all(|at| at > now) {
                break;
            }
        }
        context.log_expired(&self.name);
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) is to be called next, or a request is due.
    pub(crate) fn next_timeout(&self) -> Instant {
        let collect = if self.awaits_request { Instant::NEVER } else { self.collector.next_deadline() };
        let refresh = if self.awaits_refresh { Instant::NEVER } else { self.metadata.next_refresh() };
        collect
            .min(self.collector.next_expiry())
            .min(self.aggregator.next_timer())
            .min(self.hash_key_aggregator.next_timer())
            .min(self.limiter.next_timer())
            .min(self.backing_off.next_deadline())
            .min(self.unverified.next_deadline())
            .min(self.sequencer.as_ref().map_or(Instant::NEVER, |sequencer| sequencer.next_expiry()))
            .min(self.split_expiry())
            .min(self.awaiting_metadata_deadline())
            .min(refresh)
            .min(self.idle_at())
    }

    /// Returns when the stream is to be retired, if it stays idle.
    pub(crate) fn idle_at(&self) -> Instant {
        let is_idle = self.outstanding == 0 && self.in_flight == 0 && !self.metadata.is_request_in_flight();
        if is_idle { self.last_used + RETIRED_AFTER } else { Instant::NEVER }
    }

    /// Returns the metrics of a stream that is retired.
    pub(crate) fn into_metrics(self) -> Option<Box<StreamMetrics>> {
        self.metrics
    }

    /// Removes and returns the records of a request that is due at `now`.
    pub(crate) fn take_request(&mut self, now: Instant, context: &mut Context<T>) -> Option<Vec<KinesisRecord<T>>> {
        // A deferred shard releases more when all its released records have been sent.
        for slot in self.limiter.take_deferred(|slot| !self.collector.has_any(slot)) {
            self.release(now, slot, context);
        }
        if self.has_request(now, context) {
            // The tick for them may be late.
            self.expire_split(now, context);
            self.expire_collected(now, context);
        }
        let records = match self.split.pop_front() {
            Some(part) => part,
            None if self.collector.is_due(now, &context.config) => self.collector.take(&context.config),
            None => return None,
        };
        if records.is_empty() {
            return None;
        }
        self.in_flight += 1;
        Some(records)
    }

    /// Releases records of deferred shards, when the stream no longer waits for a request.
    pub(crate) fn resume(&mut self, now: Instant, context: &mut Context<T>) {
        for slot in self.limiter.take_deferred(|_| true) {
            self.release(now, slot, context);
        }
    }

    /// Whether a request is due at `now`.
    pub(crate) fn has_request(&self, now: Instant, context: &Context<T>) -> bool {
        !self.split.is_empty() || self.collector.is_due(now, &context.config)
    }

    /// Whether the stream is queued because no more requests may be in flight.
    pub(crate) fn awaits_request(&mut self) -> &mut bool {
        &mut self.awaits_request
    }

    /// Whether a metadata request is due at `now`.
    pub(crate) fn has_refresh(&self, now: Instant) -> bool {
        self.metadata.next_refresh() <= now
    }

    /// Whether the stream is queued because no more metadata requests may be in flight.
    pub(crate) fn awaits_refresh(&mut self) -> &mut bool {
        &mut self.awaits_refresh
    }

    /// Closes all aggregates and sends the collected records. Records that wait for metadata, for their shard's rate
    /// limit or in backoff follow as soon as that wait ends.
    pub(crate) fn flush(&mut self, now: Instant, context: &mut Context<T>) {
        let Self { aggregator, hash_key_aggregator, sequencer, metadata, .. } = self;
        let waits_in_order = |open: &Aggregate<T>| in_order::waits_in_order(sequencer.as_deref(), metadata, open);
        let closed = aggregator.flush(now, waits_in_order);
        let unmapped = hash_key_aggregator.flush(now, waits_in_order);
        for (slot, record) in closed {
            self.pass(now, slot, record, context);
        }
        for record in unmapped {
            self.pass_unmapped(now, record, context);
        }
        if let Some(sequencer) = &mut self.sequencer {
            sequencer.expedite(now);
        }
        self.limiter.expedite(now);
        self.collector.flush();
    }

    /// Fails all records that are not in flight, when the deadline of a close has passed.
    pub(crate) fn abandon(&mut self, now: Instant, context: &mut Context<T>) {
        let mut records: Vec<KinesisRecord<T>> = Vec::new();
        for slot in self.limiter.slots() {
            records.extend(self.limiter.take_all(now, slot).0);
        }
        records.extend(self.take_unlimited(now));
        records.extend(core::iter::from_fn(|| self.collector.pop(&context.config)));
        records.extend(self.split.drain(..).flatten());
        let mut users: Vec<Pending<T>> = records.into_iter().flat_map(KinesisRecord::into_users).collect();
        users.extend(self.awaiting_metadata.take().map(|(user, _)| user));
        users.extend(core::iter::from_fn(|| self.backing_off.pop()).flatten());
        for user in users {
            self.fail_closed(now, user, context);
        }
        while let Some(misrouted) = self.unverified.pop() {
            self.abandon_unverified(now, misrouted, context);
        }
    }

    fn fail(&mut self, now: Instant, user: Pending<T>, error: AttemptError, context: &mut Context<T>) {
        if let Some(metrics) = &mut self.metrics {
            let has_expired = &*error.code == code::EXPIRED;
            metrics.failed(now, &user, self.metadata.shard(user.entry.hash_key()), has_expired);
        }
        self.outstanding -= 1;
        context.fail(&self.name, user, error);
    }

    fn fail_expired(&mut self, now: Instant, user: Pending<T>, context: &mut Context<T>) {
        let error = context.expired(&user);
        self.fail(now, user, error, context);
    }

    fn fail_closed(&mut self, now: Instant, user: Pending<T>, context: &mut Context<T>) {
        let message = "the producer was closed before the record was stored";
        self.fail(now, user, AttemptError::new(code::CLOSED, message), context);
    }

    /// Removes and returns the records that wait before the limiter, in order.
    fn take_unlimited(&mut self, now: Instant) -> Vec<KinesisRecord<T>> {
        let mut records = Vec::new();
        if let Some(sequencer) = &mut self.sequencer {
            records.extend(sequencer.take(|_| true));
        }
        let slots: Vec<u32> = self.aggregator.open_slots().collect();
        for slot in slots {
            records.extend(self.aggregator.close(slot));
        }
        records.extend(self.hash_key_aggregator.close_all());
        for slot in self.limiter.slots() {
            self.count_upstream(now, slot);
        }
        records
    }

    /// Retries the records of a Kinesis record, with half the usual `record_max_buffered_time`, so that they are sent
    /// before newer records.
    fn retry(&mut self, now: Instant, users: impl IntoIterator<Item = Pending<T>>, context: &mut Context<T>) {
        let deadline = now + context.config.record_max_buffered_time() / 2;
        context.stats.user_records_retried += self.send_again(now, users, deadline, context);
    }

    /// Sends the user records of a Kinesis record again. Those that have expired fail. Returns the number of the others.
    fn send_again(
        &mut self,
        now: Instant,
        users: impl IntoIterator<Item = Pending<T>>,
        deadline: Instant,
        context: &mut Context<T>,
    ) -> u64 {
        let (mut sent, mut in_order) = (0, Vec::new());
        let mut hash_key = None;
        for user in users {
            hash_key.get_or_insert(user.entry.hash_key());
            if context.expiry(&user) <= now {
                self.fail_expired(now, user, context);
                continue;
            }
            sent += 1;
            if self.sequencer.is_some() {
                in_order.push(user);
            } else {
                self.enter(now, user, deadline, context);
            }
        }
        self.put_back(now, in_order, context);
        self.end_doubt(now, hash_key, context);
        sent
    }

    /// Routes the records that waited for metadata.
    fn route_awaiting_metadata(&mut self, now: Instant, context: &mut Context<T>) {
        let had_refused = mem::take(&mut self.awaiting_metadata.has_refused);
        for (user, deadline) in self.awaiting_metadata.take() {
            self.route(now, user, deadline, context);
        }
        if had_refused {
            self.report_room(None, context);
        }
    }

    /// Returns when the records that wait for metadata are routed without it.
    fn awaiting_metadata_deadline(&self) -> Instant {
        // The first record has the earliest deadline: only a retry could have an earlier one, and nothing has been
        // sent.
        self.awaiting_metadata.first_deadline().map_or(Instant::NEVER, |deadline| self.metadata.wait_ends(deadline))
    }

    /// Passes a record whose shard is not known to the limiter.
    fn pass_unmapped(&mut self, now: Instant, record: KinesisRecord<T>, context: &mut Context<T>) {
        self.count_upstream(now, WHOLE_STREAM);
        self.pass(now, WHOLE_STREAM, record, context);
    }

    /// Updates the amount of a slot's records that wait before the limiter: for others of their hash keys, and in open
    /// aggregates of single hash keys, of which there may be as many as there are records.
    fn count_upstream(&mut self, now: Instant, slot: u32) {
        let mut upstream = self.sequencer.as_ref().map(|sequencer| sequencer.backlog(slot)).unwrap_or_default();
        if slot == WHOLE_STREAM {
            upstream = upstream + self.hash_key_aggregator.backlog();
        }
        self.limiter.set_upstream(now, slot, upstream);
    }

    /// Passes a Kinesis record of a slot on, if it does not wait for others of its hash keys.
    fn pass(&mut self, now: Instant, slot: u32, record: KinesisRecord<T>, context: &mut Context<T>) {
        let sequence = self.sequencer.is_some().then(|| {
            let hash_key = record.hash_key();
            self.sequence(self.metadata.shard(hash_key), hash_key, &context.config)
        });
        match in_order::pass(&mut self.sequencer, now, sequence, record) {
            Some(record) => self.pass_to_limiter(now, slot, record, context),
            None => self.count_upstream(now, slot),
        }
    }

    fn pass_to_limiter(&mut self, now: Instant, slot: u32, record: KinesisRecord<T>, context: &mut Context<T>) {
        let can_release = !self.awaits_request;
        self.limiter.push(now, slot, record, can_release, |record| self.collector.push(record, &context.config));
    }

    /// Releases the records that the shard's rate limit allows, and fails those that expired. When the backlog is
    /// empty, the open aggregate is due at its deadline again.
    fn release(&mut self, now: Instant, slot: u32, context: &mut Context<T>) {
        while let Some(record) = self.limiter.pop_expired(now, slot) {
            self.disaggregate(now, record, context);
        }
        let (can_release, config) = (!self.awaits_request, &context.config);
        self.limiter.release(now, slot, can_release, |record| self.collector.push(record, config));
        if !self.limiter.is_backlogged(slot) {
            self.aggregator.resume(slot);
            if slot == WHOLE_STREAM {
                self.hash_key_aggregator.resume();
            }
        } else if slot == WHOLE_STREAM {
            self.metadata.note_description_used(now);
            if self.shard_count.note_waiting(now) {
                self.limiter.set_stream_shards(self.shard_count.shards());
            }
        }
    }

    /// Fails the user records that have expired, and routes the others again.
    fn disaggregate(&mut self, now: Instant, record: KinesisRecord<T>, context: &mut Context<T>) {
        self.send_again(now, record.into_users(), now, context);
    }

    fn expire_collected(&mut self, now: Instant, context: &mut Context<T>) {
        while let Some(record) = self.collector.pop_expired(now, &context.config) {
            self.disaggregate(now, record, context);
        }
    }

    fn split_expiry(&self) -> Instant {
        self.split.iter().flatten().map(|record| record.expiry).min().unwrap_or(Instant::NEVER)
    }

    fn expire_split(&mut self, now: Instant, context: &mut Context<T>) {
        if self.split_expiry() > now {
            return;
        }
        for part in mem::take(&mut self.split) {
            let (expired, good): (Vec<_>, Vec<_>) = part.into_iter().partition(|record| record.expiry <= now);
            for record in expired {
                self.disaggregate(now, record, context);
            }
            if !good.is_empty() {
                self.split.push_back(good);
            }
        }
    }
}

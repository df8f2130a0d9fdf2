//! The pipeline of one stream, from an accepted record to a request, and from a reply to a resolved record.

mod knowledge;
mod reply;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::aggregator::{AggregateLimits, Aggregator, Change};
use crate::codec::AGGREGATE_PARTITION_KEY;
use crate::collector::Collector;
use crate::common::Common;
use crate::deadline_queue::DeadlineQueue;
use crate::kinesis_record::{KinesisRecord, Pending};
use crate::limiter::Limiter;
use crate::metrics::{MetricsWindow, Observations, StreamMetrics};
use crate::outcome::{AttemptError, code};
use crate::stream::knowledge::Knowledge;
use crate::stream::reply::Stray;
use crate::time::Instant;

/// All that a producer has for one stream. Idle, it is looked at by nobody.
#[derive(Debug)]
pub(crate) struct Stream<T> {
    name: Arc<str>,
    /// What the service says of the stream.
    knowledge: Knowledge,
    /// Records put before anything was known of the stream, with their deadlines; the first of them ends the wait.
    early: Vec<(Pending<T>, Instant)>,
    aggregator: Aggregator<T>,
    limiter: Limiter<T>,
    collector: Collector<T>,
    /// Parts of requests that were refused, to be sent as they are.
    divided: VecDeque<Vec<KinesisRecord<T>>>,
    /// Records that wait out a backoff, by its end.
    backing_off: DeadlineQueue<Vec<Pending<T>>>,
    /// Aggregates that were stored on a shard whose range is not known yet, by their expiry.
    held: DeadlineQueue<Stray<T>>,
    /// What is measured, if anything.
    metrics: Option<Box<StreamMetrics>>,
    /// The producer will give it a request when another one ends. Until then, nothing more can leave.
    awaits_request: bool,
}

impl<T> Stream<T> {
    pub(crate) fn new(now: Instant, name: Arc<str>, common: &mut Common<T>) -> Self {
        Self {
            name,
            knowledge: Knowledge::new(now, common),
            early: Vec::new(),
            aggregator: Aggregator::default(),
            limiter: Limiter::default(),
            collector: Collector::default(),
            divided: VecDeque::new(),
            backing_off: DeadlineQueue::default(),
            held: DeadlineQueue::default(),
            metrics: StreamMetrics::new(&common.config),
            awaits_request: false,
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The shard that takes a hash key, as far as is known.
    pub(crate) fn shard(&self, hash_key: u128) -> Option<&Arc<str>> {
        self.knowledge.shard(hash_key).map(|shard| &shard.id)
    }

    /// Most bytes in a record, as far as is known.
    pub(crate) fn max_record_size(&self) -> usize {
        self.knowledge.max_record_size()
    }

    /// Accepts a record that should be on the network by `deadline`.
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        user: Pending<T>,
        deadline: Instant,
        common: &mut Common<T>,
    ) -> Change {
        if self.knowledge.is_starting() {
            self.early.push((user, deadline));
            return Change::Any;
        }
        self.route(now, user, deadline, common)
    }

    /// What is measured, if anything.
    pub(crate) fn metrics(&mut self) -> Option<&mut StreamMetrics> {
        self.metrics.as_deref_mut()
    }

    /// Gives what has been measured since the last report.
    pub(crate) fn report_metrics(&mut self, now: Instant, observations: &mut Observations) {
        if let Some(metrics) = self.metrics.as_deref_mut().filter(|metrics| metrics.is_dirty()) {
            observations.report(now, &self.name, metrics);
        }
    }

    /// Shows what has been measured.
    pub(crate) fn look_at_metrics(&mut self, now: Instant, observations: &mut Observations, window: MetricsWindow) {
        if let Some(metrics) = self.metrics.as_deref_mut() {
            observations.look(now, &self.name, metrics, window);
        }
    }

    /// Gives a record to its shard's aggregate, or sends it on alone.
    fn route(&mut self, now: Instant, user: Pending<T>, deadline: Instant, common: &mut Common<T>) -> Change {
        let (size, limit) = (user.entry.size(), self.knowledge.max_record_size());
        if size > limit {
            let message = alloc::format!("data and partition_key have {size} bytes, but the stream's limit is {limit}");
            self.fail(now, user, AttemptError::new(code::RECORD_TOO_LARGE, message), common);
            return Change::Any;
        }
        let expiry = common.expiry(&user);
        let deadline = match deadline {
            _ if common.is_urgent(&user) => now,
            deadline if deadline < expiry => deadline,
            // Near its end, a record gets its last chance halfway, when there is still time for it.
            _ => now + expiry.saturating_since(now) / 2,
        };
        let config = &common.config;
        let Some(shard) = self.knowledge.shard(user.entry.hash_key()) else {
            self.collector.push(KinesisRecord::single(user, None, deadline, expiry), config);
            return Change::Any;
        };
        let is_room = !self.awaits_request;
        let mut pass = |record| {
            self.limiter.push(now, shard.slot, record, is_room, config, |record| self.collector.push(record, config));
        };
        if config.aggregation_enabled() {
            let limits = AggregateLimits {
                count: config.aggregation_max_count(),
                size: config.aggregation_max_size().min(limit - AGGREGATE_PARTITION_KEY.len()),
            };
            return self.aggregator.add(user, shard, deadline, expiry, limits, pass);
        }
        pass(KinesisRecord::single(user, Some(shard.clone()), deadline, expiry));
        Change::Any
    }

    /// Does what is due by now.
    pub(crate) fn on_time(&mut self, now: Instant, common: &mut Common<T>) {
        self.inquire(now, common);
        if self.early_deadline() <= now {
            self.knowledge.stop_waiting();
            self.route_early(now, common);
        }
        while let Some(users) = self.backing_off.pop_due(now) {
            for user in users {
                self.retry(now, user, common);
            }
        }
        self.expire_held(now, common);
        self.expire_divided(now, common);
        // What is taken apart may close an aggregate, and the other way round.
        loop {
            while let Some(slot) = self.limiter.pop_due(now) {
                self.release(now, slot, common);
            }
            self.close_due(now, common);
            self.expire_collected(now, common);
            if self.limiter.next_wake() > now && self.aggregator.next_wake() > now {
                break;
            }
        }
        common.notice_expired(&self.name);
    }

    /// When [`on_time`](Self::on_time) has something to do, or a request is due.
    pub(crate) fn next_event(&self) -> Instant {
        let collect = if self.awaits_request { Instant::NEVER } else { self.collector.next_deadline() };
        collect
            .min(self.collector.next_expiry())
            .min(self.aggregator.next_wake())
            .min(self.limiter.next_wake())
            .min(self.backing_off.next_deadline())
            .min(self.held.next_deadline())
            .min(self.divided_expiry())
            .min(self.early_deadline())
            .min(self.knowledge.next_inquiry())
    }

    /// The records of a request that should be sent now.
    pub(crate) fn take_request(&mut self, now: Instant, common: &mut Common<T>) -> Option<Vec<KinesisRecord<T>>> {
        // A shard goes on when all that it let go before has left.
        for slot in self.limiter.take_put_off(|slot| !self.collector.has_any(slot)) {
            self.release(now, slot, common);
        }
        if self.has_request(now, common) {
            // Should the tick for it be late: what has expired is not sent.
            self.expire_divided(now, common);
            self.expire_collected(now, common);
        }
        if let Some(part) = self.divided.pop_front() {
            return Some(part);
        }
        if self.collector.is_due(now, &common.config) {
            let records = self.collector.take(&common.config);
            return if records.is_empty() { None } else { Some(records) };
        }
        None
    }

    /// The stream has left the line: shards go on at their pace.
    pub(crate) fn resume(&mut self, now: Instant, common: &mut Common<T>) {
        for slot in self.limiter.take_put_off(|_| true) {
            self.release(now, slot, common);
        }
    }

    /// Whether [`take_request`](Self::take_request) would give something.
    pub(crate) fn has_request(&self, now: Instant, common: &Common<T>) -> bool {
        !self.divided.is_empty() || self.collector.is_due(now, &common.config)
    }

    /// Whether the stream stands in the producer's line for a request.
    pub(crate) fn awaits_request(&mut self) -> &mut bool {
        &mut self.awaits_request
    }

    /// Closes all aggregates and sends what is collected. Records that wait for the stream to be known, for their
    /// shard's pace or for a backoff follow as soon as they may.
    pub(crate) fn flush(&mut self, now: Instant, common: &mut Common<T>) {
        let slots: Vec<u32> = self.aggregator.open_slots().collect();
        for slot in slots {
            self.close(now, slot, common);
        }
        self.limiter.hurry(now);
        self.collector.flush();
    }

    /// Fails everything that is not under way: the deadline of a close has passed.
    pub(crate) fn abandon(&mut self, now: Instant, common: &mut Common<T>) {
        let mut records: Vec<KinesisRecord<T>> = Vec::new();
        let slots: Vec<u32> = self.aggregator.open_slots().collect();
        for slot in slots {
            records.extend(self.aggregator.close(slot));
        }
        for slot in self.limiter.slots() {
            records.extend(core::iter::from_fn(|| self.limiter.pop(slot)));
        }
        records.extend(core::iter::from_fn(|| self.collector.pop(&common.config)));
        records.extend(self.divided.drain(..).flatten());
        let mut users: Vec<Pending<T>> = records.into_iter().flat_map(KinesisRecord::into_users).collect();
        users.extend(self.early.drain(..).map(|(user, _)| user));
        users.extend(core::iter::from_fn(|| self.backing_off.pop()).flatten());
        for user in users {
            self.fail_closed(now, user, common);
        }
        while let Some(stray) = self.held.pop() {
            self.give_up_held(now, stray, common);
        }
    }

    fn fail(&mut self, now: Instant, user: Pending<T>, error: AttemptError, common: &mut Common<T>) {
        if let Some(metrics) = &mut self.metrics {
            let has_expired = &*error.code == code::EXPIRED;
            metrics.failed(now, &user, self.knowledge.shard(user.entry.hash_key()), has_expired);
        }
        common.fail(&self.name, user, error);
    }

    fn fail_expired(&mut self, now: Instant, user: Pending<T>, common: &mut Common<T>) {
        let error = common.expired(&user);
        self.fail(now, user, error, common);
    }

    fn fail_closed(&mut self, now: Instant, user: Pending<T>, common: &mut Common<T>) {
        let message = "the producer was closed before the record was stored";
        self.fail(now, user, AttemptError::new(code::CLOSED, message), common);
    }

    /// Starts a retry: ahead of newer records, by a deadline of half the usual time.
    fn retry(&mut self, now: Instant, user: Pending<T>, common: &mut Common<T>) {
        if common.expiry(&user) <= now {
            return self.fail_expired(now, user, common);
        }
        common.stats.user_records_retried += 1;
        let deadline = now + common.config.record_max_buffered_time() / 2;
        self.accept(now, user, deadline, common);
    }

    /// Routes what was put before the stream was known.
    fn route_early(&mut self, now: Instant, common: &mut Common<T>) {
        for (user, deadline) in core::mem::take(&mut self.early) {
            self.route(now, user, deadline, common);
        }
    }

    fn early_deadline(&self) -> Instant {
        // Retries may be due before what came before them, but nothing is retried before anything was sent.
        self.early.first().map_or(Instant::NEVER, |(_, deadline)| *deadline)
    }

    /// Closes aggregates whose deadline has come, and with them those whose deadline is close: one request for a few
    /// of them costs less than a request for each, and a quarter of the time costs them little of their company.
    fn close_due(&mut self, now: Instant, common: &mut Common<T>) {
        let mut horizon = now;
        while let Some(slot) = self.aggregator.pop_due(horizon, |slot| self.limiter.is_backlogged(slot)) {
            horizon = now + common.config.record_max_buffered_time() / 4;
            self.close(now, slot, common);
        }
    }

    fn close(&mut self, now: Instant, slot: u32, common: &mut Common<T>) {
        let config = &common.config;
        if let Some(record) = self.aggregator.close(slot) {
            let is_room = !self.awaits_request;
            self.limiter.push(now, slot, record, is_room, config, |record| self.collector.push(record, config));
        }
    }

    /// Lets go what the shard's pace allows and fails what expired while it waited. When nothing waits any more, the
    /// aggregate that went on filling meanwhile goes by its deadline again.
    fn release(&mut self, now: Instant, slot: u32, common: &mut Common<T>) {
        while let Some(record) = self.limiter.pop_expired(now, slot) {
            self.take_apart(now, record, common);
        }
        let (is_room, config) = (!self.awaits_request, &common.config);
        self.limiter.release(now, slot, is_room, config, |record| self.collector.push(record, config));
        if !self.limiter.is_backlogged(slot) {
            self.aggregator.resume(slot);
        }
    }

    /// Fails the user records that have expired, and routes the others anew.
    fn take_apart(&mut self, now: Instant, record: KinesisRecord<T>, common: &mut Common<T>) {
        for user in record.into_users() {
            if common.expiry(&user) <= now {
                self.fail_expired(now, user, common);
            } else {
                self.route(now, user, now, common);
            }
        }
    }

    fn expire_collected(&mut self, now: Instant, common: &mut Common<T>) {
        while let Some(record) = self.collector.pop_expired(now, &common.config) {
            self.take_apart(now, record, common);
        }
    }

    fn divided_expiry(&self) -> Instant {
        self.divided.iter().flatten().map(|record| record.expiry).min().unwrap_or(Instant::NEVER)
    }

    fn expire_divided(&mut self, now: Instant, common: &mut Common<T>) {
        if self.divided_expiry() > now {
            return;
        }
        for part in core::mem::take(&mut self.divided) {
            let (expired, good): (Vec<_>, Vec<_>) = part.into_iter().partition(|record| record.expiry <= now);
            for record in expired {
                self.take_apart(now, record, common);
            }
            if !good.is_empty() {
                self.divided.push_back(good);
            }
        }
    }
}

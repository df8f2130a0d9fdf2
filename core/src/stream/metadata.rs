//! What is known of a stream, and asking for more.

use alloc::string::String;
use alloc::vec::Vec;

use super::Stream;
use crate::action::{Action, DescribeStreamRequest, ListShardsRequest, LogEvent};
use crate::config::RecordDistribution;
use crate::context::Context;
use crate::limits;
use crate::record::attempt::AttemptError;
use crate::record::kinesis_record::{KinesisRecord, ShardRef};
use crate::reply::{Delivery, ListedShard, RequestError, ShardPage, StreamSummary};
use crate::stream::classify::{ErrorClass, RESOURCE_NOT_FOUND, classify};
use crate::stream::refresh::RefreshSchedule;
use crate::stream::shard_map::{MapChange, ShardMap};
use crate::time::Instant;

/// Pages of one list of shards. The service gives up to 1,000 shards a page; a list that goes on longer has no end.
const SHARD_PAGES_MAX: usize = 1_000;

/// Kinesis records on wrong shards since the last description that make it worth asking whether keys still count.
const WRONG_SHARDS_TO_DESCRIBE: usize = 10;

/// What the service, or the config, says of a stream.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) map: ShardMap,
    shards: RefreshSchedule,
    /// Pages of the list under way.
    listed: Vec<ListedShard>,
    pages: usize,
    include_closed: bool,
    description: RefreshSchedule,
    max_record_size: usize,
    auto_distribution: bool,
    wrong_shards: usize,
    /// Records wait for the first answers, but not beyond their deadline.
    starting: bool,
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
            description: RefreshSchedule::new(if described { Instant::NEVER } else { context.description_turn(now) }),
            // Until the stream says, the service's hard limit: it refuses what is too large, and that is handled.
            max_record_size: max_record_size.unwrap_or(limits::RECORD_SIZE_MAX),
            auto_distribution: auto,
            wrong_shards: 0,
            starting: !(auto && described),
        }
    }

    /// Whether records should wait, within their deadline, for what is about to be known.
    pub(super) fn is_awaited(&self) -> bool {
        self.starting
    }

    pub(super) fn stop_waiting(&mut self) {
        self.starting = false;
    }

    pub(super) fn max_record_size(&self) -> usize {
        self.max_record_size
    }

    /// The shard that takes `hash_key`, if that is known and means anything.
    pub(super) fn shard(&self, hash_key: u128) -> Option<&ShardRef> {
        if self.auto_distribution { None } else { self.map.shard(hash_key) }
    }

    pub(super) fn next_refresh(&self) -> Instant {
        self.shards.next().min(self.description.next())
    }

    /// A record sent at `sent` landed on another shard than predicted.
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

    /// A reply named a shard that no list had, so far. It may already be closed again: the next list should have those
    /// too. That list is needed, whatever the last one told.
    pub(super) fn note_unknown_shard(&mut self, now: Instant) {
        self.include_closed = true;
        self.shards.request(now, now);
    }

    /// The service took a record that went without a prediction: what is not known yet can be asked for now.
    pub(super) fn note_reachable(&mut self, now: Instant) {
        self.shards.expedite(now);
        self.description.expedite(now);
    }

    fn stop_waiting_if_known(&mut self) {
        self.starting &= self.shards.awaits_first_answer() || self.description.awaits_first_answer();
    }
}

impl<T> Stream<T> {
    /// Asks what is to be asked now.
    pub(super) fn send_refreshes(&mut self, now: Instant, context: &mut Context<T>) {
        if self.metadata.shards.take_due(now) {
            self.metadata.listed.clear();
            self.metadata.pages = 0;
            self.list_shards(None, context);
        }
        if self.metadata.description.take_due(now) {
            let request = DescribeStreamRequest { stream: self.name.clone() };
            context.actions.push_back(Action::DescribeStream(request));
        }
    }

    /// Takes a page of the list of shards; at the end of the list, routes by it.
    pub(crate) fn on_shards(&mut self, now: Instant, reply: Result<ShardPage, RequestError>, context: &mut Context<T>) {
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
            None if metadata.shards.succeeded() => self.apply_shard_list(now, context),
            None => {}
        }
    }

    /// Takes the stream's description.
    pub(crate) fn on_description(
        &mut self,
        now: Instant,
        reply: Result<StreamSummary, RequestError>,
        context: &mut Context<T>,
    ) {
        let metadata = &mut self.metadata;
        let awaits_first_answer = metadata.description.awaits_first_answer();
        match reply {
            Ok(summary) if metadata.description.succeeded() => {
                metadata.description.settle();
                metadata.wrong_shards = 0;
                if context.config.max_record_size().is_none() {
                    let size = summary.max_record_size.unwrap_or(limits::RECORD_SIZE_DEFAULT);
                    metadata.max_record_size = size.clamp(1_024, limits::RECORD_SIZE_MAX);
                }
                if context.config.record_distribution() == RecordDistribution::Detect {
                    metadata.auto_distribution = summary.auto_distribution;
                }
                context.log(LogEvent::StreamDescribed {
                    stream: self.name.clone(),
                    max_record_size: metadata.max_record_size,
                    auto_distribution: metadata.auto_distribution,
                });
            }
            Ok(_) => {}
            Err(error) => {
                // Without the permission, and for a stream that is not there, the defaults must do.
                let retry_in = if classify(&error.code) == ErrorClass::Permanent {
                    metadata.description.succeeded();
                    None
                } else {
                    let passing = error.delivery != Delivery::Refused;
                    metadata.description.failed(now, passing, &mut context.rng)
                };
                if awaits_first_answer && context.config.max_record_size().is_none() {
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

    /// The stream does not exist (any more): one that is made anew under its name may have other shards.
    pub(super) fn on_stream_not_found(
        &mut self,
        now: Instant,
        sent: Instant,
        error: &AttemptError,
        context: &mut Context<T>,
    ) {
        if &*error.code != RESOURCE_NOT_FOUND || self.metadata.auto_distribution {
            return;
        }
        let change = self.metadata.map.clear();
        self.follow(now, change, context);
        self.metadata.shards.request(now, sent);
        if context.config.record_distribution() == RecordDistribution::Detect {
            self.metadata.description.request(now, sent);
        }
    }

    fn list_shards(&mut self, next_token: Option<String>, context: &mut Context<T>) {
        context.actions.push_back(Action::ListShards(ListShardsRequest {
            stream: self.name.clone(),
            next_token,
            include_closed: self.metadata.include_closed,
        }));
    }

    fn shards_failed(&mut self, now: Instant, error: RequestError, context: &mut Context<T>) {
        let passing = error.delivery != Delivery::Refused;
        let Some(retry_in) = self.metadata.shards.failed(now, passing, &mut context.rng) else { return };
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
        let had_closed = core::mem::take(&mut self.metadata.include_closed);
        let listed = core::mem::take(&mut self.metadata.listed);
        let change = self.metadata.map.replace(now, listed);
        let is_complete = change.is_complete;
        let closed = change.closed.len();
        let moved = self.follow(now, change, context);
        context.log(LogEvent::ShardMapRefreshed {
            stream: self.name.clone(),
            open: self.metadata.map.open_shards(),
            closed,
            moved,
        });
        let decided = self.verify_misrouted(now, had_closed && is_complete, context);
        self.metadata.include_closed = !decided;
        if is_complete && decided {
            self.metadata.shards.settle();
        } else {
            self.metadata.shards.request_after_backoff(now, &mut context.rng);
        }
        self.start(now, context);
    }

    /// Gives what waits for closed shards to those that have their keys now. Says how many user records moved.
    fn follow(&mut self, now: Instant, change: MapChange, context: &mut Context<T>) -> usize {
        let mut orphans: Vec<KinesisRecord<T>> = Vec::new();
        for slot in change.closed {
            orphans.extend(core::iter::from_fn(|| self.limiter.pop(slot)));
            orphans.extend(self.aggregator.close(slot));
        }
        if let Some(metrics) = &mut self.metrics {
            metrics.forget(&change.forgotten);
        }
        for slot in change.forgotten {
            self.limiter.forget(slot);
        }
        let mut moved = 0;
        for record in orphans {
            let deadline = record.deadline;
            for user in record.into_users() {
                moved += 1;
                self.route(now, user, deadline, context);
            }
        }
        moved
    }

    fn start(&mut self, now: Instant, context: &mut Context<T>) {
        self.metadata.stop_waiting_if_known();
        if !self.metadata.is_awaited() {
            self.route_awaiting_metadata(now, context);
        }
    }
}

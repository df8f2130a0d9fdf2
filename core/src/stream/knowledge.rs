//! What is known of a stream, and asking for more.

use alloc::string::String;
use alloc::vec::Vec;

use super::Stream;
use crate::action::{Action, DescribeRequest, ListShardsRequest, Notice};
use crate::common::Common;
use crate::config::RecordDistribution;
use crate::inquiry::Inquiry;
use crate::kinesis_record::{KinesisRecord, ShardRef};
use crate::limits;
use crate::outcome::AttemptError;
use crate::reply::{Delivery, ListedShard, RequestError, ShardPage, StreamSummary};
use crate::retrier::{Class, RESOURCE_NOT_FOUND, classify};
use crate::shard_map::{Change, ShardMap};
use crate::time::Instant;

/// Pages of one list of shards. The service gives up to 1,000 shards a page; a list that goes on longer has no end.
const SHARD_PAGES_MAX: usize = 1_000;

/// Kinesis records on wrong shards since the last description that make it worth asking whether keys still count.
const WRONG_SHARDS_TO_DESCRIBE: usize = 10;

/// What the service, or the config, says of a stream.
#[derive(Debug)]
pub(super) struct Knowledge {
    pub(super) map: ShardMap,
    shards: Inquiry,
    /// Pages of the list under way.
    listed: Vec<ListedShard>,
    pages: usize,
    include_closed: bool,
    description: Inquiry,
    max_record_size: usize,
    auto_distribution: bool,
    wrong_shards: usize,
    /// Records wait for the first answers, but not beyond their deadline.
    starting: bool,
}

impl Knowledge {
    pub(super) fn new<T>(now: Instant, common: &mut Common<T>) -> Self {
        let config = &common.config;
        let distribution = config.record_distribution();
        let auto = distribution == RecordDistribution::Auto;
        let max_record_size = config.max_record_size();
        let described = distribution != RecordDistribution::Detect && max_record_size.is_some();
        Self {
            map: ShardMap::default(),
            shards: Inquiry::new(if auto { Instant::NEVER } else { now }),
            listed: Vec::new(),
            pages: 0,
            include_closed: false,
            description: Inquiry::new(if described { Instant::NEVER } else { common.description_turn(now) }),
            // Until the stream says, the service's hard limit: it refuses what is too large, and that is handled.
            max_record_size: max_record_size.unwrap_or(limits::RECORD_SIZE_MAX),
            auto_distribution: auto,
            wrong_shards: 0,
            starting: !(auto && described),
        }
    }

    /// Whether records should wait, within their deadline, for what is about to be known.
    pub(super) fn is_starting(&self) -> bool {
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

    pub(super) fn next_inquiry(&self) -> Instant {
        self.shards.next().min(self.description.next())
    }

    /// A record sent at `sent` landed on another shard than predicted.
    pub(super) fn saw_wrong_shard<T>(&mut self, now: Instant, sent: Instant, common: &Common<T>) {
        if self.auto_distribution {
            return;
        }
        self.shards.want(now, sent);
        self.wrong_shards += 1;
        if self.wrong_shards >= WRONG_SHARDS_TO_DESCRIBE
            && common.config.record_distribution() == RecordDistribution::Detect
        {
            self.description.want(now, sent);
        }
    }

    /// A reply named a shard that no list had, so far. It may already be closed again: the next list should have those
    /// too. That list is needed, whatever the last one told.
    pub(super) fn saw_unknown_shard(&mut self, now: Instant) {
        self.include_closed = true;
        self.shards.want(now, now);
    }

    /// The service took a record that went without a prediction: what is not known yet can be asked for now.
    pub(super) fn saw_service(&mut self, now: Instant) {
        self.shards.hurry(now);
        self.description.hurry(now);
    }

    fn start_if_known(&mut self) {
        self.starting &= self.shards.is_first() || self.description.is_first();
    }
}

impl<T> Stream<T> {
    /// Asks what is to be asked now.
    pub(super) fn inquire(&mut self, now: Instant, common: &mut Common<T>) {
        if self.knowledge.shards.take_due(now) {
            self.knowledge.listed.clear();
            self.knowledge.pages = 0;
            self.list_shards(None, common);
        }
        if self.knowledge.description.take_due(now) {
            let request = DescribeRequest { stream: self.name.clone() };
            common.actions.push_back(Action::DescribeStream(request));
        }
    }

    /// Takes a page of the list of shards; at the end of the list, routes by it.
    pub(crate) fn on_shards(&mut self, now: Instant, reply: Result<ShardPage, RequestError>, common: &mut Common<T>) {
        let page = match reply {
            Ok(page) => page,
            Err(error) => return self.shards_failed(now, error, common),
        };
        let knowledge = &mut self.knowledge;
        knowledge.listed.extend(page.shards);
        knowledge.pages += 1;
        match page.next_token {
            Some(_) if knowledge.pages >= SHARD_PAGES_MAX => {
                let message = alloc::format!("the list has more than {SHARD_PAGES_MAX} pages");
                self.shards_failed(now, RequestError::new(Delivery::Refused, "Too Many Pages", message), common);
            }
            Some(token) => self.list_shards(Some(token), common),
            None if knowledge.listed.iter().all(|shard| shard.closed) => {
                let error = RequestError::new(Delivery::Refused, "No Shards", "the list has no open shard");
                self.shards_failed(now, error, common);
            }
            None if knowledge.shards.succeeded() => self.install_shards(now, common),
            None => {}
        }
    }

    /// Takes the stream's description.
    pub(crate) fn on_description(
        &mut self,
        now: Instant,
        reply: Result<StreamSummary, RequestError>,
        common: &mut Common<T>,
    ) {
        let knowledge = &mut self.knowledge;
        let is_first = knowledge.description.is_first();
        match reply {
            Ok(summary) if knowledge.description.succeeded() => {
                knowledge.description.settle();
                knowledge.wrong_shards = 0;
                if common.config.max_record_size().is_none() {
                    let size = summary.max_record_size.unwrap_or(limits::RECORD_SIZE_DEFAULT);
                    knowledge.max_record_size = size.clamp(1_024, limits::RECORD_SIZE_MAX);
                }
                if common.config.record_distribution() == RecordDistribution::Detect {
                    knowledge.auto_distribution = summary.auto_distribution;
                }
                common.notice(Notice::StreamDescribed {
                    stream: self.name.clone(),
                    max_record_size: knowledge.max_record_size,
                    auto_distribution: knowledge.auto_distribution,
                });
            }
            Ok(_) => {}
            Err(error) => {
                // Without the permission, and for a stream that is not there, the defaults must do.
                let retry_in = if classify(&error.code) == Class::Permanent {
                    knowledge.description.succeeded();
                    None
                } else {
                    let passing = error.delivery != Delivery::Refused;
                    knowledge.description.failed(now, passing, &mut common.rng)
                };
                if is_first && common.config.max_record_size().is_none() {
                    knowledge.max_record_size = limits::RECORD_SIZE_DEFAULT;
                }
                common.notice(Notice::InquiryFailed {
                    stream: self.name.clone(),
                    operation: "DescribeStreamSummary",
                    code: error.code,
                    message: error.message,
                    retry_in,
                });
            }
        }
        self.start(now, common);
    }

    /// The stream does not exist (any more): one that is made anew under its name may have other shards.
    pub(super) fn on_missing(&mut self, now: Instant, sent: Instant, error: &AttemptError, common: &mut Common<T>) {
        if &*error.code != RESOURCE_NOT_FOUND || self.knowledge.auto_distribution {
            return;
        }
        let change = self.knowledge.map.clear();
        self.follow(now, change, common);
        self.knowledge.shards.want(now, sent);
        if common.config.record_distribution() == RecordDistribution::Detect {
            self.knowledge.description.want(now, sent);
        }
    }

    fn list_shards(&mut self, next_token: Option<String>, common: &mut Common<T>) {
        common.actions.push_back(Action::ListShards(ListShardsRequest {
            stream: self.name.clone(),
            next_token,
            include_closed: self.knowledge.include_closed,
        }));
    }

    fn shards_failed(&mut self, now: Instant, error: RequestError, common: &mut Common<T>) {
        let passing = error.delivery != Delivery::Refused;
        let Some(retry_in) = self.knowledge.shards.failed(now, passing, &mut common.rng) else { return };
        common.notice(Notice::InquiryFailed {
            stream: self.name.clone(),
            operation: "ListShards",
            code: error.code,
            message: error.message,
            retry_in: Some(retry_in),
        });
        self.start(now, common);
    }

    fn install_shards(&mut self, now: Instant, common: &mut Common<T>) {
        let had_closed = core::mem::take(&mut self.knowledge.include_closed);
        let listed = core::mem::take(&mut self.knowledge.listed);
        let change = self.knowledge.map.replace(now, listed);
        let whole = change.whole;
        let closed = change.closed.len();
        let moved = self.follow(now, change, common);
        common.notice(Notice::ShardMapRefreshed {
            stream: self.name.clone(),
            open: self.knowledge.map.open_shards(),
            closed,
            moved,
        });
        let decided = self.decide_held(now, had_closed && whole, common);
        self.knowledge.include_closed = !decided;
        if whole && decided {
            self.knowledge.shards.settle();
        } else {
            self.knowledge.shards.want_later(now, &mut common.rng);
        }
        self.start(now, common);
    }

    /// Gives what waits for closed shards to those that have their keys now. Says how many user records moved.
    fn follow(&mut self, now: Instant, change: Change, common: &mut Common<T>) -> usize {
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
                self.route(now, user, deadline, common);
            }
        }
        moved
    }

    fn start(&mut self, now: Instant, common: &mut Common<T>) {
        self.knowledge.start_if_known();
        if !self.knowledge.is_starting() {
            self.route_early(now, common);
        }
    }
}

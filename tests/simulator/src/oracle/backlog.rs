use std::time::Duration;

use kpl_core::PutFailure;

use super::{Check, Facts, Put, broken};

const PROMISE: &str = "no accepted record expires only because the backlog of its shard is too long";

/// Checks only worlds in which nothing but the shards' rate limits delays records, and nothing reduces these rates.
pub(super) fn failed(facts: &Facts, was_capped: bool, put: &Put, ticket: u64, failure: &PutFailure) -> Check {
    let settings = &facts.options.config;
    let never_sent = &*failure.error.code == "Expired" && failure.attempts.is_empty();
    let is_calm = facts.is_calm() && !facts.streams[put.stream].throttled && !was_capped;
    // With a shorter time-to-live, a single record may need all of its shard's rate. The records before it may also wait for
    // others to share an aggregate with.
    let has_time = settings.ttl >= Duration::from_secs(2)
        && facts.backlog_limit() <= settings.ttl / 2
        && facts.backlog_limit() + settings.buffered <= settings.ttl / 4 * 3;
    let is_small = put.size as u64 * 8 < settings.bytes_per_second;
    // Before the first list, the stream counts as a whole, since it is not known which keys share a shard. With an order, those of
    // one key are known.
    let has_shard = settings.ordering || put.at >= facts.streams[put.stream].shards_known_at;
    if never_sent && is_calm && has_time && is_small && has_shard {
        return broken!("record {ticket}, put at {:?}, expired and was never sent", put.at);
    }
    Ok(())
}

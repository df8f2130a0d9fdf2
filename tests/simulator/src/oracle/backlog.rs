use std::time::Duration;

use kpl_core::PutFailure;

use super::{Facts, Kept, Put, broken};

const PROMISE: &str = "no record that was accepted expires only because the producer's own queue was too long";

/// Judged where nothing but the shards' pace delays a record, and nothing takes that pace from it.
pub(super) fn failed(facts: &Facts, was_capped: bool, put: &Put, ticket: u64, failure: &PutFailure) -> Kept {
    let (settings, network, service) = (&facts.options.config, &facts.options.network, &facts.options.service);
    let never_sent = &*failure.error.code == "Expired" && failure.attempts.is_empty();
    let is_calm = facts.late == Duration::ZERO
        && network.outages == 0
        && service.reshards == 0
        && service.rebirths == 0
        && service.list_untrue == 0
        && service.auto_switches == 0
        && !facts.streams[put.stream].throttled
        && !was_capped
        && !facts.retries_happen();
    // With a shorter one, a record may be as large as what its shard takes in all of it.
    let has_time = settings.ttl >= Duration::from_secs(2) && facts.backlog_limit() <= settings.ttl / 2;
    let is_small = put.size as u64 * 8 < settings.bytes_per_second;
    if never_sent && is_calm && has_time && is_small {
        return broken!("record {ticket}, put at {:?}, expired without being sent", put.at);
    }
    Ok(())
}

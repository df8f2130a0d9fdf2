use kpl_core::{Instant, PutFailure};

use super::{Check, Facts, Put, broken, order};
use crate::service::{DENIED, GATEWAY_DENIED, GATEWAY_THROTTLED, is_permanent};

const PROMISE: &str = "a record fails only for a cause: its time-to-live, a close, or a permanent error";

pub(super) fn failed(facts: &Facts, now: Instant, put: &Put, ticket: u64, failure: &PutFailure) -> Check {
    let settings = &facts.options.config;
    let was_returned = |code: &str| facts.codes.contains(code);
    let stream = &facts.streams[put.stream];
    let has_cause = match &*failure.error.code {
        "Expired" => now >= put.at + settings.ttl,
        "Closed" => now >= facts.close_deadline || facts.runtime_ended,
        "Record Count Mismatch" => facts.count_mismatch,
        "Order Impossible" => settings.ordering && order::may_ignore_keys(facts),
        "Record Too Large" => put.size > facts.record_size_max,
        // An invalid record does not make the other records of its request fail.
        code @ "InvalidArgumentException" => was_returned(code) && put.size > facts.record_size_max,
        code @ ("ProvisionedThroughputExceededException" | "ThrottlingException" | GATEWAY_THROTTLED) => {
            was_returned(code) && settings.fail_if_throttled
        }
        // A stream whose shards were listed exists, unless it was deleted since.
        code @ "ResourceNotFoundException" => {
            was_returned(code) && (stream.deleted_at.is_some() || stream.shards_known_at >= now)
        }
        code @ (DENIED | GATEWAY_DENIED) => was_returned(code) && !(settings.retry_if_denied && stream.stored_at < now),
        code => was_returned(code) && is_permanent(code),
    };
    if has_cause {
        return Ok(());
    }
    broken!("record {ticket} of {} bytes, put at {:?}, fails without a cause at {now:?}: {failure:?}", put.size, put.at)
}

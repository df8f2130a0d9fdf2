use std::time::Duration;

use kpl_core::{Instant, RecordResult};

use super::{Facts, Kept, Put, broken};
use crate::world::REQUEST_TIMEOUT;

const PROMISE: &str = "a record is resolved within its time-to-live and one request, and not sent after it";

pub(super) fn resolved(facts: &Facts, now: Instant, put: &Put, ticket: u64, result: &RecordResult) -> Kept {
    let ttl = facts.options.config.ttl;
    let expiry = put.at + ttl;
    let longest = ttl.saturating_add(REQUEST_TIMEOUT + facts.late + Duration::from_millis(1));
    let took = now.saturating_since(put.at);
    if took > longest {
        return broken!("record {ticket}, put at {:?}, is resolved after {took:?}", put.at);
    }
    let last_start = match result {
        Ok(receipt) => Some(receipt.attempts().last().start),
        Err(failure) => failure.attempts.last().map(|attempt| attempt.start),
    };
    match last_start {
        Some(start) if start >= expiry => {
            broken!("record {ticket} expired at {expiry:?}, and was sent at {start:?}")
        }
        _ => Ok(()),
    }
}

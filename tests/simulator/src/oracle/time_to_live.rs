use std::time::Duration;

use kpl_core::{Instant, RecordResult};

use super::{Check, Facts, Put, broken};
use crate::options::REQUEST_TIMEOUT;

const PROMISE: &str = "a record is resolved within its time-to-live plus one request timeout, and is not sent after it \
                       has expired";

pub(super) fn resolved(facts: &Facts, now: Instant, put: &Put, ticket: u64, result: &RecordResult) -> Check {
    let ttl = facts.options.config.ttl;
    let expiry = put.at + ttl;
    let limit = ttl.saturating_add(REQUEST_TIMEOUT + facts.late + Duration::from_millis(1));
    let elapsed = now.saturating_since(put.at);
    if elapsed > limit {
        return broken!("record {ticket}, put at {:?}, is resolved after {elapsed:?}", put.at);
    }
    let last_start = match result {
        Ok(receipt) => Some(receipt.attempts().last().start),
        Err(failure) => failure.attempts.last().map(|attempt| attempt.start),
    };
    match last_start {
        Some(start) if start >= expiry => {
            broken!("record {ticket} expired at {expiry:?} but was sent at {start:?}")
        }
        _ => Ok(()),
    }
}

use kpl_core::{Attempt, Instant, RecordResult};
use rustc_hash::FxHashSet;

use super::{Check, Facts, Put, broken};
use crate::service::{DENIED, GATEWAY_DENIED, is_permanent};

const PROMISE: &str = "attempts report each request, are ambiguous only if a reply is missing, and end at a permanent \
                       error";

/// The requests of a run.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// The times at which requests were sent and ended.
    requests: FxHashSet<(Instant, Instant)>,
}

impl Attempts {
    pub(super) fn request_ended(&mut self, sent: Instant, ended: Instant) {
        self.requests.insert((sent, ended));
    }

    pub(super) fn resolved(&self, facts: &Facts, put: &Put, ticket: u64, result: &RecordResult) -> Check {
        let (mut last_end, mut is_over) = (put.at, false);
        let may_be_allowed =
            |code: &str| facts.options.config.retry_if_denied && matches!(code, DENIED | GATEWAY_DENIED);
        let ends = |code: &str| is_permanent(code) && !may_be_allowed(code);
        let mut check = |attempt: &Attempt| {
            // The runtime may end before a request that is due is sent.
            let unsent = || facts.runtime_ended && attempt.error.as_ref().is_some_and(|error| &*error.code == "Closed");
            if !self.requests.contains(&(attempt.start, attempt.end)) && !unsent() {
                return broken!("record {ticket} has an attempt without a request: {attempt:?}");
            }
            if attempt.start < last_end {
                return broken!("record {ticket}, put at {:?}, has an attempt out of order: {attempt:?}", put.at);
            }
            if std::mem::replace(&mut is_over, attempt.error.as_ref().is_some_and(|error| ends(&error.code))) {
                return broken!("record {ticket} is sent again after a permanent error: {attempt:?}");
            }
            last_end = attempt.end;
            // A record that expires before its shard's range is known is ambiguous, too.
            let is_unverified = attempt.error.as_ref().is_some_and(|error| &*error.code == "Wrong Shard");
            if attempt.is_ambiguous() && !is_unverified && !put.unanswered {
                return broken!("record {ticket} has all replies, but this attempt is ambiguous: {attempt:?}");
            }
            Ok(())
        };
        let attempts = match result {
            Ok(receipt) => {
                for attempt in receipt.attempts().iter() {
                    check(attempt)?;
                }
                let failed = receipt.attempts().failed();
                if failed.iter().any(|attempt| attempt.error.is_none()) || receipt.attempts().last().error.is_some() {
                    return broken!("record {ticket} succeeded with attempts {:?}", receipt.attempts());
                }
                receipt.attempts().len()
            }
            Err(failure) => {
                for attempt in &failure.attempts {
                    check(attempt)?;
                    if attempt.error.is_none() {
                        return broken!("record {ticket} failed with attempts {:?}", failure.attempts);
                    }
                }
                failure.attempts.len()
            }
        };
        if attempts != put.requests && !facts.runtime_ended {
            return broken!("record {ticket} was in {} requests, but has {attempts} attempts", put.requests);
        }
        Ok(())
    }
}

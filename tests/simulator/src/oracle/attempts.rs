use kpl_core::{Attempt, AttemptError, Instant, RecordResult};
use rustc_hash::FxHashSet;

use super::{Facts, Kept, Put, broken};
use crate::service::PERMANENT;

const PROMISE: &str = "attempts tell what happened, are ambiguous only if an answer was missing, and end where waiting \
                       cannot mend it";

/// When requests were sent, and when they were answered.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    requests: FxHashSet<(Instant, Instant)>,
}

impl Attempts {
    pub(super) fn request(&mut self, sent: Instant, answered: Instant) {
        self.requests.insert((sent, answered));
    }

    pub(super) fn resolved(&self, facts: &Facts, put: &Put, ticket: u64, result: &RecordResult) -> Kept {
        let (mut last_end, mut is_over) = (put.at, false);
        let mut check = |attempt: &Attempt| {
            // The end of the runtime may come between a request and its being sent.
            let unsent = || facts.runtime_ended && attempt.error.as_ref().is_some_and(|error| &*error.code == "Closed");
            if !self.requests.contains(&(attempt.start, attempt.end)) && !unsent() {
                return broken!("record {ticket} tells of a request that there never was: {attempt:?}");
            }
            if attempt.start < last_end {
                return broken!("record {ticket}, put at {:?}, has an attempt out of order: {attempt:?}", put.at);
            }
            if std::mem::replace(&mut is_over, attempt.error.as_ref().is_some_and(|error| is_permanent(error))) {
                return broken!("record {ticket} was refused for good, and tried again: {attempt:?}");
            }
            last_end = attempt.end;
            // What could not be decided in time, for want of the shard's range, is ambiguous too.
            let undecided = attempt.error.as_ref().is_some_and(|error| &*error.code == "Wrong Shard");
            if attempt.is_ambiguous() && !undecided && !put.disturbed {
                return broken!("record {ticket} was always answered, and this attempt is ambiguous: {attempt:?}");
            }
            Ok(())
        };
        match result {
            Ok(receipt) => {
                for attempt in receipt.attempts().iter() {
                    check(attempt)?;
                }
                let failed = receipt.attempts().iter().filter(|attempt| attempt.error.is_some()).count();
                if failed + 1 != receipt.attempts().len() || receipt.attempts().last().error.is_some() {
                    return broken!("record {ticket} succeeded, with attempts {:?}", receipt.attempts());
                }
            }
            Err(failure) => {
                for attempt in &failure.attempts {
                    check(attempt)?;
                    if attempt.error.is_none() {
                        return broken!("record {ticket} failed, with attempts {:?}", failure.attempts);
                    }
                }
            }
        }
        Ok(())
    }
}

fn is_permanent(error: &AttemptError) -> bool {
    PERMANENT.contains(&&*error.code) || &*error.code == "ResourceNotFoundException"
}

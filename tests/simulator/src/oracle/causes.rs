use kpl_core::{Instant, PutFailure};

use super::{Facts, Kept, Put, broken};
use crate::service::PERMANENT;

const PROMISE: &str = "a record fails only for a cause: its time-to-live, a close, or what waiting cannot mend";

pub(super) fn failed(facts: &Facts, now: Instant, put: &Put, ticket: u64, failure: &PutFailure) -> Kept {
    let settings = &facts.options.config;
    let given = |code: &str| facts.codes.contains(code);
    let has_cause = match &*failure.error.code {
        "Expired" => now >= put.at + settings.ttl,
        "Closed" => now >= facts.gives_up_at || facts.runtime_ended,
        "Record Count Mismatch" => facts.miscounted,
        "Record Too Large" => put.size > facts.record_size_max,
        // One bad record harms only itself.
        code @ "InvalidArgumentException" => given(code) && put.size > facts.record_size_max,
        code @ ("ProvisionedThroughputExceededException" | "ThrottlingException") => {
            given(code) && settings.fail_if_throttled
        }
        code @ "ResourceNotFoundException" => given(code) && facts.streams[put.stream].deleted_at.is_some(),
        code => given(code) && PERMANENT.contains(&code),
    };
    if has_cause {
        return Ok(());
    }
    broken!("record {ticket} of {} bytes, put at {:?}, fails at {now:?}: {failure:?}", put.size, put.at)
}

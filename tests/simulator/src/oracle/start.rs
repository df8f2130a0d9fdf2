use kpl_core::Instant;

use super::{Check, Facts, broken};

const PROMISE: &str = "records wait for their first shard list until it is there, or it is refused for good and the \
                       description is settled, or start_timeout has passed";

/// Checks streams that were never retired, in worlds with an exact clock.
pub(super) fn sent(facts: &Facts, now: Instant, stream: usize) -> Check {
    let about = &facts.streams[stream];
    let is_settled = about.metadata_settled_at() <= now || about.starts > 1;
    let ends_at = about.started_at + facts.start_wait();
    if is_settled || ends_at <= now || !facts.late.is_zero() {
        return Ok(());
    }
    broken!("a request is sent at {now:?}, and without a shard list records wait until {ends_at:?}")
}

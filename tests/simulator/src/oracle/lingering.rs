use kpl_core::Instant;

use super::latency::Latency;
use super::{Check, Facts, broken};

const PROMISE: &str = "while the producer is full, no record waits for others to be sent with";

/// Checks that a put is refused only if a request is in flight. Considers only worlds in which nothing delays records
/// but metadata and the shards' rate limits, and times at which these do not.
pub(super) fn step(facts: &Facts, latency: &Latency, now: Instant) -> Check {
    let is_calm = facts.is_calm() && !facts.options.service.list_denied && !facts.closing;
    let is_delayed = |stream: usize| {
        let about = &facts.streams[stream];
        about.outstanding.0 > 0
            && (about.throttled
                || latency.is_rate_limited(stream, now)
                || about.shards_known_at == Instant::NEVER
                || !facts.options.config.description_given && about.described_at == Instant::NEVER)
    };
    if facts.refused_at == Some(now)
        && facts.in_flight == 0
        && facts.outstanding_records > 0
        && is_calm
        && !(0..facts.streams.len()).any(is_delayed)
    {
        return broken!("at {now:?}, a put is refused, and {} records wait", facts.outstanding_records);
    }
    Ok(())
}

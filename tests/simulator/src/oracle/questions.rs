use std::time::Duration;

use kpl_core::Instant;

use super::{Check, Facts, broken};

const PROMISE: &str = "a burst of causes leads to one metadata request per stream, and failed requests back off";

/// The minimum time between two requests, which applies before the first reply: half of the shortest backoff is jitter.
const SPACING_MIN: Duration = Duration::from_millis(125);

/// The times of the last metadata requests, per stream.
#[derive(Debug)]
pub(super) struct MetadataRequests {
    shards: Vec<Option<Instant>>,
    summaries: Vec<Option<Instant>>,
}

impl MetadataRequests {
    pub(super) fn new(streams: usize) -> Self {
        Self { shards: vec![None; streams], summaries: vec![None; streams] }
    }

    pub(super) fn shards(&mut self, facts: &Facts, now: Instant, stream: usize, is_first_page: bool) -> Check {
        if !is_first_page {
            return Ok(());
        }
        spaced(facts, &mut self.shards[stream], now, "shard list")
    }

    pub(super) fn summary(&mut self, facts: &Facts, now: Instant, stream: usize) -> Check {
        spaced(facts, &mut self.summaries[stream], now, "description")
    }
}

fn spaced(facts: &Facts, last: &mut Option<Instant>, now: Instant, what: &str) -> Check {
    match last.replace(now) {
        Some(before) if now < before + SPACING_MIN && !facts.runtime_ended => {
            broken!("the {what} of a stream is requested at {before:?} and again at {now:?}")
        }
        _ => Ok(()),
    }
}

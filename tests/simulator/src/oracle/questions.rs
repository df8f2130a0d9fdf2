use std::time::Duration;

use kpl_core::Instant;

use super::{Facts, Kept, broken};

const PROMISE: &str = "one question about a stream for a burst of reasons, and later and later while it fails";

/// The shortest wait between two requests, while records wait for the first answer: half of the shortest backoff is jitter.
const SPACING_MIN: Duration = Duration::from_millis(125);

/// What was asked last, by stream.
#[derive(Debug)]
pub(super) struct Questions {
    shards: Vec<Option<Instant>>,
    summaries: Vec<Option<Instant>>,
}

impl Questions {
    pub(super) fn new(streams: usize) -> Self {
        Self { shards: vec![None; streams], summaries: vec![None; streams] }
    }

    pub(super) fn shards(&mut self, facts: &Facts, now: Instant, stream: usize, is_first_page: bool) -> Kept {
        if !is_first_page {
            return Ok(());
        }
        spaced(facts, &mut self.shards[stream], now, "shards")
    }

    pub(super) fn summary(&mut self, facts: &Facts, now: Instant, stream: usize) -> Kept {
        spaced(facts, &mut self.summaries[stream], now, "summary")
    }
}

fn spaced(facts: &Facts, last: &mut Option<Instant>, now: Instant, what: &str) -> Kept {
    match last.replace(now) {
        Some(before) if now < before + SPACING_MIN && !facts.runtime_ended => {
            broken!("a stream's {what} are asked for at {before:?} and again at {now:?}")
        }
        _ => Ok(()),
    }
}

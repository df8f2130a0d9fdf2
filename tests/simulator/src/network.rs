//! Faults of the network: what happens to a request and its reply.

use std::time::Duration;

use kpl_core::{Delivery, RecordReply, Reply, RequestError};

use crate::choices::Choices;
use crate::options::{Network, ms};

/// The simulated outcome of a PutRecords request. Each delay starts at the end of the one before.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// The connection is refused.
    NotSent { after: Duration },
    /// The request is lost.
    Lost,
    /// The service returns HTTP 500; `stored` is whether it has stored the records.
    Http500 { request_delay: Duration, stored: bool, reply_delay: Duration },
    /// The service processes the request. Without a `reply_delay`, the reply is lost.
    Served { request_delay: Duration, reply_delay: Option<Duration>, garbled: Option<Garbled> },
}

/// A fault in a reply.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Garbled {
    TooFew,
    TooMany,
    NoResults,
    EmptySequenceNumber,
    EmptyResults,
    NoShardIds,
}

impl Fate {
    pub(crate) fn choose(network: &Network, c: &mut Choices<'_, '_>) -> Self {
        let (request_delay, reply_delay) = (latency(network, c), latency(network, c));
        if c.chance(network.not_sent) {
            Self::NotSent { after: request_delay }
        } else if c.chance(network.request_lost) {
            Self::Lost
        } else if c.chance(network.http_500) {
            Self::Http500 { request_delay, stored: c.chance(100), reply_delay }
        } else {
            let all = [
                Garbled::TooFew,
                Garbled::TooMany,
                Garbled::NoResults,
                Garbled::EmptySequenceNumber,
                Garbled::EmptyResults,
            ];
            Self::Served {
                request_delay,
                reply_delay: if c.chance(network.reply_lost) { None } else { Some(reply_delay) },
                garbled: if c.chance(network.garbled) {
                    Some(c.pick(&all))
                } else {
                    c.chance(network.unnamed_shards).then_some(Garbled::NoShardIds)
                },
            }
        }
    }

    /// The outcome after all faults have ended.
    pub(crate) const HEALED: Self = Self::Served { request_delay: ms(5), reply_delay: Some(ms(5)), garbled: None };
}

pub(crate) fn latency(network: &Network, c: &mut Choices<'_, '_>) -> Duration {
    network.latency + if network.jitter.is_zero() { Duration::ZERO } else { c.up_to(network.jitter) }
}

impl Garbled {
    pub(crate) fn apply(self, reply: &mut Reply) {
        let Reply::Records(records) = reply else { return };
        match self {
            Self::TooFew => drop(records.pop()),
            Self::TooMany => records.push(RecordReply::failed("InternalFailure", "one result too many")),
            Self::NoResults => records.clear(),
            Self::EmptySequenceNumber => {
                for record in records.iter_mut().filter(|record| record.sequence_number.is_some()) {
                    record.sequence_number = Some(<_>::default());
                }
            }
            Self::NoShardIds => records.iter_mut().for_each(|record| record.shard_id = None),
            Self::EmptyResults => records.iter_mut().for_each(|record| *record = RecordReply::default()),
        }
    }
}

pub(crate) fn timeout() -> RequestError {
    RequestError::new(Delivery::Unanswered, "Request Timeout", "no reply")
}

pub(crate) fn not_sent() -> RequestError {
    RequestError::new(Delivery::NotSent, "Connection Failed", "connection refused")
}

pub(crate) fn http_500() -> RequestError {
    RequestError::new(Delivery::Unanswered, "InternalFailure", "HTTP 500")
}

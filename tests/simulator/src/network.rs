//! What happens to a request on its way, and to its reply.

use std::time::Duration;

use kpl_core::{Delivery, RecordReply, Reply, RequestError};

use crate::choices::Choices;
use crate::options::{Network, ms};

/// What becomes of a PutRecords request. Times are from now on, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    /// No connection.
    NotSent { after: Duration },
    /// It never arrives.
    Lost,
    /// It arrives, and the service answers HTTP 500, whether or not it has stored the records.
    Http500 { there: Duration, stored: bool, back: Duration },
    /// It arrives, is carried out, and the reply goes back, unless it is lost.
    Served { there: Duration, back: Option<Duration>, garbled: Option<Garbled> },
}

/// What is wrong with a reply.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Garbled {
    TooFew,
    TooMany,
    None,
    EmptySequenceNumber,
    NothingSaid,
}

impl Fate {
    pub(crate) fn choose(network: &Network, c: &mut Choices<'_, '_>) -> Self {
        let (there, back) = (latency(network, c), latency(network, c));
        if c.chance(network.not_sent) {
            Self::NotSent { after: there }
        } else if c.chance(network.request_lost) {
            Self::Lost
        } else if c.chance(network.http_500) {
            Self::Http500 { there, stored: c.chance(100), back }
        } else {
            let all =
                [Garbled::TooFew, Garbled::TooMany, Garbled::None, Garbled::EmptySequenceNumber, Garbled::NothingSaid];
            Self::Served {
                there,
                back: if c.chance(network.reply_lost) { None } else { Some(back) },
                garbled: if c.chance(network.garbled) { Some(c.pick(&all)) } else { None },
            }
        }
    }

    /// When nothing goes wrong any more.
    pub(crate) const HEALED: Self = Self::Served { there: ms(5), back: Some(ms(5)), garbled: None };
}

pub(crate) fn latency(network: &Network, c: &mut Choices<'_, '_>) -> Duration {
    network.latency + if network.jitter.is_zero() { Duration::ZERO } else { c.up_to(network.jitter) }
}

impl Garbled {
    pub(crate) fn apply(self, reply: &mut Reply) {
        let Reply::Records(records) = reply else { return };
        match self {
            Self::TooFew => drop(records.pop()),
            Self::TooMany => records.push(RecordReply::failed("InternalFailure", "one too many")),
            Self::None => records.clear(),
            Self::EmptySequenceNumber => {
                for record in records.iter_mut().filter(|record| record.sequence_number.is_some()) {
                    record.sequence_number = Some(String::new());
                }
            }
            Self::NothingSaid => records.iter_mut().for_each(|record| *record = RecordReply::default()),
        }
    }
}

pub(crate) fn time_out() -> RequestError {
    RequestError::new(Delivery::Unanswered, "Request Timeout", "no reply")
}

pub(crate) fn not_sent() -> RequestError {
    RequestError::new(Delivery::NotSent, "Connection Failed", "connection refused")
}

pub(crate) fn http_500() -> RequestError {
    RequestError::new(Delivery::Unanswered, "InternalFailure", "HTTP 500")
}

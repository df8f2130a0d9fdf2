//! What can go wrong, switched on at will.

use std::time::Duration;

use fastrand::Rng;

use crate::ServiceError;

/// Faults of the service and of the network. By default, none. Rates are from 0 (never) to 1 (always).
///
/// They hit PutRecord and PutRecords; [`all_operations`](Self::all_operations) widens those of requests to the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// Records refused with `ProvisionedThroughputExceededException`.
    pub throttle_rate: f64,
    /// Records refused with `InternalFailure`.
    pub internal_failure_rate: f64,
    /// Requests refused as a whole with `ProvisionedThroughputExceededException`.
    pub request_throttle_rate: f64,
    /// Requests answered with HTTP 500 before anything is done.
    pub http_500_rate: f64,
    /// Requests that are carried out and whose reply is then lost: the connection is closed, or HTTP/2's stream.
    pub drop_reply_rate: f64,
    /// Time from a request to its reply.
    pub latency: Duration,
    /// Further time, evenly spread from zero to this.
    pub latency_jitter: Duration,
    /// Whether faults of requests hit all operations.
    pub all_operations: bool,
    /// Faults of single operations, such as a slow or a refused ListShards.
    pub operations: Vec<OperationFault>,
}

/// What goes wrong with the requests of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationFault {
    /// The operation, such as `ListShards`.
    pub operation: &'static str,
    /// The time from a request to its reply.
    pub latency: Duration,
    /// The error with which requests are refused, if any.
    pub error: Option<ServiceError>,
    /// The number of requests that it hits; `None` for all.
    pub first: Option<u64>,
}

/// What is to happen to a request: [`Kinesis::admit`](crate::Kinesis::admit).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// How long the reply takes.
    pub delay: Duration,
    /// Answer with HTTP 500, and do nothing.
    pub http_500: bool,
    /// Refuse it with this error, and do nothing.
    pub error: Option<ServiceError>,
    /// Carry it out, and lose the reply.
    pub drop_reply: bool,
}

impl Faults {
    /// `before` is the number of requests of this operation so far.
    pub(crate) fn fate(&self, operation: &str, before: u64, rng: &mut Rng) -> Fate {
        let mut hits = self.operations.iter().filter(|fault| fault.operation == operation);
        if let Some(fault) = hits.find(|fault| fault.first.is_none_or(|first| before < first)) {
            return Fate { delay: fault.latency, error: fault.error.clone(), ..Fate::default() };
        }
        if !matches!(operation, "PutRecord" | "PutRecords") && !self.all_operations {
            return Fate::default();
        }
        Fate {
            delay: self.latency.saturating_add(up_to(rng, self.latency_jitter)),
            http_500: happens(rng, self.http_500_rate),
            error: happens(rng, self.request_throttle_rate)
                .then(|| ServiceError::throughput_exceeded("Rate exceeded.")),
            drop_reply: happens(rng, self.drop_reply_rate),
        }
    }

    /// What goes wrong with one record, by its error code.
    pub(crate) fn record_error(&self, rng: &mut Rng) -> Option<&'static str> {
        if happens(rng, self.throttle_rate) {
            return Some("ProvisionedThroughputExceededException");
        }
        happens(rng, self.internal_failure_rate).then_some("InternalFailure")
    }
}

/// Returns true in `rate` of the cases. Draws nothing for a rate of 0, so that switching a fault off changes no other.
fn happens(rng: &mut Rng, rate: f64) -> bool {
    rate > 0.0 && rng.f64() <= rate
}

/// Returns a random duration from zero to `max`. Draws nothing for a maximum of zero.
fn up_to(rng: &mut Rng, max: Duration) -> Duration {
    if max.is_zero() { max } else { max.mul_f64(rng.f64()) }
}

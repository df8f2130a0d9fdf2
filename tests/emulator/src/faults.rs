//! Faults of the service and of the network, which a test switches on.

use std::time::Duration;

use fastrand::Rng;

use crate::ServiceError;

/// Faults of the service and of the network. By default, there are none. Rates are from 0 (never) to 1 (always).
///
/// Faults affect PutRecord and PutRecords. With [`all_operations`](Self::all_operations), faults of whole requests
/// affect all other operations, too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// The rate of records that fail with `ProvisionedThroughputExceededException`.
    pub throttle_rate: f64,
    /// The rate of records that fail with `InternalFailure`.
    pub internal_failure_rate: f64,
    /// The rate of requests that fail as a whole with `ProvisionedThroughputExceededException`.
    pub request_throttle_rate: f64,
    /// The rate of requests that fail with HTTP 500 and have no effect.
    pub http_500_rate: f64,
    /// The rate of requests that are executed and whose reply is lost: the connection, or the HTTP/2 stream, is closed.
    pub drop_reply_rate: f64,
    /// The time from a request to its reply.
    pub latency: Duration,
    /// The maximum of an additional random time, which is uniformly distributed from zero.
    pub latency_jitter: Duration,
    /// Whether faults of whole requests affect all operations.
    pub all_operations: bool,
    /// Faults of single operations, for example a slow or a failing ListShards.
    pub operations: Vec<OperationFault>,
}

/// A fault of the requests of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationFault {
    /// The operation, for example `ListShards`.
    pub operation: &'static str,
    /// The time from a request to its reply.
    pub latency: Duration,
    /// The error of the requests, if they fail.
    pub error: Option<ServiceError>,
    /// The number of requests that it affects, from the first one after it was set. `None`: all requests.
    pub first: Option<u64>,
}

impl OperationFault {
    /// Creates the fault of an operation for which the permission is missing.
    pub fn denied(operation: &'static str) -> Self {
        Self { operation, latency: Duration::ZERO, error: Some(ServiceError::denied(operation)), first: None }
    }

    /// Limits the fault to the first requests after it is set.
    #[must_use]
    pub fn first(self, requests: u64) -> Self {
        Self { first: Some(requests), ..self }
    }
}

/// What happens to a request. Returned by [`Kinesis::admit`](crate::Kinesis::admit).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// The time from the request to its reply.
    pub delay: Duration,
    /// Whether the request fails with HTTP 500 and has no effect.
    pub http_500: bool,
    /// The error with which the request fails without effect, if any.
    pub error: Option<ServiceError>,
    /// Whether the request is executed and its reply is lost.
    pub drop_reply: bool,
}

impl Faults {
    /// Draws what happens to a request. `before` is the number of requests of this operation since the faults were set.
    pub(crate) fn fate(&self, operation: &str, before: u64, rng: &mut Rng) -> Fate {
        let mut faults = self.operations.iter().filter(|fault| fault.operation == operation);
        if let Some(fault) = faults.find(|fault| fault.first.is_none_or(|first| before < first)) {
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

    /// Draws the error code of a record, or `None` if it does not fail.
    pub(crate) fn record_error(&self, rng: &mut Rng) -> Option<&'static str> {
        if happens(rng, self.throttle_rate) {
            return Some("ProvisionedThroughputExceededException");
        }
        happens(rng, self.internal_failure_rate).then_some("InternalFailure")
    }
}

/// Returns true with probability `rate`. Does not use `rng` for a rate of 0, so that a fault that is off does not
/// change the others.
fn happens(rng: &mut Rng, rate: f64) -> bool {
    rate > 0.0 && rng.f64() <= rate
}

/// Returns a random duration from zero to `max`. Does not use `rng` for a maximum of zero.
fn up_to(rng: &mut Rng, max: Duration) -> Duration {
    if max.is_zero() { max } else { max.mul_f64(rng.f64()) }
}

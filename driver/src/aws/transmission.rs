//! Records whether a request reached the HTTP client. If not, nothing was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_kinesis::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::BoxError;

/// Observes one request. The SDK's errors do not distinguish missing or slow credentials from a missing reply; this
/// does.
#[derive(Clone, Debug, Default)]
pub(super) struct Transmission(Arc<AtomicBool>);

impl Transmission {
    /// Whether the request was passed to the HTTP client.
    pub(super) fn has_started(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Intercept for Transmission {
    fn name(&self) -> &'static str {
        "kpl transmission"
    }

    /// Runs directly before the HTTP client receives the request.
    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

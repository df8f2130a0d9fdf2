//! Whether a request ever came to the HTTP client: if not, nothing was sent, whatever went wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_kinesis::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::BoxError;

/// Watches one request. The SDK's errors do not tell credentials that cannot be had, or that take too long, from a reply
/// that does not come; this does.
#[derive(Clone, Debug, Default)]
pub(super) struct Transmission(Arc<AtomicBool>);

impl Transmission {
    /// Whether the request was given to the HTTP client.
    pub(super) fn has_started(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Intercept for Transmission {
    fn name(&self) -> &'static str {
        "kpl transmission"
    }

    /// The last that happens before the HTTP client gets the request.
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

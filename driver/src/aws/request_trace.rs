//! An interceptor that records what happened to a request before it was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aws_sdk_kinesis::config::interceptors::{
    BeforeSerializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kinesis::error::BoxError;
use aws_smithy_types::config_bag::{Storable, StoreReplace};

/// The trace of one request: whether the SDK passed it to the HTTP client, and with which credentials. If it was not
/// passed, nothing was sent. The SDK's errors do not tell.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestTrace(Arc<Events>);

#[derive(Debug, Default)]
struct Events {
    is_sent: AtomicBool,
    credentials: AtomicU64,
}

impl RequestTrace {
    /// Whether the request was passed to the HTTP client.
    pub(super) fn is_sent(&self) -> bool {
        self.0.is_sent.load(Ordering::Relaxed)
    }

    /// Returns the number of the credentials that the request was signed with; 0 if it was not.
    pub(super) fn credentials(&self) -> u64 {
        self.0.credentials.load(Ordering::Relaxed)
    }

    /// Sets the number of the credentials.
    pub(super) fn set_credentials(&self, number: u64) {
        self.0.credentials.store(number, Ordering::Relaxed);
    }
}

/// The credentials cache finds the trace in the config of the request.
impl Storable for RequestTrace {
    type Storer = StoreReplace<Self>;
}

impl Intercept for RequestTrace {
    fn name(&self) -> &'static str {
        "kpl request trace"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(self.clone());
        Ok(())
    }

    /// Runs directly before the HTTP client receives the request.
    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.is_sent.store(true, Ordering::Relaxed);
        Ok(())
    }
}

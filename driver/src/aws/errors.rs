//! What an error of the SDK says: was anything sent, and did the service answer? The core judges what follows.

use std::error::Error;
use std::io;

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::dns::ResolveDnsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use kpl_core::{Delivery, RequestError};

use super::NeverConnected;

/// Tells how far a failed call came. Where that is not certain, it may have arrived.
pub(super) fn request_error<E>(error: &SdkError<E, HttpResponse>, never_connected: NeverConnected) -> RequestError
where
    E: Error + ProvideErrorMetadata + 'static,
{
    let (delivery, code) = match error {
        SdkError::ServiceError(service) => {
            // A 5xx tells nothing about what was done before it.
            let refused = (400..500).contains(&service.raw().status().as_u16());
            let delivery = if refused { Delivery::Refused } else { Delivery::Unanswered };
            let code = service.err().code().map_or_else(|| format!("HTTP {}", service.raw().status()), str::to_owned);
            let message = service.err().message().map_or_else(|| one_line(service.err()), str::to_owned);
            return RequestError::new(delivery, code, message);
        }
        // No region, no credentials, nothing that could be signed.
        SdkError::ConstructionFailure(_) => (Delivery::NotSent, "Request Not Built"),
        SdkError::TimeoutError(_) => (Delivery::Unanswered, "Request Timeout"),
        SdkError::DispatchFailure(failure) => {
            let unsent = failure
                .as_connector_error()
                .is_some_and(|error| chain(error).any(|error| says_never_connected(error) || never_connected(error)));
            match (unsent, failure.is_timeout()) {
                (true, _) => (Delivery::NotSent, "Connection Failed"),
                (false, true) => (Delivery::Unanswered, "Request Timeout"),
                // The credentials could not be had: the request never came to the HTTP client.
                (false, false) if failure.is_user() => (Delivery::NotSent, "Request Not Sent"),
                (false, false) => (Delivery::Unanswered, "Connection Lost"),
            }
        }
        // The service answered something that is no answer.
        SdkError::ResponseError(_) => (Delivery::Unanswered, "Response Unreadable"),
        _ => (Delivery::Unanswered, "Unknown"),
    };
    RequestError::new(delivery, code, one_line(error))
}

/// What every HTTP client has in common when no connection came about.
fn says_never_connected(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable};
    error.is::<ResolveDnsError>()
        || error.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(error.kind(), AddrNotAvailable | ConnectionRefused | HostUnreachable | NetworkUnreachable)
        })
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| Error::source(*error))
}

/// The error with all that caused it, each said once.
fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = String::new();
    for part in chain(error).map(ToString::to_string) {
        if !line.ends_with(&part) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&part);
        }
    }
    line
}

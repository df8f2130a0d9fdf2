//! What an error of the SDK says: was anything sent, and did the service answer? The core judges what follows.

use std::error::Error;
use std::io;

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::dns::ResolveDnsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use kpl_core::{Delivery, RequestError};

/// Whether an error of the HTTP client says that no connection came about.
pub(super) type NeverConnected = fn(&(dyn Error + 'static)) -> bool;

/// Tells how far a failed request came. Where that is not certain, it may have arrived.
///
/// `handed_over`: whether the request was given to the HTTP client.
pub(super) fn request_error<E>(
    error: &SdkError<E, HttpResponse>,
    handed_over: bool,
    never_connected: NeverConnected,
) -> RequestError
where
    E: Error + ProvideErrorMetadata + 'static,
{
    let (delivery, code) = match error {
        SdkError::ServiceError(service) => return answered(service.err(), service.raw().status().as_u16()),
        // No region, no credentials in time, nothing that could be signed.
        _ if !handed_over => (Delivery::NotSent, "Request Not Sent"),
        SdkError::TimeoutError(_) => (Delivery::Unanswered, "Request Timeout"),
        SdkError::DispatchFailure(failure) => {
            let unconnected = failure
                .as_connector_error()
                .is_some_and(|error| chain(error).any(|error| says_never_connected(error) || never_connected(error)));
            match (unconnected, failure.is_timeout()) {
                (true, _) => (Delivery::NotSent, "Connection Failed"),
                (false, true) => (Delivery::Unanswered, "Request Timeout"),
                (false, false) => (Delivery::Unanswered, "Connection Lost"),
            }
        }
        // The service answered something that is no answer.
        SdkError::ResponseError(_) => (Delivery::Unanswered, "Response Unreadable"),
        _ => (Delivery::Unanswered, "Unknown"),
    };
    RequestError::new(delivery, code, one_line(error))
}

/// An error that the service, or something on the way to it, answered.
fn answered<E: Error + ProvideErrorMetadata + 'static>(error: &E, status: u16) -> RequestError {
    // A 5xx tells nothing about what was done before it.
    let delivery = if (400..500).contains(&status) { Delivery::Refused } else { Delivery::Unanswered };
    let code = error.code().map_or_else(|| format!("HTTP {status}"), str::to_owned);
    let message = error.message().map_or_else(|| one_line(error), str::to_owned);
    RequestError::new(delivery, code, message)
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

//! What an error of the SDK says: was anything sent, and did the service answer? The core judges what follows.

use std::error::Error;
use std::io;

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::dns::ResolveDnsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use kpl_core::{Delivery, RequestError, code};

/// Whether an error of the HTTP client says that no connection came about.
pub(super) type NeverConnected = fn(&(dyn Error + 'static)) -> bool;

/// How much of a body that is none of Kinesis's is quoted.
const QUOTED_CHARS_MAX: usize = 200;

/// Tells how far a failed request came. Where that is not certain, it may have arrived.
///
/// `has_started`: whether the request was given to the HTTP client.
pub(super) fn request_error<E>(
    error: &SdkError<E, HttpResponse>,
    has_started: bool,
    never_connected: NeverConnected,
) -> RequestError
where
    E: Error + ProvideErrorMetadata + 'static,
{
    if let Some(response) = error.raw_response() {
        return match error {
            _ if (300..400).contains(&response.status().as_u16()) => redirected(response),
            SdkError::ServiceError(service) => service_error(service.err(), response),
            _ => unreadable_response(error, response),
        };
    }
    let (delivery, code) = match error {
        // No region, no credentials in time, nothing that could be signed.
        _ if !has_started => (Delivery::NotSent, "Request Not Sent"),
        SdkError::TimeoutError(_) => (Delivery::Unanswered, "Request Timeout"),
        SdkError::DispatchFailure(failure) => {
            let is_unconnected = failure
                .as_connector_error()
                .is_some_and(|error| chain(error).any(|error| is_never_connected(error) || never_connected(error)));
            match (is_unconnected, failure.is_timeout()) {
                (true, _) => (Delivery::NotSent, "Connection Failed"),
                (false, true) => (Delivery::Unanswered, "Request Timeout"),
                (false, false) => (Delivery::Unanswered, "Connection Lost"),
            }
        }
        _ => (Delivery::Unanswered, "Unknown"),
    };
    RequestError::new(delivery, code, one_line(error))
}

/// An error as the service tells one.
fn service_error<E: Error + ProvideErrorMetadata + 'static>(error: &E, response: &HttpResponse) -> RequestError {
    let code = error.code().map_or_else(|| format!("HTTP {}", response.status()), str::to_owned);
    let message = error.message().map_or_else(|| quote(response), str::to_owned);
    RequestError::new(delivery(response), code, message)
}

/// A redirect. Kinesis sends none, and the SDK follows none.
fn redirected(response: &HttpResponse) -> RequestError {
    let status = response.status();
    let target = match response.headers().get("location") {
        Some(location) => format!("to {}", shortened(location)),
        None => "without a target".to_owned(),
    };
    let message = format!("HTTP {status}, a redirect {target}: the endpoint is not that of Kinesis");
    RequestError::new(Delivery::Refused, code::REDIRECTED, message)
}

/// Something that the service would not answer: a proxy's page, or a body that was cut off.
fn unreadable_response(error: &(dyn Error + 'static), response: &HttpResponse) -> RequestError {
    match response.status() {
        status if status.is_success() => {
            let message = format!("{}: {}", one_line(error), quote(response));
            RequestError::new(delivery(response), "Response Unreadable", message)
        }
        status => RequestError::new(delivery(response), format!("HTTP {status}"), quote(response)),
    }
}

/// The status, and how the body starts.
fn quote(response: &HttpResponse) -> String {
    let status = response.status();
    match response.body().bytes() {
        Some([]) => format!("HTTP {status} with an empty body"),
        Some(body) => {
            // A character has up to four bytes.
            let body = String::from_utf8_lossy(&body[..body.len().min(4 * QUOTED_CHARS_MAX)]);
            format!("HTTP {status}, and the body starts with {:?}", shortened(&body))
        }
        None => format!("HTTP {status}"),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}

/// A 4xx refuses. A 5xx tells nothing about what was done before it, and a success that cannot be read is one.
fn delivery(response: &HttpResponse) -> Delivery {
    if response.status().is_client_error() { Delivery::Refused } else { Delivery::Unanswered }
}

/// What every HTTP client has in common when no connection came about. An unreachable host is not among it: connections
/// that have stood for a while end like that too.
fn is_never_connected(error: &(dyn Error + 'static)) -> bool {
    error.is::<ResolveDnsError>()
        || error.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::ConnectionRefused)
        })
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn Error + 'static)| {
        // An I/O error hides what is in it, and goes on with the source of that.
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}

/// The error with all that caused it, each said once.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
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

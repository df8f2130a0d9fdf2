//! Maps an error of the SDK to a [`Delivery`]: was anything sent, and did the service answer? The core decides what
//! follows.

use std::error::Error;
use std::io;

use aws_sdk_kinesis::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::dns::ResolveDnsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::ConnectorError;
use kpl_core::{Delivery, RequestError, code};

use super::credentials::LoadError;

/// Whether an error of the HTTP client means that no connection was established.
pub(super) type NeverConnected = fn(&(dyn Error + 'static)) -> bool;

/// The maximum number of characters quoted from a body or header that is not from Kinesis.
const QUOTED_CHARS_MAX: usize = 200;

/// Returns the code, message and delivery of a failed request. If it is uncertain whether the request arrived, the
/// delivery is [`Delivery::Unanswered`].
///
/// `is_sent` is whether the request was passed to the HTTP client.
pub(super) fn request_error<E>(
    error: &SdkError<E, HttpResponse>,
    is_sent: bool,
    never_connected: NeverConnected,
) -> RequestError
where
    E: Error + ProvideErrorMetadata + 'static,
{
    if let Some(response) = error.raw_response() {
        return match error {
            _ if (300..400).contains(&response.status().as_u16()) => redirect_error(response),
            SdkError::ServiceError(service) => service_error(service.err(), response),
            _ => unreadable_response(error, response),
        };
    }
    let (delivery, code) = match error {
        // The region is missing, the credentials are missing or late, or signing failed.
        _ if !is_sent => (Delivery::NotSent, "Request Not Sent"),
        SdkError::TimeoutError(_) => (Delivery::Unanswered, "Request Timeout"),
        SdkError::DispatchFailure(failure) => {
            let error = failure.as_connector_error();
            match (error.is_some_and(|error| is_unconnected(error, never_connected)), failure.is_timeout()) {
                (true, _) => (Delivery::NotSent, "Connection Failed"),
                (false, true) => (Delivery::Unanswered, "Request Timeout"),
                (false, false) => (Delivery::Unanswered, "Connection Lost"),
            }
        }
        _ => (Delivery::Unanswered, "Unknown"),
    };
    let message = match chain(error).find_map(|error| error.downcast_ref::<LoadError>()) {
        Some(error) => error.to_string(),
        None => one_line(error),
    };
    RequestError::new(delivery, code, message)
}

/// Whether the error code means that the credentials are not valid, or not anymore: they have expired, or were
/// replaced. A secret that was replaced makes the signature invalid. See
/// <https://docs.aws.amazon.com/kinesis/latest/APIReference/CommonErrors.html>.
pub(super) fn is_authentication_error(code: &str) -> bool {
    matches!(
        code,
        "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "UnrecognizedClient"
            | "UnrecognizedClientException"
    )
}

/// Maps an error that the service returned.
fn service_error<E: Error + ProvideErrorMetadata + 'static>(error: &E, response: &HttpResponse) -> RequestError {
    let code = error.code().map_or_else(|| format!("HTTP {}", response.status()), str::to_owned);
    let message = error.message().map_or_else(|| quote(response), str::to_owned);
    RequestError::new(delivery(response), code, message)
}

/// Maps a redirect. Kinesis sends none, and the SDK follows none.
fn redirect_error(response: &HttpResponse) -> RequestError {
    let status = response.status();
    let target = match response.headers().get("location") {
        Some(location) => format!("to {}", truncated(location)),
        None => "without a target".to_owned(),
    };
    let message = format!("HTTP {status}, a redirect {target}: the endpoint is not that of Kinesis");
    RequestError::new(Delivery::Refused, code::REDIRECTED, message)
}

/// Maps a response that is not from the service, such as a proxy's page, or whose body was cut off.
fn unreadable_response(error: &(dyn Error + 'static), response: &HttpResponse) -> RequestError {
    match response.status() {
        status if status.is_success() => {
            let message = format!("{}: {}", one_line(error), quote(response));
            RequestError::new(delivery(response), "Response Unreadable", message)
        }
        status => RequestError::new(delivery(response), format!("HTTP {status}"), quote(response)),
    }
}

/// Returns the status and the start of the body.
fn quote(response: &HttpResponse) -> String {
    let status = response.status();
    match response.body().bytes() {
        Some([]) => format!("HTTP {status} with an empty body"),
        Some(body) => {
            // A character has up to four bytes.
            let body = String::from_utf8_lossy(&body[..body.len().min(4 * QUOTED_CHARS_MAX)]);
            format!("HTTP {status}, and the body starts with {:?}", truncated(&body))
        }
        None => format!("HTTP {status}"),
    }
}

fn truncated(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}

/// Returns the delivery of a response. A 4xx is a refusal. After a 5xx, or a success that cannot be read, records may
/// be stored.
fn delivery(response: &HttpResponse) -> Delivery {
    if response.status().is_client_error() { Delivery::Refused } else { Delivery::Unanswered }
}

/// Whether an error of the runtime's HTTP client, or one of its sources, means that no connection was established.
pub(super) fn is_unconnected(error: &ConnectorError, never_connected: NeverConnected) -> bool {
    chain(error).any(|error| is_never_connected(error) || never_connected(error))
}

/// Whether an error of any HTTP client means that no connection was established. `HostUnreachable` does not: an
/// established connection can end with it, too.
fn is_never_connected(error: &(dyn Error + 'static)) -> bool {
    error.is::<ResolveDnsError>()
        || error.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::ConnectionRefused)
        })
}

/// Returns an error and its sources.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn Error + 'static)| {
        // The source of an I/O error is that of its inner error, so it would skip the inner error.
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}

/// Returns the messages of an error and its sources in one line, without repetition.
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

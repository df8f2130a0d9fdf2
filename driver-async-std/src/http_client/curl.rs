//! A curl backend for surf.
//!
//! The one in `http-client` always waits a second for `100 Continue` before it sends a large body, takes trusted
//! certificates only from a file, and panics if a response header is not ASCII.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::io::{AsyncRead, AsyncReadExt};
use http_client::http_types::StatusCode;
use http_client::http_types::headers::HeaderValue;
use http_client::{Body, Error, HttpClient, Request, Response, async_trait};
use isahc::config::{ExpectContinue, VersionNegotiation};
use isahc::error::ErrorKind;
use isahc::http::Uri;
use isahc::prelude::Configurable;
use isahc::tls::TlsConfig;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

/// A thread that runs curl, with a connection pool.
///
/// A dropped request keeps its connection until its response; then the connection is closed. So no request receives the
/// response to another. A dropped request ends the use of this value for new requests
/// ([`fresh_pool_after_timeout`](kpl_driver::fresh_pool_after_timeout)), and all connections are closed when the last
/// request has ended. So none stays open forever, although requests have no timeout here.
#[derive(Debug)]
pub(super) struct Curl {
    client: isahc::HttpClient,
    http_proxy: Option<Uri>,
}

/// The time limit for connecting, stored as an extension of the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectTimeout(pub(super) Duration);

/// The reason why a request has no response.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub(crate) struct CurlError {
    #[source]
    cause: isahc::Error,
    sending: bool,
}

impl CurlError {
    pub(super) fn is_timeout(&self) -> bool {
        self.cause.is_timeout()
    }

    /// Returns true if curl had no connection and so did not read the body. Then nothing was stored.
    pub(crate) fn never_connected(&self) -> bool {
        !self.sending
    }
}

impl Curl {
    pub(super) fn new(tls: TlsConfig) -> Result<Self, isahc::Error> {
        let client = isahc::HttpClient::builder()
            .tls_config(tls)
            .tcp_nodelay()
            .version_negotiation(VersionNegotiation::http11())
            .automatic_decompression(false)
            .expect_continue(ExpectContinue::disabled())
            .build()?;
        Ok(Self { client, http_proxy: http_proxy() })
    }

    async fn exchange(&self, mut request: Request, sending: &Arc<AtomicBool>) -> Result<Response, isahc::Error> {
        let mut curl_request = isahc::Request::builder().method(request.method().as_ref()).uri(request.url().as_str());
        for (name, values) in request.iter() {
            for value in values {
                curl_request = curl_request.header(name.as_str(), value.as_str());
            }
        }
        if let Some(ConnectTimeout(timeout)) = request.ext().get() {
            curl_request = curl_request.connect_timeout(*timeout);
        }
        if request.url().scheme() == "http" && self.http_proxy.is_some() {
            curl_request = curl_request.proxy(self.http_proxy.clone());
        }
        let body = request.take_body();
        let body = match body.len() {
            Some(0) if request.method() == http_client::http_types::Method::Get => isahc::AsyncBody::empty(),
            Some(len) => isahc::AsyncBody::from_reader_sized(Watched::new(body, sending), len as u64),
            None => isahc::AsyncBody::from_reader(Watched::new(body, sending)),
        };
        let curl_request = curl_request.body(body).map_err(|_| ErrorKind::InvalidRequest)?;

        let mut curl_response = self.client.send_async(curl_request).await?;
        let mut body = Vec::new();
        curl_response.body_mut().read_to_end(&mut body).await?;
        let status = curl_response.status();
        let unknown = |_| io::Error::other(format!("the response has the unknown status {status}"));
        let mut response = Response::new(StatusCode::try_from(status.as_u16()).map_err(unknown)?);
        for (name, value) in curl_response.headers() {
            // The SDK uses no header that is not ASCII.
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes().to_vec()) {
                response.append_header(name.as_str(), value);
            }
        }
        response.set_body(body);
        Ok(response)
    }
}

#[async_trait]
impl HttpClient for Curl {
    async fn send(&self, request: Request) -> Result<Response, Error> {
        let sending = Arc::new(AtomicBool::new(false));
        // isahc logs all bytes of a request, signature and data included, if a subscriber sees the start of the request.
        let response = self.exchange(request, &sending).with_subscriber(Dispatch::none()).await;
        let curl_error = |cause| CurlError { cause, sending: sending.load(Ordering::Relaxed) };
        response.map_err(|cause| Error::new(StatusCode::BadGateway, curl_error(cause)))
    }
}

/// Returns the proxy of `HTTP_PROXY`, which curl itself ignores: in a CGI script (`REQUEST_METHOD` is set), it is the
/// `Proxy` header of the client's request. `http_proxy` takes precedence.
fn http_proxy() -> Option<Uri> {
    let set = |name| std::env::var_os(name).is_some();
    if set("http_proxy") || set("REQUEST_METHOD") {
        return None;
    }
    std::env::var("HTTP_PROXY").ok().filter(|proxy| !proxy.is_empty())?.parse().ok()
}

/// The body of a request. It sets `sending` when curl begins to send it.
///
/// Curl cannot rewind it. Otherwise curl would resend the request after a broken connection, and the records might be
/// stored twice.
struct Watched {
    body: Body,
    polled: bool,
    sending: Arc<AtomicBool>,
}

impl Watched {
    fn new(body: Body, sending: &Arc<AtomicBool>) -> Self {
        Self { body, polled: false, sending: sending.clone() }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        // Curl does not check a connection that was in use in the last second. The first read is pending, so that curl
        // polls the connection and detects that the server has closed it before it sends the body.
        if !std::mem::replace(&mut self.polled, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.sending.store(true, Ordering::Relaxed);
        Pin::new(&mut self.body).poll_read(cx, buffer)
    }
}

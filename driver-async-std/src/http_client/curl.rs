//! Curl as surf's backend.
//!
//! There is one in `http-client`, but its curl can not be told to send large bodies without waiting a second for a
//! `100 Continue`, nor what it trusts other than by a file; and an answer's header that is not ASCII makes it panic.

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

/// A thread on which curl runs, with a pool of connections.
///
/// A request that is dropped stays with its connection until it is answered or its time is up; then the connection is
/// closed. So no request ever gets the answer to another, and none lasts.
#[derive(Debug)]
pub(super) struct Curl {
    client: isahc::HttpClient,
    http_proxy: Option<Uri>,
}

/// When curl gives a request up: an extension of the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeOuts {
    /// If there is no connection after this.
    pub(super) connect: Duration,
    /// If there is no answer after this.
    pub(super) whole: Duration,
}

/// Why there is no answer to a request.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub(crate) struct NoAnswer {
    #[source]
    cause: isahc::Error,
    sending: bool,
}

impl NoAnswer {
    pub(super) fn is_timeout(&self) -> bool {
        self.cause.is_timeout()
    }

    /// Whether curl never came to send the body, for lack of a connection. Then nothing can have been stored.
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
        if let Some(time_outs) = request.ext().get::<TimeOuts>() {
            curl_request = curl_request.connect_timeout(time_outs.connect).timeout(time_outs.whole);
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

        let mut answer = self.client.send_async(curl_request).await?;
        let mut body = Vec::new();
        answer.body_mut().read_to_end(&mut body).await?;
        let unheard_of = |_| io::Error::other(format!("the answer's status is {}", answer.status()));
        let mut response = Response::new(StatusCode::try_from(answer.status().as_u16()).map_err(unheard_of)?);
        for (name, value) in answer.headers() {
            // What is not ASCII is nothing that the SDK looks for.
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
        let answer = self.exchange(request, &sending).await;
        let no_answer = |cause| NoAnswer { cause, sending: sending.load(Ordering::Relaxed) };
        answer.map_err(|cause| Error::new(StatusCode::BadGateway, no_answer(cause)))
    }
}

/// Curl reads `http_proxy`, but not `HTTP_PROXY`: in a CGI script, that is a header of the request.
fn http_proxy() -> Option<Uri> {
    let set = |name| std::env::var_os(name).is_some();
    if set("http_proxy") || set("REQUEST_METHOD") {
        return None;
    }
    std::env::var("HTTP_PROXY").ok().filter(|proxy| !proxy.is_empty())?.parse().ok()
}

/// A request's body, which tells whether curl has begun to send it.
///
/// Curl cannot rewind it. That is well: on a connection that breaks it would send the request again, unasked, and the
/// records might be stored twice.
struct Watched {
    body: Body,
    asked: bool,
    sending: Arc<AtomicBool>,
}

impl Watched {
    fn new(body: Body, sending: &Arc<AtomicBool>) -> Self {
        Self { body, asked: false, sending: sending.clone() }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        // Curl takes a connection that was in use a second ago for alive. It is sent to look once more, so that one that
        // the server has closed is found out while nothing that counts has been sent.
        if !std::mem::replace(&mut self.asked, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.sending.store(true, Ordering::Relaxed);
        Pin::new(&mut self.body).poll_read(cx, buffer)
    }
}

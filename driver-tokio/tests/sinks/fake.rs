//! An HTTP service that records requests and sends given responses.

use std::convert::Infallible;
use std::io::Read;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::CONTENT_ENCODING;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// A request as received.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Call {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Returns the decompressed body.
    pub(crate) fn decompressed(&self) -> Vec<u8> {
        let mut body = Vec::new();
        match self.headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap()) {
            None => return self.body.to_vec(),
            Some("gzip") => flate2::read::GzDecoder::new(&*self.body).read_to_end(&mut body).unwrap(),
            Some("deflate") => flate2::read::ZlibDecoder::new(&*self.body).read_to_end(&mut body).unwrap(),
            Some(other) => panic!("unknown content-encoding {other}"),
        };
        body
    }
}

type Respond = dyn Fn(usize, &Call) -> Response<Full<Bytes>> + Send + Sync;

/// A service on a free port. It ends when it is dropped.
pub(crate) struct Fake {
    url: String,
    calls: Arc<Mutex<Vec<Call>>>,
    listening: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Fake {
    /// Starts the service. `respond` gets the number of the call, counted from 0, and the call.
    pub(crate) async fn start(respond: impl Fn(usize, &Call) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        let (listener, calls, url) = Self::bind("http").await;
        let (recorded, respond) = (calls.clone(), Arc::<Respond>::from(Box::new(respond) as Box<Respond>));
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new(); // connections end with the service
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve_connection(stream, recorded.clone(), respond.clone()));
            }
        });
        Self { url, calls, listening }
    }

    /// Starts the service with TLS; otherwise like [`start`](Self::start).
    #[cfg(feature = "datadog")]
    pub(crate) async fn start_tls(
        tls: tokio_rustls::TlsAcceptor,
        respond: impl Fn(usize, &Call) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        let (listener, calls, url) = Self::bind("https").await;
        let (recorded, respond) = (calls.clone(), Arc::<Respond>::from(Box::new(respond) as Box<Respond>));
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, recorded, respond) = (tls.clone(), recorded.clone(), respond.clone());
                connections.spawn(async move {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve_connection(stream, recorded, respond).await;
                    }
                });
            }
        });
        Self { url, calls, listening }
    }

    async fn bind(protocol: &str) -> (TcpListener, Arc<Mutex<Vec<Call>>>, String) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("{protocol}://{}", listener.local_addr().unwrap());
        (listener, Arc::default(), url)
    }

    /// Stops the service, so that its port refuses connections.
    pub(crate) async fn stop(mut self) {
        self.listening.abort();
        let _ = (&mut self.listening).await;
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    calls: Arc<Mutex<Vec<Call>>>,
    respond: Arc<Respond>,
) {
    let service = service_fn(move |request| serve_request(request, calls.clone(), respond.clone()));
    // An error means that the client disconnected.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn serve_request(
    request: Request<Incoming>,
    calls: Arc<Mutex<Vec<Call>>>,
    respond: Arc<Respond>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let call =
        Call { path: head.uri.path().into(), headers: head.headers, body: body.collect().await.unwrap().to_bytes() };
    let mut calls = calls.lock().unwrap();
    calls.push(call.clone());
    Ok(respond(calls.len() - 1, &call))
}

//! An HTTP service that keeps what it is sent and answers as it is told.

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

/// A request as it was on the wire.
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

    /// The body without its compression.
    pub(crate) fn plain(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        match self.headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap()) {
            None => return self.body.to_vec(),
            Some("gzip") => flate2::read::GzDecoder::new(&*self.body).read_to_end(&mut plain).unwrap(),
            Some("deflate") => flate2::read::ZlibDecoder::new(&*self.body).read_to_end(&mut plain).unwrap(),
            Some(other) => panic!("{other}"),
        };
        plain
    }
}

type Answer = dyn Fn(usize, &Call) -> Response<Full<Bytes>> + Send + Sync;

/// Listens on a free port, until it is dropped.
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
    /// Answers by the number of the call, from 0.
    pub(crate) async fn start(answer: impl Fn(usize, &Call) -> Response<Full<Bytes>> + Send + Sync + 'static) -> Self {
        let (listener, calls, url) = Self::bind("http").await;
        let (kept, answer) = (calls.clone(), Arc::<Answer>::from(Box::new(answer) as Box<Answer>));
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new(); // they end with it
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(converse(stream, kept.clone(), answer.clone()));
            }
        });
        Self { url, calls, listening }
    }

    /// As [`start`](Self::start), with TLS.
    #[cfg(feature = "datadog")]
    pub(crate) async fn start_tls(
        tls: tokio_rustls::TlsAcceptor,
        answer: impl Fn(usize, &Call) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> Self {
        let (listener, calls, url) = Self::bind("https").await;
        let (kept, answer) = (calls.clone(), Arc::<Answer>::from(Box::new(answer) as Box<Answer>));
        let listening = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, kept, answer) = (tls.clone(), kept.clone(), answer.clone());
                connections.spawn(async move {
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(stream, kept, answer).await;
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

    /// From now on, nobody listens.
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

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    kept: Arc<Mutex<Vec<Call>>>,
    answer: Arc<Answer>,
) {
    let service = service_fn(move |request| serve(request, kept.clone(), answer.clone()));
    // An error is a client that went away.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn serve(
    request: Request<Incoming>,
    kept: Arc<Mutex<Vec<Call>>>,
    answer: Arc<Answer>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let call =
        Call { path: head.uri.path().into(), headers: head.headers, body: body.collect().await.unwrap().to_bytes() };
    let mut kept = kept.lock().unwrap();
    kept.push(call.clone());
    Ok(answer(kept.len() - 1, &call))
}

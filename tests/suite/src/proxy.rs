//! A proxy between a producer and any service, which can be unreachable and can throttle.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// A proxy with its own port that forwards plain HTTP to a service.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    task: Option<JoinHandle<()>>,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    upstream: String,
    client: Client<HttpConnector, Full<Bytes>>,
    throttling: AtomicBool,
    put_records: AtomicU64,
}

impl Proxy {
    /// Starts a proxy to `upstream`, a URL without a path.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub async fn start(upstream: &str) -> Self {
        let inner = Inner {
            upstream: upstream.to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
            throttling: AtomicBool::new(false),
            put_records: AtomicU64::new(0),
        };
        let mut proxy = Self { addr: ([127, 0, 0, 1], 0).into(), task: None, inner: Arc::new(inner) };
        proxy.up().await;
        proxy
    }

    /// Returns the URL of the proxy, for producers.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Stops listening and closes every connection.
    pub async fn down(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Listens again, on the same port.
    ///
    /// # Panics
    ///
    /// If another process uses the port now.
    pub async fn up(&mut self) {
        let listener = TcpListener::bind(self.addr).await.expect("the port is free");
        self.addr = listener.local_addr().expect("an address");
        self.task = Some(tokio::spawn(serve(listener, self.inner.clone())));
    }

    /// Sets whether every PutRecords is answered with `ProvisionedThroughputExceededException`.
    pub fn throttle(&self, throttling: bool) {
        self.inner.throttling.store(throttling, Ordering::Relaxed);
    }

    /// Returns the number of PutRecords requests so far, throttled ones included.
    pub fn put_records(&self) -> u64 {
        self.inner.put_records.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn serve(listener: TcpListener, inner: Arc<Inner>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let inner = inner.clone();
        connections.spawn(async move {
            let service = service_fn(|request| forward(request, inner.clone()));
            // An error means that the client or the service has closed its connection.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn forward(request: Request<Incoming>, inner: Arc<Inner>) -> Result<Response<Full<Bytes>>, BoxError> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    if head.headers.get("x-amz-target").is_some_and(|target| target == "Kinesis_20131202.PutRecords") {
        inner.put_records.fetch_add(1, Ordering::Relaxed);
        if inner.throttling.load(Ordering::Relaxed) {
            let error =
                r#"{"__type":"ProvisionedThroughputExceededException","message":"Rate exceeded (from the proxy)."}"#;
            let mut response = Response::new(Full::new(Bytes::from_static(error.as_bytes())));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response.headers_mut().insert("content-type", "application/x-amz-json-1.1".parse()?);
            return Ok(response);
        }
    }
    head.uri = format!("{}{}", inner.upstream, head.uri.path()).parse()?;
    head.headers.remove("host");
    let response = inner.client.request(Request::from_parts(head, Full::new(body))).await?;
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}

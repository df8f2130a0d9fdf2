//! A complete driver for smol: a runtime, and an HTTP client with TLS, a connection pool and timeouts, without proxies.
//! The program puts the lines of a file into a stream.
//!
//! ```text
//! kpl emulator --stream events:4 &
//! export AWS_ENDPOINT_URL=http://127.0.0.1:4567 AWS_REGION=us-east-1
//! export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any
//! cargo run -p kpl-driver --example smol -- events README.md
//! ```

use std::error::Error;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_async::rt::sleep::{AsyncSleep, Sleep};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use futures_rustls::TlsConnector;
use futures_rustls::pki_types::pem::PemObject;
use futures_rustls::pki_types::{CertificateDer, ServerName};
use futures_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};
use http_body_util::BodyExt;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Response, Uri};
use kpl_driver::core::Instant;
use kpl_driver::{AwsRuntime, Clock, Producer, Runtime, SharedAsyncSleep, fresh_pool_after_timeout};
use smol::Timer;
use smol::fs::File;
use smol::future::FutureExt;
use smol::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use smol::net::TcpStream;
use smol::stream::StreamExt;
use smol_hyper::rt::FuturesIo;

type BoxError = Box<dyn Error + Send + Sync>;

/// smol's global executor and timers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Smol(Clock);

impl Runtime for Smol {
    fn now(&self) -> Instant {
        self.0.now()
    }

    async fn sleep_until(&self, deadline: Instant) {
        Timer::after(self.0.until(deadline)).await;
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        // A panic must end its task only.
        smol::spawn(AssertUnwindSafe(future).catch_unwind()).detach();
    }
}

impl AsyncSleep for Smol {
    fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(async move {
            Timer::after(duration).await;
        })
    }
}

impl AwsRuntime for Smol {
    fn http_client(ca_pem: Option<&[u8]>) -> Result<SharedHttpClient, BoxError> {
        let mut roots = RootCertStore::empty();
        match ca_pem {
            Some(pem) => CertificateDer::pem_slice_iter(pem).try_for_each(|ca| Ok::<_, BoxError>(roots.add(ca?)?))?,
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        if ca_pem.is_some() && roots.is_empty() {
            return Err("it has no certificate".into());
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = Arc::new(tls);
        Ok(fresh_pool_after_timeout::<Self>(move || {
            let (tls, idle) = (tls.clone(), Idle::default());
            // The SDK calls this per request. Timeouts belong to the request; all requests share the connections.
            http_client_fn(move |settings, _| {
                SharedHttpConnector::new(Http { tls: tls.clone(), idle: idle.clone(), settings: settings.clone() })
            })
        }))
    }

    fn sleep_impl() -> SharedAsyncSleep {
        SharedAsyncSleep::new(Self::default())
    }

    fn never_connected(error: &(dyn Error + 'static)) -> bool {
        // hyper cancels a request if its idle connection closes before anything is sent.
        error.is::<NotConnected>() || error.downcast_ref().is_some_and(hyper::Error::is_canceled)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("connection not established")]
struct NotConnected(#[source] ConnectorError);

/// HTTP/1.1 with hyper, over smol's sockets.
#[derive(Clone, Debug)]
struct Http {
    tls: Arc<ClientConfig>,
    idle: Idle,
    settings: HttpConnectorSettings,
}

/// Idle connections, with scheme and authority.
type Idle = Arc<Mutex<Vec<(String, SendRequest<SdkBody>)>>>;

impl HttpConnector for Http {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let http = self.clone();
        HttpConnectorFuture::new(async move { with_timeout(http.settings.read_timeout(), http.send(request)).await })
    }
}

impl Http {
    /// Sends a request and returns the response with its whole body. If this fails or is dropped, the connection
    /// closes.
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, BoxError> {
        let mut request = request.try_into_http1x()?;
        let uri = request.uri().clone();
        let host = uri.host().ok_or("the endpoint has no host")?;
        // The signature covers this header: without the default port.
        let authority = match uri.port_u16() {
            Some(port) if port != default_port(&uri) => format!("{host}:{port}"),
            _ => host.to_owned(),
        };
        request.headers_mut().insert("host", authority.parse()?);
        *request.uri_mut() = uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;

        let origin = format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
        let mut connection = match self.take_idle(&origin) {
            Some(connection) => connection,
            None => with_timeout(self.settings.connect_timeout(), self.connect(&uri)).await.map_err(NotConnected)?,
        };
        let (parts, body) = connection.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((origin, connection));
        Ok(Response::from_parts(parts, SdkBody::from(body)).try_into()?)
    }

    /// Returns the most recently used idle connection that is open.
    fn take_idle(&self, origin: &str) -> Option<SendRequest<SdkBody>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, connection)| !connection.is_closed());
        let index = idle.iter().rposition(|(key, connection)| key == origin && connection.is_ready())?;
        Some(idle.remove(index).1)
    }

    async fn connect(&self, uri: &Uri) -> Result<SendRequest<SdkBody>, BoxError> {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or_else(|| default_port(uri));
        let socket = TcpStream::connect(format!("{host}:{port}")).await?;
        socket.set_nodelay(true)?;
        if uri.scheme_str() != Some("https") {
            return start_http(socket).await;
        }
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        start_http(TlsConnector::from(self.tls.clone()).connect(name, socket).await?).await
    }
}

fn default_port(uri: &Uri) -> u16 {
    if uri.scheme_str() == Some("https") { 443 } else { 80 }
}

async fn start_http<S>(socket: S) -> Result<SendRequest<SdkBody>, BoxError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(FuturesIo::new(socket)).await?;
    smol::spawn(connection).detach(); // the request reports its errors
    Ok(sender)
}

/// Returns the result of a future, or a timeout error.
async fn with_timeout<T>(
    limit: Option<Duration>,
    result: impl Future<Output = Result<T, BoxError>>,
) -> Result<T, ConnectorError> {
    let result = async { result.await.map_err(ConnectorError::io) };
    let Some(limit) = limit else { return result.await };
    let timeout = async {
        Timer::after(limit).await;
        Err(ConnectorError::timeout(format!("timed out after {limit:?}").into()))
    };
    result.or(timeout).await
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    smol::block_on(put_lines())
}

async fn put_lines() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(stream), Some(path)) = (args.next(), args.next()) else { return Err("usage: smol STREAM FILE".into()) };
    let stream = Arc::<str>::from(stream);
    let mut lines = BufReader::new(File::open(path).await?).split(b'\n');
    let producer = Producer::<Smol>::from_env().await?;
    let mut outcomes = Vec::new();
    while let Some(line) = lines.next().await {
        outcomes.push(producer.put(stream.clone(), outcomes.len().to_string(), line?).await);
    }
    producer.close().await;
    let (lines, mut stored) = (outcomes.len(), 0);
    for (line, outcome) in (1..).zip(outcomes) {
        match outcome {
            Ok(outcome) => match outcome.await {
                Ok(_receipt) => stored += 1,
                Err(failure) => eprintln!("line {line}: {failure}"),
            },
            Err(error) => eprintln!("line {line}: {error}"),
        }
    }
    println!("{stored} of {lines} lines stored");
    Ok(ExitCode::from(u8::from(stored < lines)))
}

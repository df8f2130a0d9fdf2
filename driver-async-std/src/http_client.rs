//! HTTP clients for an `aws_sdk_kinesis::Client`: surf over curl, TLS by rustls, with `TCP_NODELAY`, and with the
//! proxies of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).
//!
//! ```no_run
//! # #[async_std::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use kpl_async_std::{AsyncStd, Config, Producer, aws_config, http_client};
//! use kpl_driver::AwsRuntime;
//!
//! let sdk_config = aws_config::defaults(aws_config::BehaviorVersion::latest())
//!     .endpoint_url("https://localhost:4567")
//!     .http_client(http_client::with_ca_bundle(&std::fs::read("ca.pem")?)?)
//!     .sleep_impl(AsyncStd::sleep_impl())
//!     .load()
//!     .await;
//! let producer = Producer::from_sdk_config(&sdk_config, Config::default());
//! # Ok(()) }
//! ```

mod curl;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_async::future::timeout::Timeout;
use aws_smithy_async::rt::sleep::AsyncSleep;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use futures_util::io::Cursor;
use http_client::http_types::headers::HeaderValue;
use isahc::tls::{TlsConfig, TrustStore};
use kpl_driver::{AwsRuntime, SharedAsyncSleep, fresh_pool_after_timeout};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use self::curl::{ConnectTimeout, Curl};
use crate::AsyncStd;

pub use kpl_driver::CaBundleError;

pub(crate) use self::curl::CurlError;

/// The timeout of requests for which the SDK sets none, such as requests for credentials.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns a client that trusts the machine's certificate authorities.
pub fn new() -> SharedHttpClient {
    Surf::shared(TlsConfig::default())
}

/// Returns a client that trusts the certificate authorities in `pem` in addition to the machine's. `pem` is one or more
/// certificates in PEM.
///
/// # Errors
///
/// [`CaBundleError`] if `pem` has no certificate, or an invalid one.
pub fn with_ca_bundle(pem: &[u8]) -> Result<SharedHttpClient, CaBundleError> {
    let error = |reason: String| CaBundleError { len: pem.len(), reason };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|cause| error(cause.to_string()))?;
    if certificates.is_empty() {
        return Err(error("it has no certificate".into()));
    }
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|cause| error(cause.to_string()))?;
    }
    // A trust store of curl's replaces the machine's, so it must include its certificates.
    let mut trusted = TrustStore::builder();
    for certificate in rustls_native_certs::load_native_certs().certs.iter().chain(&certificates) {
        trusted = trusted.certificate_from_der(certificate);
    }
    Ok(Surf::shared(TlsConfig::builder().trust_store(trusted.build()).build()))
}

/// Returns a client that accepts any server certificate: **for tests only**. It encrypts, but a man in the middle can
/// read and change the requests, including their signatures.
///
/// Use it in the config of the Kinesis client, as `aws_sdk_kinesis::config::Builder::from(&sdk_config).http_client(…)`,
/// not in the `SdkConfig`: with that, credentials providers would send their secrets to servers that are not verified.
pub fn dangerous_without_certificate_verification() -> SharedHttpClient {
    Surf::shared(TlsConfig::builder().danger_accept_invalid_certs(true).danger_accept_invalid_hosts(true).build())
}

/// The SDK's HTTP client. The first request starts curl's thread and its connection pool.
#[derive(Clone, Debug)]
struct Surf {
    tls: TlsConfig,
    client: Arc<Mutex<Option<surf::Client>>>,
}

impl Surf {
    fn shared(tls: TlsConfig) -> SharedHttpClient {
        fresh_pool_after_timeout::<AsyncStd>(move || {
            SharedHttpClient::new(Self { tls: tls.clone(), client: Arc::default() })
        })
    }

    fn client(&self) -> Result<surf::Client, ConnectorError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let curl = Curl::new(self.tls.clone()).map_err(|error| ConnectorError::other(error.into(), None))?;
        Ok(client.insert(surf::Client::with_http_client(curl)).clone())
    }
}

impl HttpClient for Surf {
    fn http_connector(&self, settings: &HttpConnectorSettings, parts: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector {
            surf: self.clone(),
            connect_timeout: ConnectTimeout(settings.connect_timeout().unwrap_or(DEFAULT_TIMEOUT)),
            read_timeout: settings.read_timeout().unwrap_or(DEFAULT_TIMEOUT),
            sleep: parts.sleep_impl().unwrap_or_else(AsyncStd::sleep_impl),
        })
    }
}

#[derive(Clone, Debug)]
struct Connector {
    surf: Surf,
    connect_timeout: ConnectTimeout,
    /// The time limit for the whole request.
    read_timeout: Duration,
    sleep: SharedAsyncSleep,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self { surf, connect_timeout, read_timeout, sleep } = self.clone();
        let response = async move {
            let mut request = surf_request(request)?;
            request.set_ext(connect_timeout);
            sdk_response(surf.client()?.send(request).await.map_err(connector_error)?).await
        };
        // Not curl's timeout: when a stopped process continues, curl checks it before it reads a reply that has arrived.
        let response = Timeout::new(response, sleep.sleep(read_timeout));
        HttpConnectorFuture::new(async move {
            response.await.unwrap_or_else(|timed_out| Err(ConnectorError::timeout(timed_out.into())))
        })
    }
}

fn surf_request(mut request: HttpRequest) -> Result<surf::Request, ConnectorError> {
    let user = |error: surf::Error| ConnectorError::user(error.to_string().into());
    let url = surf::Url::parse(request.uri()).map_err(|error| ConnectorError::user(error.into()))?;
    let method = request.method().parse().map_err(user)?;
    let mut surf_request = surf::Request::new(method, url);
    for (name, value) in request.headers() {
        // Curl sets this header from the length of the body.
        if name != "content-length" {
            let value = HeaderValue::from_bytes(value.as_bytes().to_vec()).map_err(user)?;
            surf_request.append_header(name, value);
        }
    }
    let body = InMemory(request.take_body());
    let Some(len) = body.0.bytes().map(<[u8]>::len) else {
        return Err(ConnectorError::user("the body of the request is not in memory".into()));
    };
    surf_request.set_body(surf::Body::from_reader(Cursor::new(body), Some(len)));
    Ok(surf_request)
}

async fn sdk_response(mut response: surf::Response) -> Result<HttpResponse, ConnectorError> {
    let body = response.body_bytes().await.map_err(connector_error)?;
    let status = u16::from(response.status()).try_into();
    let mut sdk_response = HttpResponse::new(
        status.map_err(|_| ConnectorError::other("the status is invalid".into(), None))?,
        body.into(),
    );
    for (name, values) in response.iter() {
        for value in values {
            let header = sdk_response.headers_mut().try_append(name.to_string(), value.to_string());
            header.map_err(|error| ConnectorError::other(error.into(), None))?;
        }
    }
    Ok(sdk_response)
}

fn connector_error(error: surf::Error) -> ConnectorError {
    match error.downcast::<CurlError>() {
        Ok(error) if error.is_timeout() => ConnectorError::timeout(error.into()),
        Ok(error) => ConnectorError::io(error.into()),
        // Its `Debug` output, unlike this, has a backtrace.
        Err(error) => ConnectorError::other(error.to_string().into(), None),
    }
}

/// A body that is read without a copy.
struct InMemory(SdkBody);

impl AsRef<[u8]> for InMemory {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes().unwrap_or_default()
    }
}

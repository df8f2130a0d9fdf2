//! HTTP clients for an `aws_sdk_kinesis::Client`: surf over curl, TLS by OpenSSL, `TCP_NODELAY` on, proxies as the
//! environment says (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).
//!
//! **Close the producer before the program ends.** Curl works on a thread of its own, and OpenSSL clears up when the process
//! exits, whoever still uses it: a TLS handshake that is under way at that moment can crash the process. libcurl's
//! initialisation at the program's start leaves no way to forbid that from here.
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

use std::sync::{Arc, OnceLock};
use std::time::Duration;

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
use openssl::x509::X509;

use self::curl::{Curl, TimeOuts};

pub use kpl_driver::CaBundleError;

pub(crate) use self::curl::NoAnswer;

/// When a request ends for which the SDK sets no time-out, as those for credentials may be.
const LONGEST_REQUEST: Duration = Duration::from_secs(60);

/// A client that trusts the machine's certificate authorities.
pub fn new() -> SharedHttpClient {
    Surf::shared(TlsConfig::default())
}

/// A client that trusts the certificate authorities of `pem` besides the machine's: one or more certificates in PEM.
///
/// # Errors
///
/// [`CaBundleError`] if there is no certificate in it, or a broken one.
pub fn with_ca_bundle(pem: &[u8]) -> Result<SharedHttpClient, CaBundleError> {
    let error = |reason: String| CaBundleError { len: pem.len(), reason };
    let certificates = X509::stack_from_pem(pem).map_err(|cause| error(cause.to_string()))?;
    if certificates.is_empty() {
        return Err(error("it has no certificate".into()));
    }
    // A bundle of one's own takes the place of the machine's file, so it needs what is in that. A directory still counts.
    let machine = openssl_probe::probe().cert_file.and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
    let trusted =
        TrustStore::builder().certificate_from_pem(machine).certificate_from_pem("\n").certificate_from_pem(pem);
    Ok(Surf::shared(TlsConfig::builder().trust_store(trusted.build()).build()))
}

/// A client that believes whoever answers: **for tests only**. It encrypts, but anybody in between can read and change
/// what is sent, credentials' signatures included.
pub fn dangerous_without_certificate_verification() -> SharedHttpClient {
    Surf::shared(TlsConfig::builder().danger_accept_invalid_certs(true).danger_accept_invalid_hosts(true).build())
}

/// What the SDK calls an HTTP client. Curl's thread, and its pool of connections, come with the first request.
#[derive(Clone, Debug)]
struct Surf {
    tls: TlsConfig,
    client: Arc<OnceLock<surf::Client>>,
}

impl Surf {
    fn shared(tls: TlsConfig) -> SharedHttpClient {
        SharedHttpClient::new(Self { tls, client: Arc::default() })
    }

    fn client(&self) -> Result<surf::Client, ConnectorError> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        let curl = Curl::new(self.tls.clone()).map_err(|error| ConnectorError::other(error.into(), None))?;
        Ok(self.client.get_or_init(|| surf::Client::with_http_client(curl)).clone())
    }
}

impl HttpClient for Surf {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // The SDK drops a request whose time is up, but curl goes on with it: it has to know the time by itself.
        let time_outs = TimeOuts {
            connect: settings.connect_timeout().unwrap_or(LONGEST_REQUEST),
            whole: settings.read_timeout().unwrap_or(LONGEST_REQUEST),
        };
        SharedHttpConnector::new(Connector { surf: self.clone(), time_outs })
    }
}

#[derive(Clone, Debug)]
struct Connector {
    surf: Surf,
    time_outs: TimeOuts,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self { surf, time_outs } = self.clone();
        HttpConnectorFuture::new(async move {
            let mut request = surf_request(request)?;
            request.set_ext(time_outs);
            sdk_response(surf.client()?.send(request).await.map_err(no_answer)?).await
        })
    }
}

fn surf_request(mut request: HttpRequest) -> Result<surf::Request, ConnectorError> {
    let user = |error: surf::Error| ConnectorError::user(error.to_string().into());
    let url = surf::Url::parse(request.uri()).map_err(|error| ConnectorError::user(error.into()))?;
    let method = request.method().parse().map_err(user)?;
    let mut surf_request = surf::Request::new(method, url);
    for (name, value) in request.headers() {
        // The body's length says it, and curl must not hear it twice.
        if name != "content-length" {
            let value = HeaderValue::from_bytes(value.as_bytes().to_vec()).map_err(user)?;
            surf_request.append_header(name, value);
        }
    }
    let body = InMemory(request.take_body());
    let Some(len) = body.0.bytes().map(<[u8]>::len) else {
        return Err(ConnectorError::user("the body of a request has to be in memory".into()));
    };
    surf_request.set_body(surf::Body::from_reader(Cursor::new(body), Some(len)));
    Ok(surf_request)
}

async fn sdk_response(mut response: surf::Response) -> Result<HttpResponse, ConnectorError> {
    let body = response.body_bytes().await.map_err(no_answer)?;
    let status = u16::from(response.status()).try_into();
    let mut sdk_response =
        HttpResponse::new(status.map_err(|_| ConnectorError::other("no status".into(), None))?, body.into());
    for (name, values) in response.iter() {
        for value in values {
            let header = sdk_response.headers_mut().try_append(name.to_string(), value.to_string());
            header.map_err(|error| ConnectorError::other(error.into(), None))?;
        }
    }
    Ok(sdk_response)
}

fn no_answer(error: surf::Error) -> ConnectorError {
    match error.downcast::<NoAnswer>() {
        Ok(error) if error.is_timeout() => ConnectorError::timeout(error.into()),
        Ok(error) => ConnectorError::io(error.into()),
        // Without `{:?}`, which would be a backtrace.
        Err(error) => ConnectorError::other(error.to_string().into(), None),
    }
}

/// A body to be read where it lies.
struct InMemory(SdkBody);

impl AsRef<[u8]> for InMemory {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes().unwrap_or_default()
    }
}

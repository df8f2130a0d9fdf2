//! HTTP clients for an `aws_sdk_kinesis::Client`: TLS by rustls, with `TCP_NODELAY`, and with the proxies of the
//! environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`).
//!
//! ```no_run
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use kpl_tokio::{Config, Producer, aws_config, http_client};
//!
//! let sdk_config = aws_config::defaults(aws_config::BehaviorVersion::latest())
//!     .endpoint_url("https://localhost:4567")
//!     .http_client(http_client::with_ca_bundle(&std::fs::read("ca.pem")?)?)
//!     .load()
//!     .await;
//! let producer = Producer::from_sdk_config(&sdk_config, Config::default());
//! # Ok(()) }
//! ```

mod dangerous;

use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Connector, HttpClientError};
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use kpl_driver::fresh_pool_after_timeout;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tracing::warn;

use crate::Tokio;

pub use kpl_driver::CaBundleError;

pub use dangerous::dangerous_without_certificate_verification;

/// Returns a client that trusts the machine's certificate authorities.
pub fn new() -> SharedHttpClient {
    Pooled::shared(context(machine_authorities()).unwrap_or_default())
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
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|cause| error(cause.to_string()))?;
    }
    let context = context(machine_authorities().with_pem_certificate(pem)).map_err(|cause| error(cause.to_string()))?;
    Ok(Pooled::shared(context))
}

/// Returns the machine's certificate authorities. A minimal image without the package `ca-certificates` has none, and the
/// SDK's connector asserts that there is one.
fn machine_authorities() -> TrustStore {
    static HAS_ANY: LazyLock<bool> = LazyLock::new(|| {
        let has_any = !rustls_native_certs::load_native_certs().certs.is_empty();
        if !has_any {
            warn!("this machine has no certificate authorities: no server is trusted without a CA bundle");
        }
        has_any
    });
    TrustStore::empty().with_native_roots(*HAS_ANY)
}

fn context(trusted: TrustStore) -> Result<TlsContext, HttpClientError> {
    TlsContext::builder().with_trust_store(trusted).build()
}

/// The SDK's connector with proxies, which the SDK's builder of HTTP clients does not support.
#[derive(Clone, Debug)]
struct Pooled {
    tls: TlsContext,
    /// The connectors per pair of timeouts; in practice, one. Each is a connection pool.
    connectors: Arc<Mutex<Vec<(Timeouts, SharedHttpConnector)>>>,
}

/// The timeouts of connecting and of reading.
type Timeouts = (Option<Duration>, Option<Duration>);

impl Pooled {
    fn shared(tls: TlsContext) -> SharedHttpClient {
        fresh_pool_after_timeout::<Tokio>(move || {
            SharedHttpClient::new(Self { tls: tls.clone(), connectors: Arc::default() })
        })
    }
}

impl HttpClient for Pooled {
    fn http_connector(&self, settings: &HttpConnectorSettings, parts: &RuntimeComponents) -> SharedHttpConnector {
        let timeouts = (settings.connect_timeout(), settings.read_timeout());
        let mut connectors = self.connectors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, connector)) = connectors.iter().find(|(known, _)| *known == timeouts) {
            return connector.clone();
        }
        let mut builder =
            Connector::builder().connector_settings(settings.clone()).proxy_config(ProxyConfig::from_env());
        builder.set_sleep_impl(parts.sleep_impl());
        let connector = builder.tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(self.tls.clone()).build();
        let connector = SharedHttpConnector::new(connector);
        connectors.push((timeouts, connector.clone()));
        connector
    }
}

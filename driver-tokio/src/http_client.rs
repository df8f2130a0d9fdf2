//! HTTP clients for an `aws_sdk_kinesis::Client`: TLS by rustls, `TCP_NODELAY` on.
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

use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

pub use dangerous::dangerous_without_certificate_verification;

/// A file of certificate authorities that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the CA bundle of {len} bytes cannot be used: {reason}")]
pub struct CaBundleError {
    /// Its length.
    pub len: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// A client that trusts the machine's certificate authorities.
pub fn new() -> SharedHttpClient {
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

/// A client that trusts the certificate authorities of `pem` besides the machine's: one or more certificates in PEM.
///
/// # Errors
///
/// [`CaBundleError`] if there is no certificate in it, or a broken one.
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
    let trusted = TrustStore::default().with_pem_certificate(pem);
    let context = TlsContext::builder().with_trust_store(trusted).build().map_err(|cause| error(cause.to_string()))?;
    Ok(Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(context).build_https())
}

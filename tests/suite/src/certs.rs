//! Certificates for servers on this machine: an authority created for the test, and a leaf that it signed.
//!
//! kinesis-mock's own certificate names no host, so a client that verifies certificates refuses it. A CA bundle is
//! tested with an authority that is not the leaf, because that is what users have, for example behind a proxy.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// A certificate authority and a server certificate for `localhost`, `127.0.0.1` and `::1`.
#[derive(Clone, Debug)]
pub struct Certificates {
    ca_pem: String,
    leaf_pem: String,
    key_pem: String,
}

impl Certificates {
    /// Creates new keys and certificates. Each call creates a different authority.
    ///
    /// ```
    /// let certificates = kpl_suite::Certificates::generate();
    /// assert!(certificates.ca_pem().starts_with("-----BEGIN CERTIFICATE-----"));
    /// ```
    #[must_use]
    pub fn generate() -> Self {
        let ca_key = KeyPair::generate().expect("a key pair");
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, "kpl test authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_pem = ca.self_signed(&ca_key).expect("a self-signed certificate").pem();

        let leaf_key = KeyPair::generate().expect("a key pair");
        let names = ["localhost", "127.0.0.1", "::1"].map(String::from);
        let mut leaf = CertificateParams::new(names).expect("valid host names");
        leaf.distinguished_name.push(DnType::CommonName, "kpl test server");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        let leaf_pem = leaf.signed_by(&leaf_key, &Issuer::new(ca, ca_key)).expect("a signed certificate").pem();

        Self { ca_pem, leaf_pem, key_pem: leaf_key.serialize_pem() }
    }

    /// Returns the authority's certificate, which a client has to trust.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Returns the server's certificate.
    #[must_use]
    pub fn leaf_pem(&self) -> &str {
        &self.leaf_pem
    }

    /// Returns the server's private key.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Returns the TLS config of a server with these certificates that offers HTTP/1.1.
    ///
    /// ```
    /// let config = kpl_suite::Certificates::generate().server_config();
    /// assert_eq!(config.alpn_protocols, [b"http/1.1"]);
    /// ```
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server_config_offering(&["http/1.1"])
    }

    /// Returns the TLS config of a server with these certificates that offers these protocols, the preferred one first.
    ///
    /// ```
    /// let config = kpl_suite::Certificates::generate().server_config_offering(&["h2", "http/1.1"]);
    /// assert_eq!(config.alpn_protocols[0], b"h2");
    /// ```
    #[must_use]
    pub fn server_config_offering(&self, protocols: &[&str]) -> Arc<ServerConfig> {
        let leaf = CertificateDer::from_pem_slice(self.leaf_pem.as_bytes()).expect("the generated PEM");
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("the generated PEM");
        // The provider is passed, because looking it up panics if the build has a second one.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions that ring supports")
            .with_no_client_auth()
            .with_single_cert(vec![leaf], key)
            .expect("a key that matches its certificate");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

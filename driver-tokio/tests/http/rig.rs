//! Clients, producers, certificates.

use std::sync::Arc;

use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region, SharedHttpClient};
use kpl_emulator::{Emulator, Options, Server};
use kpl_tokio::{ConfigBuilder, Producer, aws_sdk_kinesis, http_client};

pub(crate) fn client(url: &str, http_client: SharedHttpClient) -> aws_sdk_kinesis::Client {
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("AKID", "secret", None, None, "test"))
        .endpoint_url(url)
        .http_client(http_client)
        .sleep_impl(aws_smithy_async::rt::sleep::TokioSleep::new())
        .build();
    aws_sdk_kinesis::Client::from_conf(config)
}

pub(crate) fn producer(url: &str, config: ConfigBuilder) -> Producer {
    Producer::new(client(url, http_client::new()), config.build().unwrap())
}

pub(crate) async fn emulator() -> (Emulator, Server) {
    let emulator = Emulator::new(Options::default()).with_stream("events", 3);
    let server = Server::start(&emulator).await.unwrap();
    (emulator, server)
}

/// A CA, and a server's TLS config with a certificate of it.
pub(crate) fn certificates() -> (String, Arc<rustls::ServerConfig>) {
    let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = rcgen::CertifiedIssuer::self_signed(ca, rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    (ca.pem(), Arc::new(config))
}

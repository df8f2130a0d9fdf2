//! Tests of certificate verification.

use std::time::Duration;

use crate::driver::{Config, Producer, block_on, http_client};
use kpl_emulator::{Emulator, Options, Server};

use crate::rig::{certificates, client};

#[test]
fn https_needs_a_trusted_authority_or_disabled_verification() {
    block_on(async {
        let emulator = Emulator::new(Options::default()).with_stream("events", 1);
        let (ca_pem, tls) = certificates();
        let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, Some(tls)).unwrap();
        let config = || Config::builder().record_ttl(Duration::from_secs(2)).build().unwrap();

        let with_ca = http_client::with_ca_bundle(ca_pem.as_bytes()).unwrap();
        let with_ca = Producer::new(client(&server.url(), with_ca), config());
        with_ca.put("events", "k", "with CA").await.unwrap().await.unwrap();

        let without_verification = http_client::dangerous_without_certificate_verification();
        let without_verification = Producer::new(client(&server.url(), without_verification), config());
        without_verification.put("events", "k", "without verification").await.unwrap().await.unwrap();

        let by_default = Producer::new(client(&server.url(), http_client::new()), config());
        let failure = by_default.put("events", "k", "refused").await.unwrap().await.unwrap_err();
        assert!(!failure.is_ambiguous(), "a handshake sends no record: {failure}");
        assert_eq!(emulator.with(|kinesis, _| kinesis.records("events").count()), 2);

        for producer in [with_ca, without_verification, by_default] {
            producer.close().await;
        }
        let error = http_client::with_ca_bundle(b"no certificate").unwrap_err();
        assert_eq!(error.to_string(), "the CA bundle of 14 bytes cannot be used: it has no certificate");
    });
}

//! Whom it trusts.

use std::time::Duration;

use crate::driver::{Config, Producer, block_on, http_client, sleep};
use kpl_emulator::{Emulator, Options, Server};

use crate::rig::{certificates, client};

#[test]
fn https_wants_trust_or_the_dangerous_switch() {
    block_on(async {
        let emulator = Emulator::new(Options::default()).with_stream("events", 1);
        let (ca_pem, tls) = certificates();
        let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, Some(tls)).unwrap();
        let config = || Config::builder().record_ttl(Duration::from_secs(2)).build().unwrap();

        let trusting = http_client::with_ca_bundle(ca_pem.as_bytes()).unwrap();
        let trusting = Producer::new(client(&server.url(), trusting), config());
        trusting.put("events", "k", "by CA").await.unwrap().await.unwrap();

        let careless = http_client::dangerous_without_certificate_verification();
        let careless = Producer::new(client(&server.url(), careless), config());
        careless.put("events", "k", "by nothing").await.unwrap().await.unwrap();

        let careful = Producer::new(client(&server.url(), http_client::new()), config());
        let failure = careful.put("events", "k", "refused").await.unwrap().await.unwrap_err();
        assert!(!failure.is_ambiguous(), "a handshake sends no record: {failure}");
        assert_eq!(emulator.with(|kinesis, _| kinesis.records("events").count()), 2);

        for producer in [trusting, careless, careful] {
            producer.close().await;
        }
        // Questions about the stream may be in the middle of a handshake: OpenSSL does not bear that at a process's end.
        sleep(Duration::from_secs(1)).await;

        let error = http_client::with_ca_bundle(b"no certificate").unwrap_err();
        assert_eq!(error.to_string(), "the CA bundle of 14 bytes cannot be used: it has no certificate");
    });
}

//! The example for smol, over real HTTP to the emulator. No thread here has a tokio runtime, but for the emulator's.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use futures_rustls::rustls::ServerConfig;
use futures_rustls::rustls::crypto::ring;
use kpl_core::{Config, ConfigBuilder, PutFailure};
use kpl_driver::AwsRuntime;
use kpl_emulator::{Emulator, Faults, Options, Server, consumer};

use self::example::Smol;

#[allow(dead_code, reason = "main is for those who run it")]
#[path = "../examples/smol.rs"]
mod example;

type Producer = kpl_driver::Producer<Smol>;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn emulator() -> Emulator {
    Emulator::new(Options::default()).with_stream("events", 3)
}

fn producer(url: &str, ca_pem: Option<&str>, config: ConfigBuilder) -> Producer {
    let client = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("AKID", "secret", None, None, "test"))
        .endpoint_url(url)
        .http_client(Smol::http_client(ca_pem.map(str::as_bytes)).unwrap())
        .sleep_impl(Smol::sleep_impl());
    Producer::new(Client::from_conf(client.build()), config.build().unwrap())
}

/// Settings by which a record that does not get through fails soon.
fn impatient() -> ConfigBuilder {
    Config::builder().request_timeout(Duration::from_millis(200)).record_ttl(Duration::from_millis(600))
}

/// How a record fails that is sent to `url`.
fn failure(url: &str) -> Box<PutFailure> {
    smol::block_on(async { producer(url, None, impatient()).put("events", "k", "x").await.unwrap().await.unwrap_err() })
}

#[test]
fn the_driver_conforms() {
    kpl_driver::conformance::driver(&Smol::default());
}

#[test]
fn records_arrive_where_their_receipts_say() {
    let emulator = emulator();
    let server = Server::bind_on_thread(LOOPBACK, &emulator, None).unwrap();
    smol::block_on(async {
        assert!(tokio::runtime::Handle::try_current().is_err());
        smol::spawn(async { assert!(tokio::runtime::Handle::try_current().is_err()) }).await;
        let producer = producer(&server.url(), None, Config::builder());
        let mut outcomes = vec![];
        for n in 0..1_000 {
            outcomes.push(producer.put("events", format!("key-{n}"), format!("data-{n}")).await.unwrap());
        }
        producer.flush().await;
        let reading = emulator.with(|kinesis, _| consumer::read_stream(kinesis, "events"));
        assert_eq!((reading.records.len(), reading.dropped), (1_000, 0));
        for (n, outcome) in outcomes.into_iter().enumerate() {
            let receipt = outcome.await.unwrap();
            let found: Vec<_> = reading.records.iter().filter(|record| record.data == format!("data-{n}")).collect();
            let [record] = found[..] else { panic!("record {n} is there {} times", found.len()) };
            assert_eq!((&*record.shard_id, &*record.sequence_number), (&*receipt.shard_id, &*receipt.sequence_number));
        }
        producer.close().await;
    });
}

#[test]
fn a_request_of_megabytes_goes_through() {
    let emulator = Emulator::new(Options::unlimited()).with_stream("events", 1);
    let server = Server::bind_on_thread(LOOPBACK, &emulator, None).unwrap();
    smol::block_on(async {
        let producer = producer(&server.url(), None, Config::builder().rate_limit_bytes_per_shard(1 << 30));
        let mut outcomes = vec![];
        for n in 0..8 {
            outcomes.push(producer.put("events", n.to_string(), vec![n; 1_000_000]).await.unwrap());
        }
        for outcome in outcomes {
            assert_eq!(outcome.await.unwrap().attempts.len(), 1);
        }
    });
}

#[test]
fn connections_are_used_again() {
    let emulator = emulator();
    let server = Server::bind_on_thread(LOOPBACK, &emulator, None).unwrap();
    let (url, connections) = counting_proxy(server.addr());
    smol::block_on(async {
        let producer = producer(&url, None, Config::builder());
        for n in 0..20 {
            let outcome = producer.put("events", n.to_string(), "x").await.unwrap();
            producer.flush().await;
            outcome.await.unwrap();
        }
    });
    // Two questions about the stream, and the first request, may be under way together.
    assert!((1..=3).contains(&connections.load(Ordering::Relaxed)), "{connections:?}");
}

/// Hands connections on to `to`, and counts them.
fn counting_proxy(to: SocketAddr) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            count.fetch_add(1, Ordering::Relaxed);
            let (client, server) = (client.unwrap(), TcpStream::connect(to).unwrap());
            for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    (url, connections)
}

#[test]
fn a_connection_that_was_closed_while_idle_harms_nobody() {
    let emulator = emulator();
    let server = Server::bind_on_thread(LOOPBACK, &emulator, None).unwrap();
    let (url, addr) = (server.url(), server.addr());
    smol::block_on(async {
        let producer = producer(&url, None, Config::builder());
        producer.put("events", "k", "before").await.unwrap().await.unwrap();
        server.stop().await;
        let _server = Server::bind_on_thread(addr, &emulator, None).unwrap();
        let receipt = producer.put("events", "k", "after").await.unwrap().await.unwrap();
        assert!(receipt.attempts.iter().all(|attempt| !attempt.is_ambiguous()), "{receipt:?}");
    });
}

#[test]
fn a_time_out_is_ambiguous_and_a_refused_connection_is_not() {
    let emulator = emulator();
    emulator.set_faults(Faults { latency: Duration::from_secs(5), ..Faults::default() });
    let server = Server::bind_on_thread(LOOPBACK, &emulator, None).unwrap();
    let slow = failure(&server.url());
    assert!(slow.is_ambiguous(), "{slow:?}");
    assert!(slow.attempts.iter().any(|attempt| &*attempt.error.as_ref().unwrap().code == "Request Timeout"));

    let url = server.url();
    smol::block_on(server.stop());
    let refused = failure(&url);
    assert!(!refused.is_ambiguous() && !refused.attempts.is_empty(), "{refused:?}");
    assert!(refused.error.message.contains("Connection Failed"), "{refused}");
}

#[test]
fn a_host_that_is_not_known_and_a_handshake_that_hangs_are_not_ambiguous() {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let hanging = format!("https://{}", listener.local_addr().unwrap());
    for url in ["http://no-such-host.invalid", &hanging] {
        let failure = failure(url);
        assert!(!failure.is_ambiguous() && !failure.attempts.is_empty(), "{url}: {failure:?}");
    }
}

#[test]
fn a_lost_reply_is_ambiguous() {
    let emulator = emulator();
    emulator.set_faults(Faults { drop_reply_rate: 1.0, ..Faults::default() });
    let server = Server::bind_on_thread(LOOPBACK, &emulator, None).unwrap();
    let failure = failure(&server.url());
    assert!(failure.is_ambiguous(), "{failure:?}");
    assert!(failure.error.message.contains("Connection Lost"), "{failure}");
}

#[test]
fn https_wants_trust() {
    let emulator = emulator();
    let (ca_pem, tls) = certificates();
    let server = Server::bind_on_thread(LOOPBACK, &emulator, Some(tls)).unwrap();
    smol::block_on(async {
        let trusting = producer(&server.url(), Some(&ca_pem), Config::builder());
        trusting.put("events", "k", "by CA").await.unwrap().await.unwrap();
    });
    let failure = failure(&server.url());
    assert!(!failure.is_ambiguous(), "{failure:?}");
    assert!(failure.error.message.contains("UnknownIssuer"), "{failure}");
    for none in ["", "no certificate"] {
        assert!(Smol::http_client(Some(none.as_bytes())).is_err());
    }
}

/// A CA, and a server's TLS config with a certificate of it.
fn certificates() -> (String, Arc<ServerConfig>) {
    let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = rcgen::CertifiedIssuer::self_signed(ca, rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    (ca.pem(), Arc::new(config))
}

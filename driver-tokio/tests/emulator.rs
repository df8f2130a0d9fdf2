//! Over real HTTP, to the emulator.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use kpl_emulator::{Emulator, Faults, Options, Server, consumer};
use kpl_tokio::{Config, ConfigBuilder, Producer, PutError, UserRecord, aws_sdk_kinesis, http_client};

fn client(url: &str, http_client: aws_sdk_kinesis::config::SharedHttpClient) -> aws_sdk_kinesis::Client {
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

fn producer(url: &str, config: ConfigBuilder) -> Producer {
    Producer::new(client(url, http_client::new()), config.build().unwrap())
}

async fn emulator() -> (Emulator, Server) {
    let emulator = Emulator::new(Options::default()).with_stream("events", 3);
    let server = Server::start(&emulator).await.unwrap();
    (emulator, server)
}

#[tokio::test]
async fn records_arrive_where_their_receipts_say() {
    let (emulator, server) = emulator().await;
    let producer = producer(&server.url(), Config::builder());
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
        assert_eq!(record.shard_id, *receipt.shard_id);
        assert_eq!(record.sequence_number, *receipt.sequence_number);
        assert_eq!(record.sub_sequence_number, receipt.sub_sequence_number.unwrap_or(0));
        assert_eq!(record.partition_key, format!("key-{n}"));
        assert_eq!(receipt.attempts.len(), 1);
        assert!(receipt.attempts.last().start <= receipt.attempts.last().end);
    }
    assert!(producer.stats().kinesis_records <= 6, "{:?}", producer.stats());
    producer.close().await;
    assert!(
        matches!(producer.try_put("events", "k", "late"), Err(PutError::Closed { record }) if record.data == "late")
    );
}

#[tokio::test]
async fn a_time_out_is_ambiguous_and_a_refused_connection_is_not() {
    let (emulator, server) = emulator().await;
    let config = Config::builder().request_timeout(Duration::from_millis(200)).record_ttl(Duration::from_millis(600));
    emulator.set_faults(Faults { latency: Duration::from_secs(5), ..Faults::default() });
    let slow = producer(&server.url(), config.clone());
    let failure = slow.put("events", "k", "slow").await.unwrap().await.unwrap_err();
    assert_eq!(&*failure.error.code, "Expired");
    assert!(failure.is_ambiguous(), "{failure:?}");
    assert!(failure.attempts.iter().any(|attempt| &*attempt.error.as_ref().unwrap().code == "Request Timeout"));

    let url = server.url();
    server.stop().await;
    let refused = producer(&url, config);
    let failure = refused.put("events", "k", "refused").await.unwrap().await.unwrap_err();
    assert!(!failure.is_ambiguous() && !failure.attempts.is_empty(), "{failure:?}");
    assert!(failure.error.message.contains("Connection Failed"), "{failure}");
    assert_eq!(failure.record, UserRecord::new("events", "k", "refused"));
}

#[tokio::test]
async fn a_lost_reply_is_ambiguous() {
    let (emulator, server) = emulator().await;
    emulator.set_faults(Faults { drop_reply_rate: 1.0, ..Faults::default() });
    let producer = producer(&server.url(), Config::builder());
    let outcome = producer.put("events", "k", "x").await.unwrap();
    while emulator.with(|kinesis, _| kinesis.records("events").count()) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    emulator.set_faults(Faults::default());
    let receipt = outcome.await.unwrap();
    assert!(receipt.attempts.iter().any(|attempt| attempt.is_ambiguous()), "{receipt:?}");
}

/// A CA, and a server's TLS config with a certificate of it.
fn certificates() -> (String, Arc<rustls::ServerConfig>) {
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

#[tokio::test]
async fn https_wants_trust_or_the_dangerous_switch() {
    let emulator = Emulator::new(Options::default()).with_stream("events", 1);
    let (ca_pem, tls) = certificates();
    let server = Server::bind(([127, 0, 0, 1], 0).into(), &emulator, Some(tls)).await.unwrap();
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

    let error = http_client::with_ca_bundle(b"no certificate").unwrap_err();
    assert_eq!(error.to_string(), "the CA bundle of 14 bytes cannot be used: it has no certificate");
}

#[test]
fn when_the_runtime_is_shut_down_every_outcome_resolves() {
    let emulator = Emulator::new(Options::default()).with_stream("events", 1);
    emulator.set_faults(Faults { latency: Duration::from_secs(60), ..Faults::default() });
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (producer, outcomes) = runtime.block_on(async {
        let producer = producer(&server.url(), Config::builder());
        let mut outcomes = vec![];
        for n in 0..100 {
            outcomes.push(producer.put("events", "k", n.to_string()).await.unwrap());
            tokio::time::sleep(Duration::from_millis(2)).await; // some are under way at the end, some wait
        }
        (producer, outcomes)
    });
    runtime.shutdown_background();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for (n, outcome) in outcomes.into_iter().enumerate() {
            let outcome =
                tokio::time::timeout(Duration::from_secs(5), outcome).await.expect("no outcome stays pending");
            let failure = outcome.unwrap_err();
            assert_eq!((&*failure.error.code, &failure.record.data[..]), ("Closed", n.to_string().as_bytes()));
        }
        tokio::time::timeout(Duration::from_secs(5), producer.flush()).await.expect("no flush hangs");
        tokio::time::timeout(Duration::from_secs(5), producer.close()).await.expect("no close hangs");
        assert!(matches!(producer.put("events", "k", "late").await, Err(PutError::Closed { .. })));
    });
}

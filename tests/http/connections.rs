//! Tests of connection errors: without a connection, an attempt is not ambiguous; with a lost connection, it is.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::driver::{Config, PutFailure, UNKNOWN_HOST, UserRecord, block_on, sleep};
use kpl_emulator::Faults;

use crate::rig::{TestServer, emulator, producer};

#[test]
fn a_timeout_is_ambiguous_and_a_refused_connection_is_not() {
    block_on(async {
        let (emulator, server) = emulator();
        let config =
            Config::builder().request_timeout(Duration::from_millis(200)).record_ttl(Duration::from_millis(600));
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
    });
}

#[test]
fn a_lost_reply_is_ambiguous_and_the_http_client_does_not_resend() {
    block_on(async {
        let (emulator, server) = emulator();
        emulator.set_faults(Faults { drop_reply_rate: 1.0, ..Faults::default() });
        let producer = producer(&server.url(), Config::builder());
        let outcome = producer.put("events", "k", "x").await.unwrap();
        // The connection has served other requests before. On such a connection, curl would resend the request if it
        // could.
        while emulator.with(|kinesis, _| kinesis.records("events").count()) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        emulator.set_faults(Faults::default());
        let receipt = outcome.await.unwrap();
        assert!(receipt.attempts().iter().any(|attempt| attempt.is_ambiguous()), "{receipt:?}");
        assert_eq!(emulator.with(|kinesis, _| kinesis.records("events").count()), receipt.attempts().len());
    });
}

#[test]
fn a_connection_closed_while_idle_is_not_ambiguous() {
    block_on(async {
        let (_, server) = emulator();
        let producer = producer(&server.url(), Config::builder().record_ttl(Duration::from_millis(600)));
        producer.put("events", "k", "stored").await.unwrap().await.unwrap();
        server.stop().await;
        sleep(Duration::from_millis(20)).await;
        let failure = producer.put("events", "k", "not sent").await.unwrap().await.unwrap_err();
        assert!(!failure.is_ambiguous() && !failure.attempts.is_empty(), "{failure:?}");
    });
}

/// Puts a record to the service at `url`. Returns its failure.
async fn failure(url: &str) -> Box<PutFailure> {
    let config = Config::builder().request_timeout(Duration::from_millis(300)).record_ttl(Duration::from_millis(900));
    producer(url, config).put("events", "k", "x").await.unwrap().await.unwrap_err()
}

#[test]
fn an_unknown_host_is_not_ambiguous() {
    block_on(async {
        let failure = failure("http://no-such-host.invalid").await;
        assert!(!failure.is_ambiguous() && !failure.attempts.is_empty(), "{failure:?}");
        assert!(failure.error.message.contains(UNKNOWN_HOST), "{failure}");
    });
}

#[cfg(target_os = "linux")] // other systems refuse connections when the backlog is full
#[test]
fn a_connection_that_hangs_is_not_ambiguous() {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut backlog = vec![];
        while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(100)) {
            backlog.push(stream);
        }
        let failure = failure(&format!("http://{addr}")).await;
        assert!(!failure.is_ambiguous() && !failure.attempts.is_empty(), "{failure:?}");
    });
}

#[test]
fn a_tls_handshake_that_hangs_is_not_ambiguous() {
    block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let failure = failure(&format!("https://{}", listener.local_addr().unwrap())).await;
        assert!(!failure.is_ambiguous() && !failure.attempts.is_empty(), "{failure:?}");
    });
}

#[test]
fn a_connection_closed_before_the_reply_is_ambiguous() {
    block_on(async {
        let start = Instant::now();
        let closing = TestServer::start(|_| None);
        let failure = failure(&closing.url()).await;
        assert!(failure.is_ambiguous(), "{failure:?}");
        assert!(failure.error.message.contains("Connection Lost"), "{failure}");
        assert!(start.elapsed() < Duration::from_secs(5));
    });
}

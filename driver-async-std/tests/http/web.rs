//! Tests of the example for tide, with HTTP requests and the emulator.

use std::net::SocketAddr;
use std::time::Duration;

use async_std::channel::{Sender, bounded};
use async_std::io::{ReadExt, WriteExt};
use async_std::net::{TcpListener, TcpStream};
use async_std::task::{self, JoinHandle};
use futures_util::future::join_all;
use kpl_async_std::{Config, ConfigBuilder};
use kpl_emulator::consumer::{self, Reading};
use kpl_emulator::{Emulator, Faults, Options, Server};

use crate::rig::producer;

#[path = "../../examples/tide.rs"]
#[expect(unreachable_pub, reason = "the items belong to the example")]
mod service;

/// The service and the emulated Kinesis.
struct Rig {
    emulator: Emulator,
    _kinesis: Server,
    addr: SocketAddr,
    stop: Sender<()>,
    service: JoinHandle<std::io::Result<()>>,
}

impl Rig {
    async fn start(emulator: Emulator, config: ConfigBuilder) -> Self {
        let kinesis = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None).unwrap();
        let producer = producer(&kinesis.url(), config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = bounded(1);
        let service = task::spawn(service::serve(listener, producer, async move {
            let _ = stopped.recv().await;
        }));
        Self { emulator, _kinesis: kinesis, addr, stop, service }
    }

    fn post(&self, path: &str, body: &str) -> JoinHandle<String> {
        let addr = self.addr;
        let request = request(path, body);
        task::spawn(async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            read_response(&mut stream).await
        })
    }
}

/// Returns everything that a consumer reads.
fn read_stream(emulator: &Emulator) -> Reading {
    emulator.with(|kinesis, _| consumer::read_stream(kinesis, service::STREAM))
}

fn request(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Reads a complete response. Returns it with its head in lower case.
async fn read_response(stream: &mut TcpStream) -> String {
    let mut response = String::new();
    let mut byte = [0];
    while !response.ends_with("\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "the connection was closed after {response:?}");
        response.push(char::from(byte[0].to_ascii_lowercase()));
    }
    let len = response.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; len.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    response + &String::from_utf8(body).unwrap()
}

fn emulator() -> Emulator {
    Emulator::new(Options::default()).with_stream(service::STREAM, 2)
}

#[async_std::test]
async fn events_are_accepted_and_stored() {
    let rig = Rig::start(emulator(), Config::builder()).await;
    let accepted = rig.post("/events/anna", "one").await;
    assert!(accepted.starts_with("http/1.1 202 "), "{accepted}");
    let stored = rig.post("/events/otto/stored", "two").await;
    assert!(stored.starts_with("http/1.1 200 "), "{stored}");
    let stored: serde_json::Value = serde_json::from_str(stored.split_once("\r\n\r\n").unwrap().1).unwrap();
    let reading = read_stream(&rig.emulator);
    let otto = reading.records.iter().find(|record| record.partition_key == "otto").unwrap();
    assert_eq!(stored["shard"], otto.shard_id);
    assert_eq!(stored["sequence_number"], otto.sequence_number);

    rig.stop.send(()).await.unwrap();
    rig.service.await.unwrap();
    assert_eq!(reading.records.len(), 2, "the second record overtook the first");
}

#[async_std::test]
async fn refusals_name_their_reason() {
    let rig = Rig::start(emulator(), Config::builder().max_outstanding_records(1)).await;
    let invalid = rig.post(&format!("/events/{}", "k".repeat(300)), "x").await;
    assert!(invalid.starts_with("http/1.1 400 ") && invalid.contains("256"), "{invalid}");
    rig.emulator.set_faults(Faults { latency: Duration::from_millis(500), ..Faults::default() });
    assert!(rig.post("/events/k", "x").await.starts_with("http/1.1 202 "));
    for path in ["/events/k", "/events/k/stored"] {
        let full = rig.post(path, "x").await;
        assert!(full.starts_with("http/1.1 503 ") && full.contains("\r\nretry-after: 1\r\n"), "{full}");
    }
}

#[async_std::test]
async fn failures_name_their_error() {
    let without_stream = Rig::start(Emulator::new(Options::default()), Config::builder()).await;
    let failed = without_stream.post("/events/k/stored", "x").await;
    assert!(failed.starts_with("http/1.1 502 ") && failed.contains("ResourceNotFoundException"), "{failed}");
    assert!(failed.contains(r#""ambiguous":false"#), "{failed}");

    let slow = Rig::start(emulator(), Config::builder().record_ttl(Duration::from_millis(300))).await;
    slow.emulator.set_faults(Faults { throttle_rate: 1.0, ..Faults::default() });
    let failed = slow.post("/events/k/stored", "x").await;
    assert!(failed.starts_with("http/1.1 504 ") && failed.contains("Expired"), "{failed}");
}

#[async_std::test]
async fn a_shutdown_completes_requests_and_sends_outstanding_records() {
    let rig = Rig::start(emulator(), Config::builder()).await;
    rig.emulator.set_faults(Faults { latency: Duration::from_millis(700), ..Faults::default() });
    let mut idle = TcpStream::connect(rig.addr).await.unwrap();
    idle.write_all(request("/events/idle", "idle").as_bytes()).await.unwrap();
    assert!(read_response(&mut idle).await.starts_with("http/1.1 202 "));
    let waiting: Vec<_> = (0..5).map(|n| rig.post(&format!("/events/waiting-{n}/stored"), "waiting")).collect();
    let accepted = join_all((0..50).map(|n| rig.post(&format!("/events/accepted-{n}"), "accepted"))).await;
    assert!(accepted.iter().all(|response| response.starts_with("http/1.1 202 ")));
    task::sleep(Duration::from_millis(200)).await; // all are in flight

    rig.stop.send(()).await.unwrap();
    task::sleep(Duration::from_millis(100)).await;
    TcpStream::connect(rig.addr).await.expect_err("the listener is closed");
    idle.write_all(request("/events/late", "late").as_bytes()).await.unwrap();
    let late = read_response(&mut idle).await;
    assert!(late.starts_with("http/1.1 503 ") && late.contains("connection: close"), "{late}");
    for response in join_all(waiting).await {
        assert!(response.starts_with("http/1.1 200 "), "{response}");
    }
    let Rig { emulator, service, .. } = rig;
    service.await.unwrap();
    let reading = read_stream(&emulator);
    assert_eq!(reading.records.len(), 1 + 5 + 50);
    assert!(reading.records.iter().all(|record| record.partition_key != "late"));
}

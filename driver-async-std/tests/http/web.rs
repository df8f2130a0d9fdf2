//! The example's web service, by real requests, over a real emulator.

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
#[expect(unreachable_pub, reason = "they are the example's")]
mod service;

/// The service, and Kinesis.
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
            answer(&mut stream).await
        })
    }
}

/// What a consumer reads.
fn read(emulator: &Emulator) -> Reading {
    emulator.with(|kinesis, _| consumer::read_stream(kinesis, service::STREAM))
}

fn request(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// One answer, in full: its head in lower case.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    let mut byte = [0];
    while !answer.ends_with("\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "hung up after {answer:?}");
        answer.push(char::from(byte[0].to_ascii_lowercase()));
    }
    let len = answer.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; len.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    answer + &String::from_utf8(body).unwrap()
}

fn emulator() -> Emulator {
    Emulator::new(Options::default()).with_stream(service::STREAM, 2)
}

#[async_std::test]
async fn events_are_taken_and_stored() {
    let rig = Rig::start(emulator(), Config::builder()).await;
    let taken = rig.post("/events/anna", "one").await;
    assert!(taken.starts_with("http/1.1 202 "), "{taken}");
    let stored = rig.post("/events/otto/stored", "two").await;
    assert!(stored.starts_with("http/1.1 200 "), "{stored}");
    let stored: serde_json::Value = serde_json::from_str(stored.split_once("\r\n\r\n").unwrap().1).unwrap();
    let reading = read(&rig.emulator);
    let otto = reading.records.iter().find(|record| record.partition_key == "otto").unwrap();
    assert_eq!(stored["shard"], otto.shard_id);
    assert_eq!(stored["sequence_number"], otto.sequence_number);

    rig.stop.send(()).await.unwrap();
    rig.service.await.unwrap();
    assert_eq!(reading.records.len(), 2, "the first was sent before or with the second");
}

#[async_std::test]
async fn refusals_say_why() {
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
async fn failures_say_why() {
    let nowhere = Rig::start(Emulator::new(Options::default()), Config::builder()).await;
    let failed = nowhere.post("/events/k/stored", "x").await;
    assert!(failed.starts_with("http/1.1 502 ") && failed.contains("ResourceNotFoundException"), "{failed}");
    assert!(failed.contains(r#""ambiguous":false"#), "{failed}");

    let slow = Rig::start(emulator(), Config::builder().record_ttl(Duration::from_millis(300))).await;
    slow.emulator.set_faults(Faults { throttle_rate: 1.0, ..Faults::default() });
    let failed = slow.post("/events/k/stored", "x").await;
    assert!(failed.starts_with("http/1.1 504 ") && failed.contains("Expired"), "{failed}");
}

#[async_std::test]
async fn at_the_end_what_was_taken_is_answered_and_stored() {
    let rig = Rig::start(emulator(), Config::builder()).await;
    rig.emulator.set_faults(Faults { latency: Duration::from_millis(700), ..Faults::default() });
    let mut idle = TcpStream::connect(rig.addr).await.unwrap();
    idle.write_all(request("/events/idle", "idle").as_bytes()).await.unwrap();
    assert!(answer(&mut idle).await.starts_with("http/1.1 202 "));
    let waiting: Vec<_> = (0..5).map(|n| rig.post(&format!("/events/waiting-{n}/stored"), "waiting")).collect();
    let taken = join_all((0..50).map(|n| rig.post(&format!("/events/taken-{n}"), "taken"))).await;
    assert!(taken.iter().all(|answer| answer.starts_with("http/1.1 202 ")));
    task::sleep(Duration::from_millis(200)).await; // all are under way

    rig.stop.send(()).await.unwrap();
    task::sleep(Duration::from_millis(100)).await;
    TcpStream::connect(rig.addr).await.expect_err("no more connections");
    idle.write_all(request("/events/late", "late").as_bytes()).await.unwrap();
    let late = answer(&mut idle).await;
    assert!(late.starts_with("http/1.1 503 ") && late.contains("connection: close"), "{late}");
    for answer in join_all(waiting).await {
        assert!(answer.starts_with("http/1.1 200 "), "{answer}");
    }
    let Rig { emulator, service, .. } = rig;
    service.await.unwrap();
    let reading = read(&emulator);
    assert_eq!(reading.records.len(), 1 + 5 + 50);
    assert!(reading.records.iter().all(|record| record.partition_key != "late"));
}

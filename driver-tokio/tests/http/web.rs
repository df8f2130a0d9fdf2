//! Tests of the example for axum, with HTTP requests and the emulator.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use kpl_emulator::{Emulator, Faults, Options, Server, consumer};
use kpl_tokio::{Config, Producer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::rig;

#[allow(dead_code, reason = "the tests do not call main")]
#[path = "../../examples/axum.rs"]
mod example;

/// The service under test.
struct Service {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Service {
    async fn start(producer: Producer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap() };
            example::serve(listener, producer, stopped).await.unwrap();
        });
        Self { addr, stop, serving }
    }

    async fn post(&self, path: &str, data: impl Into<Bytes>) -> Reply {
        post(self.addr, path, data.into()).await
    }
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

async fn post(addr: SocketAddr, path: &str, data: Bytes) -> Reply {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::post(format!("http://{addr}{path}")).body(Full::new(data)).unwrap();
    let (head, body) = client.request(request).await.unwrap().into_parts();
    let text = body.collect().await.unwrap().to_bytes();
    Reply { status: head.status, headers: head.headers, text: String::from_utf8(text.into()).unwrap() }
}

/// Returns the data of all records that a consumer reads.
fn read(emulator: &Emulator) -> Vec<Bytes> {
    let reading = emulator.with(|kinesis, _| consumer::read_stream(kinesis, "events"));
    reading.records.into_iter().map(|record| record.data).collect()
}

#[tokio::test]
async fn a_put_is_accepted_before_its_record_is_stored() {
    let (emulator, server) = rig::emulator();
    emulator.set_faults(Faults { latency: Duration::from_secs(1), ..Faults::default() });
    let producer = rig::producer(&server.url(), Config::builder());
    let service = Service::start(producer.clone()).await;
    let reply = service.post("/events/user-123", "hello").await;
    assert_eq!((reply.status, &*reply.text), (StatusCode::ACCEPTED, ""));
    assert_eq!(producer.outstanding_records(), 1);
    producer.flush().await;
    assert_eq!(read(&emulator), ["hello"]);
}

#[tokio::test]
async fn a_stored_put_returns_shard_and_sequence_number() {
    let (emulator, server) = rig::emulator();
    let service = Service::start(rig::producer(&server.url(), Config::builder())).await;
    let reply = service.post("/events/user-123/stored", "hello").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    let reading = emulator.with(|kinesis, _| consumer::read_stream(kinesis, "events"));
    let [record] = &reading.records[..] else { panic!("{reading:?}") };
    assert_eq!((&*record.partition_key, &record.data[..]), ("user-123", &b"hello"[..]));
    let location = reply.json();
    assert_eq!(location["shard"], record.shard_id);
    assert_eq!(location["sequence_number"], record.sequence_number);
}

#[tokio::test]
async fn an_invalid_record_is_a_bad_request() {
    let (emulator, server) = rig::emulator();
    let service = Service::start(rig::producer(&server.url(), Config::builder())).await;
    // The producer fetches the stream's limit with the first record.
    assert_eq!(service.post("/events/user-123/stored", "hello").await.status, StatusCode::OK);
    for end in ["", "/stored"] {
        let reply = service.post(&format!("/events/{}{end}", "k".repeat(257)), "hello").await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert_eq!(reply.text, "partition_key has 257 characters, but must have 1 to 256");
        let reply = service.post(&format!("/events/user-123{end}"), vec![0; 1 << 20]).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert_eq!(reply.text, "data and partition_key have 1048584 bytes, but the limit is 1048576");
        let reply = service.post(&format!("/events/user-123{end}"), vec![0; (10 << 20) + 1]).await;
        assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    }
    let reply = service.post("/events//stored", "hello").await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.text, "partition_key is empty, but must have 1 to 256 characters");
    // The router has no route for an empty last segment.
    assert_eq!(service.post("/events/", "hello").await.status, StatusCode::NOT_FOUND);
    assert_eq!(read(&emulator), ["hello"]);
}

#[tokio::test]
async fn a_full_producer_returns_retry_after() {
    let (emulator, server) = rig::emulator();
    emulator.set_faults(Faults { latency: Duration::from_secs(1), ..Faults::default() });
    let producer = rig::producer(&server.url(), Config::builder().max_outstanding_records(1));
    let service = Service::start(producer.clone()).await;
    assert_eq!(service.post("/events/user-123", "first").await.status, StatusCode::ACCEPTED);
    for path in ["/events/user-123", "/events/user-123/stored"] {
        let reply = service.post(path, "too much").await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers[RETRY_AFTER], "1");
        assert!(reply.text.starts_with("the producer is full"), "{}", reply.text);
    }
    producer.flush().await;
    assert_eq!(service.post("/events/user-123", "again").await.status, StatusCode::ACCEPTED);
    producer.flush().await;
    assert_eq!(read(&emulator), ["first", "again"]);
}

#[tokio::test]
async fn a_failed_put_returns_its_error() {
    let emulator = Emulator::new(Options::default());
    let server = Server::start(&emulator).await.unwrap();
    let config = Config::builder().request_timeout(Duration::from_millis(200)).record_ttl(Duration::from_millis(600));
    let service = Service::start(rig::producer(&server.url(), config)).await;
    let reply = service.post("/events/user-123/stored", "hello").await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    let body = reply.json();
    assert!(body["error"].as_str().unwrap().starts_with("ResourceNotFoundException"), "{body}");
    assert_eq!(body["is_ambiguous"], false);

    let emulator = emulator.with_stream("events", 1);
    emulator.set_faults(Faults { latency: Duration::from_secs(5), ..Faults::default() });
    let reply = service.post("/events/user-123/stored", "hello").await;
    assert_eq!((reply.status, &reply.json()["is_ambiguous"]), (StatusCode::BAD_GATEWAY, &Value::Bool(true)));
}

#[tokio::test]
async fn a_shutdown_completes_requests_and_sends_outstanding_records() {
    let (emulator, server) = rig::emulator();
    emulator.set_faults(Faults { latency: Duration::from_millis(1_500), ..Faults::default() });
    let service = Service::start(rig::producer(&server.url(), Config::builder())).await;
    let addr = service.addr;
    let waiting = tokio::spawn(post(addr, "/events/user-123/stored", "waiting".into()));
    while !emulator.with(|kinesis, _| kinesis.counters().requests.contains_key("PutRecords")) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for n in 0..20 {
        assert_eq!(service.post(&format!("/events/user-{n}"), n.to_string()).await.status, StatusCode::ACCEPTED);
    }
    let Service { stop, mut serving, .. } = service;
    stop.send(()).unwrap();
    while TcpStream::connect(addr).await.is_ok() {
        assert!(!serving.is_finished(), "the listener closes before the service ends");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!waiting.is_finished() && !serving.is_finished());
    (&mut serving).await.unwrap();
    let mut stored = read(&emulator);
    let reply = waiting.await.unwrap();
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
    stored.sort();
    let mut expected: Vec<Bytes> = (0..20).map(|n| Bytes::from(n.to_string())).chain(["waiting".into()]).collect();
    expected.sort();
    assert_eq!(stored, expected);
}

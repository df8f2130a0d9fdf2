//! Tests of the HTTP server at the level of bytes, which an SDK hides.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ciborium::{Value, cbor};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kpl_emulator::{Emulator, Faults, Options, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PUT: &str = r#"{"StreamName":"s","Records":[{"PartitionKey":"k","Data":"aGVsbG8="}]}"#;

async fn start() -> (Emulator, Server) {
    let emulator = Emulator::new(Options::default()).with_stream("s", 2);
    let server = Server::start(&emulator).await.unwrap();
    (emulator, server)
}

fn head(operation: &str, len: usize, headers: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: Kinesis_20131202.{operation}\r\nContent-Type: \
         application/x-amz-json-1.1\r\nContent-Length: {len}\r\n{headers}\r\n"
    )
}

/// Sends a request on a new connection. Returns everything that is received until the connection is closed.
async fn exchange(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

async fn call(server: &Server, operation: &str, body: &str) -> String {
    exchange(server, &format!("{}{body}", head(operation, body.len(), "Connection: close\r\n"))).await
}

/// Sends a request in CBOR. Returns the head and the body of the reply.
async fn call_cbor(server: &Server, operation: &str, body: Value) -> (String, Value) {
    let mut bytes = Vec::new();
    ciborium::into_writer(&body, &mut bytes).unwrap();
    let head = head(operation, bytes.len(), "Connection: close\r\n").replace("x-amz-json", "x-amz-cbor");
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(&[head.as_bytes(), &bytes].concat()).await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    let end = reply.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(reply[..end].to_vec()).unwrap();
    assert!(head.contains("content-type: application/x-amz-cbor-1.1"), "{head}");
    (head, ciborium::from_reader(&reply[end..]).unwrap())
}

fn cbor_field<'a>(value: &'a Value, name: &str) -> &'a Value {
    let field = value.as_map().unwrap().iter().find(|(key, _)| key.as_text() == Some(name));
    &field.unwrap_or_else(|| panic!("no {name} in {value:?}")).1
}

#[tokio::test]
async fn a_cbor_request_gets_a_cbor_reply() {
    let (_emulator, server) = start().await;
    let data = Value::Bytes(vec![0xFF; 10_000]);
    let entry = cbor!({ "PartitionKey" => "k", "Data" => data }).unwrap();
    let request = cbor!({ "StreamName" => "s", "Records" => [entry] }).unwrap();
    let (_, put) = call_cbor(&server, "PutRecords", request).await;
    let shard_id = cbor_field(&cbor_field(&put, "Records").as_array().unwrap()[0], "ShardId").clone();

    // Times are in milliseconds, with the tag of epoch times.
    let since = Value::Tag(1, Box::new(1_000.into()));
    let request = cbor!({
        "StreamName" => "s", "ShardId" => shard_id, "ShardIteratorType" => "AT_TIMESTAMP", "Timestamp" => since
    });
    let (_, iterator) = call_cbor(&server, "GetShardIterator", request.unwrap()).await;
    let (_, read) = call_cbor(&server, "GetRecords", iterator).await;
    let record = &cbor_field(&read, "Records").as_array().unwrap()[0];
    assert_eq!(cbor_field(record, "Data"), &data);
    let Value::Tag(1, arrived) = cbor_field(record, "ApproximateArrivalTimestamp") else { panic!("{record:?}") };
    let arrived = u64::try_from(arrived.as_integer().unwrap()).unwrap();
    assert!(SystemTime::UNIX_EPOCH.elapsed().unwrap().abs_diff(Duration::from_millis(arrived)).as_secs() < 60);

    let (_, described) = call_cbor(&server, "DescribeStream", cbor!({ "StreamName" => "s" }).unwrap()).await;
    let described = cbor_field(&described, "StreamDescription");
    assert_eq!(cbor_field(described, "StreamStatus").as_text(), Some("ACTIVE"));
    let range = cbor_field(&cbor_field(described, "Shards").as_array().unwrap()[0], "HashKeyRange");
    assert_eq!(cbor_field(range, "StartingHashKey").as_text(), Some("0"));

    let (head, error) = call_cbor(&server, "ListShards", cbor!({ "StreamName" => "nope" }).unwrap()).await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    assert_eq!(cbor_field(&error, "__type").as_text(), Some("ResourceNotFoundException"));
    let (_, error) = call_cbor(&server, "ListShards", cbor!(["no", "request"]).unwrap()).await;
    assert_eq!(cbor_field(&error, "__type").as_text(), Some("SerializationException"));
}

#[tokio::test]
async fn errors_have_their_code_in_the_body_and_in_a_header() {
    let (_emulator, server) = start().await;
    let missing = call(&server, "ListShards", r#"{"StreamName":"nope"}"#).await;
    assert!(missing.starts_with("HTTP/1.1 400"), "{missing}");
    assert!(missing.contains("x-amzn-errortype: ResourceNotFoundException"), "{missing}");
    assert!(missing.contains(r#""__type":"ResourceNotFoundException""#), "{missing}");
    assert!(call(&server, "PutRecords", "{").await.contains("SerializationException"));
    assert!(call(&server, "PutRecords", r#"{"Records":[{"Data":"!"}]}"#).await.contains("SerializationException"));
    assert!(call(&server, "DoIt", "{}").await.contains("UnknownOperationException"));
    assert!(exchange(&server, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.contains("200 OK"));
}

#[tokio::test]
async fn every_operation_works_over_http() {
    let (_emulator, server) = start().await;
    let field = |reply: &str, name: &str| -> String {
        let start = reply.find(&format!("\"{name}\":\"")).unwrap_or_else(|| panic!("no {name} in {reply}"));
        reply[start + name.len() + 4..].split('"').next().unwrap().to_owned()
    };
    let shard = |n: u32| format!("shardId-{n:012}");
    let mut replies = Vec::new();
    for (operation, body, part) in [
        ("CreateStream", r#"{"StreamName":"t","ShardCount":2}"#.to_owned(), "{}"),
        ("ListStreams", "".to_owned(), r#"{"HasMoreStreams":false,"StreamNames":["s","t"]}"#),
        ("DescribeStream", r#"{"StreamName":"t"}"#.to_owned(), r#""HasMoreShards":false"#),
        ("DescribeStreamSummary", r#"{"StreamName":"t"}"#.to_owned(), r#""MaxRecordSizeInKiB":1024"#),
        ("ListShards", r#"{"StreamName":"t"}"#.to_owned(), "170141183460469231731687303715884105728"),
        ("PutRecord", r#"{"StreamName":"t","PartitionKey":"k","Data":"aGVsbG8="}"#.to_owned(), "SequenceNumber"),
        ("PutRecords", PUT.to_owned(), r#""FailedRecordCount":0"#),
        ("UpdateMaxRecordSize", r#"{"StreamName":"t","MaxRecordSizeInKiB":2048}"#.to_owned(), "{}"),
        (
            "UpdateStreamRecordDistributionStrategy",
            r#"{"StreamName":"t","RecordDistributionStrategy":"AUTO"}"#.to_owned(),
            "{}",
        ),
        (
            "SplitShard",
            format!(r#"{{"StreamName":"t","ShardToSplit":"{}","NewStartingHashKey":"1000"}}"#, shard(0)),
            "{}",
        ),
        (
            "MergeShards",
            format!(r#"{{"StreamName":"t","ShardToMerge":"{}","AdjacentShardToMerge":"{}"}}"#, shard(2), shard(3)),
            "{}",
        ),
        (
            "UpdateShardCount",
            r#"{"StreamName":"t","TargetShardCount":4,"ScalingType":"UNIFORM_SCALING"}"#.to_owned(),
            r#""CurrentShardCount":2"#,
        ),
    ] {
        let reply = call(&server, operation, &body).await;
        assert!(reply.starts_with("HTTP/1.1 200 OK") && reply.contains(part), "{operation}: {reply}");
        replies.push(reply);
    }
    assert!(replies[3].contains(r#""StreamCreationTimestamp":1"#), "time in seconds: {}", replies[3]);
    let summary = call(&server, "DescribeStreamSummary", r#"{"StreamName":"t"}"#).await;
    assert_eq!(field(&summary, "RecordDistributionStrategy"), "AUTO");

    let shard_id = field(&replies[6], "ShardId");
    let body = format!(r#"{{"StreamName":"s","ShardId":"{shard_id}","ShardIteratorType":"TRIM_HORIZON"}}"#);
    let iterator = field(&call(&server, "GetShardIterator", &body).await, "ShardIterator");
    let records = call(&server, "GetRecords", &format!(r#"{{"ShardIterator":"{iterator}"}}"#)).await;
    assert_eq!((&*field(&records, "Data"), &*field(&records, "PartitionKey")), ("aGVsbG8=", "k"));
    assert!(call(&server, "DeleteStream", r#"{"StreamName":"t"}"#).await.contains("200 OK"));
    assert!(call(&server, "PutRecord", r#"{"StreamName":"t","PartitionKey":"k"}"#).await.contains("ResourceNotFound"));
}

#[tokio::test]
async fn every_reply_has_a_different_request_id() {
    let (_emulator, server) = start().await;
    let id = |reply: String| {
        reply.lines().find_map(|line| line.strip_prefix("x-amzn-requestid: ").map(str::to_owned)).unwrap()
    };
    let body = r#"{"StreamName":"s"}"#;
    let one = id(call(&server, "ListShards", body).await);
    assert_eq!(one.len(), 36, "{one}");
    assert_ne!(one, id(call(&server, "ListShards", body).await));
    assert!(!id(call(&server, "DoIt", "{}").await).is_empty(), "errors have one, too");
}

#[tokio::test]
async fn a_request_of_10_mib_is_accepted_and_one_byte_more_is_refused() {
    let emulator = Emulator::new(Options::unlimited()).with_stream("s", 2);
    let server = Server::start(&emulator).await.unwrap();
    // Ten records of 1 MiB, including keys of one byte. Four base64 characters are three bytes.
    let data = "AAAA".repeat(((1 << 20) - 1) / 3);
    let entry = format!(r#"{{"PartitionKey":"k","Data":"{data}"}}"#);
    let request = |entries: Vec<&str>| format!(r#"{{"StreamName":"s","Records":[{}]}}"#, entries.join(","));
    let reply = call(&server, "PutRecords", &request(vec![&entry; 10])).await;
    assert!(reply.contains(r#""FailedRecordCount":0"#), "{reply}");
    let more = r#"{"PartitionKey":"k","Data":""}"#;
    let mut entries = vec![entry.as_str(); 10];
    entries.push(more);
    let reply = call(&server, "PutRecords", &request(entries)).await;
    assert!(reply.contains("InvalidArgumentException"), "{reply}");
    assert_eq!(emulator.with(|kinesis, _| kinesis.counters().bytes_stored), 10 * ((1 << 20) - 1));
}

#[tokio::test]
async fn stop_cancels_http1_requests() {
    let (emulator, server) = start().await;
    let latency = Duration::from_millis(200);
    emulator.set_faults(Faults { latency, ..Faults::default() });
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(format!("{}{PUT}", head("PutRecords", PUT.len(), "")).as_bytes()).await.unwrap();
    while emulator.with(|kinesis, _| kinesis.counters().requests.is_empty()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.stop().await;
    assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)), "the connection is closed without a reply");
    tokio::time::sleep(latency * 2).await;
    assert_eq!(emulator.with(|kinesis, _| kinesis.records("s").count()), 0, "the request is not executed later");
}

#[tokio::test]
async fn expect_100_continue_is_honored() {
    let (_emulator, server) = start().await;
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    let head = head("PutRecords", PUT.len(), "Expect: 100-continue\r\nConnection: close\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = [0; 1_024];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer))
        .await
        .expect("an interim response")
        .unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 100 Continue\r\n"), "{:?}", String::from_utf8_lossy(&buffer[..read]));
    stream.write_all(PUT.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.contains("200 OK") && reply.contains("SequenceNumber"), "{reply}");
}

#[tokio::test]
async fn a_record_whose_reply_is_lost_is_stored() {
    let (emulator, server) = start().await;
    emulator.set_faults(Faults { drop_reply_rate: 1.0, ..Faults::default() });
    assert_eq!(call(&server, "PutRecords", PUT).await, "");
    assert_eq!(emulator.with(|kinesis, _| kinesis.records("s").count()), 1);
    assert!(
        call(&server, "ListShards", r#"{"StreamName":"s"}"#).await.contains("200 OK"),
        "the fault affects only puts"
    );
}

#[tokio::test]
async fn faults_fail_throttle_and_delay_requests() {
    let (emulator, server) = start().await;
    emulator.set_faults(Faults { http_500_rate: 1.0, ..Faults::default() });
    assert!(call(&server, "PutRecords", PUT).await.starts_with("HTTP/1.1 500"));
    emulator.set_faults(Faults { request_throttle_rate: 1.0, ..Faults::default() });
    assert!(call(&server, "PutRecords", PUT).await.contains("ProvisionedThroughputExceededException"));
    assert_eq!(emulator.with(|kinesis, _| kinesis.records("s").count()), 0);
    let latency = Duration::from_millis(50);
    emulator.set_faults(Faults { latency, all_operations: true, ..Faults::default() });
    let start = Instant::now();
    call(&server, "ListShards", r#"{"StreamName":"s"}"#).await;
    assert!(start.elapsed() >= latency);
    assert_eq!(emulator.with(|kinesis, _| kinesis.counters().requests["PutRecords"]), 2);
}

#[tokio::test]
async fn records_survive_a_restart_on_the_same_port() {
    let (emulator, server) = start().await;
    call(&server, "PutRecords", PUT).await;
    let mut idle = TcpStream::connect(server.addr()).await.unwrap();
    let addr = server.addr();
    server.stop().await;
    assert!(matches!(idle.read(&mut [0]).await, Ok(0) | Err(_)), "open connections are closed");
    assert!(TcpStream::connect(addr).await.is_err());
    let server = Server::bind(addr, &emulator, None).await.unwrap();
    let iterator = r#"{"StreamName":"s","ShardId":"shardId-000000000000","ShardIteratorType":"TRIM_HORIZON"}"#;
    assert!(call(&server, "GetShardIterator", iterator).await.contains("200 OK"));
    assert_eq!(emulator.with(|kinesis, _| kinesis.records("s").count()), 1);
}

#[test]
fn bind_on_thread_needs_no_runtime() {
    use std::io::{Read, Write};
    let emulator = Emulator::new(Options::default()).with_stream("s", 2);
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None).unwrap();
    let mut stream = std::net::TcpStream::connect(server.addr()).unwrap();
    stream.write_all(format!("{}{PUT}", head("PutRecords", PUT.len(), "Connection: close\r\n")).as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.contains("200 OK"), "{reply}");
}

/// Opens an HTTP/2 connection without TLS, with prior knowledge.
async fn http2(server: &Server) -> http2::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(server.addr()).await.unwrap();
    let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

fn put_request() -> Request<Full<Bytes>> {
    let request = Request::post("http://localhost/").header("x-amz-target", "Kinesis_20131202.PutRecords");
    request.body(PUT.into()).unwrap()
}

#[tokio::test]
async fn http2_clients_are_served() {
    let (emulator, server) = start().await;
    let mut client = http2(&server).await;
    for _ in 0..2 {
        let reply = client.send_request(put_request()).await.unwrap();
        assert_eq!((reply.status(), reply.version()), (StatusCode::OK, Version::HTTP_2));
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(r#""FailedRecordCount":0"#), "{body:?}");
    }
    emulator.set_faults(Faults { drop_reply_rate: 1.0, ..Faults::default() });
    client.send_request(put_request()).await.expect_err("the fault resets the stream");
    emulator.set_faults(Faults::default());
    assert_eq!(client.send_request(put_request()).await.unwrap().status(), 200, "the connection is still usable");
    assert_eq!(emulator.with(|kinesis, _| kinesis.records("s").count()), 4);
}

#[tokio::test]
async fn requests_of_one_http2_connection_are_concurrent() {
    let (emulator, server) = start().await;
    let latency = Duration::from_millis(300);
    emulator.set_faults(Faults { latency, ..Faults::default() });
    let client = http2(&server).await;
    let start = Instant::now();
    let requests = (0..20).map(|_| tokio::spawn(client.clone().send_request(put_request())));
    for request in requests.collect::<Vec<_>>() {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    assert!(start.elapsed() < latency * 10, "{:?}", start.elapsed());
}

#[tokio::test]
async fn stop_cancels_http2_requests() {
    let (emulator, server) = start().await;
    let latency = Duration::from_millis(200);
    emulator.set_faults(Faults { latency, ..Faults::default() });
    let mut client = http2(&server).await;
    let request = tokio::spawn(client.send_request(put_request()));
    while emulator.with(|kinesis, _| kinesis.counters().requests.is_empty()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.stop().await;
    request.await.unwrap().expect_err("the connection is closed without a reply");
    tokio::time::sleep(latency * 2).await;
    assert_eq!(emulator.with(|kinesis, _| kinesis.records("s").count()), 0, "the request is not executed later");
}

//! The face, byte by byte: what an SDK does not show.

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

fn head(operation: &str, len: usize, more: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nX-Amz-Target: Kinesis_20131202.{operation}\r\nContent-Type: \
         application/x-amz-json-1.1\r\nContent-Length: {len}\r\n{more}\r\n"
    )
}

/// All that comes back on a new connection, until it is closed.
async fn exchange(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn call(server: &Server, operation: &str, body: &str) -> String {
    exchange(server, &format!("{}{body}", head(operation, body.len(), "Connection: close\r\n"))).await
}

/// The same in CBOR: the head of the answer, and its body.
async fn call_cbor(server: &Server, operation: &str, body: Value) -> (String, Value) {
    let mut bytes = Vec::new();
    ciborium::into_writer(&body, &mut bytes).unwrap();
    let head = head(operation, bytes.len(), "Connection: close\r\n").replace("x-amz-json", "x-amz-cbor");
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(&[head.as_bytes(), &bytes].concat()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    assert!(head.contains("content-type: application/x-amz-cbor-1.1"), "{head}");
    (head, ciborium::from_reader(&answer[end..]).unwrap())
}

fn cbor_field<'a>(value: &'a Value, name: &str) -> &'a Value {
    let field = value.as_map().unwrap().iter().find(|(key, _)| key.as_text() == Some(name));
    &field.unwrap_or_else(|| panic!("no {name} in {value:?}")).1
}

#[tokio::test]
async fn cbor_is_spoken_to_those_who_speak_it() {
    let (_emulator, server) = start().await;
    let data = Value::Bytes(vec![0xFF; 10_000]);
    let entry = cbor!({ "PartitionKey" => "k", "Data" => data }).unwrap();
    let request = cbor!({ "StreamName" => "s", "Records" => [entry] }).unwrap();
    let (_, put) = call_cbor(&server, "PutRecords", request).await;
    let shard_id = cbor_field(&cbor_field(&put, "Records").as_array().unwrap()[0], "ShardId").clone();

    // Times are milliseconds, tagged as an epoch's.
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
async fn errors_are_json_with_their_type() {
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
async fn every_operation_is_spoken() {
    let (_emulator, server) = start().await;
    let field = |answer: &str, name: &str| -> String {
        let start = answer.find(&format!("\"{name}\":\"")).unwrap_or_else(|| panic!("no {name} in {answer}"));
        answer[start + name.len() + 4..].split('"').next().unwrap().to_owned()
    };
    let shard = |n: u32| format!("shardId-{n:012}");
    let mut said = Vec::new();
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
        let answer = call(&server, operation, &body).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains(part), "{operation}: {answer}");
        said.push(answer);
    }
    assert!(said[3].contains(r#""StreamCreationTimestamp":1"#), "a number of seconds: {}", said[3]);
    let summary = call(&server, "DescribeStreamSummary", r#"{"StreamName":"t"}"#).await;
    assert_eq!(field(&summary, "RecordDistributionStrategy"), "AUTO");

    let shard_id = field(&said[6], "ShardId");
    let body = format!(r#"{{"StreamName":"s","ShardId":"{shard_id}","ShardIteratorType":"TRIM_HORIZON"}}"#);
    let iterator = field(&call(&server, "GetShardIterator", &body).await, "ShardIterator");
    let records = call(&server, "GetRecords", &format!(r#"{{"ShardIterator":"{iterator}"}}"#)).await;
    assert_eq!((&*field(&records, "Data"), &*field(&records, "PartitionKey")), ("aGVsbG8=", "k"));
    assert!(call(&server, "DeleteStream", r#"{"StreamName":"t"}"#).await.contains("200 OK"));
    assert!(call(&server, "PutRecord", r#"{"StreamName":"t","PartitionKey":"k"}"#).await.contains("ResourceNotFound"));
}

#[tokio::test]
async fn requests_of_one_connection_have_ids_of_their_own() {
    let (_emulator, server) = start().await;
    let id = |answer: String| {
        answer.lines().find_map(|line| line.strip_prefix("x-amzn-requestid: ").map(str::to_owned)).unwrap()
    };
    let body = r#"{"StreamName":"s"}"#;
    let one = id(call(&server, "ListShards", body).await);
    assert_eq!(one.len(), 36, "{one}");
    assert_ne!(one, id(call(&server, "ListShards", body).await));
    assert!(!id(call(&server, "DoIt", "{}").await).is_empty(), "errors as well");
}

#[tokio::test]
async fn the_largest_request_is_taken_and_one_byte_more_is_not() {
    let emulator = Emulator::new(Options::unlimited()).with_stream("s", 2);
    let server = Server::start(&emulator).await.unwrap();
    // Ten records of 1 MiB with their keys of one byte. Four letters are three bytes.
    let data = "AAAA".repeat(((1 << 20) - 1) / 3);
    let entry = format!(r#"{{"PartitionKey":"k","Data":"{data}"}}"#);
    let request = |entries: Vec<&str>| format!(r#"{{"StreamName":"s","Records":[{}]}}"#, entries.join(","));
    let answer = call(&server, "PutRecords", &request(vec![&entry; 10])).await;
    assert!(answer.contains(r#""FailedRecordCount":0"#), "{answer}");
    let more = r#"{"PartitionKey":"k","Data":""}"#;
    let mut entries = vec![entry.as_str(); 10];
    entries.push(more);
    let answer = call(&server, "PutRecords", &request(entries)).await;
    assert!(answer.contains("InvalidArgumentException"), "{answer}");
    assert_eq!(emulator.with(|kinesis, _| kinesis.counters().bytes_stored), 10 * ((1 << 20) - 1));
}

#[tokio::test]
async fn a_stopped_server_has_nothing_at_work() {
    let (emulator, server) = start().await;
    let latency = Duration::from_millis(200);
    emulator.set_faults(Faults { latency, ..Faults::default() });
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    stream.write_all(format!("{}{PUT}", head("PutRecords", PUT.len(), "")).as_bytes()).await.unwrap();
    while emulator.with(|kinesis, _| kinesis.counters().requests.is_empty()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.stop().await;
    assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)), "the request is cut off, unanswered");
    tokio::time::sleep(latency * 2).await;
    assert_eq!(emulator.with(|kinesis, _| kinesis.records("s").count()), 0, "and is not carried out afterwards");
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_continue() {
    let (_emulator, server) = start().await;
    let mut stream = TcpStream::connect(server.addr()).await.unwrap();
    let head = head("PutRecords", PUT.len(), "Expect: 100-continue\r\nConnection: close\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut buffer = [0; 1_024];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.expect("told").unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 100 Continue\r\n"), "{:?}", String::from_utf8_lossy(&buffer[..read]));
    stream.write_all(PUT.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("200 OK") && answer.contains("SequenceNumber"), "{answer}");
}

#[tokio::test]
async fn a_lost_reply_leaves_the_record_stored() {
    let (emulator, server) = start().await;
    emulator.set_faults(Faults { drop_reply_rate: 1.0, ..Faults::default() });
    assert_eq!(call(&server, "PutRecords", PUT).await, "");
    assert_eq!(emulator.with(|kinesis, _| kinesis.records("s").count()), 1);
    assert!(call(&server, "ListShards", r#"{"StreamName":"s"}"#).await.contains("200 OK"), "only puts are hit");
}

#[tokio::test]
async fn faults_of_requests_do_what_they_say() {
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
async fn a_stopped_server_starts_again_on_its_port_with_its_records() {
    let (emulator, server) = start().await;
    call(&server, "PutRecords", PUT).await;
    let mut idle = TcpStream::connect(server.addr()).await.unwrap();
    let addr = server.addr();
    server.stop().await;
    assert!(matches!(idle.read(&mut [0]).await, Ok(0) | Err(_)), "live connections are cut");
    assert!(TcpStream::connect(addr).await.is_err());
    let server = Server::bind(addr, &emulator, None).await.unwrap();
    let iterator = r#"{"StreamName":"s","ShardId":"shardId-000000000000","ShardIteratorType":"TRIM_HORIZON"}"#;
    assert!(call(&server, "GetShardIterator", iterator).await.contains("200 OK"));
    assert_eq!(emulator.with(|kinesis, _| kinesis.records("s").count()), 1);
}

#[test]
fn it_serves_programs_without_a_runtime() {
    use std::io::{Read, Write};
    let emulator = Emulator::new(Options::default()).with_stream("s", 2);
    let server = Server::bind_on_thread(([127, 0, 0, 1], 0).into(), &emulator, None).unwrap();
    let mut stream = std::net::TcpStream::connect(server.addr()).unwrap();
    stream.write_all(format!("{}{PUT}", head("PutRecords", PUT.len(), "Connection: close\r\n")).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("200 OK"), "{answer}");
}

/// HTTP/2 without TLS, as clients speak it that know what the server understands.
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
async fn http2_is_spoken_to_those_who_begin_with_it() {
    let (emulator, server) = start().await;
    let mut client = http2(&server).await;
    for _ in 0..2 {
        let answer = client.send_request(put_request()).await.unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(r#""FailedRecordCount":0"#), "{body:?}");
    }
    emulator.set_faults(Faults { drop_reply_rate: 1.0, ..Faults::default() });
    client.send_request(put_request()).await.expect_err("this stream is reset");
    emulator.set_faults(Faults::default());
    assert_eq!(client.send_request(put_request()).await.unwrap().status(), 200, "and the connection is still good");
    assert_eq!(emulator.with(|kinesis, _| kinesis.records("s").count()), 4);
}

#[tokio::test]
async fn requests_of_one_http2_connection_are_at_work_side_by_side() {
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
async fn a_stopped_server_has_no_request_of_http2_at_work() {
    let (emulator, server) = start().await;
    let latency = Duration::from_millis(200);
    emulator.set_faults(Faults { latency, ..Faults::default() });
    let mut client = http2(&server).await;
    let request = tokio::spawn(client.send_request(put_request()));
    while emulator.with(|kinesis, _| kinesis.counters().requests.is_empty()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.stop().await;
    request.await.unwrap().expect_err("it is cut off, unanswered");
    tokio::time::sleep(latency * 2).await;
    assert_eq!(emulator.with(|kinesis, _| kinesis.records("s").count()), 0, "and is not carried out afterwards");
}

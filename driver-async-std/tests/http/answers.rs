//! Tests that each request gets its own response, also after the timeout of another request.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_std::task;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::primitives::Blob;
use futures_util::future::join_all;
use kpl_async_std::{aws_sdk_kinesis, http_client};

use crate::rig::{Request, TestServer, client, ok};

/// Starts a server that responds with the name of the requested stream, after the latency at the start of the name.
fn echo() -> TestServer {
    TestServer::start(|request: Request| {
        let input: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let name = input["StreamName"].as_str().unwrap();
        let ms = name.split_once(" ms").map_or(0, |(ms, _)| ms.parse().unwrap());
        std::thread::sleep(Duration::from_millis(ms));
        ok(&format!(
            r#"{{"StreamDescriptionSummary":{{"StreamName":"{name}","StreamARN":"arn:aws:kinesis:us-east-1:1:stream/x",
            "StreamStatus":"ACTIVE","RetentionPeriodHours":24,"StreamCreationTimestamp":1,"EnhancedMonitoring":[],
            "OpenShardCount":1}}}}"#
        ))
    })
}

/// Requests the description of a stream, with a timeout of 100 ms for a slow stream. Returns the stream name in the
/// response.
async fn describe(client: &aws_sdk_kinesis::Client, name: &str) -> Option<String> {
    let timeout = Duration::from_millis(if name.starts_with(SLOW) { 100 } else { 10_000 });
    let timeouts = TimeoutConfig::builder().operation_timeout(timeout).read_timeout(timeout).build();
    let config = aws_sdk_kinesis::config::Builder::default().timeout_config(timeouts);
    let call = client.describe_stream_summary().stream_name(name).customize().config_override(config);
    let response = call.send().await.ok()?;
    Some(response.stream_description_summary()?.stream_name().to_owned())
}

/// The latency of a slow stream. It is much longer than the timeout, so that the request times out on any machine.
const SLOW: &str = "1500 ms";

#[async_std::test]
async fn a_late_response_never_reaches_another_request() {
    let server = echo();
    let client = client(&server.url(), http_client::new());
    for round in 0..10 {
        // In sequence: if the connection of the slow request returned to the pool, the next request would use it.
        assert_eq!(describe(&client, &format!("{SLOW} {round}")).await, None);
        for n in 0..20 {
            let name = format!("{round} {n}");
            assert_eq!(describe(&client, &name).await.as_ref(), Some(&name));
            task::sleep(Duration::from_millis(5)).await;
        }
        // Concurrently, some of them with a timeout.
        let names: Vec<_> = (0..40).map(|n| format!("{} {round} {n}", ["0 ms", "1 ms", "5 ms", SLOW][n % 4])).collect();
        let responses = join_all(names.iter().map(|name| describe(&client, name))).await;
        for (name, response) in names.iter().zip(responses) {
            assert_eq!(response.as_ref(), if name.starts_with(SLOW) { None } else { Some(name) });
        }
    }
}

#[async_std::test]
async fn requests_that_time_out_leave_no_connections() {
    let silent = TestServer::start(|_| Some(String::new()));
    let client = client(&silent.url(), http_client::new());
    for _ in 0..10 {
        let responses = join_all((0..50).map(|_| describe(&client, SLOW))).await;
        assert!(responses.iter().all(Option::is_none));
    }
    let start = Instant::now();
    while silent.connections() > 0 {
        assert!(start.elapsed() < Duration::from_secs(5), "{} connections are open", silent.connections());
        task::sleep(Duration::from_millis(10)).await;
    }
}

#[async_std::test]
async fn a_large_body_is_sent_at_once_with_its_length() {
    let requests = Arc::new(Mutex::new(vec![]));
    let server = TestServer::start({
        let requests = requests.clone();
        move |request| {
            requests.lock().unwrap().push((request.head, request.body.len()));
            ok(r#"{"ShardId":"shardId-000000000000","SequenceNumber":"1"}"#)
        }
    });
    let client = client(&server.url(), http_client::new());
    for len in [0, 1, 1 << 20, 5 << 20] {
        let put = client.put_record().stream_name("events").partition_key("k").data(Blob::new(vec![b'x'; len]));
        put.send().await.unwrap();
    }
    for (head, len) in requests.lock().unwrap().iter() {
        let lengths: Vec<_> = head.lines().filter(|line| line.starts_with("content-length")).collect();
        assert_eq!(lengths, [format!("content-length: {len}")], "{head}");
        // With `Expect: 100-continue`, curl would wait a second for the response.
        assert!(!head.contains("transfer-encoding") && !head.contains("\r\nexpect"), "{head}");
    }
    assert_eq!(server.connections(), 1, "sequential requests use one connection");
}

#[async_std::test]
async fn an_unusual_response_is_an_error_and_not_a_panic() {
    for status in ["299 Odd", "499 Odd", "599 Odd", "302 Found\r\nlocation: /", "400 Caf\u{e9}\r\nx-name: caf\u{e9}"] {
        let server = TestServer::start(move |_| Some(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")));
        let client = client(&server.url(), http_client::new());
        client.list_streams().send().await.unwrap_err();
    }
}

//! Requests and their answers: each gets its own, whoever has lost patience before.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_std::task;
use aws_sdk_kinesis::config::timeout::TimeoutConfig;
use aws_sdk_kinesis::primitives::Blob;
use futures_util::future::join_all;
use kpl_async_std::{aws_sdk_kinesis, http_client};

use crate::rig::{Heard, Threads, client, ok};

/// Describes the stream that it is asked about; one whose name starts with a time only after that time.
fn echo() -> Threads {
    Threads::serve(|heard: Heard| {
        let asked: serde_json::Value = serde_json::from_slice(&heard.body).unwrap();
        let name = asked["StreamName"].as_str().unwrap();
        let ms = name.split_once(" ms").map_or(0, |(ms, _)| ms.parse().unwrap());
        std::thread::sleep(Duration::from_millis(ms));
        ok(&format!(
            r#"{{"StreamDescriptionSummary":{{"StreamName":"{name}","StreamARN":"arn:aws:kinesis:us-east-1:1:stream/x",
            "StreamStatus":"ACTIVE","RetentionPeriodHours":24,"StreamCreationTimestamp":1,"EnhancedMonitoring":[],
            "OpenShardCount":1}}}}"#
        ))
    })
}

/// Asks about a stream, and says which stream the answer was about. Has 100 ms of patience if the name says that it
/// takes longer.
async fn ask(client: &aws_sdk_kinesis::Client, name: &str) -> Option<String> {
    let patience = Duration::from_millis(if name.starts_with(SLOW) { 100 } else { 10_000 });
    let timeouts = TimeoutConfig::builder().operation_timeout(patience).read_timeout(patience).build();
    let config = aws_sdk_kinesis::config::Builder::default().timeout_config(timeouts);
    let call = client.describe_stream_summary().stream_name(name).customize().config_override(config);
    let answer = call.send().await.ok()?;
    Some(answer.stream_description_summary()?.stream_name().to_owned())
}

/// Much longer than the patience, so that no busy machine makes it in time.
const SLOW: &str = "1500 ms";

#[async_std::test]
async fn a_late_answer_never_reaches_another_request() {
    let server = echo();
    let client = client(&server.url(), http_client::new());
    for round in 0..10 {
        // One after the other: the connection of the first would be the next one's, if it went back to the pool.
        assert_eq!(ask(&client, &format!("{SLOW} {round}")).await, None);
        for n in 0..20 {
            let name = format!("{round} {n}");
            assert_eq!(ask(&client, &name).await.as_ref(), Some(&name));
            task::sleep(Duration::from_millis(5)).await;
        }
        // At once: some in time, some not.
        let names: Vec<_> = (0..40).map(|n| format!("{} {round} {n}", ["0 ms", "1 ms", "5 ms", SLOW][n % 4])).collect();
        let answers = join_all(names.iter().map(|name| ask(&client, name))).await;
        for (name, answer) in names.iter().zip(answers) {
            assert_eq!(answer.as_ref(), if name.starts_with(SLOW) { None } else { Some(name) });
        }
    }
}

#[async_std::test]
async fn requests_whose_time_is_up_leave_nothing_behind() {
    let silent = Threads::serve(|_| Some(String::new()));
    let client = client(&silent.url(), http_client::new());
    for _ in 0..10 {
        let answers = join_all((0..50).map(|_| ask(&client, SLOW))).await;
        assert!(answers.iter().all(Option::is_none));
    }
    let start = Instant::now();
    while silent.connections() > 0 {
        assert!(start.elapsed() < Duration::from_secs(5), "{} connections stand", silent.connections());
        task::sleep(Duration::from_millis(10)).await;
    }
}

#[async_std::test]
async fn a_large_body_goes_out_at_once_with_its_length() {
    let heard = Arc::new(Mutex::new(vec![]));
    let server = Threads::serve({
        let heard = heard.clone();
        move |request| {
            heard.lock().unwrap().push((request.head, request.body.len()));
            ok(r#"{"ShardId":"shardId-000000000000","SequenceNumber":"1"}"#)
        }
    });
    let client = client(&server.url(), http_client::new());
    for len in [0, 1, 1 << 20, 5 << 20] {
        let put = client.put_record().stream_name("events").partition_key("k").data(Blob::new(vec![b'x'; len]));
        put.send().await.unwrap();
    }
    for (head, len) in heard.lock().unwrap().iter() {
        let lengths: Vec<_> = head.lines().filter(|line| line.starts_with("content-length")).collect();
        assert_eq!(lengths, [format!("content-length: {len}")], "{head}");
        // Curl would wait a second for the answer to `Expect: 100-continue`.
        assert!(!head.contains("transfer-encoding") && !head.contains("\r\nexpect"), "{head}");
    }
    assert_eq!(server.connections(), 1, "one after the other needs one connection");
}

#[async_std::test]
async fn an_answer_that_is_odd_is_an_error_and_no_panic() {
    for status in ["299 Odd", "499 Odd", "599 Odd", "302 Found\r\nlocation: /", "400 Caf\u{e9}\r\nx-name: caf\u{e9}"] {
        let server = Threads::serve(move |_| Some(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")));
        let client = client(&server.url(), http_client::new());
        client.list_streams().send().await.unwrap_err();
    }
}

//! Replays of replies that users of other producers reported: of proxies, of a service that does not know a new stream
//! yet, and of services that leave out a part.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kpl_driver::core::{PutFailure, Receipt, RecordResult};
use serde_json::{Value, json};

use crate::driver::{Config, Producer, block_on};
use crate::rig::{Request, TestServer, ok, producer};

/// Starts a service with one stream of one shard. `put` responds to the PutRecords request with this number, from 0.
fn service(put: impl Fn(usize, &Request) -> Option<String> + Send + Sync + 'static) -> TestServer {
    let range = json!({ "StartingHashKey": "0", "EndingHashKey": u128::MAX.to_string() });
    let sequence_numbers = json!({ "StartingSequenceNumber": "0" });
    let shard =
        json!({ "ShardId": "shardId-000000000000", "HashKeyRange": range, "SequenceNumberRange": sequence_numbers });
    let puts = AtomicUsize::new(0);
    TestServer::start(move |request| {
        let target = request.head.lines().find_map(|line| line.strip_prefix("x-amz-target: kinesis_20131202."));
        match target {
            Some("listshards") => ok(&json!({ "Shards": [shard] }).to_string()),
            Some("putrecords") => put(puts.fetch_add(1, Ordering::SeqCst), &request),
            _ => refuse("400 Bad Request", "AccessDeniedException"),
        }
    })
}

/// Stores all records of a request. `result` is each record's.
fn store(request: &Request, result: &Value) -> Option<String> {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let results = vec![result.clone(); body["Records"].as_array().unwrap().len()];
    ok(&json!({ "FailedRecordCount": 0, "Records": results }).to_string())
}

fn stored(request: &Request) -> Option<String> {
    store(request, &json!({ "ShardId": "shardId-000000000000", "SequenceNumber": "7" }))
}

fn refuse(status: &str, code: &str) -> Option<String> {
    let body = json!({ "__type": code, "message": "for a test" }).to_string();
    Some(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

/// The page of a proxy, which has no error code.
fn page(status: &str) -> Option<String> {
    let body = format!("<html><body><h1>{status}</h1></body></html>");
    Some(format!("HTTP/1.1 {status}\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

/// A producer whose records expire soon, if nothing else happens.
fn short_lived(server: &TestServer) -> Producer {
    producer(&server.url(), Config::builder().record_ttl(Duration::from_secs(10)).aggregation_enabled(false))
}

/// Puts records of 1,000 bytes and waits for their results.
async fn put(producer: &Producer, records: usize) -> Vec<RecordResult> {
    let mut outcomes = vec![];
    for n in 0..records {
        outcomes.push(producer.put("events", format!("key-{n}"), vec![b'a'; 1_000]).await.unwrap());
    }
    let mut results = vec![];
    for outcome in outcomes {
        results.push(outcome.await);
    }
    results
}

/// Puts one record to a service whose first reply is `first`, and that stores all later requests.
fn put_after(first: fn() -> Option<String>) -> RecordResult {
    let server = service(move |n, request| if n == 0 { first() } else { stored(request) });
    block_on(async { put(&short_lived(&server), 1).await.remove(0) })
}

/// Returns the code of each failed attempt, and whether it is ambiguous.
fn failed_attempts(receipt: &Receipt) -> Vec<(String, bool)> {
    let attempt = |attempt: &kpl_driver::core::Attempt| {
        let error = attempt.error.as_ref().unwrap();
        (error.code.to_string(), error.ambiguous)
    };
    receipt.attempts().failed().iter().map(attempt).collect()
}

#[test]
fn requests_that_are_too_large_for_a_proxy_are_divided() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let server = service(move |_, request| {
        count.fetch_add(1, Ordering::SeqCst);
        if request.body.len() > 5_000 { page("413 Content Too Large") } else { stored(request) }
    });
    block_on(async {
        for result in put(&short_lived(&server), 100).await {
            result.unwrap();
        }
    });
    // Of 3 records each, or of 1 and 2.
    assert!((34..200).contains(&requests.load(Ordering::SeqCst)), "{requests:?} requests");
}

#[test]
fn a_proxy_throttles_by_its_status() {
    let server = service(|n, request| if n < 2 { page("429 Too Many Requests") } else { stored(request) });
    block_on(async {
        let producer = short_lived(&server);
        let receipt = put(&producer, 1).await.remove(0).unwrap();
        assert_eq!(failed_attempts(&receipt), vec![("HTTP 429".to_owned(), false); 2]);
        assert_eq!(producer.stats().kinesis_records_throttled, 2);
    });
}

#[test]
fn a_proxy_refuses_by_its_status() {
    for (status, code) in [
        ("401 Unauthorized", "HTTP 401"),
        ("403 Forbidden", "HTTP 403"),
        ("407 Proxy Authentication Required", "HTTP 407"),
    ] {
        let server = service(move |_, _| page(status));
        let failure: PutFailure = *block_on(async { put(&short_lived(&server), 1).await.remove(0).unwrap_err() });
        assert_eq!((&*failure.error.code, failure.attempts.len(), failure.is_ambiguous()), (code, 1, false));
        assert!(failure.error.message.contains(&status[4..]), "the page is quoted: {failure}");
    }
}

#[test]
fn a_proxys_page_without_a_meaning_is_retried() {
    for first in [|| page("404 Not Found"), || page("400 Bad Request")] {
        assert_eq!(put_after(first).unwrap().attempts().len(), 2);
    }
}

#[test]
fn a_reply_without_results_is_retried_as_ambiguous() {
    for first in [|| ok(""), || ok("{}"), || ok(r#"{"FailedRecordCount":0,"Records":null}"#)] {
        let receipt = put_after(first).unwrap();
        assert_eq!(failed_attempts(&receipt), [("Unknown".to_owned(), true)]);
    }
}

#[test]
fn a_stored_record_without_a_shard_id_is_on_the_predicted_shard() {
    let server = service(|_, request| store(request, &json!({ "SequenceNumber": "7" })));
    block_on(async {
        let producer = producer(&server.url(), Config::builder());
        for result in put(&producer, 2).await {
            let receipt = result.unwrap();
            assert_eq!((receipt.shard_id(), receipt.sequence_number()), ("shardId-000000000000", "7"));
            assert_eq!(receipt.attempts().len(), 1);
        }
    });
}

#[test]
fn a_listed_stream_that_is_not_found_yet_is_retried() {
    let server = service(|n, request| match n {
        0..3 => refuse("400 Bad Request", "ResourceNotFoundException"),
        _ => stored(request),
    });
    let receipt = block_on(async { put(&short_lived(&server), 1).await.remove(0).unwrap() });
    assert_eq!(failed_attempts(&receipt), vec![("ResourceNotFoundException".to_owned(), false); 3]);
}

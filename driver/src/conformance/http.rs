//! Checks of the HTTP client with the AWS SDK, with a producer's timeouts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::primitives::Blob;
use kpl_core::{Config, PutFailure};

use super::server::{Reply, Request, Server};
use super::{TIME_LIMIT, require, run};
use crate::aws::AwsTransport;
use crate::park::wait_for;
use crate::producer::Producer;
use crate::runtime::AwsRuntime;

pub(super) fn check<R: AwsRuntime>(runtime: &R) {
    each_request_gets_its_own_reply(runtime);
    a_late_reply_reaches_no_other_request(runtime);
    timed_out_requests_release_their_resources(runtime);
    after_a_timeout_idle_connections_are_not_used_again(runtime);
    large_bodies_arrive(runtime);
    replies_in_pieces_are_reassembled(runtime);
    redirects_are_not_followed(runtime);
    connections_are_reused(runtime);
    failures_are_ambiguous_only_if_the_request_may_have_arrived(runtime);
    a_ca_bundle_without_a_certificate_is_refused::<R>();
}

const OWN_REPLY: &str = "each request gets its own reply";
const LENGTH: &str = "a request has a correct Content-Length (it is signed) and no chunked encoding";
const LATE: &str = "a reply that arrives after the timeout of its request reaches no other request";
const NO_LEAK: &str = "requests that time out leave room for others";
const DEAD_PATH: &str = "after a timeout, connections that were idle are not used again";
const LARGE: &str = "bodies of megabytes arrive";
const PIECES: &str = "a reply in pieces is reassembled; a reply that is cut off is an error";
const REDIRECTS: &str = "redirects are not followed (the signature is valid for one host only)";
const KEPT_ALIVE: &str = "connections are reused";
const DELIVERY: &str = "a refused connection is not ambiguous; a timeout and a lost reply are";
const CA_BUNDLE: &str = "`http_client` refuses a CA bundle without a certificate";

/// Creates a client as a producer does.
fn client<R: AwsRuntime>(runtime: &R, url: &str, request_timeout: Duration) -> Client {
    AwsTransport::new(runtime, &bare_client::<R>(url), request_timeout).client().clone()
}

fn bare_client<R: AwsRuntime>(url: &str) -> Client {
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("us-east-1"))
        .credentials_provider(Credentials::new("AKIDTEST", "secret", None, None, "conformance"))
        .endpoint_url(url)
        .sleep_impl(R::sleep_impl())
        .build();
    Client::from_conf(config)
}

/// Puts one record and returns the sequence number in the reply, or the error.
async fn put(client: &Client, key: String, data: Vec<u8>) -> Result<String, String> {
    let call = client.put_record().stream_name("events").partition_key(key).data(Blob::new(data));
    match call.send().await {
        Ok(output) => Ok(output.sequence_number),
        Err(error) => Err(format!("{error:?}")),
    }
}

/// A reply whose sequence number is the partition key of the request.
fn echo(request: &Request) -> String {
    let key = request.field("PartitionKey");
    format!(r#"{{"ShardId":"shardId-000000000000","SequenceNumber":"{key}"}}"#)
}

/// Returns the error in the length of a request's body, if any.
fn length_error(request: &Request) -> Option<String> {
    let length = request.header("content-length").and_then(|length| length.parse().ok());
    (request.header("transfer-encoding").is_some() || length != Some(request.body.len()))
        .then(|| format!("it was {length:?}, with the transfer encoding {:?}", request.header("transfer-encoding")))
}

fn each_request_gets_its_own_reply<R: AwsRuntime>(runtime: &R) {
    let error = Arc::new(Mutex::new(None));
    let error_in_server = error.clone();
    let server = Server::start(move |request| {
        if let Some(error) = length_error(request) {
            *error_in_server.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        Reply::Json(echo(request))
    });
    let client = client(runtime, &server.url(), TIME_LIMIT);
    let (sender, replies) = std::sync::mpsc::channel();
    for task in 0..16 {
        let (client, sender) = (client.clone(), sender.clone());
        runtime.spawn(async move {
            for n in 0..20 {
                let key = format!("{task}-{n}");
                let reply = put(&client, key.clone(), vec![0; n]).await;
                let _ = sender.send((key, reply));
            }
        });
    }
    for _ in 0..16 * 20 {
        let Ok((key, reply)) = replies.recv_timeout(TIME_LIMIT) else {
            super::fail(OWN_REPLY, "a request did not end within 10 s, or panicked");
        };
        require(reply.as_ref() == Ok(&key), OWN_REPLY, || format!("request {key} got the reply {reply:?}"));
    }
    let error = error.lock().unwrap_or_else(PoisonError::into_inner).take();
    require(error.is_none(), LENGTH, || error.unwrap_or_default());
}

fn a_late_reply_reaches_no_other_request<R: AwsRuntime>(runtime: &R) {
    let server = Server::start(|request| match request.field("PartitionKey").starts_with("slow") {
        true => Reply::Delayed(Duration::from_millis(250), echo(request)),
        false => Reply::Json(echo(request)),
    });
    let short_timeout = client(runtime, &server.url(), Duration::from_millis(150));
    let (sender, ends) = std::sync::mpsc::channel();
    for task in 0..4 {
        let (client, sender) = (short_timeout.clone(), sender.clone());
        runtime.spawn(async move {
            for n in 0..12 {
                for key in [format!("slow-{task}-{n}"), format!("fast-{task}-{n}")] {
                    let reply = put(&client, key.clone(), Vec::new()).await;
                    let _ = sender.send((key, reply));
                }
            }
        });
    }
    for _ in 0..4 * 12 * 2 {
        let Ok((key, reply)) = ends.recv_timeout(TIME_LIMIT) else {
            super::fail(LATE, "a request did not end within 10 s, or panicked");
        };
        // On a busy machine, a fast request may time out, and the timeout of a slow one may be late. None must get the
        // reply of another.
        let is_own = reply.as_ref().map_or(true, |reply_key| *reply_key == key);
        require(is_own, LATE, || format!("request {key} got the reply {reply:?}"));
    }
    let client = client(runtime, &server.url(), TIME_LIMIT);
    let reply = run(runtime, LATE, async move { put(&client, "fast".into(), Vec::new()).await });
    require(reply.as_deref() == Ok("fast"), LATE, || format!("later, request fast got the reply {reply:?}"));
}

fn timed_out_requests_release_their_resources<R: AwsRuntime>(runtime: &R) {
    let server = Server::start(|request| match request.field("PartitionKey").starts_with("slow") {
        true => Reply::Delayed(Duration::from_secs(5), echo(request)),
        false => Reply::Json(echo(request)),
    });
    let short_timeout = client(runtime, &server.url(), Duration::from_millis(200));
    let (sender, ends) = std::sync::mpsc::channel();
    for n in 0..100 {
        let (client, sender) = (short_timeout.clone(), sender.clone());
        runtime.spawn(async move {
            let _ = sender.send(put(&client, format!("slow-{n}"), Vec::new()).await);
        });
    }
    for _ in 0..100 {
        let end = ends.recv_timeout(Duration::from_secs(4));
        require(matches!(end, Ok(Err(_))), NO_LEAK, || match end {
            Ok(reply) => format!("a request with a timeout of 200 ms got the reply {reply:?} after 5 s"),
            Err(_) => "a request with a timeout of 200 ms did not end within 4 s".into(),
        });
    }
    let client = client(runtime, &server.url(), TIME_LIMIT);
    let reply = run(runtime, NO_LEAK, async move { put(&client, "fast".into(), Vec::new()).await });
    require(reply.as_deref() == Ok("fast"), NO_LEAK, || format!("the next request got the reply {reply:?}"));
}

fn after_a_timeout_idle_connections_are_not_used_again<R: AwsRuntime>(runtime: &R) {
    const BURST: usize = 8;
    let dead = Arc::new(AtomicUsize::new(0));
    let dead_in_server = dead.clone();
    let server = Server::start(move |request| match request.field("PartitionKey").as_str() {
        _ if request.connection < dead_in_server.load(Ordering::SeqCst) => Reply::Silence,
        // So that the requests of the burst need a connection each.
        "burst" => Reply::Delayed(Duration::from_millis(200), echo(request)),
        _ => Reply::Json(echo(request)),
    });
    let client = client(runtime, &server.url(), Duration::from_secs(1));
    let (sender, ends) = std::sync::mpsc::channel();
    for _ in 0..BURST {
        let (client, sender) = (client.clone(), sender.clone());
        runtime.spawn(async move {
            let _ = sender.send(put(&client, "burst".into(), Vec::new()).await);
        });
    }
    for _ in 0..BURST {
        let end = ends.recv_timeout(TIME_LIMIT);
        require(end.is_ok(), DEAD_PATH, || "a request did not end within 10 s, or panicked".into());
    }
    dead.store(server.connections(), Ordering::SeqCst);
    // The first request finds out that the connections are dead.
    let replies = run(runtime, DEAD_PATH, async move {
        (put(&client, "first".into(), Vec::new()).await, put(&client, "second".into(), Vec::new()).await)
    });
    require(replies.1.as_deref() == Ok("second"), DEAD_PATH, || {
        format!("all connections were dead, and the first two requests got the replies {replies:?}")
    });
}

fn large_bodies_arrive<R: AwsRuntime>(runtime: &R) {
    let server = Server::start(|request| match length_error(request) {
        Some(error) => Reply::Json(error),
        None => Reply::Json(format!(r#"{{"ShardId":"s","SequenceNumber":"{}"}}"#, request.field("Data").len())),
    });
    for size in [3 << 18, 3 << 20, 6 << 20] {
        let client = client(runtime, &server.url(), TIME_LIMIT);
        let reply = run(runtime, LARGE, async move { put(&client, "large".into(), vec![b'x'; size]).await });
        // All sizes are multiples of three, so base64 has no padding.
        let is_complete = reply.as_ref().is_ok_and(|length| *length == (size / 3 * 4).to_string());
        require(is_complete, LARGE, || format!("of {size} bytes, this many arrived in base64: {reply:?}"));
    }
}

fn replies_in_pieces_are_reassembled<R: AwsRuntime>(runtime: &R) {
    let server = Server::start(|request| match request.field("PartitionKey").as_str() {
        "pieces" => Reply::InPieces(echo(request)),
        _ => Reply::CutOff(echo(request)),
    });
    for (key, is_complete) in [("pieces", true), ("cut", false), ("pieces", true)] {
        let client = client(runtime, &server.url(), TIME_LIMIT);
        let reply = run(runtime, PIECES, async move { put(&client, key.into(), Vec::new()).await });
        require(reply.is_ok() == is_complete, PIECES, || format!("{key} got the reply {reply:?}"));
    }
}

fn redirects_are_not_followed<R: AwsRuntime>(runtime: &R) {
    let followed = Arc::new(AtomicUsize::new(0));
    let counter = followed.clone();
    let server = Server::start(move |request| {
        if request.path == "/elsewhere" {
            counter.fetch_add(1, Ordering::SeqCst);
            return Reply::Json(echo(request));
        }
        Reply::Redirect("/elsewhere")
    });
    let client = client(runtime, &server.url(), TIME_LIMIT);
    let reply = run(runtime, REDIRECTS, async move { put(&client, "moved".into(), Vec::new()).await });
    let is_refused = reply.is_err() && followed.load(Ordering::SeqCst) == 0;
    require(is_refused, REDIRECTS, || format!("it was followed, with the reply {reply:?}"));
}

fn connections_are_reused<R: AwsRuntime>(runtime: &R) {
    let server = Server::start(|request| Reply::Json(echo(request)));
    let client = client(runtime, &server.url(), TIME_LIMIT);
    let all_succeeded = run(runtime, KEPT_ALIVE, async move {
        for n in 0..20 {
            if put(&client, n.to_string(), Vec::new()).await.is_err() {
                return false;
            }
        }
        true
    });
    let connections = server.connections();
    require(all_succeeded && connections <= 5, KEPT_ALIVE, || format!("20 requests used {connections} connections"));
}

fn failures_are_ambiguous_only_if_the_request_may_have_arrived<R: AwsRuntime>(runtime: &R) {
    let closed_addr = {
        // The listener is dropped, so connections are refused.
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0));
        let addr = listener.and_then(|listener| listener.local_addr());
        addr.unwrap_or_else(|error| panic!("no free port: {error}"))
    };
    let silent = Server::start(|request| Reply::Delayed(Duration::from_secs(2), echo(request)));
    let closing = Server::start(|_| Reply::Close);
    for (cause, url, is_ambiguous) in [
        ("a refused connection", format!("http://{closed_addr}"), false),
        ("a timeout", silent.url(), true),
        ("a lost reply", closing.url(), true),
    ] {
        let failure = failure(runtime, &url);
        require(failure.is_ambiguous() == is_ambiguous, DELIVERY, || format!("{cause} ended as {failure:?}"));
    }
}

/// Puts a record to the endpoint `url` and returns its failure.
fn failure<R: AwsRuntime>(runtime: &R, url: &str) -> Box<PutFailure> {
    let config = Config::builder()
        .request_timeout(Duration::from_millis(300))
        .record_ttl(Duration::from_millis(900))
        .record_max_buffered_time(Duration::from_millis(10))
        .build()
        .unwrap_or_else(|error| unreachable!("the config of a check: {error}"));
    let transport = AwsTransport::new(runtime, &bare_client::<R>(url), config.request_timeout());
    let producer = Producer::with_transport(runtime.clone(), transport, config);
    let outcome =
        producer.try_put("events", "key", "data").ok().and_then(|outcome| wait_for(outcome, Some(TIME_LIMIT)));
    match outcome {
        Some(Err(failure)) if !failure.attempts.is_empty() => failure,
        other => super::fail(DELIVERY, &format!("the record ended as {other:?}")),
    }
}

fn a_ca_bundle_without_a_certificate_is_refused<R: AwsRuntime>() {
    for bundle in [&b""[..], b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let is_accepted = R::http_client(Some(bundle)).is_ok();
        require(!is_accepted, CA_BUNDLE, || format!("it accepted {:?}", String::from_utf8_lossy(bundle)));
    }
}

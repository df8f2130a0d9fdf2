//! The HTTP client beneath the AWS SDK, with the time-outs that a producer sets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::primitives::Blob;
use kpl_core::{Config, PutFailure};

use super::server::{Answer, Request, Server};
use super::{PATIENCE, check as promised, must};
use crate::aws::AwsTransport;
use crate::park::wait_for;
use crate::producer::Producer;
use crate::runtime::AwsRuntime;

pub(super) fn check<R: AwsRuntime>(runtime: &R) {
    each_answer_reaches_its_request(runtime);
    a_slow_answer_never_reaches_another_request(runtime);
    time_outs_use_nothing_up(runtime);
    large_bodies_arrive(runtime);
    answers_in_pieces_are_put_together(runtime);
    redirects_are_not_followed(runtime);
    connections_are_used_again(runtime);
    what_did_not_arrive_is_told_from_what_may_have(runtime);
    rubbish_is_no_certificate_authority::<R>();
}

const OWN_ANSWER: &str = "each request gets its own answer";
const LENGTH: &str = "a request's body has a Content-Length, the right one (it is signed), and is not chunked";
const LATE: &str = "an answer that comes after its request has timed out reaches no other request";
const NOTHING_USED_UP: &str = "requests that time out leave room for others";
const LARGE: &str = "bodies of megabytes arrive";
const PIECES: &str = "an answer that comes in pieces is put together; one that is cut off is an error";
const REDIRECTS: &str = "redirects are not followed (the signature holds for one host)";
const KEPT_ALIVE: &str = "connections are used again";
const DELIVERY: &str = "a refused connection is not ambiguous; a time-out and a lost answer are";
const RUBBISH: &str = "`http_client` refuses a CA bundle that has no certificate";

/// A client as a producer has it.
fn client<R: AwsRuntime>(url: &str, request_timeout: Duration) -> Client {
    AwsTransport::new::<R>(&bare_client::<R>(url), request_timeout).client().clone()
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

/// Puts one record; its sequence number is what the server answers, or what went wrong.
async fn put(client: &Client, key: String, data: Vec<u8>) -> Result<String, String> {
    let call = client.put_record().stream_name("events").partition_key(key).data(Blob::new(data));
    match call.send().await {
        Ok(output) => Ok(output.sequence_number),
        Err(error) => Err(format!("{error:?}")),
    }
}

/// An answer that tells which request it belongs to.
fn echo(request: &Request) -> String {
    let key = request.field("PartitionKey");
    format!(r#"{{"ShardId":"shardId-000000000000","SequenceNumber":"{key}"}}"#)
}

/// What is wrong with the way a request gives its body's length.
fn length_is_wrong(request: &Request) -> Option<String> {
    let length = request.header("content-length").and_then(|length| length.parse().ok());
    (request.header("transfer-encoding").is_some() || length != Some(request.body.len()))
        .then(|| format!("it was {length:?}, and the transfer encoding {:?}", request.header("transfer-encoding")))
}

fn each_answer_reaches_its_request<R: AwsRuntime>(runtime: &R) {
    let wrong = Arc::new(Mutex::new(None));
    let seen = wrong.clone();
    let server = Server::start(move |request| {
        if let Some(wrong) = length_is_wrong(request) {
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(wrong);
        }
        Answer::Json(echo(request))
    });
    let client = client::<R>(&server.url(), PATIENCE);
    let (sender, answers) = std::sync::mpsc::channel();
    for task in 0..16 {
        let (client, sender) = (client.clone(), sender.clone());
        runtime.spawn(async move {
            for n in 0..20 {
                let key = format!("{task}-{n}");
                let answer = put(&client, key.clone(), vec![0; n]).await;
                let _ = sender.send((key, answer));
            }
        });
    }
    for _ in 0..16 * 20 {
        let Ok((key, answer)) = answers.recv_timeout(PATIENCE) else {
            super::broken(OWN_ANSWER, "a request did not end within 10 s, or panicked");
        };
        promised(answer.as_ref() == Ok(&key), OWN_ANSWER, || format!("request {key} was answered {answer:?}"));
    }
    let wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner).take();
    promised(wrong.is_none(), LENGTH, || wrong.unwrap_or_default());
}

fn a_slow_answer_never_reaches_another_request<R: AwsRuntime>(runtime: &R) {
    let server = Server::start(|request| match request.field("PartitionKey").starts_with("slow") {
        true => Answer::Later(Duration::from_millis(250), echo(request)),
        false => Answer::Json(echo(request)),
    });
    let impatient = client::<R>(&server.url(), Duration::from_millis(150));
    let (sender, ends) = std::sync::mpsc::channel();
    for task in 0..4 {
        let (client, sender) = (impatient.clone(), sender.clone());
        runtime.spawn(async move {
            for n in 0..12 {
                for (key, in_time) in [(format!("slow-{task}-{n}"), false), (format!("fast-{task}-{n}"), true)] {
                    let answer = put(&client, key.clone(), Vec::new()).await;
                    let _ = sender.send((key, in_time, answer));
                }
            }
        });
    }
    for _ in 0..4 * 12 * 2 {
        let Ok((key, in_time, answer)) = ends.recv_timeout(PATIENCE) else {
            super::broken(LATE, "a request did not end within 10 s, or panicked");
        };
        // A busy machine may make a fast one late; what it may not get is another's answer.
        let own = answer.as_ref().map_or(true, |answered| in_time && *answered == key);
        promised(own, LATE, || format!("request {key} was answered {answer:?}"));
    }
    let patient = client::<R>(&server.url(), PATIENCE);
    let answer = must(runtime, LATE, async move { put(&patient, "fast".into(), Vec::new()).await });
    promised(answer.as_deref() == Ok("fast"), LATE, || format!("later, request fast was answered {answer:?}"));
}

fn time_outs_use_nothing_up<R: AwsRuntime>(runtime: &R) {
    let server = Server::start(|request| match request.field("PartitionKey").starts_with("slow") {
        true => Answer::Later(Duration::from_secs(5), echo(request)),
        false => Answer::Json(echo(request)),
    });
    let impatient = client::<R>(&server.url(), Duration::from_millis(200));
    let (sender, ends) = std::sync::mpsc::channel();
    for n in 0..100 {
        let (client, sender) = (impatient.clone(), sender.clone());
        runtime.spawn(async move {
            let _ = sender.send(put(&client, format!("slow-{n}"), Vec::new()).await);
        });
    }
    for _ in 0..100 {
        let end = ends.recv_timeout(Duration::from_secs(4));
        promised(matches!(end, Ok(Err(_))), NOTHING_USED_UP, || match end {
            Ok(answer) => format!("a request with a time-out of 200 ms was answered {answer:?} after 5 s"),
            Err(_) => "a request with a time-out of 200 ms did not end within 4 s".into(),
        });
    }
    let patient = client::<R>(&server.url(), PATIENCE);
    let answer = must(runtime, NOTHING_USED_UP, async move { put(&patient, "fast".into(), Vec::new()).await });
    promised(answer.as_deref() == Ok("fast"), NOTHING_USED_UP, || format!("the next one was answered {answer:?}"));
}

fn large_bodies_arrive<R: AwsRuntime>(runtime: &R) {
    let server = Server::start(|request| match length_is_wrong(request) {
        Some(wrong) => Answer::Json(wrong),
        None => Answer::Json(format!(r#"{{"ShardId":"s","SequenceNumber":"{}"}}"#, request.field("Data").len())),
    });
    for size in [3 << 18, 3 << 20, 6 << 20] {
        let client = client::<R>(&server.url(), PATIENCE);
        let answer = must(runtime, LARGE, async move { put(&client, "large".into(), vec![b'x'; size]).await });
        // In base64, without padding: all sizes are multiples of three.
        let all = answer.as_ref().is_ok_and(|length| *length == (size / 3 * 4).to_string());
        promised(all, LARGE, || format!("of {size} bytes, in base64, arrived {answer:?}"));
    }
}

fn answers_in_pieces_are_put_together<R: AwsRuntime>(runtime: &R) {
    let server = Server::start(|request| match request.field("PartitionKey").as_str() {
        "pieces" => Answer::InPieces(echo(request)),
        _ => Answer::CutOff(echo(request)),
    });
    for (key, whole) in [("pieces", true), ("cut", false), ("pieces", true)] {
        let client = client::<R>(&server.url(), PATIENCE);
        let answer = must(runtime, PIECES, async move { put(&client, key.into(), Vec::new()).await });
        promised(answer.is_ok() == whole, PIECES, || format!("{key} was answered {answer:?}"));
    }
}

fn redirects_are_not_followed<R: AwsRuntime>(runtime: &R) {
    let followed = Arc::new(AtomicUsize::new(0));
    let seen = followed.clone();
    let server = Server::start(move |request| {
        if request.path == "/elsewhere" {
            seen.fetch_add(1, Ordering::SeqCst);
            return Answer::Json(echo(request));
        }
        Answer::Redirect("/elsewhere")
    });
    let client = client::<R>(&server.url(), PATIENCE);
    let answer = must(runtime, REDIRECTS, async move { put(&client, "moved".into(), Vec::new()).await });
    let stayed = answer.is_err() && followed.load(Ordering::SeqCst) == 0;
    promised(stayed, REDIRECTS, || format!("it was followed, and answered {answer:?}"));
}

fn connections_are_used_again<R: AwsRuntime>(runtime: &R) {
    let server = Server::start(|request| Answer::Json(echo(request)));
    let client = client::<R>(&server.url(), PATIENCE);
    let answered = must(runtime, KEPT_ALIVE, async move {
        for n in 0..20 {
            if put(&client, n.to_string(), Vec::new()).await.is_err() {
                return false;
            }
        }
        true
    });
    let connections = server.connections();
    promised(answered && connections <= 5, KEPT_ALIVE, || format!("20 requests took {connections} connections"));
}

fn what_did_not_arrive_is_told_from_what_may_have<R: AwsRuntime>(runtime: &R) {
    let refusing = {
        // Nobody listens there any more.
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0));
        let addr = listener.and_then(|listener| listener.local_addr());
        addr.unwrap_or_else(|error| panic!("no free port: {error}"))
    };
    let silent = Server::start(|request| Answer::Later(Duration::from_secs(2), echo(request)));
    let closing = Server::start(|_| Answer::Close);
    for (what, url, ambiguous) in [
        ("a refused connection", format!("http://{refusing}"), false),
        ("a time-out", silent.url(), true),
        ("a lost answer", closing.url(), true),
    ] {
        let failure = failure(runtime, &url);
        promised(failure.is_ambiguous() == ambiguous, DELIVERY, || format!("{what} ended as {failure:?}"));
    }
}

/// How a record fails that is put into the stream at `url`.
fn failure<R: AwsRuntime>(runtime: &R, url: &str) -> Box<PutFailure> {
    let config = Config::builder()
        .request_timeout(Duration::from_millis(300))
        .record_ttl(Duration::from_millis(900))
        .record_max_buffered_time(Duration::from_millis(10))
        .build()
        .unwrap_or_else(|error| unreachable!("the config of a check: {error}"));
    let transport = AwsTransport::new::<R>(&bare_client::<R>(url), config.request_timeout());
    let producer = Producer::with_transport(runtime.clone(), transport, config);
    let outcome = producer.try_put("events", "key", "data").ok().and_then(|outcome| wait_for(outcome, Some(PATIENCE)));
    match outcome {
        Some(Err(failure)) if !failure.attempts.is_empty() => failure,
        other => super::broken(DELIVERY, &format!("the record ended as {other:?}")),
    }
}

fn rubbish_is_no_certificate_authority<R: AwsRuntime>() {
    for rubbish in [&b""[..], b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let taken = R::http_client(Some(rubbish)).is_ok();
        promised(!taken, RUBBISH, || format!("it took {:?}", String::from_utf8_lossy(rubbish)));
    }
}

//! What goes over the wire, and what each kind of answer or failure is taken for. The HTTP client is a closure.

use std::future::{pending, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use aws_sdk_kinesis::config::{
    AsyncSleep, BehaviorVersion, Credentials, HttpClient, Region, RuntimeComponents, SharedAsyncSleep,
    SharedCredentialsProvider, Sleep,
};

use aws_smithy_runtime_api::client::dns::ResolveDnsError;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;
use kpl_core::{Action, Config, Delivery, Instant, RecordReply, UserRecord, code};
use serde_json::{Value, json};

use super::*;
use crate::runtime::Runtime;

type Answer = Pin<Box<dyn Future<Output = Result<HttpResponse, ConnectorError>> + Send>>;

/// An HTTP client that answers by a closure and keeps the bodies of the requests.
#[derive(Clone)]
struct Wire {
    answer: Arc<dyn Fn() -> Answer + Send + Sync>,
    requests: Arc<Mutex<Vec<Value>>>,
}

impl Wire {
    fn new(answer: impl Fn() -> Answer + Send + Sync + 'static) -> Self {
        Self { answer: Arc::new(answer), requests: Arc::default() }
    }

    fn answering(status: u16, body: impl ToString) -> Self {
        let body = body.to_string();
        Self::new(move || {
            let response = HttpResponse::new(StatusCode::try_from(status).unwrap(), SdkBody::from(body.as_str()));
            Box::pin(ready(Ok(response)))
        })
    }

    fn redirecting(location: Option<&'static str>) -> Self {
        Self::new(move || {
            let mut response = HttpResponse::new(StatusCode::try_from(301).unwrap(), SdkBody::from("moved"));
            if let Some(location) = location {
                response.headers_mut().insert("location", location);
            }
            Box::pin(ready(Ok(response)))
        })
    }

    fn failing(error: impl Fn() -> ConnectorError + Send + Sync + 'static) -> Self {
        Self::new(move || Box::pin(ready(Err(error()))))
    }

    fn io(kind: io::ErrorKind) -> Self {
        Self::failing(move || ConnectorError::io(Box::new(io::Error::from(kind))))
    }

    fn transport(&self) -> AwsTransport {
        self.transport_with(Some(SharedCredentialsProvider::new(Credentials::new(
            "AKID", "secret", None, None, "test",
        ))))
    }

    fn transport_with(&self, credentials: Option<SharedCredentialsProvider>) -> AwsTransport {
        let mut config = aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .sleep_impl(TokioSleep)
            .http_client(self.clone());
        config.set_credentials_provider(credentials);
        AwsTransport::new::<Rig>(&Client::from_conf(config.build()), Duration::from_secs(6))
    }

    /// How a request over it fails.
    async fn error(&self) -> RequestError {
        self.transport().describe_stream(&describe_request("events")).await.unwrap_err()
    }

    fn requests(&self) -> Vec<Value> {
        self.requests.lock().unwrap().clone()
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl HttpClient for Wire {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let bytes = request.body().bytes().unwrap();
        assert_eq!(request.headers().get("content-length"), Some(&*bytes.len().to_string()));
        let body = serde_json::from_slice(bytes).unwrap();
        self.requests.lock().unwrap().push(body);
        HttpConnectorFuture::new((self.answer)())
    }
}

/// What an HTTP client says of its own when there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("no handshake")]
struct NoHandshake;

#[derive(Clone, Debug, Default)]
struct Rig;

impl Runtime for Rig {
    fn now(&self) -> Instant {
        Instant::from_nanos(0)
    }

    async fn sleep_until(&self, _: Instant) {}

    fn spawn(&self, _: impl Future<Output = ()> + Send + 'static) {}
}

impl AwsRuntime for Rig {
    fn http_client(_: Option<&[u8]>) -> Result<SharedHttpClient, Box<dyn Error + Send + Sync>> {
        Ok(SharedHttpClient::new(Wire::answering(418, "by the runtime's client")))
    }

    fn sleep_impl() -> SharedAsyncSleep {
        SharedAsyncSleep::new(TokioSleep)
    }

    fn never_connected(error: &(dyn Error + 'static)) -> bool {
        error.is::<NoHandshake>()
    }
}

#[derive(Debug)]
struct TokioSleep;

impl AsyncSleep for TokioSleep {
    fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(tokio::time::sleep(duration))
    }
}

/// A producer that sends its first records without a shard list, and each as it is.
fn producer() -> kpl_core::Producer<()> {
    let config = Config::builder().start_timeout(Duration::ZERO).aggregation_enabled(false).build().unwrap();
    kpl_core::Producer::new(config, Instant::from_nanos(0))
}

/// The first action of its kind that the core asks for, when it is given records of `stream`.
fn action<A>(stream: &str, data: &[&str], wanted: impl Fn(Action<()>) -> Option<A>) -> A {
    let mut core = producer();
    for data in data {
        let record = UserRecord::new(stream, "key", data.to_string()).explicit_hash_key("7");
        core.put(Instant::from_nanos(0), record.prepare().unwrap(), ()).unwrap();
    }
    core.flush(Instant::from_nanos(0));
    core.tick(Instant::from_nanos(1_000_000_000));
    std::iter::from_fn(|| core.poll_action()).find_map(wanted).unwrap()
}

fn describe_request(stream: &str) -> DescribeStreamRequest {
    action(stream, &["x"], |action| if let Action::DescribeStream(request) = action { Some(request) } else { None })
}

fn list_request(stream: &str) -> ListShardsRequest {
    action(stream, &["x"], |action| if let Action::ListShards(request) = action { Some(request) } else { None })
}

fn batch(stream: &str, data: &[&str]) -> Batch<()> {
    action(stream, data, |action| if let Action::SendBatch(batch) = action { Some(batch) } else { None })
}

const ARN: &str = "arn:aws:kinesis:us-east-1:123456789012:stream/events";

#[tokio::test]
async fn put_records_says_what_the_batch_says_and_reads_each_result() {
    let answer = json!({"FailedRecordCount": 1, "Records": [
        {"ShardId": "shardId-000000000001", "SequenceNumber": "49"},
        {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal service failure."},
        {},
    ]});
    let wire = Wire::answering(200, answer);
    let reply = wire.transport().put_records(&batch("events", &["a", "b"])).await;
    assert_eq!(
        reply,
        Reply::Records(vec![
            RecordReply::stored("shardId-000000000001", "49"),
            RecordReply::failed("InternalFailure", "Internal service failure."),
            RecordReply::default(),
        ])
    );
    let record = |data| json!({"Data": data, "PartitionKey": "key", "ExplicitHashKey": "7"});
    let sent = json!({"StreamName": "events", "Records": [record("YQ=="), record("Yg==")]});
    assert_eq!(wire.requests(), [sent]);

    let _ = wire.transport().put_records(&batch(ARN, &["a"])).await;
    assert_eq!(wire.requests()[1], json!({"StreamARN": ARN, "Records": [record("YQ==")]}));
}

#[tokio::test]
async fn any_key_and_any_data_arrive_as_they_are() {
    let keys = ["\"quoted\\\"", "\u{0}\u{1}\u{1f}\t\n\r\u{8}\u{c}", "あ🦀é\u{2028}\u{feff}", "</script>", "/"];
    let mut core = producer();
    for (n, key) in keys.into_iter().enumerate() {
        let data: Vec<u8> = (0..=255).cycle().take(n * 100).collect();
        core.put(Instant::from_nanos(0), UserRecord::new("events", key, data).prepare().unwrap(), ()).unwrap();
    }
    core.tick(Instant::from_nanos(1_000_000_000));
    let mut actions = std::iter::from_fn(|| core.poll_action());
    let batch = actions.find_map(|action| if let Action::SendBatch(batch) = action { Some(batch) } else { None });
    let wire = Wire::answering(200, json!({"FailedRecordCount": 0, "Records": []}));
    let _ = wire.transport().put_records(batch.as_ref().unwrap()).await;
    let sent = wire.requests()[0]["Records"].clone();
    for (n, key) in keys.into_iter().enumerate() {
        let data: Vec<u8> = (0..=255).cycle().take(n * 100).collect();
        let hash_key = kpl_core::hash_key(key).to_string();
        let expected = json!({
            "Data": base64_simd::STANDARD.encode_to_string(data), "PartitionKey": key, "ExplicitHashKey": hash_key,
        });
        assert_eq!(sent[n], expected);
    }
}

#[tokio::test]
async fn a_client_of_another_protocol_sends_nothing() {
    use aws_smithy_json::protocol::aws_json_rpc::AwsJsonRpcProtocol;
    let wire = Wire::answering(200, "{}");
    let config = wire.transport().client.config().to_builder().protocol(AwsJsonRpcProtocol::aws_json_1_0()).build();
    let transport = AwsTransport::new::<Rig>(&Client::from_conf(config), Duration::from_secs(6));
    let Reply::Failed(error) = transport.put_records(&batch("events", &["a"])).await else { panic!("it was sent") };
    assert_eq!(error.delivery, Delivery::NotSent);
    assert!(error.message.contains("application/x-amz-json-1.0"), "{error:?}");
    assert!(wire.requests().is_empty());
}

#[tokio::test]
async fn list_shards_asks_page_by_page_and_skips_what_cannot_be_read() {
    let range = |start: &str, end: &str| json!({"StartingHashKey": start, "EndingHashKey": end});
    let open = json!({"StartingSequenceNumber": "1"});
    let closed = json!({"StartingSequenceNumber": "1", "EndingSequenceNumber": "2"});
    let max = u128::MAX.to_string();
    let answer = json!({"NextToken": "more", "Shards": [
        {"ShardId": "a", "HashKeyRange": range("0", "9"), "SequenceNumberRange": closed},
        {"ShardId": "b", "HashKeyRange": range("0", &max), "SequenceNumberRange": open,
         "ParentShardId": "a", "AdjacentParentShardId": "c"},
        {"ShardId": "negative", "HashKeyRange": range("-1", "9"), "SequenceNumberRange": open},
        {"ShardId": "too large", "HashKeyRange": range("0", &format!("{max}0")), "SequenceNumberRange": open},
        {"ShardId": "without a range"},
    ]});
    let wire = Wire::answering(200, answer);
    let mut request = list_request("events");
    let page = wire.transport().list_shards(&request).await.unwrap();
    assert_eq!(page.next_token.as_deref(), Some("more"));
    let [a, b] = &page.shards[..] else { panic!("{page:?}") };
    assert_eq!((&*a.id, a.start, a.end, a.closed, &a.parents), ("a", 0, 9, true, &[None, None]));
    assert_eq!((&*b.id, b.start, b.end, b.closed), ("b", 0, u128::MAX, false));
    assert_eq!(b.parents, [Some("a".into()), Some("c".into())]);

    request.include_closed = true;
    wire.transport().list_shards(&request).await.unwrap();
    request.next_token = page.next_token;
    wire.transport().list_shards(&request).await.unwrap();
    wire.transport().list_shards(&list_request(ARN)).await.unwrap();
    let latest = json!({"Type": "AT_LATEST"});
    assert_eq!(
        wire.requests(),
        [
            json!({"StreamName": "events", "ShardFilter": latest}),
            json!({"StreamName": "events"}),
            json!({"NextToken": "more"}),
            json!({"StreamARN": ARN, "ShardFilter": latest}),
        ]
    );
}

#[tokio::test]
async fn describe_stream_reads_record_limit_and_distribution() {
    let answer = |extra: Value| {
        let mut summary = json!({
            "StreamName": "events", "StreamARN": ARN, "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": 1, "EnhancedMonitoring": [], "OpenShardCount": 1,
        });
        summary.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        Wire::answering(200, json!({ "StreamDescriptionSummary": summary }))
    };
    let large = answer(json!({"MaxRecordSizeInKiB": 10_240, "RecordDistributionStrategy": "AUTO"}));
    let summary = large.transport().describe_stream(&describe_request(ARN)).await.unwrap();
    assert_eq!(
        summary,
        StreamSummary { max_record_size: Some(10 << 20), auto_distribution: true, open_shards: Some(1) }
    );
    assert_eq!(large.requests(), [json!({"StreamARN": ARN})]);

    for silent in [answer(json!({})), answer(json!({"MaxRecordSizeInKiB": -1, "RecordDistributionStrategy": "NEW"}))] {
        let summary = silent.transport().describe_stream(&describe_request("events")).await.unwrap();
        assert_eq!(summary, StreamSummary { open_shards: Some(1), ..StreamSummary::default() });
    }
}

#[tokio::test]
async fn what_the_service_refuses_is_refused_by_its_own_code() {
    for (status, code) in [
        (400, "ResourceNotFoundException"),
        (400, "ProvisionedThroughputExceededException"),
        (400, "InvalidArgumentException"),
        (400, "ExpiredTokenException"),
        (400, "KMSAccessDeniedException"),
        (403, "AccessDeniedException"),
        (400, "NobodyKnowsThisException"),
    ] {
        let body = json!({"__type": format!("com.amazonaws.kinesis.v20131202#{code}"), "message": "so it is"});
        let error = Wire::answering(status, body).error().await;
        assert_eq!(error, RequestError::new(Delivery::Refused, code, "so it is"));
    }
    let error = Wire::answering(403, "<html>by a proxy</html>").error().await;
    assert_eq!((error.delivery, &*error.code), (Delivery::Refused, "HTTP 403"));
    assert_eq!(&*error.message, "HTTP 403, and the body starts with \"<html>by a proxy</html>\"");
}

#[tokio::test]
async fn a_server_error_may_come_after_the_records_were_stored() {
    let wire = Wire::answering(500, json!({"__type": "InternalFailure", "message": "oh"}));
    assert_eq!(wire.error().await, RequestError::new(Delivery::Unanswered, "InternalFailure", "oh"));
    assert_eq!(wire.requests().len(), 1, "the SDK does not retry behind our back");
    for (status, body, message) in [
        (503, "", "HTTP 503 with an empty body"),
        (502, "<html>", "HTTP 502, and the body starts with \"<html>\""),
        (500, "{}", "HTTP 500, and the body starts with \"{}\""),
    ] {
        let error = Wire::answering(status, body).error().await;
        assert_eq!(error, RequestError::new(Delivery::Unanswered, format!("HTTP {status}"), message));
    }
}

#[tokio::test]
async fn a_redirect_fails_at_once_and_names_its_target() {
    for (location, message) in [
        (Some("https://elsewhere/"), "HTTP 301, a redirect to https://elsewhere/: the endpoint is not that of Kinesis"),
        (None, "HTTP 301, a redirect without a target: the endpoint is not that of Kinesis"),
    ] {
        let error = Wire::redirecting(location).error().await;
        assert_eq!(error, RequestError::new(Delivery::Refused, code::REDIRECTED, message));
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_may_come_after_the_records_were_stored() {
    for body in ["", "<html>", "{\"Records\": 7}", "{\"Records\": [{"] {
        let reply = Wire::answering(200, body).transport().put_records(&batch("events", &["a"])).await;
        match reply {
            Reply::Failed(error) => {
                assert_eq!((error.delivery, &*error.code), (Delivery::Unanswered, "Response Unreadable"), "{error}");
            }
            // The SDK takes an empty body for an empty object; the core sees that a result is missing.
            Reply::Records(replies) => assert_eq!((body, replies.len()), ("", 0)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    let dns = || ConnectorError::io(Box::new(ResolveDnsError::new(io::Error::other("no such host"))));
    for wire in [
        Wire::io(io::ErrorKind::ConnectionRefused),
        Wire::io(io::ErrorKind::AddrNotAvailable),
        Wire::failing(dns),
        // What only the runtime's HTTP client knows, also where it says that it was a time-out.
        Wire::failing(|| ConnectorError::io(Box::new(NoHandshake))),
        Wire::failing(|| ConnectorError::timeout(Box::new(io::Error::other(NoHandshake)))),
    ] {
        let error = wire.error().await;
        assert_eq!((error.delivery, &*error.code), (Delivery::NotSent, "Connection Failed"), "{error}");
    }
    let error = Wire::failing(dns).error().await;
    assert_eq!(&*error.message, "dispatch failure: io error: failed to perform DNS lookup: no such host");
}

#[tokio::test]
async fn a_lost_connection_may_have_carried_the_request() {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, HostUnreachable, NotConnected, Other, UnexpectedEof};
    for kind in [BrokenPipe, ConnectionReset, HostUnreachable, NotConnected, Other, UnexpectedEof] {
        let error = Wire::io(kind).error().await;
        assert_eq!((error.delivery, &*error.code), (Delivery::Unanswered, "Connection Lost"), "{error}");
    }
    let error = Wire::failing(|| ConnectorError::other("who knows".into(), None)).error().await;
    assert_eq!((error.delivery, &*error.message), (Delivery::Unanswered, "dispatch failure: other: who knows"));
}

#[tokio::test(start_paused = true)]
async fn no_answer_within_the_time_out_may_have_carried_the_request() {
    let started = tokio::time::Instant::now();
    let error = Wire::new(|| Box::pin(pending())).error().await;
    assert_eq!(started.elapsed().as_secs(), 6);
    assert_eq!((error.delivery, &*error.code), (Delivery::Unanswered, "Request Timeout"), "{error}");
    let error = Wire::io(io::ErrorKind::TimedOut).error().await;
    assert_eq!(error.delivery, Delivery::Unanswered, "{error}");
    let error = Wire::failing(|| ConnectorError::timeout("read timeout".into())).error().await;
    assert_eq!((error.delivery, &*error.code), (Delivery::Unanswered, "Request Timeout"), "{error}");
}

/// Credentials that cannot be had, or do not come.
#[derive(Debug)]
struct NoCredentials {
    hangs: bool,
}

impl aws_sdk_kinesis::config::ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let hangs = self.hangs;
        aws_credential_types::provider::future::ProvideCredentials::new(async move {
            if hangs {
                pending::<()>().await;
            }
            Err(aws_credential_types::provider::error::CredentialsError::not_loaded("the file is gone"))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn without_credentials_nothing_was_sent() {
    let wire = Wire::answering(200, "{}");
    for hangs in [false, true] {
        let transport = wire.transport_with(Some(SharedCredentialsProvider::new(NoCredentials { hangs })));
        let error = transport.describe_stream(&describe_request("events")).await.unwrap_err();
        assert_eq!((error.delivery, &*error.code), (Delivery::NotSent, "Request Not Sent"), "{error}");
        assert!(hangs || error.message.ends_with("the file is gone"), "{error}");
    }
    let error = wire.transport_with(None).describe_stream(&describe_request("events")).await.unwrap_err();
    assert_eq!(error.delivery, Delivery::NotSent, "{error}");
    assert!(wire.requests().is_empty());
}

/// Each operation watches its own request: a batch that may have arrived must not pass for one that was never sent.
#[tokio::test]
async fn each_operation_tells_how_far_its_request_came() {
    let throttled = json!({"__type": "ProvisionedThroughputExceededException", "message": "slow down"});
    for (wire, delivery, code) in [
        (Wire::answering(400, throttled), Delivery::Refused, "ProvisionedThroughputExceededException"),
        (Wire::answering(500, json!({"__type": "InternalFailure"})), Delivery::Unanswered, "InternalFailure"),
        (Wire::answering(200, "garbage"), Delivery::Unanswered, "Response Unreadable"),
        (Wire::io(io::ErrorKind::ConnectionReset), Delivery::Unanswered, "Connection Lost"),
        (Wire::failing(|| ConnectorError::timeout("read".into())), Delivery::Unanswered, "Request Timeout"),
        (Wire::io(io::ErrorKind::ConnectionRefused), Delivery::NotSent, "Connection Failed"),
    ] {
        let (transport, batch) = (wire.transport(), batch("events", &["a", "b"]));
        let Reply::Failed(put) = transport.put_records(&batch).await else { panic!("{code}") };
        let list = transport.list_shards(&list_request("events")).await.unwrap_err();
        let describe = transport.describe_stream(&describe_request("events")).await.unwrap_err();
        for error in [put, list, describe] {
            assert_eq!((error.delivery, &*error.code), (delivery, code), "{error}");
        }
        assert_eq!(wire.requests().len(), 3, "{code}: one request each");
    }
    let wire = Wire::answering(200, "{}");
    let nobody = || Some(SharedCredentialsProvider::new(NoCredentials { hangs: false }));
    let Reply::Failed(error) = wire.transport_with(nobody()).put_records(&batch("events", &["a"])).await else {
        panic!("sent")
    };
    assert_eq!((error.delivery, &*error.code), (Delivery::NotSent, "Request Not Sent"), "{error}");
    let error = wire.transport_with(nobody()).list_shards(&list_request("events")).await.unwrap_err();
    assert_eq!((error.delivery, &*error.code), (Delivery::NotSent, "Request Not Sent"), "{error}");
    assert!(wire.requests().is_empty());
}

#[tokio::test]
async fn a_client_without_http_client_gets_that_of_the_runtime() {
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .sleep_impl(TokioSleep)
        .credentials_provider(Credentials::new("AKID", "secret", None, None, "test"));
    let transport = AwsTransport::new::<Rig>(&Client::from_conf(config.build()), Duration::from_secs(6));
    let error = transport.describe_stream(&describe_request("events")).await.unwrap_err();
    assert_eq!(&*error.code, "HTTP 418");
}

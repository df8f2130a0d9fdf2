//! Tests of the requests that are sent, and of the mapping of responses and failures. The HTTP client is a closure.

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

type Response = Pin<Box<dyn Future<Output = Result<HttpResponse, ConnectorError>> + Send>>;

/// An HTTP client that responds with a closure and keeps the bodies of the requests.
#[derive(Clone)]
struct FakeHttp {
    respond: Arc<dyn Fn() -> Response + Send + Sync>,
    requests: Arc<Mutex<Vec<Value>>>,
}

impl FakeHttp {
    fn new(respond: impl Fn() -> Response + Send + Sync + 'static) -> Self {
        Self { respond: Arc::new(respond), requests: Arc::default() }
    }

    fn responding(status: u16, body: impl ToString) -> Self {
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

    fn failing_with_io(kind: io::ErrorKind) -> Self {
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
        AwsTransport::new(&TestRuntime, &Client::from_conf(config.build()), Duration::from_secs(6))
    }

    /// Returns the error of a request.
    async fn error(&self) -> RequestError {
        self.transport().describe_stream(&describe_request("events")).await.unwrap_err()
    }

    fn requests(&self) -> Vec<Value> {
        self.requests.lock().unwrap().clone()
    }
}

impl std::fmt::Debug for FakeHttp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeHttp")
    }
}

impl HttpClient for FakeHttp {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for FakeHttp {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let bytes = request.body().bytes().unwrap();
        assert_eq!(request.headers().get("content-length"), Some(&*bytes.len().to_string()));
        let body = serde_json::from_slice(bytes).unwrap();
        self.requests.lock().unwrap().push(body);
        HttpConnectorFuture::new((self.respond)())
    }
}

/// An HTTP client's own error type for a failed connection.
#[derive(Debug, thiserror::Error)]
#[error("no handshake")]
struct NoHandshake;

#[derive(Clone, Debug, Default)]
struct TestRuntime;

impl Runtime for TestRuntime {
    fn now(&self) -> Instant {
        Instant::from_nanos(0)
    }

    async fn sleep_until(&self, _: Instant) {}

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(future);
    }
}

impl AwsRuntime for TestRuntime {
    fn http_client(_: Option<&[u8]>) -> Result<SharedHttpClient, Box<dyn Error + Send + Sync>> {
        Ok(SharedHttpClient::new(FakeHttp::responding(418, "from the runtime's client")))
    }

    fn sleep_impl() -> SharedAsyncSleep {
        SharedAsyncSleep::new(TokioSleep)
    }

    fn never_connected(error: &(dyn Error + 'static)) -> bool {
        error.is::<NoHandshake>()
    }
}

#[derive(Debug)]
pub(super) struct TokioSleep;

impl AsyncSleep for TokioSleep {
    fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(tokio::time::sleep(duration))
    }
}

/// Returns a producer that sends its first records without a shard list and without aggregation.
fn producer() -> kpl_core::Producer<()> {
    let config = Config::builder().start_timeout(Duration::ZERO).aggregation_enabled(false).build().unwrap();
    kpl_core::Producer::new(config, Instant::from_nanos(0))
}

/// Returns the first action that `wanted` selects, after records of `stream` were put.
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
async fn put_records_sends_the_batch_and_reads_each_result() {
    let response = json!({"FailedRecordCount": 1, "Records": [
        {"ShardId": "shardId-000000000001", "SequenceNumber": "49"},
        {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal service failure."},
        {},
    ]});
    let http = FakeHttp::responding(200, response);
    let reply = http.transport().put_records(&batch("events", &["a", "b"])).await;
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
    assert_eq!(http.requests(), [sent]);

    let _ = http.transport().put_records(&batch(ARN, &["a"])).await;
    assert_eq!(http.requests()[1], json!({"StreamARN": ARN, "Records": [record("YQ==")]}));
}

#[tokio::test]
async fn usual_replies_are_parsed_here_and_others_by_the_sdk() {
    let put = async |response| FakeHttp::responding(200, response).transport().put_records(&batch("s", &["a"])).await;
    // The SDK expects a string, and fails. This parser skips the field.
    let only_here = put(json!({"EncryptionType": 7, "Records": [{"ShardId": "a", "SequenceNumber": "1"}]})).await;
    assert_eq!(only_here, Reply::Records(vec![RecordReply::stored("a", "1")]));
    let escaped = put(json!({"Records": [{"ErrorCode": "X", "ErrorMessage": "a \"word\""}]})).await;
    assert_eq!(escaped, Reply::Records(vec![RecordReply::failed("X", "a \"word\"")]));
}

#[tokio::test]
async fn keys_and_data_are_sent_unchanged() {
    let keys = ["\"quoted\\\"", "\u{0}\u{1}\u{1f}\t\n\r\u{8}\u{c}", "あ🦀é\u{2028}\u{feff}", "</script>", "/"];
    let mut core = producer();
    for (n, key) in keys.into_iter().enumerate() {
        let data: Vec<u8> = (0..=255).cycle().take(n * 100).collect();
        core.put(Instant::from_nanos(0), UserRecord::new("events", key, data).prepare().unwrap(), ()).unwrap();
    }
    core.tick(Instant::from_nanos(1_000_000_000));
    let mut actions = std::iter::from_fn(|| core.poll_action());
    let batch = actions.find_map(|action| if let Action::SendBatch(batch) = action { Some(batch) } else { None });
    let http = FakeHttp::responding(200, json!({"FailedRecordCount": 0, "Records": []}));
    let _ = http.transport().put_records(batch.as_ref().unwrap()).await;
    let sent = http.requests()[0]["Records"].clone();
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
async fn a_client_with_another_protocol_sends_nothing() {
    use aws_smithy_json::protocol::aws_json_rpc::AwsJsonRpcProtocol;
    let http = FakeHttp::responding(200, "{}");
    let config = http.transport().client.config().to_builder().protocol(AwsJsonRpcProtocol::aws_json_1_0()).build();
    let transport = AwsTransport::new(&TestRuntime, &Client::from_conf(config), Duration::from_secs(6));
    let Reply::Failed(error) = transport.put_records(&batch("events", &["a"])).await else {
        panic!("the batch was sent")
    };
    assert_eq!(error.delivery, Delivery::NotSent);
    assert!(error.message.contains("application/x-amz-json-1.0"), "{error:?}");
    assert!(http.requests().is_empty());
}

#[tokio::test]
async fn list_shards_requests_pages_and_skips_invalid_shards() {
    let range = |start: &str, end: &str| json!({"StartingHashKey": start, "EndingHashKey": end});
    let open = json!({"StartingSequenceNumber": "1"});
    let closed = json!({"StartingSequenceNumber": "1", "EndingSequenceNumber": "2"});
    let max = u128::MAX.to_string();
    let response = json!({"NextToken": "more", "Shards": [
        {"ShardId": "a", "HashKeyRange": range("0", "9"), "SequenceNumberRange": closed},
        {"ShardId": "b", "HashKeyRange": range("0", &max), "SequenceNumberRange": open,
         "ParentShardId": "a", "AdjacentParentShardId": "c"},
        {"ShardId": "negative", "HashKeyRange": range("-1", "9"), "SequenceNumberRange": open},
        {"ShardId": "too large", "HashKeyRange": range("0", &format!("{max}0")), "SequenceNumberRange": open},
        {"ShardId": "without a range"},
    ]});
    let http = FakeHttp::responding(200, response);
    let mut request = list_request("events");
    let page = http.transport().list_shards(&request).await.unwrap();
    assert_eq!(page.next_token.as_deref(), Some("more"));
    let [a, b] = &page.shards[..] else { panic!("{page:?}") };
    assert_eq!((&*a.id, a.start, a.end, a.closed, &a.parents), ("a", 0, 9, true, &[None, None]));
    assert_eq!((&*b.id, b.start, b.end, b.closed), ("b", 0, u128::MAX, false));
    assert_eq!(b.parents, [Some("a".into()), Some("c".into())]);

    request.include_closed = true;
    http.transport().list_shards(&request).await.unwrap();
    request.next_token = page.next_token;
    http.transport().list_shards(&request).await.unwrap();
    http.transport().list_shards(&list_request(ARN)).await.unwrap();
    let latest = json!({"Type": "AT_LATEST"});
    assert_eq!(
        http.requests(),
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
    let response = |extra: Value| {
        let mut summary = json!({
            "StreamName": "events", "StreamARN": ARN, "StreamStatus": "ACTIVE", "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": 1, "EnhancedMonitoring": [], "OpenShardCount": 1,
        });
        summary.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        FakeHttp::responding(200, json!({ "StreamDescriptionSummary": summary }))
    };
    let large = response(json!({"MaxRecordSizeInKiB": 10_240, "RecordDistributionStrategy": "AUTO"}));
    let summary = large.transport().describe_stream(&describe_request(ARN)).await.unwrap();
    assert_eq!(
        summary,
        StreamSummary { max_record_size: Some(10 << 20), auto_distribution: true, open_shards: Some(1) }
    );
    assert_eq!(large.requests(), [json!({"StreamARN": ARN})]);

    for incomplete in
        [response(json!({})), response(json!({"MaxRecordSizeInKiB": -1, "RecordDistributionStrategy": "NEW"}))]
    {
        let summary = incomplete.transport().describe_stream(&describe_request("events")).await.unwrap();
        assert_eq!(summary, StreamSummary { open_shards: Some(1), ..StreamSummary::default() });
    }
}

#[tokio::test]
async fn a_refusal_has_the_code_of_the_service() {
    for (status, code) in [
        (400, "ResourceNotFoundException"),
        (400, "ProvisionedThroughputExceededException"),
        (400, "InvalidArgumentException"),
        (400, "ExpiredTokenException"),
        (400, "KMSAccessDeniedException"),
        (403, "AccessDeniedException"),
        (400, "UnknownException"),
    ] {
        let body = json!({"__type": format!("com.amazonaws.kinesis.v20131202#{code}"), "message": "reason"});
        let error = FakeHttp::responding(status, body).error().await;
        assert_eq!(error, RequestError::new(Delivery::Refused, code, "reason"));
    }
    let error = FakeHttp::responding(403, "<html>proxy</html>").error().await;
    assert_eq!((error.delivery, &*error.code), (Delivery::Refused, "HTTP 403"));
    assert_eq!(&*error.message, "HTTP 403, and the body starts with \"<html>proxy</html>\"");
}

#[tokio::test]
async fn after_a_server_error_records_may_be_stored() {
    let http = FakeHttp::responding(500, json!({"__type": "InternalFailure", "message": "oh"}));
    assert_eq!(http.error().await, RequestError::new(Delivery::Unanswered, "InternalFailure", "oh"));
    assert_eq!(http.requests().len(), 1, "the SDK does not retry");
    for (status, body, message) in [
        (503, "", "HTTP 503 with an empty body"),
        (502, "<html>", "HTTP 502, and the body starts with \"<html>\""),
        (500, "{}", "HTTP 500, and the body starts with \"{}\""),
    ] {
        let error = FakeHttp::responding(status, body).error().await;
        assert_eq!(error, RequestError::new(Delivery::Unanswered, format!("HTTP {status}"), message));
    }
}

#[tokio::test]
async fn a_redirect_is_refused_and_its_error_names_the_target() {
    for (location, message) in [
        (Some("https://elsewhere/"), "HTTP 301, a redirect to https://elsewhere/: the endpoint is not that of Kinesis"),
        (None, "HTTP 301, a redirect without a target: the endpoint is not that of Kinesis"),
    ] {
        let error = FakeHttp::redirecting(location).error().await;
        assert_eq!(error, RequestError::new(Delivery::Refused, code::REDIRECTED, message));
    }
}

#[tokio::test]
async fn after_an_unreadable_response_records_may_be_stored() {
    for body in ["", "<html>", "{\"Records\": 7}", "{\"Records\": [{"] {
        let reply = FakeHttp::responding(200, body).transport().put_records(&batch("events", &["a"])).await;
        match reply {
            Reply::Failed(error) => {
                assert_eq!((error.delivery, &*error.code), (Delivery::Unanswered, "Response Unreadable"), "{error}");
            }
            // The SDK reads an empty body as an empty object. The core detects the missing result.
            Reply::Records(replies) => assert_eq!((body, replies.len()), ("", 0)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    let dns = || ConnectorError::io(Box::new(ResolveDnsError::new(io::Error::other("no such host"))));
    for http in [
        FakeHttp::failing_with_io(io::ErrorKind::ConnectionRefused),
        FakeHttp::failing_with_io(io::ErrorKind::AddrNotAvailable),
        FakeHttp::failing(dns),
        // Only the runtime's HTTP client recognizes this error. It is recognized in a timeout, too.
        FakeHttp::failing(|| ConnectorError::io(Box::new(NoHandshake))),
        FakeHttp::failing(|| ConnectorError::timeout(Box::new(io::Error::other(NoHandshake)))),
    ] {
        let error = http.error().await;
        assert_eq!((error.delivery, &*error.code), (Delivery::NotSent, "Connection Failed"), "{error}");
    }
    let error = FakeHttp::failing(dns).error().await;
    assert_eq!(&*error.message, "dispatch failure: io error: failed to perform DNS lookup: no such host");
}

#[tokio::test]
async fn after_a_lost_connection_records_may_be_stored() {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, HostUnreachable, NotConnected, Other, UnexpectedEof};
    for kind in [BrokenPipe, ConnectionReset, HostUnreachable, NotConnected, Other, UnexpectedEof] {
        let error = FakeHttp::failing_with_io(kind).error().await;
        assert_eq!((error.delivery, &*error.code), (Delivery::Unanswered, "Connection Lost"), "{error}");
    }
    let error = FakeHttp::failing(|| ConnectorError::other("unknown".into(), None)).error().await;
    assert_eq!((error.delivery, &*error.message), (Delivery::Unanswered, "dispatch failure: other: unknown"));
}

#[tokio::test(start_paused = true)]
async fn after_a_timeout_records_may_be_stored() {
    let started = tokio::time::Instant::now();
    let error = FakeHttp::new(|| Box::pin(pending())).error().await;
    assert_eq!(started.elapsed().as_secs(), 6);
    assert_eq!((error.delivery, &*error.code), (Delivery::Unanswered, "Request Timeout"), "{error}");
    let error = FakeHttp::failing_with_io(io::ErrorKind::TimedOut).error().await;
    assert_eq!(error.delivery, Delivery::Unanswered, "{error}");
    let error = FakeHttp::failing(|| ConnectorError::timeout("read timeout".into())).error().await;
    assert_eq!((error.delivery, &*error.code), (Delivery::Unanswered, "Request Timeout"), "{error}");
}

/// A credentials provider that fails or never returns.
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
    let http = FakeHttp::responding(200, "{}");
    for hangs in [false, true] {
        let transport = http.transport_with(Some(SharedCredentialsProvider::new(NoCredentials { hangs })));
        let error = transport.describe_stream(&describe_request("events")).await.unwrap_err();
        assert_eq!((error.delivery, &*error.code), (Delivery::NotSent, "Request Not Sent"), "{error}");
        let (start, end) =
            if hangs { ("credentials: still loading after ", "s") } else { ("credentials: ", "the file is gone") };
        assert!(error.message.starts_with(start) && error.message.ends_with(end), "{error}");
    }
    let error = http.transport_with(None).describe_stream(&describe_request("events")).await.unwrap_err();
    assert_eq!(error.delivery, Delivery::NotSent, "{error}");
    assert!(http.requests().is_empty());
}

/// A credentials provider that panics.
#[derive(Debug)]
struct Panics;

impl aws_sdk_kinesis::config::ProvideCredentials for Panics {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        panic!("this panic is part of the test")
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_panics_or_hangs_ends_with_an_error() {
    let http = FakeHttp::responding(200, "{}");
    let transport = http.transport_with(Some(SharedCredentialsProvider::new(Panics)));
    let error = transport.describe_stream(&describe_request("events")).await.unwrap_err();
    assert_eq!(&*error.message, "credentials: the task that loads them has ended");

    let transport = http.transport_with(Some(SharedCredentialsProvider::new(NoCredentials { hangs: true })));
    // 12 requests of up to 6 s each: the load ends after 60 s.
    let (mut late, mut hung) = (0, 0);
    for _ in 0..12 {
        let error = transport.describe_stream(&describe_request("events")).await.unwrap_err();
        late += usize::from(error.message.starts_with("credentials: still loading after "));
        hung += usize::from(&*error.message == "credentials: no reply within 60s");
    }
    assert!(late >= 9 && hung >= 1 && late + hung == 12, "{late} late, {hung} hung");
    assert!(http.requests().is_empty());
}

/// Each operation observes its own request: a batch that may have arrived must not be reported as never sent.
#[tokio::test]
async fn each_operation_reports_the_delivery_of_its_request() {
    let throttled = json!({"__type": "ProvisionedThroughputExceededException", "message": "slow down"});
    for (http, delivery, code) in [
        (FakeHttp::responding(400, throttled), Delivery::Refused, "ProvisionedThroughputExceededException"),
        (FakeHttp::responding(500, json!({"__type": "InternalFailure"})), Delivery::Unanswered, "InternalFailure"),
        (FakeHttp::responding(200, "garbage"), Delivery::Unanswered, "Response Unreadable"),
        (FakeHttp::failing_with_io(io::ErrorKind::ConnectionReset), Delivery::Unanswered, "Connection Lost"),
        (FakeHttp::failing(|| ConnectorError::timeout("read".into())), Delivery::Unanswered, "Request Timeout"),
        (FakeHttp::failing_with_io(io::ErrorKind::ConnectionRefused), Delivery::NotSent, "Connection Failed"),
    ] {
        let (transport, batch) = (http.transport(), batch("events", &["a", "b"]));
        let Reply::Failed(put) = transport.put_records(&batch).await else { panic!("{code}") };
        let list = transport.list_shards(&list_request("events")).await.unwrap_err();
        let describe = transport.describe_stream(&describe_request("events")).await.unwrap_err();
        for error in [put, list, describe] {
            assert_eq!((error.delivery, &*error.code), (delivery, code), "{error}");
        }
        assert_eq!(http.requests().len(), 3, "{code}: one request each");
    }
    let http = FakeHttp::responding(200, "{}");
    let no_credentials = || Some(SharedCredentialsProvider::new(NoCredentials { hangs: false }));
    let Reply::Failed(error) = http.transport_with(no_credentials()).put_records(&batch("events", &["a"])).await else {
        panic!("the batch was sent")
    };
    assert_eq!((error.delivery, &*error.code), (Delivery::NotSent, "Request Not Sent"), "{error}");
    let error = http.transport_with(no_credentials()).list_shards(&list_request("events")).await.unwrap_err();
    assert_eq!((error.delivery, &*error.code), (Delivery::NotSent, "Request Not Sent"), "{error}");
    assert!(http.requests().is_empty());
}

#[tokio::test]
async fn a_client_without_http_client_uses_that_of_the_runtime() {
    let config = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .sleep_impl(TokioSleep)
        .credentials_provider(Credentials::new("AKID", "secret", None, None, "test"));
    let transport = AwsTransport::new(&TestRuntime, &Client::from_conf(config.build()), Duration::from_secs(6));
    let error = transport.describe_stream(&describe_request("events")).await.unwrap_err();
    assert_eq!(&*error.code, "HTTP 418");
}

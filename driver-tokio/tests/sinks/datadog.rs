//! Tests of the sink for Datadog. Calls are decompressed, decoded from JSON, and checked value by value.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use kpl_emulator::{Emulator, Options, Server};
use kpl_tokio::datadog::{DatadogError, DatadogSink};
use kpl_tokio::metrics::{Metric, MetricsLevel, MetricsReport, MetricsSink};
use kpl_tokio::{Config, Producer, aws_config, http_client};
use serde_json::{Value, json};

use crate::fake::{Call, Fake};
use crate::reports::{ARN, datum_of, latency, report};

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn response(status: u16, body: &'static str) -> Response<Full<Bytes>> {
    Response::builder().status(status).header("content-type", "application/json").body(Full::from(body)).unwrap()
}

fn accepted() -> Response<Full<Bytes>> {
    response(202, r#"{"errors":[]}"#)
}

fn sink(fake: &Fake) -> DatadogSink {
    DatadogSink::with_endpoint(KEY, fake.url()).unwrap()
}

/// Returns the series of a call.
fn decode(call: &Call) -> Vec<Value> {
    assert_eq!(call.path, "/api/v2/series");
    assert_eq!(call.header("dd-api-key"), Some(KEY));
    assert_eq!(call.header("content-type"), Some("application/json"));
    assert_eq!(call.header("content-encoding"), Some("gzip"));
    let body: Value = serde_json::from_slice(&call.decompressed()).unwrap();
    assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["series"]);
    body["series"].as_array().unwrap().clone()
}

/// Exports a report, which takes one call. Returns its series.
async fn export(fake: &Fake, sink: &DatadogSink, report: &MetricsReport) -> Vec<Value> {
    let before = fake.calls().len();
    sink.export(report).await.unwrap();
    let calls = fake.calls();
    let [call] = &calls[before..] else { panic!("{} calls", calls.len() - before) };
    decode(call)
}

/// Returns name, tags and value of a series, separated by spaces.
fn summary(series: &Value) -> String {
    let tags = series["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap()).collect::<Vec<_>>();
    let name = series["metric"].as_str().unwrap().trim_start_matches("kinesis_producer.");
    format!("{name} {} {}", tags.join(","), series["points"][0]["value"].as_f64().unwrap())
}

#[tokio::test]
async fn a_report_arrives_value_by_value() {
    let fake = Fake::start(|_, _| accepted()).await;
    let mut report = report();
    let place = [None, Some(ARN), Some("shardId-000000000001")];
    report.data = vec![datum_of(Metric::UserRecordsDataPut, place, &[512.0, 100.5])];
    let sink = sink(&fake).tag("team:orders").host("web-1");
    let series = export(&fake, &sink, &report).await;
    let common = |name: &str, value: f64| {
        json!({
            "metric": format!("kinesis_producer.user_records_data_put.{name}"),
            "points": [{"timestamp": 1_700_000_000, "value": value}],
            "resources": [{"name": "web-1", "type": "host"}],
            "tags": ["stream:orders", "shard:shardId-000000000001", "team:orders"],
        })
    };
    let with = |mut series: Value, fields: Value| {
        series.as_object_mut().unwrap().append(&mut fields.as_object().unwrap().clone());
        series
    };
    let (count, gauge) = (json!({"type": 1, "interval": 60}), json!({"type": 3, "unit": "byte"}));
    let sum = with(common("sum", 612.5), json!({"type": 1, "interval": 60, "unit": "byte"}));
    let expected = [
        with(common("count", 2.0), count),
        sum,
        with(common("avg", 306.25), gauge.clone()),
        with(common("min", 100.5), gauge.clone()),
        with(common("max", 512.0), gauge),
    ]
    // The client writes whole numbers without a fraction.
    .map(|series| series.to_string().replace(".0}", "}").parse::<Value>().unwrap());
    assert_eq!(series, expected);
}

#[tokio::test]
async fn each_observation_is_in_one_series() {
    let fake = Fake::start(|_, _| accepted()).await;
    let [all, orders, other] = [[None; 3], [None, Some("orders"), None], [None, Some("other"), None]];
    let shard = |shard| [None, Some("orders"), Some(shard)];
    let with_code = |[_, stream, shard]: [Option<&'static str>; 3]| [Some("E"), stream, shard];
    let mut report = report();
    report.data = vec![
        // Of stream orders, 1, 5 and 2 have a shard, and 9 and 3 have none.
        datum_of(Metric::RequestTime, all, &[1.0, 5.0, 2.0, 9.0, 3.0, 4.0]),
        datum_of(Metric::RequestTime, orders, &[1.0, 5.0, 2.0, 9.0, 3.0]),
        datum_of(Metric::RequestTime, shard("0"), &[1.0, 5.0]),
        datum_of(Metric::RequestTime, shard("1"), &[2.0]),
        datum_of(Metric::RequestTime, other, &[4.0]),
        datum_of(Metric::ErrorsByCode, all, &[1.0]),
        datum_of(Metric::ErrorsByCode, orders, &[1.0]),
        datum_of(Metric::ErrorsByCode, with_code(all), &[1.0]),
        datum_of(Metric::ErrorsByCode, with_code(orders), &[1.0]),
        datum_of(Metric::ErrorsByCode, with_code(shard("0")), &[1.0]),
        // A metric that only has global data.
        datum_of(Metric::AllErrors, all, &[0.0, 1.0]),
    ];
    let series = export(&fake, &sink(&fake), &report).await;
    let expected = [
        "request_time.count stream:orders,shard:0 2",
        "request_time.sum stream:orders,shard:0 6",
        "request_time.avg stream:orders,shard:0 3",
        "request_time.min stream:orders,shard:0 1",
        "request_time.max stream:orders,shard:0 5",
        "request_time.count stream:orders,shard:1 1",
        "request_time.sum stream:orders,shard:1 2",
        "request_time.avg stream:orders,shard:1 2",
        "request_time.min stream:orders,shard:1 2",
        "request_time.max stream:orders,shard:1 2",
        // The observations without a shard. Minimum and maximum are the whole stream's.
        "request_time.count stream:orders 2",
        "request_time.sum stream:orders 12",
        "request_time.avg stream:orders 6",
        "request_time.min stream:orders 1",
        "request_time.max stream:orders 9",
        "request_time.count stream:other 1",
        "request_time.sum stream:other 4",
        "request_time.avg stream:other 4",
        "request_time.min stream:other 4",
        "request_time.max stream:other 4",
        "errors_by_code.count stream:orders,shard:0,error_code:E 1",
        "errors_by_code.sum stream:orders,shard:0,error_code:E 1",
        "errors_by_code.avg stream:orders,shard:0,error_code:E 1",
        "errors_by_code.min stream:orders,shard:0,error_code:E 1",
        "errors_by_code.max stream:orders,shard:0,error_code:E 1",
        "all_errors.count  2",
        "all_errors.sum  1",
        "all_errors.avg  0.5",
        "all_errors.min  0",
        "all_errors.max  1",
    ];
    assert_eq!(series.iter().map(summary).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn latencies_are_gauges_per_stream_or_of_all_streams() {
    let fake = Fake::start(|_, _| accepted()).await;
    let sink = sink(&fake);
    let mut report = report();
    report.latencies = vec![latency(None)];
    for ms in 1..=1_000 {
        report.latencies[0].put_to_ack.observe(Duration::from_millis(ms));
    }
    let of_all = export(&fake, &sink, &report).await;
    let parts: Vec<_> = of_all.iter().map(|series| (series["metric"].as_str().unwrap(), &series["type"])).collect();
    let [count, gauge] = [json!(1), json!(3)];
    let expected = [
        ("kinesis_producer.put_to_ack.count", &count),
        ("kinesis_producer.put_to_ack.p50", &gauge),
        ("kinesis_producer.put_to_ack.p99", &gauge),
        ("kinesis_producer.put_to_ack.p999", &gauge),
        ("kinesis_producer.put_to_ack.max", &gauge),
    ];
    assert_eq!(parts, expected, "buffering has no observations and no series");
    let values: Vec<_> = of_all.iter().map(|series| series["points"][0]["value"].as_f64().unwrap()).collect();
    // A quantile exceeds the exact value by at most 1/16.
    for (value, exact) in values.iter().zip([1_000.0, 500.0, 990.0, 999.0, 1_000.0]) {
        assert!((exact..=exact * 1.0625).contains(value), "{values:?}");
    }
    assert!(of_all[1..].iter().all(|series| series["unit"] == "millisecond"));
    report.latencies.push(latency(Some("orders")));
    report.latencies[1].buffering.observe(Duration::from_micros(12_500));
    let of_stream = export(&fake, &sink, &report).await;
    let summaries: Vec<_> = of_stream.iter().map(summary).collect();
    let expected = ["count", "p50", "p99", "p999", "max"].map(|part| {
        let value = if part == "count" { "1" } else { "12.5" };
        format!("buffering.{part} stream:orders {value}")
    });
    assert_eq!(summaries, expected);
}

#[tokio::test]
async fn tags_satisfy_datadogs_rules() {
    let fake = Fake::start(|_, _| accepted()).await;
    let mut report = report();
    let code = "Weird \"code\", \u{1}Schlüssel";
    report.data = vec![datum_of(Metric::ErrorsByCode, [Some(code), Some("s"), None], &[1.0])];
    let sink = sink(&fake).tag(&format!("a:{}", "b".repeat(300)));
    let series = export(&fake, &sink, &report).await;
    let tags = ["stream:s", "error_code:Weird__code____Schlüssel", &format!("a:{}", "b".repeat(198))];
    assert_eq!(series[0]["tags"], json!(tags));
    sink.export(&self::report()).await.unwrap();
    assert_eq!(fake.calls().len(), 1, "an empty report makes no call");
}

#[tokio::test]
async fn a_large_report_is_split_into_calls_below_the_limits() {
    let fake = Fake::start(|_, _| accepted()).await;
    let mut report = report();
    let of_shard = |n: usize| {
        let shard = format!("shardId-{n:012}");
        datum_of(Metric::UserRecordsPut, [None, Some("orders"), Some(&shard)], &[n as f64])
    };
    report.data = (0..2_000).map(of_shard).collect();
    sink(&fake).export(&report).await.unwrap();
    let calls = fake.calls();
    let sizes: Vec<_> = calls.iter().map(|call| (call.decompressed().len(), call.body.len())).collect();
    println!("sizes before and after compression: {sizes:?}");
    assert!(sizes.len() > 1 && sizes.iter().all(|(before, after)| *before <= 500_000 && after < before), "{sizes:?}");
    let all: Vec<_> = calls.iter().flat_map(decode).collect();
    let sums = all.iter().filter(|series| series["metric"] == "kinesis_producer.user_records_put.sum");
    let sums: Vec<_> = sums.map(|series| series["points"][0]["value"].as_f64().unwrap() as usize).collect();
    assert_eq!((all.len(), sums), (10_000, (0..2_000).collect::<Vec<_>>()));
}

#[tokio::test]
async fn confirmed_parts_of_a_report_are_not_sent_again() {
    let fake = Fake::start(|call, _| match call {
        1 => response(403, r#"{"errors":["Forbidden"]}"#),
        2 => response(202, "not JSON, but a success"),
        _ => accepted(),
    });
    let (fake, mut report) = (fake.await, report());
    let of_shard = |n: usize| {
        let shard = format!("shardId-{n:012}");
        datum_of(Metric::UserRecordsPut, [None, Some("orders"), Some(&shard)], &[n as f64])
    };
    report.data = (0..1_000).map(of_shard).collect();
    let sink = sink(&fake);
    let error = sink.export(&report).await.unwrap_err().to_string();
    assert_eq!(error, "Datadog refused the metrics: HTTP 403 Forbidden: \"{\\\"errors\\\":[\\\"Forbidden\\\"]}\"");
    sink.export(&report).await.unwrap();
    let calls = fake.calls().into_iter().enumerate().filter(|(call, _)| *call != 1);
    let mut all: Vec<_> = calls.flat_map(|(_, call)| decode(&call)).map(|series| summary(&series)).collect();
    all.sort_unstable();
    let count = all.len();
    all.dedup();
    assert_eq!((count, all.len()), (5_000, 5_000));
    let sink = self::sink(&fake);
    fake.stop().await;
    let error = sink.export(&report).await.unwrap_err().to_string();
    assert!(error.starts_with("the metrics did not reach Datadog: ") && error.contains("refused"), "{error}");
    assert!(!error.contains(KEY) && !format!("{sink:?}").contains(KEY));
}

#[test]
fn invalid_keys_sites_and_endpoints_are_refused() {
    for site in ["", "https://datadoghq.eu", "datadoghq.eu/", "a b", "x@y"] {
        assert_eq!(DatadogSink::new(KEY, site).unwrap_err(), DatadogError::Site { site: site.into() });
    }
    for endpoint in ["", "localhost:80", "ftp://localhost", "http://", "http://a b", "http://user@host"] {
        let error = DatadogSink::with_endpoint(KEY, endpoint).unwrap_err();
        assert_eq!(error, DatadogError::Endpoint { endpoint: endpoint.into() });
    }
    for key in ["", "a\nb", "schlüssel", "a b"] {
        let error = DatadogSink::new(key, "datadoghq.eu").unwrap_err();
        assert_eq!(error, DatadogError::ApiKey { chars: key.chars().count() });
        assert!(key.is_empty() || !format!("{error} {error:?}").contains(key));
    }
    // A site that the client does not know.
    assert!(DatadogSink::new(KEY, "ap7.datadoghq.com").is_ok());
    assert!(DatadogSink::with_endpoint(KEY, "https://[::1]:8080/proxy/").is_ok());
}

/// The variable that marks a child process.
const CHILD: &str = "KPL_TEST_IN_THE_CHILD";

/// Runs a test in a child process with these variables. Returns its output.
fn run_child(test: &str, environment: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([&format!("datadog::{test}"), "--exact", "--nocapture"])
        .env_clear()
        .env(CHILD, "1")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn missing_and_invalid_variables_are_named_in_the_error() {
    if std::env::var_os(CHILD).is_some() {
        return match DatadogSink::from_env() {
            Ok(sink) => println!("created: {sink:?}"),
            Err(error) => println!("error: {error}"),
        };
    }
    let run = |environment: &[_]| run_child("missing_and_invalid_variables_are_named_in_the_error", environment);
    for none in [&[][..], &[("DD_API_KEY", ""), ("DD_SITE", "datadoghq.eu")]] {
        let output = run(none);
        assert!(
            output.contains("error: DD_API_KEY is not set: it must be an API key of your organization"),
            "{output}"
        );
    }
    let output = run(&[("DD_API_KEY", KEY), ("DD_SITE", "https://datadoghq.eu")]);
    assert!(output.contains("error: the site is \"https://datadoghq.eu\""), "{output}");
    let output = run(&[("DD_API_KEY", KEY), ("DD_ENV", "prod"), ("DD_SERVICE", "orders"), ("DD_VERSION", "1.2")]);
    assert!(
        output.contains(r#"created: DatadogSink { tags: ["env:prod", "service:orders", "version:1.2"], host: None"#),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_trusts_only_the_machines_certificate_authorities() {
    let mut report = report();
    report.data = vec![datum_of(Metric::AllErrors, [None; 3], &[1.0])];
    if std::env::var_os(CHILD).is_some() {
        let sink = DatadogSink::with_endpoint(KEY, &std::env::var("ENDPOINT").unwrap()).unwrap();
        return match sink.export(&report).await {
            Ok(()) => println!("accepted"),
            Err(error) => println!("error: {error}"),
        };
    }
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = certified.signing_key.serialize_der().try_into().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
    let fake = Fake::start_tls(Arc::new(tls).into(), |_, _| accepted()).await;
    let bundle = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("datadog-{}.pem", std::process::id()));
    std::fs::write(&bundle, certified.cert.pem()).unwrap();
    let run = |bundle: &str| {
        let environment = [("ENDPOINT", fake.url()), ("SSL_CERT_FILE", bundle)];
        run_child("tls_trusts_only_the_machines_certificate_authorities", &environment)
    };
    let (trusting, distrusting) = (run(bundle.to_str().unwrap()), run("/nowhere"));
    std::fs::remove_file(bundle).unwrap();
    assert!(trusting.contains("accepted"), "{trusting}");
    assert!(distrusting.contains("error: the metrics did not reach Datadog: "), "{distrusting}");
    assert!(distrusting.contains("UnknownIssuer"), "{distrusting}");
    assert_eq!(fake.calls().iter().map(decode).map(|series| series.len()).collect::<Vec<_>>(), [5]);
}

#[tokio::test]
async fn metrics_arrive_when_the_producer_is_closed() {
    let emulator = Emulator::new(Options::default()).with_stream("events", 2);
    let server = Server::start(&emulator).await.unwrap();
    let fake = Fake::start(|_, _| accepted()).await;
    let sdk_config = aws_config::SdkConfig::builder()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new("us-east-1"))
        .credentials_provider(aws_sdk_cloudwatch::config::SharedCredentialsProvider::new(
            aws_sdk_cloudwatch::config::Credentials::new("AKID", "secret", None, None, "test"),
        ))
        .endpoint_url(server.url())
        .http_client(http_client::new())
        .build();
    let config = Config::builder().metrics_level(MetricsLevel::Detailed).build().unwrap();
    let producer = Producer::from_sdk_config(&sdk_config, config);
    producer.export_metrics_to(sink(&fake));
    for n in 0..500 {
        drop(producer.put("events", format!("key-{n}"), "four").await.unwrap());
    }
    producer.close().await;
    let all: Vec<_> = fake.calls().iter().flat_map(decode).collect();
    // Like the query `sum:…{*}`.
    let sum = |name: &str| {
        let found = all.iter().filter(|series| series["metric"] == format!("kinesis_producer.{name}"));
        found.map(|series| series["points"][0]["value"].as_f64().unwrap()).sum::<f64>()
    };
    assert_eq!(sum("user_records_received.sum"), 500.0);
    assert_eq!(sum("user_records_put.sum"), 500.0);
    assert_eq!(sum("user_records_put.count"), 500.0);
    assert_eq!(sum("user_records_data_put.sum"), 2_000.0);
    assert_eq!(sum("put_to_ack.count"), 500.0);
    assert!(sum("put_to_ack.p99") > 0.0 && sum("put_to_ack.p99") < 30_000.0);
    assert_eq!(sum("all_errors.sum"), 0.0);
}

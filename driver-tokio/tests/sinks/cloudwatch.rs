//! Tests of the sink for CloudWatch. Calls are decoded from CBOR and checked value by value.

use std::time::Duration;

use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::config::{BehaviorVersion, Credentials, Region};
use bytes::Bytes;
use ciborium::Value;
use http_body_util::Full;
use hyper::Response;
use kpl_emulator::{Emulator, Options, Server};
use kpl_tokio::metrics::{CloudWatchSink, Metric, MetricsGranularity, MetricsLevel, MetricsReport, MetricsSink};
use kpl_tokio::{Config, Producer, Tokio, aws_config, http_client};

use crate::fake::{Call, Fake};
use crate::reports::{ARN, datum, datum_of, report};

/// A call of PutMetricData.
#[derive(Debug, PartialEq)]
struct Put {
    namespace: String,
    data: Vec<Datum>,
}

#[derive(Clone, Debug, PartialEq)]
struct Datum {
    name: String,
    dimensions: Vec<(String, String)>,
    timestamp: f64,
    /// SampleCount, Sum, Minimum, Maximum.
    statistics: [f64; 4],
    unit: String,
}

fn decode(call: &Call) -> Put {
    assert_eq!(call.path, "/service/GraniteServiceVersion20100801/operation/PutMetricData");
    assert_eq!(call.header("smithy-protocol"), Some("rpc-v2-cbor"));
    let mut fields = map(ciborium::from_reader(&*call.decompressed()).unwrap());
    let put = Put {
        namespace: text(take(&mut fields, "Namespace")),
        data: array(take(&mut fields, "MetricData")).into_iter().map(decode_datum).collect(),
    };
    assert!(fields.is_empty(), "{fields:?}");
    put
}

fn decode_datum(value: Value) -> Datum {
    let mut fields = map(value);
    let dimension = |value| {
        let mut fields = map(value);
        (text(take(&mut fields, "Name")), text(take(&mut fields, "Value")))
    };
    let mut statistics = map(take(&mut fields, "StatisticValues"));
    let datum = Datum {
        name: text(take(&mut fields, "MetricName")),
        dimensions: array(take(&mut fields, "Dimensions")).into_iter().map(dimension).collect(),
        timestamp: match take(&mut fields, "Timestamp") {
            Value::Tag(1, seconds) => number(*seconds),
            other => panic!("{other:?}"),
        },
        statistics: ["SampleCount", "Sum", "Minimum", "Maximum"].map(|name| number(take(&mut statistics, name))),
        unit: text(take(&mut fields, "Unit")),
    };
    assert!(fields.is_empty() && statistics.is_empty(), "{fields:?} {statistics:?}");
    datum
}

fn map(value: Value) -> Vec<(String, Value)> {
    value.into_map().unwrap().into_iter().map(|(name, value)| (text(name), value)).collect()
}

fn take(fields: &mut Vec<(String, Value)>, name: &str) -> Value {
    let at = fields.iter().position(|(known, _)| known == name);
    fields.remove(at.unwrap_or_else(|| panic!("no {name} in {fields:?}"))).1
}

fn text(value: Value) -> String {
    value.into_text().unwrap()
}

fn array(value: Value) -> Vec<Value> {
    value.into_array().unwrap()
}

fn number(value: Value) -> f64 {
    match value {
        Value::Integer(integer) => i128::from(integer) as f64,
        other => other.into_float().unwrap(),
    }
}

fn response(status: u16, body: &Value) -> Response<Full<Bytes>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(body, &mut bytes).unwrap();
    let response = Response::builder().status(status).header("smithy-protocol", "rpc-v2-cbor");
    response.header("content-type", "application/cbor").body(Full::from(bytes)).unwrap()
}

fn accepted() -> Response<Full<Bytes>> {
    response(200, &Value::Map(vec![]))
}

fn refused(status: u16, code: &str, message: &str) -> Response<Full<Bytes>> {
    let fields = [("__type", format!("com.amazonaws.cloudwatch#{code}")), ("message", message.into())];
    response(status, &Value::Map(fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect()))
}

fn sink(fake: &Fake) -> CloudWatchSink {
    let config = aws_sdk_cloudwatch::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("AKID", "secret", None, None, "test"))
        .endpoint_url(fake.url())
        .http_client(http_client::new())
        .sleep_impl(aws_smithy_async::rt::sleep::TokioSleep::new());
    CloudWatchSink::new(Client::from_conf(config.build()))
}

/// Exports a report, which takes one call. Returns the call.
async fn export(fake: &Fake, sink: &CloudWatchSink, report: &MetricsReport) -> Put {
    let before = fake.calls().len();
    sink.export(report).await.unwrap();
    let calls = fake.calls();
    let [call] = &calls[before..] else { panic!("{} calls", calls.len() - before) };
    decode(call)
}

fn dimensions(datum: &Datum) -> Vec<String> {
    datum.dimensions.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

#[tokio::test]
async fn a_report_arrives_value_by_value() {
    let fake = Fake::start(|_, _| accepted()).await;
    let (orders, shard) = (Some("orders"), Some("shardId-000000000001"));
    let mut report = report();
    report.data = vec![
        datum_of(Metric::UserRecordsPut, [None, None, None], &[1.0, 0.0, 1.0]),
        datum_of(Metric::UserRecordsPut, [None, orders, None], &[1.0, 0.0]),
        datum_of(Metric::UserRecordsDataPut, [None, Some(ARN), shard], &[512.0, 100_000.0]),
        datum_of(Metric::BufferingTime, [None, orders, shard], &[12.5, 100.25]),
        datum_of(Metric::ErrorsByCode, [None, None, None], &[1.0]),
        datum_of(Metric::ErrorsByCode, [None, orders, None], &[1.0]), // the KPL has none per stream
        datum_of(Metric::ErrorsByCode, [Some("Expired"), None, None], &[1.0]),
        datum_of(Metric::ErrorsByCode, [Some("Expired"), orders, shard], &[1.0]),
    ];
    let put = export(&fake, &sink(&fake), &report).await;
    let [orders, shard] = [("StreamName", "orders"), ("ShardId", "shardId-000000000001")];
    let expired = ("ErrorCode", "Expired");
    let expected = [
        ("UserRecordsPut", vec![], [3.0, 2.0, 0.0, 1.0], "Count"),
        ("UserRecordsPut", vec![orders], [2.0, 1.0, 0.0, 1.0], "Count"),
        ("UserRecordsDataPut", vec![orders, shard], [2.0, 100_512.0, 512.0, 100_000.0], "Bytes"),
        ("BufferingTime", vec![orders, shard], [2.0, 112.75, 12.5, 100.25], "Milliseconds"),
        ("ErrorsByCode", vec![], [1.0; 4], "Count"),
        ("ErrorsByCode", vec![expired], [1.0; 4], "Count"),
        ("ErrorsByCode", vec![expired, orders, shard], [1.0; 4], "Count"),
    ];
    let expected = expected.map(|(name, dimensions, statistics, unit)| Datum {
        name: name.into(),
        dimensions: dimensions.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        timestamp: 1_700_000_000.123,
        statistics,
        unit: unit.into(),
    });
    assert_eq!(put, Put { namespace: "KinesisProducerLibrary".into(), data: expected.into() });
}

#[tokio::test]
async fn every_metric_has_its_unit_and_an_empty_report_makes_no_call() {
    let fake = Fake::start(|_, _| accepted()).await;
    let sink = sink(&fake).namespace("Orders/Kinesis").unwrap();
    sink.export(&report()).await.unwrap();
    assert_eq!(fake.calls().len(), 0);
    let mut report = report();
    report.data = Metric::ALL.map(datum).into();
    let put = export(&fake, &sink, &report).await;
    assert_eq!(put.namespace, "Orders/Kinesis");
    let units: Vec<_> = put.data.iter().map(|datum| (datum.name.as_str(), datum.unit.as_str())).collect();
    assert_eq!(units, Metric::ALL.map(|metric| (metric.name(), metric.unit().name())));
}

#[tokio::test]
async fn additional_dimensions_are_where_the_kpl_puts_them() {
    use MetricsGranularity::{Global, Shard, Stream};
    let fake = Fake::start(|_, _| accepted()).await;
    let sink = sink(&fake).dimension("Zone", "z", Shard).unwrap();
    let sink = sink.dimension("Service", "orders", Global).unwrap().dimension("Host", "h", Stream).unwrap();
    let sink = sink.dimension("Rack", "r", Stream).unwrap();
    let mut report = report();
    report.data = vec![
        datum_of(Metric::AllErrors, [None, None, None], &[1.0]),
        datum_of(Metric::AllErrors, [None, Some("s"), None], &[1.0]),
        datum_of(Metric::ErrorsByCode, [Some("E"), None, None], &[1.0]),
        datum_of(Metric::ErrorsByCode, [Some("E"), Some("s"), Some("0")], &[1.0]),
    ];
    let put = export(&fake, &sink, &report).await;
    let data: Vec<_> = put.data.iter().map(|datum| format!("{} {}", datum.name, dimensions(datum).join(" "))).collect();
    let expected = [
        // Each datum also without its finer additional dimensions, down to the dimensions of the next coarser datum.
        "AllErrors ",
        "AllErrors Service=orders",
        "AllErrors Service=orders StreamName=s",
        "AllErrors Service=orders StreamName=s Host=h",
        "AllErrors Service=orders StreamName=s Host=h Rack=r",
        "ErrorsByCode Service=orders ErrorCode=E",
        "ErrorsByCode Service=orders ErrorCode=E StreamName=s Host=h Rack=r ShardId=0",
        "ErrorsByCode Service=orders ErrorCode=E StreamName=s Host=h Rack=r ShardId=0 Zone=z",
    ];
    assert_eq!(data, expected);
}

#[tokio::test]
async fn error_codes_are_made_valid_for_cloudwatch() {
    let fake = Fake::start(|_, _| accepted()).await;
    let mut report = report();
    let codes = ["Schlüssel\n", " ", &"x".repeat(2_000)];
    report.data = codes.map(|code| datum_of(Metric::ErrorsByCode, [Some(code), None, None], &[1.0])).into();
    let put = export(&fake, &sink(&fake), &report).await;
    let sent: Vec<_> = put.data.iter().flat_map(dimensions).collect();
    // The blank code is not sent: without a dimension, it would count as the errors of all codes.
    assert_eq!(sent, ["ErrorCode=Schl?ssel?".into(), format!("ErrorCode={}", "x".repeat(1_024))]);
}

#[tokio::test]
async fn settings_that_cloudwatch_would_refuse_are_refused() {
    use MetricsGranularity::Global;
    let fake = Fake::start(|_, _| accepted()).await;
    let too_long = "x".repeat(256);
    for namespace in ["", " ", "Schlüssel", "a\tb", ":a", "AWS/Kinesis", &too_long] {
        let error = sink(&fake).namespace(namespace).unwrap_err();
        assert_eq!((error.field, &error.value[..]), ("namespace", &namespace[..namespace.len().min(200)]));
    }
    for name in ["", "  ", "Häuser", "a\nb", ":a", "StreamName", "ShardId", "ErrorCode", &too_long] {
        let error = sink(&fake).dimension(name, "v", Global).unwrap_err();
        assert_eq!((error.field, &error.value[..]), ("dimension's name", &name[..name.len().min(200)]));
    }
    for value in ["", " ", "Häuser", "a\0", &"x".repeat(1_025)] {
        let error = sink(&fake).dimension("Host", value, Global).unwrap_err();
        assert_eq!((error.field, &error.value[..]), ("dimension's value", &value[..value.len().min(200)]));
    }
    let error = sink(&fake).dimension("Host", "", Global).unwrap_err().to_string();
    let limit = "have 1 to 1024 printable ASCII characters, not all blank";
    assert_eq!(error, format!("CloudWatch: dimension's value is \"\", but must {limit}"));
    let mut sink = sink(&fake).namespace("x".repeat(255)).unwrap();
    for n in 0..27 {
        sink = sink.dimension(format!("D{n:0254}"), "v".repeat(1_024), Global).unwrap();
    }
    let error = sink.dimension("OneMore", "v", Global).unwrap_err().to_string();
    assert_eq!(
        error,
        "CloudWatch: dimension is \"OneMore\", but must be one of at most 27: a metric has at most 30 dimensions"
    );
    let sink = self::sink(&fake).dimension("Host", "v", Global).unwrap();
    assert_eq!(sink.dimension("Host", "w", Global).unwrap_err().field, "dimension's name");
}

#[tokio::test]
async fn a_call_has_at_most_1000_data_and_is_compressed() {
    let fake = Fake::start(|_, _| accepted()).await;
    let mut report = report();
    let of_shard = |n: usize| {
        let shard = format!("shardId-{n:012}");
        datum_of(Metric::UserRecordsPut, [None, Some("orders"), Some(&shard)], &[n as f64])
    };
    report.data = (0..2_345).map(of_shard).collect();
    sink(&fake).export(&report).await.unwrap();
    let calls = fake.calls();
    let puts: Vec<_> = calls.iter().map(decode).collect();
    assert_eq!(puts.iter().map(|put| put.data.len()).collect::<Vec<_>>(), [1_000, 1_000, 345]);
    let sums: Vec<_> = puts.iter().flat_map(|put| &put.data).map(|datum| datum.statistics[1] as usize).collect();
    assert_eq!(sums, (0..2_345).collect::<Vec<_>>());
    for call in &calls {
        println!("{} bytes of CBOR, {} on the wire, {:?}", call.decompressed().len(), call.body.len(), call.headers);
        assert_eq!(call.header("content-encoding"), Some("gzip"));
        assert!(call.body.len() * 5 < call.decompressed().len());
    }
}

#[tokio::test]
async fn a_call_has_at_most_1_mb_before_compression() {
    let fake = Fake::start(|_, _| accepted()).await;
    let mut sink = sink(&fake);
    for n in 0..27 {
        let name = format!("Dimension{n}{}", "n".repeat(240));
        sink = sink.dimension(name, "v".repeat(1_024), MetricsGranularity::Stream).unwrap();
    }
    let mut report = report();
    let of_stream = |n: usize| {
        let (stream, shard) = (format!("s{n}"), format!("shardId-{n:012}"));
        datum_of(Metric::UserRecordsPut, [None, Some(&stream), Some(&shard)], &[n as f64])
    };
    report.data = (0..100).map(of_stream).collect();
    sink.export(&report).await.unwrap();
    let calls = fake.calls();
    let sizes: Vec<_> = calls.iter().map(|call| call.decompressed().len()).collect();
    println!("{sizes:?}");
    let (_, full) = sizes.split_last().unwrap();
    assert!(sizes.iter().all(|size| *size <= 1_000_000), "{sizes:?}");
    assert!(full.len() >= 3 && full.iter().all(|size| *size > 900_000), "{sizes:?}");
    let sums: Vec<_> =
        calls.iter().flat_map(|call| decode(call).data).map(|datum| datum.statistics[1] as usize).collect();
    assert_eq!(sums, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn confirmed_parts_of_a_report_are_not_sent_again() {
    let fake = Fake::start(|call, _| match call {
        2 => refused(400, "InvalidParameterValue", "no"),
        3 => refused(403, "AccessDenied", "not allowed"),
        _ => accepted(),
    });
    let (fake, mut first) = (fake.await, report());
    first.data = (0..4_500).map(|n| datum_of(Metric::AllErrors, [None, None, None], &[f64::from(n)])).collect();
    let sink = sink(&fake);
    let error = sink.export(&first).await.unwrap_err().to_string();
    assert_eq!(error, "CloudWatch refused PutMetricData: InvalidParameterValue: no");
    assert_eq!(fake.calls().len(), 3);
    let error = sink.export(&first).await.unwrap_err().to_string();
    assert_eq!(error, "CloudWatch refused PutMetricData: AccessDenied: not allowed");
    // The report of another producer does not affect the progress of the first.
    let mut other = report();
    other.end = first.end.map(|end| end + Duration::from_secs(1));
    other.data = vec![datum_of(Metric::AllErrors, [None, None, None], &[-1.0])];
    sink.export(&other).await.unwrap();
    sink.export(&first).await.unwrap();
    let mut sums: Vec<_> = vec![];
    for (n, call) in fake.calls().iter().enumerate() {
        if n != 2 && n != 3 {
            sums.extend(decode(call).data.iter().map(|datum| datum.statistics[1]));
        }
    }
    assert_eq!(sums.len(), 4_501);
    sums.sort_unstable_by(f64::total_cmp);
    assert!(sums.windows(2).all(|pair| pair[0] + 1.0 == pair[1]), "each datum is confirmed once");
    // A complete report has no progress: if it is exported again, it is sent again.
    sink.export(&other).await.unwrap();
    assert_eq!(fake.calls().len(), 9);
}

#[tokio::test]
async fn the_sdk_retries_and_a_refused_connection_is_an_error() {
    let fake =
        Fake::start(|call, _| if call == 0 { refused(503, "ServiceUnavailable", "later") } else { accepted() }).await;
    let mut report = report();
    report.data = vec![datum(Metric::AllErrors)];
    let sink = sink(&fake);
    sink.export(&report).await.unwrap();
    assert_eq!(fake.calls().len(), 2);
    let sink = self::sink(&fake);
    fake.stop().await;
    let error = sink.export(&report).await.unwrap_err().to_string();
    assert!(error.starts_with("PutMetricData failed: ") && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn metrics_arrive_while_the_producer_runs_and_when_it_is_closed() {
    let emulator = Emulator::new(Options::default()).with_stream("events", 2);
    let server = Server::start(&emulator).await.unwrap();
    let fake = Fake::start(|_, _| accepted()).await;
    let sdk_config = |url: &str| {
        aws_config::SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(aws_sdk_cloudwatch::config::SharedCredentialsProvider::new(Credentials::new(
                "AKID", "secret", None, None, "test",
            )))
            .endpoint_url(url)
            .build()
    };
    let config = Config::builder()
        .metrics_level(MetricsLevel::Detailed)
        .metrics_upload_interval(Duration::from_secs(1))
        .build()
        .unwrap();
    let producer = Producer::from_sdk_config(&sdk_config(&server.url()), config);
    producer.export_metrics_to(CloudWatchSink::from_sdk_config::<Tokio>(&sdk_config(fake.url())));
    for n in 0..500 {
        drop(producer.put("events", format!("key-{n}"), "four").await.unwrap());
    }
    producer.flush().await;
    while fake.calls().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let before_close: Vec<_> = fake.calls().iter().flat_map(|call| decode(call).data).collect();
    for n in 0..500 {
        drop(producer.put("events", format!("key-{n}"), "four").await.unwrap());
    }
    producer.close().await;
    let data: Vec<_> = fake.calls().iter().flat_map(|call| decode(call).data).collect();
    assert!(data.len() > before_close.len());
    let sum = |data: &[Datum], name: &str, place: &[&str]| -> f64 {
        let found = data.iter().filter(|datum| datum.name == name && dimensions(datum) == place);
        found.map(|datum| datum.statistics[1]).sum()
    };
    assert!(sum(&before_close, "UserRecordsPut", &[]) >= 500.0);
    let events = "StreamName=events";
    for (name, total) in
        [("UserRecordsReceived", 1_000.0), ("UserRecordsPut", 1_000.0), ("UserRecordsDataPut", 4_000.0)]
    {
        assert_eq!((name, sum(&data, name, &[])), (name, total));
        assert_eq!((name, sum(&data, name, &[events])), (name, total));
    }
    let shards = ["ShardId=shardId-000000000000", "ShardId=shardId-000000000001"];
    let per_shard = shards.map(|shard| sum(&data, "UserRecordsPut", &[events, shard]));
    assert!(per_shard.iter().all(|sum| *sum > 0.0) && per_shard.iter().sum::<f64>() == 1_000.0, "{per_shard:?}");
    assert_eq!(sum(&data, "AllErrors", &[]), 0.0);
    for name in ["RequestTime", "BufferingTime"] {
        let times: Vec<_> = data.iter().filter(|datum| datum.name == name).collect();
        assert!(!times.is_empty());
        assert!(times.iter().all(|datum| datum.unit == "Milliseconds" && datum.statistics[3] < 60_000.0), "{times:?}");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(data.iter().all(|datum| (now - 60.0..=now).contains(&datum.timestamp)));
    println!("{:#?}", decode(fake.calls().last().unwrap()));
}

//! AWS's clients with the emulator: boto3, the AWS CLI, and the SDK for JavaScript. They show that the emulator, on
//! which the other tests rely, behaves as clients of the real service expect.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kpl_core::hash_key;
use kpl_emulator::Options;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::report::{Comparison, Report};
use crate::service::Service;
use crate::tools::{Python, Tools};

const DIRECTION: &str = "executes every operation on the emulator";

pub(crate) async fn boto3(tools: &Tools, report: &mut Report) -> anyhow::Result<()> {
    let python = tools.python("aws")?;
    report.add(&python.version("boto3")?, DIRECTION, scripted(python.script("call.py")).await);
    Ok(())
}

pub(crate) async fn aws_sdk_js(tools: &Tools, report: &mut Report) -> anyhow::Result<()> {
    let node = tools.node()?;
    let (version, direction) = (node.version("@aws-sdk/client-kinesis")?, format!("{DIRECTION}, over HTTP/2"));
    report.add(&version, &direction, scripted(node.script("call.mjs")).await);
    Ok(())
}

pub(crate) async fn aws_cli(tools: &Tools, report: &mut Report) -> anyhow::Result<()> {
    let python = tools.python("aws")?;
    let version = python.version("awscli")?;
    let run = async || scenario(&mut Cli { python, service: service().await? });
    report.add(&version, DIRECTION, run().await);
    Ok(())
}

async fn scripted(mut command: Command) -> anyhow::Result<Comparison> {
    let service = service().await?;
    scenario(&mut Script::start(service.configure(&mut command))?)
}

/// Starts a service whose streams become active after 300 ms.
async fn service() -> anyhow::Result<Service> {
    Service::with(Options { transition: Duration::from_millis(300), ..Options::unlimited() }).await
}

/// A client of the service. Names and shapes are those of the API reference; blobs are in base64.
trait Client {
    fn call(&mut self, operation: &str, input: &Value) -> anyhow::Result<Reply>;
}

/// The result of a request.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Reply {
    Output {
        output: Value,
    },
    Error {
        error: String,
        /// Whether the client has a class for the code and the error is of it.
        known: bool,
        message: String,
    },
}

/// A script that reads requests from its standard input, and prints a reply to each.
struct Script {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Script {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        // It inherits the standard error, on which it prints only if it fails.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().context("no pipe")?);
        Ok(Self { child, stdin, stdout: BufReader::new(stdout) })
    }
}

impl Client for Script {
    fn call(&mut self, operation: &str, input: &Value) -> anyhow::Result<Reply> {
        writeln!(self.stdin.as_mut().context("no pipe")?, "{}", json!([operation, input]))?;
        let mut line = String::new();
        ensure!(self.stdout.read_line(&mut line)? > 0, "the script ended at {operation} {input}");
        serde_json::from_str(&line).context(line)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // The script ends at the end of its input. One that hangs is killed.
        drop(self.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The AWS CLI, with a process for each request.
struct Cli {
    python: Python,
    service: Service,
}

impl Client for Cli {
    fn call(&mut self, operation: &str, input: &Value) -> anyhow::Result<Reply> {
        let mut command = self.python.module("awscli");
        self.service.configure(&mut command).args(["kinesis", "--output", "json"]);
        if operation == "wait" {
            command.args(["wait", "stream-exists"]);
            command.args(["--stream-name", input["StreamName"].as_str().context("a name")?]);
        } else {
            // The CLI would join pages.
            command.args([&*kebab(operation), "--no-paginate", "--cli-input-json", &with_raw_data(input).to_string()]);
        }
        let output = command.stdin(Stdio::null()).output()?;
        let (printed, errors) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            let output = if printed.trim().is_empty() { json!({}) } else { serde_json::from_str(&printed)? };
            return Ok(Reply::Output { output });
        }
        let parsed =
            errors.split_once("An error occurred (").and_then(|(_, rest)| rest.split_once(") when calling the "));
        let Some((error, message)) = parsed else { bail!("{operation}: {}", errors.trim()) };
        let known = message.contains(&format!("{operation} operation"));
        Ok(Reply::Error { error: error.into(), known, message: message.trim().into() })
    }
}

fn kebab(operation: &str) -> String {
    let dashed = operation.chars().flat_map(|c| c.is_uppercase().then_some('-').into_iter().chain([c]));
    dashed.collect::<String>().trim_start_matches('-').to_lowercase()
}

/// Decodes blobs, because version 1 of the AWS CLI expects them without base64.
fn with_raw_data(input: &Value) -> Value {
    let mut input = input.clone();
    let raw = |record: &mut Value| {
        if let Some(data) = record.get_mut("Data") {
            let bytes = STANDARD.decode(data.as_str().unwrap_or_default()).unwrap_or_default();
            *data = String::from_utf8_lossy(&bytes).into();
        }
    };
    raw(&mut input);
    input["Records"].as_array_mut().into_iter().flatten().for_each(raw);
    if input["Records"].is_null() {
        input.as_object_mut().map(|fields| fields.remove("Records"));
    }
    input
}

/// A client and the comparisons of its replies.
struct Session<'a> {
    client: &'a mut dyn Client,
    comparison: Comparison,
}

impl Session<'_> {
    /// Sends a request, which must succeed. Returns the output.
    fn call(&mut self, operation: &str, input: Value) -> anyhow::Result<Value> {
        match self.client.call(operation, &input)? {
            Reply::Output { output } => Ok(output),
            Reply::Error { error, message, .. } => bail!("{operation} {input}: {error}: {message}"),
        }
    }

    /// Compares a part of a reply.
    fn check(&mut self, what: &str, actual: &Value, expected: impl Into<Value>) {
        let expected = expected.into();
        self.comparison.check(*actual == expected, || format!("{what}: {actual}, expected {expected}"));
    }

    fn holds(&mut self, what: &str, holds: bool, actual: &Value) {
        self.comparison.check(holds, || format!("{what}: {actual}"));
    }

    /// Sends a request, which must fail with this code and with an error of its class.
    fn fails(&mut self, code: &str, operation: &str, input: Value) -> anyhow::Result<()> {
        let reply = self.client.call(operation, &input)?;
        let as_expected = matches!(&reply, Reply::Error { error, known: true, .. } if error == code);
        self.comparison.check(as_expected, || format!("{operation} {input} does not fail with {code}: {reply:?}"));
        Ok(())
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let summary = self.call("DescribeStreamSummary", json!({ "StreamName": STREAM }))?;
            if summary["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE" {
                break;
            }
            ensure!(Instant::now() < deadline, "the stream does not become active: {summary}");
            sleep(Duration::from_millis(100));
        }
        self.call("wait", json!({ "StreamName": STREAM })).map(drop)
    }

    fn shards(&mut self, filter: Option<Value>) -> anyhow::Result<Vec<Value>> {
        let mut input = json!({ "StreamName": STREAM });
        if let Some(filter) = filter {
            input["ShardFilter"] = filter;
        }
        let listed = self.call("ListShards", input)?;
        listed["Shards"].as_array().cloned().with_context(|| format!("no shards: {listed}"))
    }

    /// Puts a record, and returns its sequence number.
    fn put(&mut self, key: &str, explicit_hash_key: Option<u128>, data: &str, shard: u32) -> anyhow::Result<Number> {
        let mut input = json!({ "StreamName": STREAM, "PartitionKey": key, "Data": STANDARD.encode(data) });
        if let Some(hash_key) = explicit_hash_key {
            input["ExplicitHashKey"] = hash_key.to_string().into();
        }
        let put = self.call("PutRecord", input)?;
        self.check("shard of a record", &put["ShardId"], shard_id(shard));
        number(&put["SequenceNumber"])
    }

    /// Reads once from an iterator of this type.
    fn read(&mut self, shard: u32, kind: &str, more: Value) -> anyhow::Result<Value> {
        let iterator = self.iterator(shard, kind, more)?;
        self.call("GetRecords", json!({ "ShardIterator": iterator }))
    }

    fn iterator(&mut self, shard: u32, kind: &str, more: Value) -> anyhow::Result<Value> {
        let mut input = json!({ "StreamName": STREAM, "ShardId": shard_id(shard), "ShardIteratorType": kind });
        for (name, value) in more.as_object().into_iter().flatten() {
            input[name] = value.clone();
        }
        Ok(self.call("GetShardIterator", input)?["ShardIterator"].take())
    }
}

const STREAM: &str = "orders";
const MIDDLE: u128 = 1 << 127;
const LAST: u128 = u128::MAX;

fn shard_id(n: u32) -> String {
    format!("shardId-{n:012}")
}

/// A sequence number, which has up to 56 digits. The length comes first, so that the order is that of numbers.
type Number = (usize, String);

fn number(value: &Value) -> anyhow::Result<Number> {
    let text = value.as_str().with_context(|| format!("no sequence number: {value}"))?;
    ensure!(text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0'), "not a sequence number: {text}");
    Ok((text.len(), text.into()))
}

/// Returns the data of the records in a reply of GetRecords.
fn data(read: &Value) -> Value {
    let decoded = |record: &Value| {
        let bytes = STANDARD.decode(record["Data"].as_str().unwrap_or_default()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    read["Records"].as_array().into_iter().flatten().map(decoded).collect()
}

fn range(start: u128, end: u128) -> Value {
    json!({ "StartingHashKey": start.to_string(), "EndingHashKey": end.to_string() })
}

fn ids(shards: &[Value]) -> Value {
    shards.iter().map(|shard| shard["ShardId"].clone()).collect()
}

/// Creates a stream, puts and reads records, reshards it, reads again, and deletes it.
fn scenario(client: &mut dyn Client) -> anyhow::Result<Comparison> {
    let mut session = Session { client, comparison: Comparison::default() };
    create(&mut session)?;
    describe(&mut session)?;
    put_and_read(&mut session)?;
    reshard(&mut session)?;
    errors(&mut session)?;
    delete(&mut session)?;
    Ok(session.comparison)
}

fn create(session: &mut Session<'_>) -> anyhow::Result<()> {
    let none = session.call("ListStreams", json!({}))?;
    session.check("streams before the first create", &none["StreamNames"], json!([]));
    session.check("more streams before the first create", &none["HasMoreStreams"], false);
    session.call("CreateStream", json!({ "StreamName": STREAM, "ShardCount": 2 }))?;
    session.fails("ResourceInUseException", "CreateStream", json!({ "StreamName": STREAM, "ShardCount": 2 }))?;
    session.wait()?;
    for other in ["billing", "visits"] {
        let on_demand = json!({ "StreamMode": "ON_DEMAND" });
        session.call("CreateStream", json!({ "StreamName": other, "StreamModeDetails": on_demand }))?;
    }
    let first = session.call("ListStreams", json!({ "Limit": 2 }))?;
    session.check("the first streams", &first["StreamNames"], json!(["billing", STREAM]));
    session.check("more than two", &first["HasMoreStreams"], true);
    let rest = session.call("ListStreams", json!({ "ExclusiveStartStreamName": STREAM }))?;
    session.check("streams after a name", &rest["StreamNames"], json!(["visits"]));
    let rest = session.call("ListStreams", json!({ "NextToken": first["NextToken"] }))?;
    session.check("streams after a token", &rest["StreamNames"], json!(["visits"]));
    Ok(())
}

fn describe(session: &mut Session<'_>) -> anyhow::Result<()> {
    let summary = session.call("DescribeStreamSummary", json!({ "StreamName": STREAM }))?;
    let summary = &summary["StreamDescriptionSummary"];
    for (field, expected) in [
        ("StreamName", json!(STREAM)),
        ("StreamStatus", json!("ACTIVE")),
        ("StreamModeDetails", json!({ "StreamMode": "PROVISIONED" })),
        ("OpenShardCount", json!(2)),
        ("ConsumerCount", json!(0)),
        ("RetentionPeriodHours", json!(24)),
        ("MaxRecordSizeInKiB", json!(1024)),
        ("EncryptionType", json!("NONE")),
    ] {
        session.check(field, &summary[field], expected);
    }
    let arn = summary["StreamARN"].clone();
    let is_arn = arn.as_str().is_some_and(|arn| arn.starts_with("arn:aws:kinesis:us-east-1:") && arn.ends_with(STREAM));
    session.holds("an ARN", is_arn, &arn);
    let by_arn = session.call("DescribeStreamSummary", json!({ "StreamARN": arn }))?;
    session.check("by its ARN", &by_arn["StreamDescriptionSummary"], summary.clone());
    let on_demand = session.call("DescribeStreamSummary", json!({ "StreamName": "visits" }))?;
    let on_demand = &on_demand["StreamDescriptionSummary"];
    session.check("shards on demand", &on_demand["OpenShardCount"], 4);
    session.check("mode", &on_demand["StreamModeDetails"], json!({ "StreamMode": "ON_DEMAND" }));

    let shards = session.shards(None)?;
    session.check("shards", &ids(&shards), json!([shard_id(0), shard_id(1)]));
    for (shard, expected) in shards.iter().zip([range(0, MIDDLE - 1), range(MIDDLE, LAST)]) {
        session.check("range", &shard["HashKeyRange"], expected);
        session.check("parent", &shard["ParentShardId"], Value::Null);
        session.check("end", &shard["SequenceNumberRange"]["EndingSequenceNumber"], Value::Null);
        number(&shard["SequenceNumberRange"]["StartingSequenceNumber"])?;
    }
    let described = session.call("DescribeStream", json!({ "StreamName": STREAM }))?;
    session.check("shards described", &described["StreamDescription"]["Shards"], shards.clone());
    session.check("no more shards", &described["StreamDescription"]["HasMoreShards"], false);
    let page = session.call("ListShards", json!({ "StreamName": STREAM, "MaxResults": 1 }))?;
    session.check("the first page", &page["Shards"], json!([shards[0]]));
    let next = json!({ "NextToken": page["NextToken"] });
    let page = session.call("ListShards", next.clone())?;
    session.check("the last page", &page["Shards"], json!([shards[1]]));
    session.check("no third page", &page["NextToken"], Value::Null);
    let both = json!({ "NextToken": next["NextToken"], "StreamName": STREAM });
    session.fails("InvalidArgumentException", "ListShards", both)
}

fn put_and_read(session: &mut Session<'_>) -> anyhow::Result<()> {
    // The hash of a partition key chooses the shard, or an explicit hash key: the first and the last of each shard.
    let by_key = u32::from(hash_key("customer") >= MIDDLE);
    session.put("customer", None, "by its key", by_key)?;
    let mut numbers = vec![session.put("first", Some(0), "one", 0)?];
    numbers.push(session.put("ключ 🦀", Some(MIDDLE - 1), "два", 0)?);
    session.put("upper", Some(MIDDLE), "lowest of the upper", 1)?;
    session.put("upper", Some(LAST), "highest of the upper", 1)?;
    // The next record arrives in a later second, because the AWS CLI sends times in whole seconds.
    sleep(Duration::from_secs(1));
    let entry = |key: &str, hash_key: u128, data: &str| json!({ "PartitionKey": key, "ExplicitHashKey": hash_key.to_string(), "Data": STANDARD.encode(data) });
    let entries = json!([entry("a", 5, "three"), entry("b", LAST, "of another shard"), entry("c", 7, "four")]);
    let put = session.call("PutRecords", json!({ "StreamName": STREAM, "Records": entries }))?;
    session.check("failed records", &put["FailedRecordCount"], 0);
    let shards: Value =
        put["Records"].as_array().into_iter().flatten().map(|result| result["ShardId"].clone()).collect();
    session.check("their shards", &shards, json!([shard_id(0), shard_id(1), shard_id(0)]));
    numbers.push(number(&put["Records"][0]["SequenceNumber"])?);
    numbers.push(number(&put["Records"][2]["SequenceNumber"])?);
    session.holds("sequence numbers rise", numbers.is_sorted_by(|a, b| a < b), &json!(numbers));

    let read = session.read(0, "TRIM_HORIZON", json!({}))?;
    let mut expected = vec!["one", "два", "three", "four"];
    if by_key == 0 {
        expected.insert(0, "by its key");
    }
    session.check("data from the beginning", &data(&read), expected.clone());
    session.check("milliseconds behind", &read["MillisBehindLatest"], 0);
    let records = &read["Records"].as_array().context("records")?[expected.len() - 4..];
    for ((record, number), key) in records.iter().zip(&numbers).zip(["first", "ключ 🦀", "a", "c"]) {
        session.check("sequence number", &record["SequenceNumber"], &*number.1);
        session.check("partition key", &record["PartitionKey"], key);
    }
    let time = |record: &Value| record["ApproximateArrivalTimestamp"].as_f64().context("a time in seconds");
    let (before, after) = (time(&records[1])?, time(&records[2])?);
    session.holds("times rise", before < after.floor(), &json!([before, after]));

    let number = |n: usize| json!({ "StartingSequenceNumber": numbers[n].1 });
    let at = session.read(0, "AT_SEQUENCE_NUMBER", number(1))?;
    session.check("data at a sequence number", &data(&at), json!(["два", "three", "four"]));
    let after_number = session.read(0, "AFTER_SEQUENCE_NUMBER", number(1))?;
    session.check("data after a sequence number", &data(&after_number), json!(["three", "four"]));
    let at = session.read(0, "AT_TIMESTAMP", json!({ "Timestamp": after.floor() }))?;
    session.check("data at a time", &data(&at), json!(["three", "four"]));
    let latest = session.iterator(0, "LATEST", json!({}))?;
    let nothing = session.call("GetRecords", json!({ "ShardIterator": latest }))?;
    session.check("data at the end", &data(&nothing), json!([]));
    session.put("late", Some(1), "five", 0)?;
    let late = session.call("GetRecords", json!({ "ShardIterator": nothing["NextShardIterator"] }))?;
    session.check("data that came since", &data(&late), json!(["five"]));

    let mut iterator = session.iterator(0, "AT_SEQUENCE_NUMBER", number(0))?;
    for expected in ["one", "два", "three", "four", "five"] {
        let page = session.call("GetRecords", json!({ "ShardIterator": iterator, "Limit": 1 }))?;
        session.check("data of a page", &data(&page), json!([expected]));
        let behind = page["MillisBehindLatest"].as_u64().is_some_and(|millis| (millis == 0) == (expected == "five"));
        session.holds("milliseconds behind", behind, &page["MillisBehindLatest"]);
        iterator = page["NextShardIterator"].clone();
    }
    Ok(())
}

fn reshard(session: &mut Session<'_>) -> anyhow::Result<()> {
    const QUARTER: u128 = MIDDLE / 2;
    let split = json!({
        "StreamName": STREAM, "ShardToSplit": shard_id(0), "NewStartingHashKey": QUARTER.to_string()
    });
    session.call("SplitShard", split)?;
    session.wait()?;
    let shards = session.shards(None)?;
    session.check("shards after a split", &ids(&shards), (0..4).map(shard_id).collect::<Vec<_>>());
    let end = number(&shards[0]["SequenceNumberRange"]["EndingSequenceNumber"])?;
    for (child, expected) in shards[2..].iter().zip([range(0, QUARTER - 1), range(QUARTER, MIDDLE - 1)]) {
        session.check("range of a child", &child["HashKeyRange"], expected);
        session.check("parent of a child", &child["ParentShardId"], shard_id(0));
        let start = number(&child["SequenceNumberRange"]["StartingSequenceNumber"])?;
        session.holds("a child starts after its parent's end", start > end, &json!([end, start]));
    }
    let open = session.shards(Some(json!({ "Type": "AT_LATEST" })))?;
    session.check("open shards", &ids(&open), json!([shard_id(1), shard_id(2), shard_id(3)]));
    let later = session.shards(Some(json!({ "Type": "AFTER_SHARD_ID", "ShardId": shard_id(1) })))?;
    session.check("shards after one", &ids(&later), json!([shard_id(2), shard_id(3)]));
    let child = session.put("first", Some(0), "of the child", 2)?;
    session.holds("a child's records come after its parent's", child > end, &json!([end, child]));

    // The last page of a closed shard has its children.
    let closed = session.read(0, "TRIM_HORIZON", json!({}))?;
    session.holds("the closed shard's data", data(&closed).as_array().is_some_and(|d| d.len() >= 5), &data(&closed));
    session.check("no next iterator", &closed["NextShardIterator"], Value::Null);
    let children = json!([
        { "ShardId": shard_id(2), "ParentShards": [shard_id(0)], "HashKeyRange": range(0, QUARTER - 1) },
        { "ShardId": shard_id(3), "ParentShards": [shard_id(0)], "HashKeyRange": range(QUARTER, MIDDLE - 1) },
    ]);
    session.check("its children", &closed["ChildShards"], children.clone());
    let closed = session.read(0, "LATEST", json!({}))?;
    session.check("data at the end of a closed shard", &data(&closed), json!([]));
    session.check("its children at the end", &closed["ChildShards"], children);
    let read = session.read(2, "TRIM_HORIZON", json!({}))?;
    session.check("the child's data", &data(&read), json!(["of the child"]));

    let merge = |lower: u32, upper: u32| {
        json!({
            "StreamName": STREAM, "ShardToMerge": shard_id(lower), "AdjacentShardToMerge": shard_id(upper)
        })
    };
    session.fails("InvalidArgumentException", "MergeShards", merge(2, 1))?;
    session.call("MergeShards", merge(2, 3))?;
    session.wait()?;
    let shards = session.shards(None)?;
    session.check("shards after a merge", &ids(&shards), (0..5).map(shard_id).collect::<Vec<_>>());
    session.check("range of the merged", &shards[4]["HashKeyRange"], range(0, MIDDLE - 1));
    session.check("its parent", &shards[4]["ParentShardId"], shard_id(2));
    session.check("its other parent", &shards[4]["AdjacentParentShardId"], shard_id(3));
    let closed = session.read(3, "TRIM_HORIZON", json!({}))?;
    let parents = json!([shard_id(2), shard_id(3)]);
    session.check("the merged as a child", &closed["ChildShards"][0]["ParentShards"], parents);

    let update = json!({ "StreamName": STREAM, "TargetShardCount": 4, "ScalingType": "UNIFORM_SCALING" });
    let updated = session.call("UpdateShardCount", update)?;
    session.check("current shard count", &updated["CurrentShardCount"], 2);
    session.check("target shard count", &updated["TargetShardCount"], 4);
    session.wait()?;
    let open = session.shards(Some(json!({ "Type": "AT_LATEST" })))?;
    let ranges: Value = open.iter().map(|shard| shard["HashKeyRange"].clone()).collect();
    let quarters = (0..4).map(|n| range(QUARTER * n, QUARTER * n + (QUARTER - 1)));
    session.check("ranges of equal size", &ranges, quarters.collect::<Value>());
    Ok(())
}

fn errors(session: &mut Session<'_>) -> anyhow::Result<()> {
    const NOT_FOUND: &str = "ResourceNotFoundException";
    const INVALID: &str = "InvalidArgumentException";
    const VALIDATION: &str = "ValidationException";
    let put = |stream: &str, hash_key: &str| {
        json!({
            "StreamName": stream, "PartitionKey": "k", "ExplicitHashKey": hash_key, "Data": STANDARD.encode("data")
        })
    };
    let iterator = |stream: &str, shard: u32, kind: &str, number: &str| {
        json!({
            "StreamName": stream, "ShardId": shard_id(shard), "ShardIteratorType": kind, "StartingSequenceNumber": number
        })
    };
    for (code, operation, input) in [
        (NOT_FOUND, "DescribeStreamSummary", json!({ "StreamName": "missing" })),
        (NOT_FOUND, "DescribeStream", json!({ "StreamName": "missing" })),
        (NOT_FOUND, "ListShards", json!({ "StreamName": "missing" })),
        (NOT_FOUND, "PutRecord", put("missing", "0")),
        (NOT_FOUND, "DeleteStream", json!({ "StreamName": "missing" })),
        (NOT_FOUND, "GetShardIterator", iterator("missing", 0, "LATEST", "1")),
        (NOT_FOUND, "GetShardIterator", iterator(STREAM, 99, "LATEST", "1")),
        (INVALID, "GetShardIterator", iterator(STREAM, 0, "AT_SEQUENCE_NUMBER", "1")),
        (INVALID, "GetRecords", json!({ "ShardIterator": "AAAA" })),
        (INVALID, "PutRecord", put(STREAM, "340282366920938463463374607431768211456")),
        (VALIDATION, "PutRecord", put(STREAM, "01")),
        (VALIDATION, "CreateStream", json!({ "StreamName": "with a space", "ShardCount": 1 })),
        (VALIDATION, "GetShardIterator", iterator(STREAM, 0, "SOMEWHERE", "1")),
        (VALIDATION, "ListShards", json!({ "StreamName": STREAM, "ShardFilter": { "Type": "SOME" } })),
        (VALIDATION, "ListShards", json!({ "StreamName": STREAM, "MaxResults": 10_001 })),
    ] {
        session.fails(code, operation, input)?;
    }
    Ok(())
}

fn delete(session: &mut Session<'_>) -> anyhow::Result<()> {
    for stream in ["billing", "visits", STREAM] {
        session.call("DeleteStream", json!({ "StreamName": stream }))?;
    }
    session.fails("ResourceNotFoundException", "DescribeStreamSummary", json!({ "StreamName": STREAM }))?;
    let none = session.call("ListStreams", json!({}))?;
    session.check("streams after the deletes", &none["StreamNames"], json!([]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_blobs_are_in_the_format_of_the_cli() {
        assert_eq!(kebab("DescribeStreamSummary"), "describe-stream-summary");
        let raw = with_raw_data(&json!({ "Records": [{ "Data": "aGVsbG8=" }] }));
        assert_eq!(raw, json!({ "Records": [{ "Data": "hello" }] }));
        assert_eq!(with_raw_data(&json!({ "Data": "aGVsbG8=" })), json!({ "Data": "hello" }));
    }
}

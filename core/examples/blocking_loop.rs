//! kpl-core without async: a loop on one thread, with a blocking HTTP client. It puts the lines of a file, or of
//! standard input, into a stream.
//!
//! ```text
//! kpl emulator --stream events:4 &
//! export AWS_ENDPOINT_URL=http://127.0.0.1:4567 AWS_REGION=us-east-1
//! export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any
//! cargo run -p kpl-core --example blocking_loop -- events README.md
//! ```

#![expect(clippy::disallowed_methods, reason = "the core has no clock and no randomness; this program provides them")]

use std::error::Error;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, thread};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity;
use base64::prelude::{BASE64_STANDARD, Engine};
use kpl_core::{
    Action, Batch, Config, Delivery, DescribeStreamRequest, Instant, ListShardsRequest, ListedShard, Producer,
    RecordReply, Reply, RequestError, ShardPage, StreamSummary, UserRecord,
};
use serde_json::{Value, json};
use ureq::http::Request;
use ureq::{Agent, SendBody};

/// No line is read while this many records are outstanding. It is far below the limits of [`Config`], so `put` is never
/// refused because the producer is full.
const OUTSTANDING_RECORDS_MAX: usize = 10_000;
/// No line is read while this many bytes are outstanding.
const OUTSTANDING_BYTES_MAX: usize = 16 << 20;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let stream = args.next().ok_or("usage: blocking_loop STREAM [FILE]")?;
    let input: Box<dyn BufRead + Send> = match args.next() {
        Some(path) => Box::new(BufReader::new(File::open(path)?)),
        None => Box::new(BufReader::new(io::stdin())),
    };
    // The loop sends one request at a time. With this limit, the core fills each request. A random seed gives each
    // producer its own jitter.
    let config = Config::builder().max_in_flight_requests(1).seed(RandomState::new().hash_one(0)).build()?;
    let kinesis = Kinesis::from_env(config.request_timeout())?;
    // Reading blocks, so it has its own thread.
    let (reader, lines) = mpsc::sync_channel(1_000);
    let reading = thread::spawn(move || -> io::Result<()> {
        input.split(b'\n').try_for_each(|line| reader.send(line?).map_err(io::Error::other))
    });
    let (stored, failed) = run(&stream.into(), &lines, &kinesis, config);
    reading.join().expect("the reading thread does not panic")?;
    println!("{stored} of {} lines stored", stored + failed);
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// Runs the loop: passes events (a line, or a tick) to the core, and carries out its actions at once. Returns the
/// number of lines that were stored, and of those that failed.
fn run(stream: &Arc<str>, lines: &Receiver<Vec<u8>>, kinesis: &Kinesis, config: Config) -> (u64, u64) {
    let clock = Clock::new();
    let mut producer = Producer::new(config, clock.now());
    let (mut put, mut stored, mut failed) = (0_u64, 0, 0);
    let mut ended = false;
    loop {
        producer.tick(clock.now());
        while let Some(action) = producer.poll_action() {
            match action {
                Action::SendBatch(batch) => {
                    let reply = kinesis.put_records(&batch);
                    producer.handle_reply(clock.now(), batch, reply);
                }
                Action::ListShards(request) => {
                    let page = kinesis.list_shards(&request);
                    producer.handle_shards(clock.now(), &request, page);
                }
                Action::DescribeStream(request) => {
                    let summary = kinesis.describe_stream(&request);
                    producer.handle_stream_summary(clock.now(), &request, summary);
                }
                Action::Resolve(records) => {
                    for (line, result) in records {
                        match result {
                            Ok(_receipt) => stored += 1,
                            Err(failure) => {
                                eprintln!("line {line}: {failure}");
                                failed += 1;
                            }
                        }
                    }
                }
                Action::Log(event) => eprintln!("{event:?}"),
                // The loop never calls `flush`, and here no request is in flight that could be cancelled.
                _ => {}
            }
        }
        if producer.is_drained() {
            return (stored, failed);
        }
        let wait = producer.next_tick().map_or(Duration::MAX, |tick| tick.saturating_since(clock.now()));
        let has_room = producer.outstanding_records() < OUTSTANDING_RECORDS_MAX
            && producer.outstanding_bytes() < OUTSTANDING_BYTES_MAX;
        if ended || !has_room {
            thread::sleep(wait);
            continue;
        }
        match lines.recv_timeout(wait) {
            Ok(line) => {
                put += 1;
                let record = UserRecord::new(stream.clone(), put.to_string(), line).prepare();
                let accepted: Result<(), Box<dyn Error>> =
                    record.map_err(Box::from).and_then(|record| Ok(producer.put(clock.now(), record, put)?));
                if let Err(error) = accepted {
                    eprintln!("line {put}: {error}");
                    failed += 1;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                ended = true;
                producer.close(clock.now(), Instant::NEVER);
            }
        }
    }
}

/// The wall clock at the start, plus the monotonic time since then.
struct Clock(Duration, std::time::Instant);

impl Clock {
    fn new() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), std::time::Instant::now())
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(0) + self.0 + self.1.elapsed()
    }
}

/// A client for three operations of Kinesis, as JSON over HTTP.
struct Kinesis {
    agent: Agent,
    endpoint: String,
    region: String,
    identity: Identity,
}

impl Kinesis {
    fn from_env(request_timeout: Duration) -> Result<Self, String> {
        let variable = |name| env::var(name).map_err(|_| format!("{name} is not set"));
        let (region, id, secret) =
            (variable("AWS_REGION")?, variable("AWS_ACCESS_KEY_ID")?, variable("AWS_SECRET_ACCESS_KEY")?);
        let endpoint = variable("AWS_ENDPOINT_URL");
        let endpoint = endpoint.unwrap_or_else(|_| format!("https://kinesis.{region}.amazonaws.com"));
        let credentials = Credentials::new(id, secret, env::var("AWS_SESSION_TOKEN").ok(), None, "environment");
        let agent = Agent::config_builder().timeout_global(Some(request_timeout)).http_status_as_error(false);
        Ok(Self { agent: agent.max_redirects(0).build().into(), endpoint, region, identity: credentials.into() })
    }

    fn put_records<T>(&self, batch: &Batch<T>) -> Reply {
        let records = batch.records().iter().map(|record| {
            let data = BASE64_STANDARD.encode(record.data());
            let hash_key = record.explicit_hash_key().to_string();
            json!({ "Data": data, "PartitionKey": record.partition_key(), "ExplicitHashKey": hash_key })
        });
        let mut body = target(batch.stream());
        body["Records"] = records.collect();
        let replies = |answer: Value| list(&answer["Records"]).map(record_reply).collect();
        self.call("PutRecords", &body).map_or_else(Reply::Failed, |answer| Reply::Records(replies(answer)))
    }

    fn list_shards(&self, request: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        let mut body = target(&request.stream);
        if let Some(token) = &request.next_token {
            body = json!({ "NextToken": token }); // the service refuses a token together with other parameters
        } else if !request.include_closed {
            body["ShardFilter"] = json!({ "Type": "AT_LATEST" });
        }
        let answer = self.call("ListShards", &body)?;
        let shards = list(&answer["Shards"]).filter_map(listed_shard).collect();
        Ok(ShardPage { shards, next_token: string(&answer["NextToken"]) })
    }

    fn describe_stream(&self, request: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
        let answer = self.call("DescribeStreamSummary", &target(&request.stream))?;
        let summary = &answer["StreamDescriptionSummary"];
        Ok(StreamSummary {
            max_record_size: summary["MaxRecordSizeInKiB"].as_u64().map(|kib| kib as usize * 1_024),
            auto_distribution: summary["RecordDistributionStrategy"] == "AUTO",
            open_shards: summary["OpenShardCount"].as_u64().map(|shards| shards as usize),
        })
    }

    /// Returns the service's answer. An error says how far the request came, since that decides whether its records may
    /// be stored.
    fn call(&self, operation: &str, body: &Value) -> Result<Value, RequestError> {
        let body = body.to_string();
        let request = self.signed(operation, &body);
        let request =
            request.map_err(|error| RequestError::new(Delivery::NotSent, "Request Not Sent", error.to_string()))?;
        let mut body = WatchedBody { bytes: body.as_bytes(), was_read: false };
        let answer = self.agent.run(request.map(|()| SendBody::from_reader(&mut body)));
        let answer = answer.and_then(|mut answer| Ok((answer.status(), answer.body_mut().read_to_vec()?)));
        let (status, answer) = answer.map_err(|error| match body.was_read {
            false => RequestError::new(Delivery::NotSent, "Connection Failed", error.to_string()),
            true => RequestError::new(Delivery::Unanswered, "Connection Lost", error.to_string()),
        })?;
        let answer = serde_json::from_slice::<Value>(&answer);
        if status.is_success() {
            return answer
                .map_err(|error| RequestError::new(Delivery::Unanswered, "Response Unreadable", error.to_string()));
        }
        // A 4xx means that nothing was stored. After a 5xx, records may be stored.
        let delivery = if status.is_client_error() { Delivery::Refused } else { Delivery::Unanswered };
        let answer = answer.unwrap_or_default();
        let code = string(&answer["__type"]).unwrap_or_else(|| format!("HTTP {status}"));
        let message = string(&answer["message"]).or_else(|| string(&answer["Message"])).unwrap_or_default();
        Err(RequestError::new(delivery, code.rsplit('#').next().unwrap_or(&code), message))
    }

    fn signed(&self, operation: &str, body: &str) -> Result<Request<()>, Box<dyn Error>> {
        let mut request = Request::post(&self.endpoint)
            .header("content-length", body.len())
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", format!("Kinesis_20131202.{operation}"))
            .body(())?;
        let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default()));
        let body = SignableBody::Bytes(body.as_bytes());
        let signable = SignableRequest::new("POST", request.uri().to_string(), headers, body)?;
        let params = v4::SigningParams::builder().identity(&self.identity).region(&self.region).name("kinesis");
        let params = params.time(SystemTime::now()).settings(SigningSettings::default()).build()?.into();
        sign(signable, &params)?.into_parts().0.apply_to_request_http1x(&mut request);
        Ok(request)
    }
}

/// A request's body that records whether it has been read. If it has not, no record was sent, whatever failed: name
/// lookup, connection, TLS or a timeout.
struct WatchedBody<'a> {
    bytes: &'a [u8],
    was_read: bool,
}

impl Read for WatchedBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.was_read = true;
        self.bytes.read(buffer)
    }
}

fn target(stream: &str) -> Value {
    if stream.starts_with("arn:") { json!({ "StreamARN": stream }) } else { json!({ "StreamName": stream }) }
}

fn record_reply(record: &Value) -> RecordReply {
    let text = |field: &str| record[field].as_str().map(Into::into);
    RecordReply {
        shard_id: text("ShardId"),
        sequence_number: text("SequenceNumber"),
        error_code: text("ErrorCode"),
        error_message: text("ErrorMessage"),
    }
}

/// Parses a shard. Returns `None` if its range cannot be parsed: the core handles the gap in the list.
fn listed_shard(shard: &Value) -> Option<ListedShard> {
    let hash_key = |name: &str| shard["HashKeyRange"][name].as_str()?.parse().ok();
    Some(ListedShard {
        id: shard["ShardId"].as_str()?.into(),
        start: hash_key("StartingHashKey")?,
        end: hash_key("EndingHashKey")?,
        closed: shard["SequenceNumberRange"]["EndingSequenceNumber"].is_string(),
        parents: ["ParentShardId", "AdjacentParentShardId"].map(|parent| shard[parent].as_str().map(Into::into)),
    })
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn string(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

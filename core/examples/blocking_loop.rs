//! kpl-core without async: a loop on one thread, and a blocking HTTP client. Puts the lines of a file, or of standard
//! input, into a stream.
//!
//! ```text
//! kpl emulator --stream events:4 &
//! export AWS_ENDPOINT_URL=http://127.0.0.1:4567 AWS_REGION=us-east-1
//! export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any
//! cargo run -p kpl-core --example blocking_loop -- events README.md
//! ```

#![expect(clippy::disallowed_methods, reason = "the core has no clock and no randomness; who drives it has")]

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

/// No line is taken while so many are outstanding: far from the limits of [`Config`], so that `put` is never full.
const OUTSTANDING_RECORDS_MAX: usize = 10_000;
const OUTSTANDING_BYTES_MAX: usize = 16 << 20;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let stream = args.next().ok_or("usage: blocking_loop STREAM [FILE]")?;
    let input: Box<dyn BufRead + Send> = match args.next() {
        Some(path) => Box::new(BufReader::new(File::open(path)?)),
        None => Box::new(BufReader::new(io::stdin())),
    };
    // The loop makes one request after the other; the core is told, and fills them. No two producers share a jitter.
    let config = Config::builder().max_in_flight_requests(1).seed(RandomState::new().hash_one(0)).build()?;
    let kinesis = Kinesis::from_env(config.request_timeout())?;
    // Reading blocks, so it has a thread of its own.
    let (reader, lines) = mpsc::sync_channel(1_000);
    let reading = thread::spawn(move || -> io::Result<()> {
        input.split(b'\n').try_for_each(|line| reader.send(line?).map_err(io::Error::other))
    });
    let (stored, failed) = run(&stream.into(), &lines, &kinesis, config);
    reading.join().expect("reading does not panic")?;
    println!("{stored} of {} lines stored", stored + failed);
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// The loop: an event goes in, a line or the time, and what the core wants is done at once. Gives how many lines were
/// stored, and how many failed.
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
                // Nothing is flushed, and no request is under way here that could be cancelled.
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
                let taken: Result<(), Box<dyn Error>> =
                    record.map_err(Box::from).and_then(|record| Ok(producer.put(clock.now(), record, put)?));
                if let Err(error) = taken {
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

/// The wall clock, read once, and then the monotonic one.
struct Clock(Duration, std::time::Instant);

impl Clock {
    fn new() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), std::time::Instant::now())
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(0) + self.0 + self.1.elapsed()
    }
}

/// Three operations of Kinesis, as JSON over HTTP.
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
            body = json!({ "NextToken": token }); // the service refuses anything else beside it
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

    /// The service's answer, or how far the request came: on that depends whether its records may be stored.
    fn call(&self, operation: &str, body: &Value) -> Result<Value, RequestError> {
        let body = body.to_string();
        let request = self.signed(operation, &body);
        let request =
            request.map_err(|error| RequestError::new(Delivery::NotSent, "Request Not Sent", error.to_string()))?;
        let mut body = Watched { bytes: body.as_bytes(), touched: false };
        let answer = self.agent.run(request.map(|()| SendBody::from_reader(&mut body)));
        let answer = answer.and_then(|mut answer| Ok((answer.status(), answer.body_mut().read_to_vec()?)));
        let (status, answer) = answer.map_err(|error| match body.touched {
            false => RequestError::new(Delivery::NotSent, "Connection Failed", error.to_string()),
            true => RequestError::new(Delivery::Unanswered, "Connection Lost", error.to_string()),
        })?;
        let answer = serde_json::from_slice::<Value>(&answer);
        if status.is_success() {
            return answer
                .map_err(|error| RequestError::new(Delivery::Unanswered, "Response Unreadable", error.to_string()));
        }
        // A 4xx refuses; a 5xx tells nothing about what was done before it.
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

/// A request's body that knows whether it was ever asked for. If not, the records never left, whatever went wrong: name,
/// connection, TLS or time.
struct Watched<'a> {
    bytes: &'a [u8],
    touched: bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.touched = true;
        self.bytes.read(buffer)
    }
}

fn target(stream: &str) -> Value {
    if stream.starts_with("arn:") { json!({ "StreamARN": stream }) } else { json!({ "StreamName": stream }) }
}

fn record_reply(record: &Value) -> RecordReply {
    RecordReply {
        shard_id: string(&record["ShardId"]),
        sequence_number: string(&record["SequenceNumber"]),
        error_code: string(&record["ErrorCode"]),
        error_message: string(&record["ErrorMessage"]),
    }
}

/// A shard with a range that can be read; the core copes with the hole that another one leaves.
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

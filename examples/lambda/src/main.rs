//! A Lambda function that puts the records of its event into the stream `STREAM`. It responds when all are stored:
//! docs/lambda.md says why.
//!
//! The event is `{"records": [{"key": "user-123", "data": "hello"}, …]}`.

use std::time::{Duration, SystemTime};

use kpl_tokio::{Config, ConfigError, Producer};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde::Deserialize;
use serde_json::{Value, json};

/// The time that is left for the response when the function stops waiting for its records.
const RESPONSE_TIME: Duration = Duration::from_millis(500);

/// The time limit for records at shutdown. Lambda kills the process 500 ms after SIGTERM.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(400);

#[derive(Deserialize)]
struct Event {
    records: Vec<EventRecord>,
}

#[derive(Deserialize)]
struct EventRecord {
    key: String,
    data: String,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    // The warnings of the producer are in the function's log.
    lambda_runtime::tracing::init_default_subscriber();
    let stream = std::env::var("STREAM")?;
    // Once for each execution environment, so that invocations share connections and the shard list.
    let producer = Producer::from_env_with(config()?).await?;
    let closing = producer.clone();
    lambda_runtime::spawn_graceful_shutdown_handler(|| async move { closing.close_or_fail(SHUTDOWN_TIMEOUT).await })
        .await;
    lambda_runtime::run(service_fn(|event| handle(&producer, &stream, event))).await
}

/// The settings for a function with a timeout of 15 seconds and 128 MB of memory.
fn config() -> Result<Config, ConfigError> {
    Config::builder()
        // Before the function's timeout, so that a record fails with its reason.
        .record_ttl(Duration::from_secs(10))
        // The first request after a freeze may find its connection dead, and takes this long.
        .request_timeout(Duration::from_secs(2))
        .retry_backoff_max(Duration::from_millis(500))
        .max_outstanding_bytes(16 << 20)
        .build()
}

async fn handle(producer: &Producer, stream: &str, event: LambdaEvent<Event>) -> Result<Value, Error> {
    let time_left = event.context.deadline().duration_since(SystemTime::now()).unwrap_or_default();
    let stored = store(producer, stream, event.payload.records);
    match tokio::time::timeout(time_left.saturating_sub(RESPONSE_TIME), stored).await {
        Ok(stored) => Ok(json!({ "stored": stored? })),
        Err(_) => Err(format!("{} records are not stored yet", producer.outstanding_records()).into()),
    }
}

/// Returns the number of records when all are stored.
///
/// An error makes Lambda, or the caller, invoke the function again. Those records that were stored are then stored twice.
async fn store(producer: &Producer, stream: &str, records: Vec<EventRecord>) -> Result<usize, Error> {
    let outcome = producer.put_batch(stream, records.into_iter().map(|record| (record.key, record.data))).await?;
    // Without it, the records would wait for others, up to `record_max_buffered_time`.
    producer.flush().await;
    let results = outcome.await;
    let count = results.len();
    for result in results {
        result?;
    }
    Ok(count)
}

//! The function of `src/main.rs`, except that it responds when its records are accepted. The tests show what is lost.

use std::time::Duration;

use kpl_tokio::{Config, Producer};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let stream = std::env::var("STREAM")?;
    let config = Config::builder()
        .record_ttl(Duration::from_millis(1_500))
        // Lambda freezes a process at once, and a test on a busy machine does not.
        .record_max_buffered_time(Duration::from_secs(1))
        .build()?;
    let producer = Producer::from_env_with(config).await?;
    lambda_runtime::run(service_fn(|event| handle(&producer, &stream, event))).await
}

async fn handle(producer: &Producer, stream: &str, event: LambdaEvent<Value>) -> Result<Value, Error> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let records = event.payload["records"].as_array().cloned().unwrap_or_default();
    let batch = records.iter().map(|record| (text(&record["key"]), text(&record["data"])));
    let accepted = producer.put_batch(stream, batch).await?;
    Ok(json!({ "accepted": accepted.len() }))
}

//! The example of the README.
use kpl_tokio::Producer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let producer = Producer::from_env().await?; // region and credentials as the AWS SDK finds them
    let outcome = producer.put("events", "user-123", "hello").await?; // stream, partition key, data; waits for room
    let receipt = outcome.await?; // shard, sequence number, attempts
    println!("stored on {}", receipt.shard_id());
    producer.close().await; // sends what is left
    Ok(())
}

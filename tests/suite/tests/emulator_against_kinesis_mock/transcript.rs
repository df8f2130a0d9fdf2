//! The steps of a conversation with a service and their answers, in an order that does not depend on the service.

use std::fmt::Display;
use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_kinesis::types::{Shard, StreamStatus};

/// The steps and the answers of one conversation with a service.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    lines: Vec<(String, String)>,
}

impl Transcript {
    pub(crate) fn note(&mut self, step: impl Display, answer: impl Display) {
        self.lines.push((step.to_string(), answer.to_string()));
    }

    pub(crate) fn lines(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.lines.iter().map(|(step, answer)| (step.as_str(), answer.as_str()))
    }
}

/// Returns `ok` or the error's code, not its message, which is not part of the API. Without a code, returns the HTTP
/// status.
pub(crate) fn verdict<T, E>(result: Result<T, SdkError<E>>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let Err(error) = result else {
        return "ok".to_owned();
    };
    match (error.code(), error.raw_response()) {
        (Some(code), _) => code.to_owned(),
        (None, Some(response)) => format!("HTTP {}", response.status().as_u16()),
        (None, None) => format!("no answer: {}", DisplayErrorContext(&error)),
    }
}

/// Creates a stream and waits until it is active.
pub(crate) async fn create_stream(client: &Client, name: &str, shards: i32) {
    client.create_stream().stream_name(name).shard_count(shards).send().await.expect("a new stream");
    until_active(client, name).await;
}

/// Waits until a create, a split or a merge is done.
pub(crate) async fn until_active(client: &Client, name: &str) {
    for _ in 0..200 {
        let summary = client.describe_stream_summary().stream_name(name).send().await.expect("a stream");
        let summary = summary.stream_description_summary().expect("a summary");
        if *summary.stream_status() == StreamStatus::Active {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("stream {name} is not active after 4 s");
}

/// Describes a shard without its sequence numbers, which differ between services.
pub(crate) fn describe(shard: &Shard) -> String {
    let range = shard.hash_key_range().expect("a range");
    let sequence = shard.sequence_number_range().expect("a range");
    let state = if sequence.ending_sequence_number().is_some() { "closed" } else { "open" };
    format!(
        "{} {}..={} from {:?} and {:?}, {state}",
        shard.shard_id(),
        range.starting_hash_key(),
        range.ending_hash_key(),
        shard.parent_shard_id(),
        shard.adjacent_parent_shard_id(),
    )
}

//! Comparison of the emulator with kinesis-mock: both get the same requests through the AWS SDK.
//!
//! The other tests rely on the emulator, so its answers have to be those of software that others wrote: the same shards
//! for the same keys, the same pages, the same errors. If kinesis-mock's answer to a step differs from Kinesis's, the
//! step is in [`differences::KNOWN`], with both answers and the reason.
//!
//! For steps in this table, kinesis-mock's answers have to be those of the table. Its shards have to be those that
//! `kpl-core` computes. The emulator's answers have to be those of Kinesis.

mod differences;
mod errors;
mod reading;
mod routing;
mod shards;
mod transcript;

use std::collections::HashMap;

use aws_sdk_kinesis::Client;
use differences::KNOWN;
use kpl_emulator::{Emulator, Options, Server};
use kpl_suite::kinesis_mock::{KinesisMock, Options as MockOptions};
use transcript::Transcript;

#[tokio::test]
async fn records_are_stored_on_the_shards_of_their_keys() {
    compare("routing", routing::keys_and_hash_keys).await;
}

#[tokio::test]
async fn shards_are_listed_in_pages() {
    compare("paging", shards::paging).await;
}

#[tokio::test]
async fn splits_and_merges_result_in_the_same_shards() {
    compare("resharding", shards::resharding).await;
}

#[tokio::test]
async fn consumers_read_what_was_put() {
    compare("reading", reading::iterators).await;
}

#[tokio::test]
async fn invalid_streams_are_refused() {
    compare("streams", errors::streams).await;
}

#[tokio::test]
async fn invalid_records_are_refused() {
    compare("records", errors::records).await;
}

#[tokio::test]
async fn invalid_splits_and_merges_are_refused() {
    compare("invalid resharding", errors::resharding).await;
}

/// Has a conversation with both services. Panics with all steps whose answers are not the expected ones.
async fn compare(conversation: &str, talk: impl AsyncFn(&Client, &mut Transcript)) {
    let Some(mock) = KinesisMock::start(MockOptions::default()).await else { return };
    let mut from_mock = Transcript::default();
    talk(&mock.client(), &mut from_mock).await;

    let emulator = Emulator::new(Options::unlimited());
    let server = Server::start(&emulator).await.expect("a free port");
    let mut from_emulator = Transcript::default();
    talk(&kpl_suite::client::new(&server.url(), None), &mut from_emulator).await;

    let problems = match documented(conversation, &from_mock) {
        Ok(documented) => [unacceptable(&documented), unexpected(&documented, &from_emulator)].concat(),
        Err(problems) => problems,
    };
    assert!(problems.is_empty(), "{conversation}, {} problems:\n{}", problems.len(), problems.join("\n"));
}

/// Returns the steps in which the emulator's answer is not that of Kinesis.
fn unexpected(documented: &Transcript, emulator: &Transcript) -> Vec<String> {
    let (expected, got): (Vec<_>, Vec<_>) = (documented.lines().collect(), emulator.lines().collect());
    let mut problems: Vec<String> = expected
        .iter()
        .zip(&got)
        .filter(|(expected, got)| expected != got)
        .map(|((step, kinesis), (emulated, answer))| format!("{step}\n  Kinesis   {kinesis}\n  {emulated}: {answer}"))
        .collect();
    if expected.len() != got.len() {
        problems.push(format!("expected {} steps, got {}", expected.len(), got.len()));
    }
    problems
}

/// Returns the answers of Kinesis: those of kinesis-mock, except for the known differences.
fn documented(conversation: &str, mock: &Transcript) -> Result<Transcript, Vec<String>> {
    let rows = KNOWN.iter().filter(|row| row.conversation == conversation);
    let mut rows: HashMap<_, _> = rows.map(|row| (row.step, *row)).collect();
    let mut problems = Vec::new();
    let mut documented = Transcript::default();
    for (step, answer) in mock.lines() {
        match rows.remove(step) {
            None => documented.note(step, answer),
            Some(row) if row.mock == answer => documented.note(step, row.kinesis),
            Some(row) => problems.push(format!("{step}\n  mock      {answer}\n  the table {}", row.mock)),
        }
    }
    problems.extend(rows.keys().map(|step| format!("{step}\n  is in the table, but not in the conversation")));
    if problems.is_empty() { Ok(documented) } else { Err(problems) }
}

/// Returns the answers that are wrong for any service.
fn unacceptable(answers: &Transcript) -> Vec<String> {
    let bad = answers.lines().filter(|(_, answer)| answer.starts_with("HTTP ") || answer.starts_with("no answer"));
    bad.map(|(step, answer)| format!("{step}\n  answer    {answer}")).collect()
}

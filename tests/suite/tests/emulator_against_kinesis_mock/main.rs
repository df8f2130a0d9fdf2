//! Conversations with a stand-in for Kinesis through the AWS SDK, so that two of them can be compared.
//!
//! Our other tests believe our emulator; it has to give the answers of software that others wrote: the same shards for
//! the same keys, the same pages, the same errors. Where kinesis-mock itself is not like Kinesis the step stands in
//! [`differences::KNOWN`], with both answers and the reason.
//!
//! kinesis-mock's answers have to be those of the table, where they are in it, and its shards those that `kpl-core`
//! computes; the emulator's have to be those of Kinesis.

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
async fn records_go_to_the_shards_that_their_keys_name() {
    compare("routing", routing::keys_and_hash_keys).await;
}

#[tokio::test]
async fn shards_come_in_pages() {
    compare("paging", shards::paging).await;
}

#[tokio::test]
async fn splits_and_merges_leave_the_right_shards() {
    compare("resharding", shards::resharding).await;
}

#[tokio::test]
async fn consumers_read_what_was_put() {
    compare("reading", reading::iterators).await;
}

#[tokio::test]
async fn wrong_streams_are_refused() {
    compare("streams", errors::streams).await;
}

#[tokio::test]
async fn wrong_records_are_refused() {
    compare("records", errors::records).await;
}

#[tokio::test]
async fn impossible_splits_and_merges_are_refused() {
    compare("bad resharding", errors::resharding).await;
}

/// Has the conversation, and fails with every step that is answered otherwise than it should be.
async fn compare(conversation: &str, talk: impl AsyncFn(&Client, &mut Transcript)) {
    let Some(mock) = KinesisMock::start(MockOptions::default()).await else { return };
    let mut from_mock = Transcript::default();
    talk(&mock.client(), &mut from_mock).await;

    let emulator = Emulator::new(Options::unlimited());
    let server = Server::start(&emulator).await.expect("a free port");
    let mut from_emulator = Transcript::default();
    talk(&kpl_suite::client::new(&server.url(), None), &mut from_emulator).await;

    let problems = match documented(conversation, &from_mock) {
        Ok(documented) => [unlike_a_service(&documented), unlike(&documented, &from_emulator)].concat(),
        Err(problems) => problems,
    };
    assert!(problems.is_empty(), "{conversation}, {} problems:\n{}", problems.len(), problems.join("\n"));
}

/// Where the emulator answers otherwise than Kinesis would.
fn unlike(documented: &Transcript, emulator: &Transcript) -> Vec<String> {
    let (expected, got): (Vec<_>, Vec<_>) = (documented.lines().collect(), emulator.lines().collect());
    let mut problems: Vec<String> = expected
        .iter()
        .zip(&got)
        .filter(|(expected, got)| expected != got)
        .map(|((step, kinesis), (emulated, answer))| format!("{step}\n  Kinesis   {kinesis}\n  {emulated}: {answer}"))
        .collect();
    if expected.len() != got.len() {
        problems.push(format!("{} steps were expected, {} were had", expected.len(), got.len()));
    }
    problems
}

/// What Kinesis would have answered: kinesis-mock's answers, but for the known differences.
fn documented(conversation: &str, mock: &Transcript) -> Result<Transcript, Vec<String>> {
    let rows = KNOWN.iter().filter(|row| row.conversation == conversation);
    let mut rows: HashMap<_, _> = rows.map(|row| (row.step, *row)).collect();
    let mut problems = Vec::new();
    let mut documented = Transcript::default();
    for (step, answer) in mock.lines() {
        match rows.remove(step) {
            None => documented.note(step, answer),
            Some(row) if row.mock == answer => documented.note(step, row.kinesis),
            Some(row) => problems.push(format!("{step}\n  mock      {answer}\n  its row   {}", row.mock)),
        }
    }
    problems.extend(rows.keys().map(|step| format!("{step}\n  has a row, but was not asked")));
    if problems.is_empty() { Ok(documented) } else { Err(problems) }
}

/// Answers that no service should give, whoever it is.
fn unlike_a_service(answers: &Transcript) -> Vec<String> {
    let bad = answers.lines().filter(|(_, answer)| answer.starts_with("HTTP ") || answer.starts_with("no answer"));
    bad.map(|(step, answer)| format!("{step}\n  answer    {answer}")).collect()
}

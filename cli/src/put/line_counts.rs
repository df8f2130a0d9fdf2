//! LineCounts the results of all lines.

use std::collections::BTreeMap;

use kpl_tokio::{PutFailure, RecordResult};

use super::console::Console;
use super::dead_letter::{Data, DeadLetter, DeadLetters};
use super::put_lines::{Place, Reason, Refused, SentLine};
use crate::verify::{Comparison, LineResult};

/// The number of different messages shown per error code. Others are only counted.
const MESSAGES_SHOWN: usize = 3;

/// The counts of the lines that succeeded or failed, and their errors.
pub(crate) struct LineCounts {
    pub(crate) failed: u64,
    /// The number of lines that were retried after an ambiguous attempt.
    pub(crate) resent_unanswered: u64,
    pub(crate) dead_letters: Option<DeadLetters>,
    pub(crate) comparison: Option<Comparison>,
    errors: BTreeMap<String, Errors>,
    sources: Vec<String>,
    console: Console,
}

/// Failures with the same error code.
#[derive(Default)]
struct Errors {
    count: u64,
    shown: Vec<String>,
}

impl LineCounts {
    pub(crate) fn new(
        sources: Vec<String>,
        console: Console,
        dead_letters: Option<DeadLetters>,
        comparison: Option<Comparison>,
    ) -> Self {
        Self { failed: 0, resent_unanswered: 0, dead_letters, comparison, errors: BTreeMap::new(), sources, console }
    }

    /// Records the result of a line that the producer had accepted.
    pub(crate) fn record(&mut self, line: SentLine, result: RecordResult) {
        let result = match result {
            Ok(receipt) => {
                let is_ambiguous = receipt.attempts().failed().ambiguous() > 0;
                self.resent_unanswered += u64::from(is_ambiguous);
                if is_ambiguous { LineResult::SucceededMaybeTwice } else { LineResult::Succeeded }
            }
            Err(failure) => {
                self.fail(line.place, &failure);
                // No retry followed the last attempt.
                let last = failure.attempts.last().is_some_and(kpl_tokio::Attempt::is_ambiguous);
                self.resent_unanswered += u64::from(failure.attempts.ambiguous() > usize::from(last));
                if failure.is_ambiguous() { LineResult::FailedAmbiguous } else { LineResult::Failed }
            }
        };
        if let Some(comparison) = &mut self.comparison {
            comparison.sent(line.fingerprint, (line.place.source, line.place.number), result);
        }
    }

    /// Records a line that was never put.
    pub(crate) fn record_refused(&mut self, line: &Refused) {
        let Reason { code, message, partition_key, data } = &line.reason;
        let letter = DeadLetter {
            source: &self.sources[line.place.source as usize],
            line: line.place.number,
            code,
            message,
            ambiguous: false,
            attempts: 0,
            partition_key: partition_key.as_deref(),
            data: match data {
                Ok(data) => Data::new(data),
                Err(bytes) => Data::Length(*bytes),
            },
        };
        if let Some(dead_letters) = &mut self.dead_letters {
            dead_letters.write(&letter);
        }
        self.count_failure(line.place, code, message);
        if let Some(comparison) = &mut self.comparison {
            comparison.refused();
        }
    }

    fn fail(&mut self, place: Place, failure: &PutFailure) {
        let PutFailure { record, error, attempts, .. } = failure;
        if let Some(dead_letters) = &mut self.dead_letters {
            dead_letters.write(&DeadLetter {
                source: &self.sources[place.source as usize],
                line: place.number,
                code: &error.code,
                message: &error.message,
                ambiguous: failure.is_ambiguous(),
                attempts: attempts.len(),
                partition_key: Some(&record.partition_key),
                data: Data::new(&record.data),
            });
        }
        self.count_failure(place, &error.code, &error.message);
    }

    /// LineCounts a failure. Shows it if its message is new.
    fn count_failure(&mut self, place: Place, code: &str, message: &str) {
        self.failed += 1;
        if !self.errors.contains_key(code) {
            self.errors.insert(code.to_owned(), Errors::default());
        }
        let Some(errors) = self.errors.get_mut(code) else { return };
        errors.count += 1;
        if errors.shown.len() < MESSAGES_SHOWN && !errors.shown.iter().any(|shown| shown == message) {
            errors.shown.push(message.to_owned());
            self.console.print_error(&format!("{}: {code}: {message}", self.name(place)));
        }
    }

    /// Prints the number of failed lines per error code, unless each failure was shown.
    pub(crate) fn print_error_counts(&self) {
        for (code, Errors { count, .. }) in
            self.errors.iter().filter(|(_, errors)| errors.count > errors.shown.len() as u64)
        {
            let hint = if self.dead_letters.is_none() { " (--dead-letter FILE saves them)" } else { "" };
            self.console.print_error(&format!("{code}: {count} lines in total{hint}"));
        }
    }

    /// Returns the number of failed lines per error code.
    pub(crate) fn counts_by_code(&self) -> impl Iterator<Item = (String, u64)> {
        self.errors.iter().map(|(code, errors)| (code.clone(), errors.count))
    }

    /// Returns the console.
    pub(crate) fn console(&self) -> Console {
        self.console.clone()
    }

    /// Returns the name of a line in messages.
    pub(crate) fn name(&self, place: Place) -> String {
        let source = &*self.sources[place.source as usize];
        format!("line {} of {}", place.number, if source == "-" { "standard input" } else { source })
    }
}

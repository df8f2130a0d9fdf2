//! Counts the results of all lines.

use std::collections::BTreeMap;
use std::sync::Arc;

use kpl_tokio::{PutFailure, RecordResult, code};
use tokio::sync::Notify;

use super::checkpoint::Offsets;
use super::console::Console;
use super::dead_letter::{Data, DeadLetter, DeadLetters};
use super::lines::Position;
use super::put_lines::{Place, Reason, Refused, SentLines};
use super::sources::Sources;
use crate::verify::{Comparison, LineResult};

/// The number of different messages shown per error code. Others are only counted.
const MESSAGES_SHOWN: usize = 3;

/// The counts of the lines that succeeded or failed, and their errors.
pub(crate) struct LineCounts {
    pub(crate) failed: u64,
    /// The number of lines that had no result when the run was stopped, and that the checkpoint leaves to the next run.
    pub(crate) left: u64,
    /// The number of lines that were retried after an ambiguous attempt.
    pub(crate) resent_unanswered: u64,
    pub(crate) dead_letters: Option<DeadLetters>,
    pub(crate) comparison: Option<Comparison>,
    /// What a file that is followed, or in a checkpoint, needs to know.
    pub(crate) progress: Option<FileProgress>,
    errors: BTreeMap<String, Errors>,
    sources: Sources,
    console: Console,
}

/// The offsets to which results are reported.
pub(crate) struct FileProgress {
    pub(crate) offsets: Arc<Offsets>,
    /// With a checkpoint, a line that the service refuses for a reason that is not in the line stops the run. It is
    /// notified then.
    pub(crate) stop: Option<Arc<Notify>>,
    /// The line that stopped the run.
    pub(crate) stopped_by: Option<String>,
}

/// Failures with the same error code.
#[derive(Default)]
struct Errors {
    count: u64,
    shown: Vec<String>,
}

impl LineCounts {
    pub(crate) fn new(
        sources: Sources,
        console: Console,
        dead_letters: Option<DeadLetters>,
        comparison: Option<Comparison>,
        progress: Option<FileProgress>,
    ) -> Self {
        let errors = BTreeMap::new();
        Self { failed: 0, left: 0, resent_unanswered: 0, dead_letters, comparison, progress, errors, sources, console }
    }

    /// Records the results of lines that the producer had accepted.
    pub(crate) fn record(&mut self, lines: SentLines, results: Vec<RecordResult>) {
        let SentLines { source, start, lines, fingerprints } = lines;
        // Resolved lines that follow on each other are reported together: nearly always all.
        let (mut from, mut to) = (start, start);
        let mut end = start;
        for (index, (line, result)) in lines.into_iter().zip(results).enumerate() {
            let fingerprint = fingerprints.get(index).copied();
            end = line.end;
            if self.record_line(Place { source, number: line.number }, fingerprint, result) {
                to = line.end;
            } else {
                self.resolve(source, from, to);
                (from, to) = (line.end, line.end);
            }
        }
        self.resolve(source, from, to);
        if let Some(progress) = &self.progress {
            progress.offsets.put(source, end);
        }
    }

    /// Returns whether the line needs no further put.
    fn record_line(&mut self, place: Place, fingerprint: Option<u128>, result: RecordResult) -> bool {
        let (is_resolved, result) = match result {
            Ok(receipt) => {
                let is_ambiguous = receipt.attempts().failed().ambiguous() > 0;
                self.resent_unanswered += u64::from(is_ambiguous);
                (true, if is_ambiguous { LineResult::SucceededMaybeTwice } else { LineResult::Succeeded })
            }
            Err(failure) => {
                let is_resolved = self.fail(place, &failure);
                // No retry followed the last attempt.
                let last = failure.attempts.last().is_some_and(kpl_tokio::Attempt::is_ambiguous);
                self.resent_unanswered += u64::from(failure.attempts.ambiguous() > usize::from(last));
                (is_resolved, if failure.is_ambiguous() { LineResult::FailedAmbiguous } else { LineResult::Failed })
            }
        };
        if let (Some(comparison), Some(fingerprint)) = (&mut self.comparison, fingerprint) {
            comparison.sent(fingerprint, (place.source, place.number), result);
        }
        is_resolved
    }

    fn resolve(&self, source: u32, start: Position, end: Position) {
        if let Some(progress) = self.progress.as_ref().filter(|_| start < end) {
            progress.offsets.resolve(source, start, end);
        }
    }

    /// Records a line that was never put.
    pub(crate) fn record_refused(&mut self, line: &Refused) {
        let Reason { code, message, partition_key, data } = &line.reason;
        if let Some(comparison) = &mut self.comparison {
            comparison.refused();
        }
        if self.leaves(code) {
            return;
        }
        let letter = DeadLetter {
            source: &self.sources.name(line.place.source),
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
        // The reason is the line itself.
        let is_resolved = self.dead_letters.as_mut().is_none_or(|dead_letters| dead_letters.write(&letter));
        self.count_failure(line.place, code, message);
        if self.passes(line.place, code, is_resolved) {
            self.resolve(line.place.source, line.range.0, line.range.1);
        }
    }

    fn has_checkpoint(&self) -> bool {
        self.progress.as_ref().is_some_and(|progress| progress.stop.is_some())
    }

    /// Returns whether a line with this error is left to the next run: with a checkpoint, one that was not stored when the
    /// run was stopped.
    fn leaves(&mut self, code: &str) -> bool {
        let is_left = self.has_checkpoint() && code == code::CLOSED;
        self.left += u64::from(is_left);
        is_left
    }

    /// Records a failure. Returns whether the line needs no further put.
    fn fail(&mut self, place: Place, failure: &PutFailure) -> bool {
        let PutFailure { record, error, attempts, .. } = failure;
        let code = &*error.code;
        if self.leaves(code) {
            return false;
        }
        let is_dead_letter = self.dead_letters.as_mut().map(|dead_letters| {
            dead_letters.write(&DeadLetter {
                source: &self.sources.name(place.source),
                line: place.number,
                code,
                message: &error.message,
                ambiguous: failure.is_ambiguous(),
                attempts: attempts.len(),
                partition_key: Some(&record.partition_key),
                data: Data::new(&record.data),
            })
        });
        self.count_failure(place, code, &error.message);
        // A line that is too large for the stream can never be stored.
        let is_resolved = is_dead_letter.unwrap_or(code == code::RECORD_TOO_LARGE);
        self.passes(place, code, is_resolved)
    }

    /// Returns whether a failed line needs no further put. With a checkpoint, ends the run before a line is lost.
    fn passes(&mut self, place: Place, code: &str, is_resolved: bool) -> bool {
        let name = self.name(place);
        let Some(FileProgress { stop: Some(stop), stopped_by, .. }) = &mut self.progress else { return true };
        if !is_resolved && stopped_by.is_none() {
            *stopped_by = Some(format!("{name} ({code})"));
            stop.notify_one();
        }
        is_resolved
    }

    /// Counts a failure. Shows it if its message is new.
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
        let source = self.sources.name(place.source);
        format!("line {} of {}", place.number, if &*source == "-" { "standard input" } else { &source })
    }
}

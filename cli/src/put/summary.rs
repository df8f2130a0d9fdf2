//! The summary of a run, as text or as JSON.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use kpl_tokio::metrics::{Histogram, MetricsReport};
use serde::Serialize;

use super::checkpoint::file::PutAgain;
use super::follow::ResumedFile;
use crate::style::{self, styled};
use crate::verify::Verification;

/// The summary: one JSON object with `--json`, otherwise a few lines of text.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// The number of lines: `succeeded` plus `failed`.
    pub(crate) put: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    /// The number of Kinesis records that Kinesis stored.
    pub(crate) kinesis_records: u64,
    /// The number of PutRecords requests.
    pub(crate) requests: u64,
    /// The number of times that a line was retried.
    pub(crate) retries: u64,
    /// The number of lines that were retried after an ambiguous attempt. Only these can be in the stream twice.
    pub(crate) resent_unanswered: u64,
    /// The number of Kinesis records and whole requests that were throttled.
    pub(crate) throttled: u64,
    pub(crate) elapsed_ms: u64,
    pub(crate) latency_ms: Latency,
    /// The last line that was put, if a signal stopped the reading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) interrupted_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<CheckpointSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verify: Option<Verification>,
    /// Whether a signal ended the verification, or prevented it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) verify_interrupted: bool,
}

/// What the run has to do with its checkpoint.
#[derive(Debug, Serialize)]
pub(crate) struct CheckpointSummary {
    pub(crate) path: PathBuf,
    /// Where files went on.
    pub(crate) resumed: Vec<ResumedFile>,
    /// The lines that may have been put by the runs before, although no checkpoint says so, and that this run has put.
    pub(crate) put_again: PutAgain,
    /// The same, of all runs since the checkpoint was created.
    pub(crate) put_again_total: PutAgain,
    /// The lines that had no result when a signal stopped the run. The next one puts them, some perhaps again.
    pub(crate) left: u64,
    /// The line at which the service refused to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stopped_by: Option<String>,
}

/// The time from put to reply of the lines that succeeded; `None` if no line did.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    p50: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

impl Latency {
    pub(crate) fn new(metrics: &MetricsReport) -> Self {
        let latency = metrics.latency().map(|latency| &latency.put_to_ack);
        let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0;
        let at = |quantile| latency.and_then(|latency| latency.quantile(quantile)).map(ms);
        Self { p50: at(0.5), p99: at(0.99), max: latency.and_then(Histogram::max).map(ms) }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { put, succeeded, failed, kinesis_records, requests, retries, throttled, .. } = self;
        let elapsed = Duration::from_millis(self.elapsed_ms);
        let rate = *put as f64 / elapsed.as_secs_f64().max(0.001);
        let failures = style::failures(*failed);
        let head = |text| styled(style::HEADING, text);
        writeln!(
            f,
            "{} {put} lines in {elapsed:?} ({rate:.0}/s): {succeeded} succeeded, {failures} failed",
            head("put")
        )?;
        writeln!(
            f,
            "{} {kinesis_records}, throttled: {throttled}, requests: {requests}, retries: {retries}",
            head("Kinesis records:")
        )?;
        if self.resent_unanswered > 0 {
            let (resent, head) =
                (self.resent_unanswered, styled(style::WARNING, "retried after an ambiguous attempt:"));
            writeln!(f, "{head} {resent} lines, which may be in the stream twice")?;
        }
        if let Latency { p50: Some(p50), p99: Some(p99), max: Some(max) } = self.latency_ms {
            writeln!(f, "{} p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms", head("latency:"))?;
        }
        if let Some(place) = &self.interrupted_after {
            writeln!(f, "{} {place}", styled(style::WARNING, "interrupted after"))?;
        }
        if let Some(CheckpointSummary { path, resumed, put_again, put_again_total, left, stopped_by }) =
            &self.checkpoint
        {
            let (path, files) = (path.display(), resumed.len());
            let PutAgain { lines, bytes } = put_again;
            let total = put_again_total.lines;
            writeln!(
                f,
                "checkpoint {path}: {files} files resumed; at most {lines} lines ({bytes} bytes) put twice, {total} in all runs"
            )?;
            if *left > 0 {
                writeln!(
                    f,
                    "{} {left} lines were not stored before the end: the same command puts them",
                    styled(style::WARNING, "left to the next run:")
                )?;
            }
            if let Some(line) = stopped_by {
                writeln!(f, "stopped before {line}: the same command goes on there")?;
            }
        }
        if let Some(verification) = &self.verify {
            writeln!(f, "{verification}")?;
        }
        if self.verify_interrupted {
            writeln!(f, "{}", styled(style::WARNING, "verification interrupted"))?;
        }
        Ok(())
    }
}

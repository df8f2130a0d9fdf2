//! The report of a dry run, as text or as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::super::RunResult;
use super::counts::{Counts, ShardCounts};
use crate::style::{self, HEADING, WARNING, styled};

/// The report: one JSON object with `--json`, otherwise a few lines of text and a table of the shards.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    dry_run: bool,
    stream: String,
    /// The number of lines that were read.
    lines: u64,
    /// The number of lines that would not be put, and of these by error code.
    refused: u64,
    refused_by_code: BTreeMap<String, u64>,
    partition_keys: Keys,
    kinesis_records: u64,
    aggregates: Aggregates,
    requests: u64,
    /// The bytes of the Kinesis records: data and partition keys.
    bytes: u64,
    payload_units: PayloadUnits,
    payload_units_without_aggregation: PayloadUnits,
    shards: Vec<Shard>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interrupted_after: Option<String>,
}

#[derive(Debug, Serialize)]
struct Keys {
    /// Whether each line has a random key.
    random: bool,
    /// The number of different keys; `None` if they are random.
    distinct: Option<usize>,
    /// Whether there are more keys than `distinct`.
    more: bool,
}

/// The Kinesis records that have several lines.
#[derive(Debug, Serialize)]
struct Aggregates {
    count: u64,
    /// The mean number of lines.
    lines_mean: Option<f64>,
    /// The mean size, divided by the maximum size.
    fill: Option<f64>,
}

#[derive(Debug, Serialize)]
struct PayloadUnits {
    count: u64,
    per_million_lines: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Shard {
    shard_id: String,
    lines: u64,
    kinesis_records: u64,
    bytes: u64,
    /// Its share of all bytes, from 0 to 1.
    share: f64,
}

impl Report {
    pub(super) fn new(stream: &str, target: &[String], counts: &Counts, run: &RunResult, aggregate_max: usize) -> Self {
        let ShardCounts { lines, kinesis_records, bytes } = counts.sum();
        let units = |count| PayloadUnits { count, per_million_lines: ratio(count, lines).map(|mean| mean * 1e6) };
        let shards = target.iter().zip(&counts.shards).map(|(id, shard)| Shard {
            shard_id: id.clone(),
            lines: shard.lines,
            kinesis_records: shard.kinesis_records,
            bytes: shard.bytes,
            share: ratio(shard.bytes, bytes).unwrap_or(0.0),
        });
        Self {
            dry_run: true,
            stream: stream.to_owned(),
            lines: lines + run.counts.failed,
            refused: run.counts.failed,
            refused_by_code: run.counts.counts_by_code().collect(),
            partition_keys: Keys {
                random: counts.keys.is_none(),
                distinct: counts.keys.as_ref().map(|keys| keys.count()),
                more: counts.keys.as_ref().is_some_and(|keys| keys.has_more()),
            },
            kinesis_records,
            aggregates: Aggregates {
                count: counts.aggregates,
                lines_mean: ratio(counts.lines_in_aggregates, counts.aggregates),
                fill: ratio(counts.bytes_of_aggregates, counts.aggregates).map(|mean| mean / aggregate_max as f64),
            },
            requests: counts.requests,
            bytes,
            payload_units: units(counts.payload_units),
            payload_units_without_aggregation: units(counts.payload_units_unaggregated),
            shards: shards.collect(),
            interrupted_after: run.summary.interrupted_after.clone(),
        }
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = |text| styled(HEADING, text);
        writeln!(f, "{} nothing was sent to {:?}", head("dry run:"), self.stream)?;
        let put = self.lines - self.refused;
        write!(f, "{} {}, {put} would be put, {} refused", head("lines:"), self.lines, style::failures(self.refused))?;
        let codes: Vec<_> = self.refused_by_code.iter().map(|(code, count)| format!("{code}: {count}")).collect();
        writeln!(f, "{}", if codes.is_empty() { String::new() } else { format!(" ({})", codes.join(", ")) })?;
        writeln!(f, "{} {}", head("partition keys:"), self.partition_keys)?;
        writeln!(f, "{} {}, {}", head("Kinesis records:"), self.kinesis_records, self.aggregates)?;
        writeln!(f, "{} {}", head("requests:"), self.requests)?;
        let (units, unaggregated) = (&self.payload_units, &self.payload_units_without_aggregation);
        writeln!(f, "{} {units}; without aggregation {unaggregated}", head("PUT payload units:"))?;
        let width = self.shards.iter().map(|shard| shard.shard_id.len()).max().unwrap_or_default().max(5);
        let table =
            format!("{:width$}  {:>12}  {:>15}  {:>15}  {:>7}", "SHARD", "LINES", "KINESIS RECORDS", "BYTES", "SHARE");
        writeln!(f, "\n{}", head(&table))?;
        for Shard { shard_id, lines, kinesis_records, bytes, share } in &self.shards {
            let share = share * 100.0;
            writeln!(f, "{shard_id:width$}  {lines:>12}  {kinesis_records:>15}  {bytes:>15}  {share:>6.2}%")?;
        }
        if let Some(place) = &self.interrupted_after {
            writeln!(f, "\n{} {place}", styled(WARNING, "interrupted after"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.distinct {
            None => f.write_str("random for each line, so the figures of the shards are estimates"),
            Some(count) => write!(f, "{}{count} different", if self.more { "more than " } else { "" }),
        }
    }
}

impl fmt::Display for Aggregates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "aggregates: {}", self.count)?;
        match (self.lines_mean, self.fill) {
            (Some(lines), Some(fill)) => write!(f, " of {lines:.1} lines, {:.1} % full", fill * 100.0),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for PayloadUnits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.count)?;
        match self.per_million_lines {
            Some(units) => write!(f, " ({units:.0} per million lines)"),
            None => Ok(()),
        }
    }
}

//! `kpl encode` and `kpl decode`: convert user records to one aggregated record, and back.

use std::borrow::Cow;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use kpl_core::UserRecord;
use kpl_core::codec::{self, AggregatedUserRecord};
use serde::{Deserialize, Serialize};

use crate::blob::Format;
use crate::exit::{self, BadInput};

/// Encodes user records as one aggregated record.
///
/// Reads one JSON object per line: {"partition_key": "user-1", "explicit_hash_key": null, "data": "aGVsbG8="}. The
/// explicit hash key is a decimal number in a string, or null, or absent; the data are base64.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    echo '{\"partition_key\": \"user-1\", \"data\": \"aGVsbG8=\"}' | kpl encode | kpl decode")]
pub(crate) struct EncodeArgs {
    /// The file to read; `-` or no file means standard input
    file: Option<PathBuf>,
    /// Format of the aggregated record
    #[arg(long, value_enum, default_value = "base64")]
    format: Format,
}

/// Decodes an aggregated record into its user records.
///
/// Writes one JSON object per line, in the format that `kpl encode` reads.
#[derive(Debug, Args)]
#[command(after_help = "Example: decode the output of the AWS CLI\n  \
    aws kinesis get-records --shard-iterator … --query 'Records[0].Data' --output text | kpl decode")]
pub(crate) struct DecodeArgs {
    /// The file to read; `-` or no file means standard input
    file: Option<PathBuf>,
    /// Format of the aggregated record
    #[arg(long, value_enum, default_value = "base64")]
    format: Format,
}

/// A user record as a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRecord<'a> {
    #[serde(borrow)]
    partition_key: Cow<'a, str>,
    #[serde(default)]
    explicit_hash_key: Option<String>,
    data: String,
}

pub(crate) fn encode(args: &EncodeArgs) -> anyhow::Result<ExitCode> {
    let mut records = Vec::new();
    for (number, line) in (1_u64..).zip(open(args.file.as_deref())?.split(b'\n')) {
        let line = line.context("cannot read the input")?;
        if !line.trim_ascii().is_empty() {
            let record = parse_record(&line).map_err(|error| BadInput(format!("line {number}: {error}")))?;
            records.push(record);
        }
    }
    if records.is_empty() {
        return Err(BadInput("the input has no user record, but an aggregated record has at least one".into()).into());
    }
    exit::print(&args.format.write(codec::encode(&records)))?;
    Ok(ExitCode::SUCCESS)
}

fn parse_record(line: &[u8]) -> Result<AggregatedUserRecord, String> {
    let json: JsonRecord<'_> = serde_json::from_slice(line).map_err(|error| json_error(&error))?;
    let data = STANDARD.decode(&json.data).map_err(|error| format!("data is not base64: {error}"))?;
    // Checks keys as the producer does. The stream does not matter.
    let record = UserRecord::new("any", json.partition_key.into_owned(), data);
    let record = UserRecord { explicit_hash_key: json.explicit_hash_key, ..record };
    let prepared = record.prepare().map_err(|error| error.to_string())?;
    let hash_key = prepared.hash_key();
    let record = UserRecord::from(prepared);
    Ok(AggregatedUserRecord {
        partition_key: record.partition_key.into(),
        explicit_hash_key: record.explicit_hash_key.map(|_| hash_key),
        data: record.data,
    })
}

/// Each line is a separate document, so the parser's line number is left out.
fn json_error(error: &serde_json::Error) -> String {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = error.to_string();
    match message.strip_suffix(&place) {
        Some(message) => format!("at byte {}: {message}", error.column().saturating_sub(1)),
        None => message,
    }
}

pub(crate) fn decode(args: &DecodeArgs) -> anyhow::Result<ExitCode> {
    let mut input = Vec::new();
    open(args.file.as_deref())?.read_to_end(&mut input).context("cannot read the input")?;
    let blob: Bytes = args.format.read(input).map_err(BadInput)?.into();
    let records = codec::decode(blob.clone()).map_err(|error| {
        let plain = if error.kind.is_plain_record() { ": this is a plain record, or not a Kinesis record" } else { "" };
        BadInput(format!("not an aggregated record: at byte {} of {}: {}{plain}", error.offset, blob.len(), error.kind))
    })?;
    // The output can be thousands of times as large as the blob: records share keys, but each line has its own copy.
    exit::print_with(|stdout| {
        for record in &records {
            let json = JsonRecord {
                partition_key: Cow::Borrowed(&*record.partition_key),
                explicit_hash_key: record.explicit_hash_key.map(|key| key.to_string()),
                data: STANDARD.encode(&record.data),
            };
            serde_json::to_writer(&mut *stdout, &json)?;
            stdout.write_all(b"\n")?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn open(file: Option<&Path>) -> anyhow::Result<Box<dyn BufRead>> {
    match file {
        Some(path) if path != Path::new("-") => {
            let file = std::fs::File::open(path).with_context(|| format!("cannot open {path:?}"))?;
            Ok(Box::new(io::BufReader::new(file)))
        }
        _ => Ok(Box::new(io::stdin().lock())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        parse_record(line.as_bytes()).unwrap_err()
    }

    #[test]
    fn line_is_a_user_record() {
        let record = parse_record(br#"{"partition_key": "a", "explicit_hash_key": "42", "data": "aGVsbG8="}"#).unwrap();
        let expected =
            AggregatedUserRecord { partition_key: "a".into(), explicit_hash_key: Some(42), data: "hello".into() };
        assert_eq!(record, expected);
        let record = parse_record(br#"{"partition_key": "a", "data": ""}"#).unwrap();
        assert_eq!(record.explicit_hash_key, None);
    }

    #[test]
    fn invalid_line_is_an_error_with_its_reason() {
        assert_eq!(error("{"), "at byte 0: EOF while parsing an object");
        assert!(error(r#"{"data": ""}"#).contains("missing field `partition_key`"));
        assert!(error(r#"{"partition_key": "a", "dta": ""}"#).contains("unknown field `dta`"));
        assert_eq!(
            error(r#"{"partition_key": "", "data": ""}"#),
            "partition_key is empty, but must have 1 to 256 characters"
        );
        assert!(error(r#"{"partition_key": "a", "explicit_hash_key": "0x1", "data": ""}"#).contains("\"0x1\""));
        assert!(error(r#"{"partition_key": "a", "data": "*"}"#).starts_with("data is not base64: "));
    }
}

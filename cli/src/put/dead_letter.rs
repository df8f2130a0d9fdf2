//! Failed lines, kept with their last error so that they can be put again.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// A failed line as one line of JSON.
#[derive(Debug, Serialize)]
pub(crate) struct DeadLetter<'a> {
    /// The file as named on the command line, or `-`.
    pub(crate) source: &'a str,
    /// The line number, from 1.
    pub(crate) line: u64,
    /// The error code of Kinesis, or of the producer.
    pub(crate) code: &'a str,
    pub(crate) message: &'a str,
    /// Whether the line may be in the stream although it failed.
    pub(crate) ambiguous: bool,
    /// The number of attempts.
    pub(crate) attempts: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) partition_key: Option<&'a str>,
    #[serde(flatten)]
    pub(crate) data: Data<'a>,
}

/// The line: text if it is UTF-8, otherwise base64.
#[derive(Debug, Serialize)]
pub(crate) enum Data<'a> {
    #[serde(rename = "data")]
    Text(&'a str),
    #[serde(rename = "data_base64")]
    Base64(String),
    /// The length of a line that was not kept.
    #[serde(rename = "bytes")]
    Length(u64),
}

impl<'a> Data<'a> {
    pub(crate) fn new(line: &'a [u8]) -> Self {
        std::str::from_utf8(line).map_or_else(|_| Self::Base64(STANDARD.encode(line)), Self::Text)
    }
}

/// The dead-letter file. Lines are appended: lines of earlier runs are kept.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    path: PathBuf,
    file: BufWriter<File>,
    error: Option<io::Error>,
}

impl DeadLetters {
    /// Opens the file. Fails if it is also an input.
    pub(crate) fn open(path: &Path, inputs: &[PathBuf]) -> anyhow::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.with_context(|| format!("cannot write --dead-letter {path:?}"))?;
        let is_same =
            |input: &PathBuf| path.canonicalize().ok().is_some_and(|path| input.canonicalize().ok() == Some(path));
        anyhow::ensure!(!inputs.iter().any(is_same), "--dead-letter {path:?} is also an input file");
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), error: None })
    }

    /// Writes a line. [`Self::finish`] reports errors, so that the other lines are still put.
    pub(crate) fn write(&mut self, letter: &DeadLetter<'_>) {
        let written = serde_json::to_writer(&mut self.file, letter).map_err(io::Error::from);
        if let Err(error) = written.and_then(|()| self.file.write_all(b"\n")) {
            self.error.get_or_insert(error);
        }
    }

    /// Flushes the file.
    ///
    /// # Errors
    ///
    /// A message, if a line could not be written.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        let flushed = self.file.flush();
        match self.error.map_or(flushed, Err) {
            Ok(()) => Ok(()),
            Err(error) => Err(format!("--dead-letter {:?} is incomplete: {error}", self.path)),
        }
    }
}

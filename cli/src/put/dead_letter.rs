//! Lines that failed, kept with their last error so that they can be put again.

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
    /// Counted from 1.
    pub(crate) line: u64,
    /// Kinesis's own code, or one of the producer's.
    pub(crate) code: &'a str,
    pub(crate) message: &'a str,
    /// Whether the line may be in the stream all the same.
    pub(crate) ambiguous: bool,
    /// How often it was sent.
    pub(crate) attempts: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) partition_key: Option<&'a str>,
    #[serde(flatten)]
    pub(crate) data: Data<'a>,
}

/// The line itself: as text where it is UTF-8, for then it can be read.
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

/// The file, written to the end: what a run before has left there is not lost.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    path: PathBuf,
    file: BufWriter<File>,
    error: Option<io::Error>,
}

impl DeadLetters {
    /// Opens the file, which must not be one of those that are read.
    pub(crate) fn open(path: &Path, inputs: &[PathBuf]) -> anyhow::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.with_context(|| format!("cannot write --dead-letter {path:?}"))?;
        let same =
            |input: &PathBuf| path.canonicalize().ok().is_some_and(|path| input.canonicalize().ok() == Some(path));
        anyhow::ensure!(!inputs.iter().any(same), "--dead-letter {path:?} is also a file to put");
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), error: None })
    }

    /// Writes a line. A full disk is told at the end; the other lines still go to the stream.
    pub(crate) fn write(&mut self, letter: &DeadLetter<'_>) {
        let written = serde_json::to_writer(&mut self.file, letter).map_err(io::Error::from);
        if let Err(error) = written.and_then(|()| self.file.write_all(b"\n")) {
            self.error.get_or_insert(error);
        }
    }

    /// Ends the file; says if not all of it could be written.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        let flushed = self.file.flush();
        match self.error.map_or(flushed, Err) {
            Ok(()) => Ok(()),
            Err(error) => Err(format!("--dead-letter {:?} is not complete: {error}", self.path)),
        }
    }
}

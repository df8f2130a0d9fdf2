//! Failed lines, kept with their last error so that they can be put again.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
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
///
/// Each line is written at once, so it is in the file even if the program is killed.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    path: PathBuf,
    file: File,
    /// Whether it is a regular file, not a pipe or a terminal.
    is_regular: bool,
    /// Whether the file may end in a part of a line, after a crash or a failed write.
    ends_in_part: bool,
    /// The bytes of a line. Kept to reuse its memory.
    buffer: Vec<u8>,
    /// The first error of a write.
    error: Option<io::Error>,
}

impl DeadLetters {
    /// Opens the file. Fails if it is also an input. Opening a FIFO waits for its reader.
    pub(crate) fn open(path: &Path, inputs: &[PathBuf]) -> anyhow::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.with_context(|| format!("cannot write --dead-letter {path:?}"))?;
        let is_same =
            |input: &PathBuf| path.canonicalize().ok().is_some_and(|path| input.canonicalize().ok() == Some(path));
        anyhow::ensure!(!inputs.iter().any(is_same), "--dead-letter {path:?} is also an input file");
        let is_regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        let ends_in_part =
            is_regular && ends_in_part(path).with_context(|| format!("cannot read --dead-letter {path:?}"))?;
        Ok(Self { path: path.to_owned(), file, is_regular, ends_in_part, buffer: Vec::new(), error: None })
    }

    /// Writes a line. Returns whether it is written. [`Self::finish`] reports errors, so that the other lines are still put.
    pub(crate) fn write(&mut self, letter: &DeadLetter<'_>) -> bool {
        self.buffer.clear();
        if self.ends_in_part {
            self.buffer.push(b'\n');
        }
        let encoded = serde_json::to_writer(&mut self.buffer, letter).map_err(io::Error::from);
        self.buffer.push(b'\n');
        // One write of the whole line: after a crash, and if several processes append, the file has whole lines.
        let written = encoded.and_then(|()| self.file.write_all(&self.buffer));
        self.ends_in_part = written.is_err();
        if let Err(error) = written {
            self.error.get_or_insert(error);
        }
        !self.ends_in_part
    }

    /// Returns a second handle of the file, to wait until it is on the disk; `None` for pipes and terminals.
    pub(crate) fn handle(&self) -> io::Result<Option<File>> {
        self.is_regular.then(|| self.file.try_clone()).transpose()
    }

    /// Waits until all lines are on the disk.
    ///
    /// # Errors
    ///
    /// A message, if a line could not be written.
    pub(crate) fn finish(self) -> Result<(), String> {
        // Pipes and terminals cannot be synced.
        let synced = if self.is_regular { self.file.sync_data() } else { Ok(()) };
        match self.error.map_or(synced, Err) {
            Ok(()) => Ok(()),
            Err(error) => Err(format!("--dead-letter {:?} is incomplete: {error}", self.path)),
        }
    }
}

/// Returns whether a file ends in a part of a line: it is not empty, and its last byte is not a newline.
fn ends_in_part(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0_u8];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

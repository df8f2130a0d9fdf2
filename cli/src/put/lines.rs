//! Splits files and standard input into lines, only at `\n`. The bytes of a line are unchanged.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, stdin};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{mem, thread};

use anyhow::Context;
use bytes::Bytes;
use kpl_core::limits;
use tokio::sync::mpsc;

/// The maximum number of lines in a batch. Batches reduce the cost of the channel per line.
const BATCH_LINES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 256 << 10;

/// The number of batches that are read ahead.
const BATCHES_AHEAD: usize = 4;

/// One line, without its newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The index of the input.
    pub(crate) source: u32,
    /// The line number, from 1.
    pub(crate) number: u64,
    pub(crate) content: Content,
}

/// The content of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Data(Bytes),
    /// The line is above the limit of every stream. It was skipped, because memory is bounded.
    TooLong {
        bytes: u64,
    },
}

/// An open input.
pub(crate) struct Source {
    /// The file as named on the command line, or `-`.
    pub(crate) name: String,
    reader: Box<dyn Read + Send>,
}

impl Source {
    /// Opens every input. `-`, or an empty list, is standard input. Opening a FIFO waits for its writer.
    pub(crate) fn open_all(paths: &[PathBuf]) -> anyhow::Result<Vec<Self>> {
        let standard_input = [PathBuf::from("-")];
        let paths = if paths.is_empty() { &standard_input } else { paths };
        paths.iter().map(|path| Self::open(path)).collect()
    }

    fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        if name == "-" {
            return Ok(Self { name, reader: Box::new(stdin()) });
        }
        let file = File::open(path).with_context(|| format!("cannot open {name:?}"))?;
        // Opening a directory succeeds, and reading it fails. Fail before any line is put.
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            anyhow::bail!("cannot read {name:?}: it is a directory");
        }
        Ok(Self { name, reader: Box::new(file) })
    }
}

/// A part of the input.
#[derive(Debug)]
pub(crate) enum Input {
    Batch(Batch),
    /// The end of all sources.
    End,
}

/// Lines, or the read error that ended a source.
pub(crate) type Batch = Result<Vec<Line>, ReadError>;

/// A source that could not be read to its end.
#[derive(Debug)]
pub(crate) struct ReadError {
    pub(crate) source: u32,
    pub(crate) after_line: u64,
    pub(crate) error: io::Error,
}

/// Reads the sources one after the other in a separate thread, which reads a bounded number of lines ahead.
///
/// The thread stops when the receiver is closed. It may block in a read of standard input when the program ends, so it
/// is not joined.
pub(crate) fn read(sources: Vec<Source>) -> io::Result<mpsc::Receiver<Input>> {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    thread::Builder::new().name("kpl-lines".into()).spawn(move || {
        for (index, source) in (0_u32..).zip(sources) {
            let reader = BufReader::with_capacity(128 << 10, source.reader);
            let mut splitter = Splitter::new(reader, index);
            loop {
                let batch = splitter.next_batch();
                let ended = batch.as_ref().map_or(true, Vec::is_empty);
                let is_empty = matches!(&batch, Ok(lines) if lines.is_empty());
                if !is_empty && sender.blocking_send(Input::Batch(batch)).is_err() {
                    return;
                }
                if ended {
                    break;
                }
            }
        }
        // An error means that the receiver was closed.
        let _ = sender.blocking_send(Input::End);
    })?;
    Ok(receiver)
}

/// A line in the buffer of the [`Splitter`].
enum ReadLine {
    Data(Range<usize>),
    TooLong { bytes: u64 },
}

/// Splits one source into lines.
struct Splitter<R> {
    reader: BufReader<R>,
    source: u32,
    number: u64,
    /// The maximum length of a line that is kept.
    line_len_max: usize,
    /// The lines of the batch that is being read, without newlines.
    buffer: Vec<u8>,
    /// The number of bytes of the last batch.
    last_batch_len: usize,
    /// A read error after lines that have not been returned yet.
    error: Option<io::Error>,
}

impl<R: Read> Splitter<R> {
    fn new(reader: BufReader<R>, source: u32) -> Self {
        Self {
            reader,
            source,
            number: 0,
            line_len_max: limits::RECORD_SIZE_MAX,
            buffer: Vec::new(),
            last_batch_len: 0,
            error: None,
        }
    }

    /// Returns the next lines: at least one, unless the source has ended. Lines of a slow source do not wait for a full
    /// batch. The lines of a batch share one buffer.
    fn next_batch(&mut self) -> Batch {
        if let Some(error) = self.error.take() {
            return Err(self.failed(error));
        }
        let mut lines: Vec<ReadLine> = Vec::new();
        self.buffer.reserve(self.last_batch_len);
        while lines.len() < BATCH_LINES_MAX && self.buffer.len() < BATCH_BYTES_MAX {
            if !lines.is_empty() && !self.reader.buffer().contains(&b'\n') {
                break;
            }
            match self.next_line() {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => break,
                Err(error) if lines.is_empty() => return Err(self.failed(error)),
                Err(error) => {
                    self.error = Some(error);
                    break;
                }
            }
        }
        self.last_batch_len = self.buffer.len();
        let (data, source) = (Bytes::from(mem::take(&mut self.buffer)), self.source);
        let first_number = self.number + 1 - lines.len() as u64;
        let content = |line| match line {
            ReadLine::Data(range) => Content::Data(data.slice(range)),
            ReadLine::TooLong { bytes } => Content::TooLong { bytes },
        };
        let numbered = (first_number..).zip(lines.into_iter().map(content));
        Ok(numbered.map(|(number, content)| Line { source, number, content }).collect())
    }

    fn failed(&self, error: io::Error) -> ReadError {
        ReadError { source: self.source, after_line: self.number, error }
    }

    /// Appends the next line to the buffer.
    fn next_line(&mut self) -> io::Result<Option<ReadLine>> {
        let start = self.buffer.len();
        // A line at the limit and its newline. Without a newline, the last byte shows that the line is too long.
        let read_max = self.line_len_max as u64 + 1;
        let read = (&mut self.reader).take(read_max).read_until(b'\n', &mut self.buffer).inspect_err(|_| {
            // The part of a line before the error is not put.
            self.buffer.truncate(start);
        })?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some(if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
            ReadLine::Data(start..self.buffer.len())
        } else if self.buffer.len() - start <= self.line_len_max {
            ReadLine::Data(start..self.buffer.len()) // the last line, without a newline
        } else {
            let bytes = (self.buffer.len() - start) as u64 + self.skip_line()?;
            self.buffer.truncate(start);
            ReadLine::TooLong { bytes }
        }))
    }

    /// Skips the rest of a line. Returns the number of skipped bytes, without the newline.
    fn skip_line(&mut self) -> io::Result<u64> {
        let mut skipped = 0;
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if buffer.is_empty() {
                return Ok(skipped);
            }
            let newline = buffer.iter().position(|byte| *byte == b'\n');
            let rest = newline.unwrap_or(buffer.len());
            let consumed = newline.map_or(rest, |at| at + 1);
            self.reader.consume(consumed);
            skipped += rest as u64;
            if newline.is_some() {
                return Ok(skipped);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(input: &[u8], line_len_max: usize, capacity: usize) -> Vec<Content> {
        let mut splitter = Splitter::new(BufReader::with_capacity(capacity, input), 0);
        splitter.line_len_max = line_len_max;
        let mut all = Vec::new();
        loop {
            let batch = splitter.next_batch().unwrap();
            if batch.is_empty() {
                return all.into_iter().map(|line: Line| line.content).collect();
            }
            all.extend(batch);
        }
    }

    fn data(lines: &[&'static [u8]]) -> Vec<Content> {
        lines.iter().map(|line| Content::Data(Bytes::from_static(line))).collect()
    }

    #[test]
    fn lines_are_the_bytes_between_newlines() {
        let cases: [(&[u8], Vec<Content>); 8] = [
            (b"", data(&[])),
            (b"\n", data(&[b""])),
            (b"a", data(&[b"a"])),
            (b"a\n", data(&[b"a"])),
            (b"a\n\n", data(&[b"a", b""])),
            (b"\n\na", data(&[b"", b"", b"a"])),
            (b"a\r\nb\rc\n", data(&[b"a\r", b"b\rc"])),
            (
                b"\0\n\xff\xfe\n\xe3\x81\x82\x0b\x0c\xc2\x85\n",
                data(&[b"\0", b"\xff\xfe", b"\xe3\x81\x82\x0b\x0c\xc2\x85"]),
            ),
        ];
        for (input, expected) in cases {
            for capacity in [1, 2, 3, 8192] {
                assert_eq!(contents(input, 100, capacity), expected, "{input:?}, capacity {capacity}");
            }
        }
    }

    #[test]
    fn too_long_line_is_skipped_and_the_next_one_is_kept() {
        for capacity in [1, 3, 8192] {
            let too_long = Content::TooLong { bytes: 4 };
            let abc = Content::Data("abc".into());
            assert_eq!(contents(b"abc\nabcd\nabc\n", 3, capacity), [abc.clone(), too_long, abc]);
            assert_eq!(contents(b"abcd", 3, capacity)[..], [Content::TooLong { bytes: 4 }]);
            assert_eq!(contents(b"abcdefgh\n\n", 3, capacity)[0], Content::TooLong { bytes: 8 });
        }
    }

    #[test]
    fn lines_are_numbered_from_1_and_batches_are_bounded() {
        let input = b"x\n".repeat(1_000);
        let mut splitter = Splitter::new(BufReader::new(&*input), 7);
        let first = splitter.next_batch().unwrap();
        assert_eq!(first.len(), BATCH_LINES_MAX);
        assert_eq!((first[0].source, first[0].number), (7, 1));
        assert_eq!(splitter.next_batch().unwrap()[0].number, BATCH_LINES_MAX as u64 + 1);
    }

    #[test]
    fn lines_of_a_slow_source_are_returned_as_they_arrive() {
        /// Returns one chunk per read. A chunk that ends within a line must not delay the lines before it.
        struct Slow(std::vec::IntoIter<&'static [u8]>);
        impl Read for Slow {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let chunk = self.0.next().unwrap_or_default();
                buffer[..chunk.len()].copy_from_slice(chunk);
                Ok(chunk.len())
            }
        }
        let chunks: Vec<&[u8]> = vec![b"one\ntwo\nthr", b"ee\n"];
        let mut splitter = Splitter::new(BufReader::new(Slow(chunks.into_iter())), 0);
        assert_eq!(splitter.next_batch().unwrap().len(), 2);
        assert_eq!(splitter.next_batch().unwrap()[0].content, Content::Data("three".into()));
    }
}

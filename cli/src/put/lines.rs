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

use super::follow::multiline::{Joiner, Multiline};

/// The maximum number of lines in a batch. Batches reduce the cost of the channel per line.
const BATCH_LINES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 256 << 10;

/// The number of batches that are read ahead.
pub(crate) const BATCHES_AHEAD: usize = 4;

/// The number of bytes of a read.
pub(crate) const READ_SIZE: usize = 128 << 10;

/// A position between two lines of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// The number of bytes before it.
    pub(crate) offset: u64,
    /// The number of lines before it.
    pub(crate) line: u64,
}

/// Successive lines of one source. Each line begins where the one before it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The index of the source.
    pub(crate) source: u32,
    /// The position of the first line.
    pub(crate) start: Position,
    pub(crate) lines: Vec<Line>,
}

impl Batch {
    /// Returns the position after the last line.
    pub(crate) fn end(&self) -> Position {
        self.lines.last().map_or(self.start, |line| line.end)
    }
}

/// One line, without its newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) content: Content,
    /// The position after its newline.
    pub(crate) end: Position,
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
    /// A source could not be read to its end.
    Error(ReadError),
    /// The end of all sources.
    End,
}

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
pub(crate) fn read(sources: Vec<Source>, rule: Option<Multiline>) -> io::Result<mpsc::Receiver<Input>> {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    thread::Builder::new().name("kpl-lines".into()).spawn(move || {
        for (index, source) in (0_u32..).zip(sources) {
            let reader = BufReader::with_capacity(READ_SIZE, source.reader);
            let mut splitter = Splitter::new(reader, index, Position::default());
            let mut joiner = rule.as_ref().map(Joiner::new);
            loop {
                let input = match splitter.next_batch() {
                    Ok(batch) if batch.lines.is_empty() => break,
                    Ok(batch) => Input::Batch(match &mut joiner {
                        Some(joiner) => joiner.join(batch),
                        None => batch,
                    }),
                    Err(error) => Input::Error(ReadError { source: index, after_line: splitter.position.line, error }),
                };
                let is_error = matches!(input, Input::Error(_));
                if sender.blocking_send(input).is_err() {
                    return;
                }
                if is_error {
                    break;
                }
            }
            let last = joiner.and_then(|mut joiner| joiner.end(index));
            if last.is_some_and(|last| sender.blocking_send(Input::Batch(last)).is_err()) {
                return;
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
pub(crate) struct Splitter<R> {
    reader: BufReader<R>,
    source: u32,
    /// The position after the last line that was read.
    pub(crate) position: Position,
    /// Whether a last line without a newline waits for it.
    waits_for_newline: bool,
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
    /// Returns a splitter for a reader that is at `position` of its source.
    pub(crate) fn new(reader: BufReader<R>, source: u32, position: Position) -> Self {
        Self {
            reader,
            source,
            position,
            waits_for_newline: false,
            line_len_max: limits::RECORD_SIZE_MAX,
            buffer: Vec::new(),
            last_batch_len: 0,
            error: None,
        }
    }

    /// Leaves a last line without a newline in the source.
    pub(crate) fn waiting_for_newline(mut self) -> Self {
        self.waits_for_newline = true;
        self
    }

    /// Returns the next lines: at least one, unless the source has ended. Lines of a slow source do not wait for a full
    /// batch. The lines of a batch share one buffer.
    pub(crate) fn next_batch(&mut self) -> io::Result<Batch> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let start = self.position;
        let mut lines: Vec<(ReadLine, Position)> = Vec::new();
        self.buffer.reserve(self.last_batch_len);
        while lines.len() < BATCH_LINES_MAX && self.buffer.len() < BATCH_BYTES_MAX {
            if !lines.is_empty() && !self.reader.buffer().contains(&b'\n') {
                break;
            }
            match self.next_line() {
                Ok(Some(line)) => lines.push((line, self.position)),
                Ok(None) => break,
                Err(error) if lines.is_empty() => return Err(error),
                Err(error) => {
                    self.error = Some(error);
                    break;
                }
            }
        }
        self.last_batch_len = self.buffer.len();
        let data = Bytes::from(mem::take(&mut self.buffer));
        let content = |line| match line {
            ReadLine::Data(range) => Content::Data(data.slice(range)),
            ReadLine::TooLong { bytes } => Content::TooLong { bytes },
        };
        let lines = lines.into_iter().map(|(line, end)| Line { content: content(line), end }).collect();
        Ok(Batch { source: self.source, start, lines })
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
        let mut bytes = read as u64;
        let has_newline = self.buffer[start..].last() == Some(&b'\n');
        let line = if has_newline {
            self.buffer.pop();
            ReadLine::Data(start..self.buffer.len())
        } else if read <= self.line_len_max {
            if read == 0 || self.waits_for_newline {
                self.buffer.truncate(start);
                return Ok(None);
            }
            ReadLine::Data(start..self.buffer.len()) // the last line, without a newline
        } else {
            self.buffer.truncate(start);
            let (skipped, has_newline) = self.skip_line()?;
            if self.waits_for_newline && !has_newline {
                return Ok(None);
            }
            let length = bytes + skipped;
            bytes = length + u64::from(has_newline);
            ReadLine::TooLong { bytes: length }
        };
        self.position = Position { offset: self.position.offset + bytes, line: self.position.line + 1 };
        Ok(Some(line))
    }

    /// Skips the rest of a line. Returns the number of skipped bytes, without the newline, and whether there is one.
    fn skip_line(&mut self) -> io::Result<(u64, bool)> {
        let mut skipped = 0;
        loop {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if buffer.is_empty() {
                return Ok((skipped, false));
            }
            let newline = buffer.iter().position(|byte| *byte == b'\n');
            let rest = newline.unwrap_or(buffer.len());
            let consumed = newline.map_or(rest, |at| at + 1);
            self.reader.consume(consumed);
            skipped += rest as u64;
            if newline.is_some() {
                return Ok((skipped, true));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(input: &[u8], line_len_max: usize, capacity: usize) -> Vec<Content> {
        let mut splitter = Splitter::new(BufReader::with_capacity(capacity, input), 0, Position::default());
        splitter.line_len_max = line_len_max;
        let mut all = Vec::new();
        loop {
            let batch = splitter.next_batch().unwrap();
            assert_eq!(batch.end(), splitter.position);
            if batch.lines.is_empty() {
                assert_eq!(splitter.position.offset, input.len() as u64);
                return all.into_iter().map(|line: Line| line.content).collect();
            }
            all.extend(batch.lines);
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
        let mut splitter = Splitter::new(BufReader::new(&*input), 7, Position { offset: 10, line: 5 });
        let first = splitter.next_batch().unwrap();
        assert_eq!((first.lines.len(), first.source), (BATCH_LINES_MAX, 7));
        assert_eq!(
            (first.start, first.lines[0].end),
            (Position { offset: 10, line: 5 }, Position { offset: 12, line: 6 })
        );
        assert_eq!(splitter.next_batch().unwrap().start, first.end());
    }

    #[test]
    fn a_half_line_waits_for_its_newline() {
        for (input, expected) in
            [("a\nbc", 2), ("abcdefgh", 0), ("abc", 0), ("ab\nabcdefg", 3), ("abcdefg\nx", 8), ("", 0)]
        {
            let reader = BufReader::with_capacity(2, input.as_bytes());
            let mut splitter = Splitter::new(reader, 0, Position::default()).waiting_for_newline();
            splitter.line_len_max = 3;
            while !splitter.next_batch().unwrap().lines.is_empty() {}
            assert_eq!(splitter.position.offset, expected, "{input:?}");
        }
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
        let mut splitter = Splitter::new(BufReader::new(Slow(chunks.into_iter())), 0, Position::default());
        assert_eq!(splitter.next_batch().unwrap().lines.len(), 2);
        assert_eq!(splitter.next_batch().unwrap().lines[0].content, Content::Data("three".into()));
    }
}

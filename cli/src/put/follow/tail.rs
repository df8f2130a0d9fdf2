//! One file that is read.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::multiline::{Joiner, Multiline};
use super::search::Lost;
use crate::put::checkpoint::file::FileEntry;
use crate::put::checkpoint::identity::{FileId, Fingerprint};
use crate::put::checkpoint::to_ms;
use crate::put::lines::{Batch, Position, READ_SIZE, Splitter};

/// The number of bytes that are read from a file before the next one has its turn.
const TURN_BYTES: u64 = 1 << 20;

/// A file that is read. Rotation changes its name or, if it is copied and truncated, its inode; its content remains.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) source: u32,
    /// The path by which the file was found.
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    pub(crate) id: FileId,
    pub(crate) head: Fingerprint,
    /// The position after the last line that was read, and the bytes before it.
    pub(crate) position: Position,
    pub(crate) before: Fingerprint,
    /// Ranges beyond the position that an earlier run has put.
    pub(crate) resolved: VecDeque<(Position, Position)>,
    /// The file that is to be read to its end first.
    pub(crate) after: Option<After>,
    /// Whether a path of the command line is that of this file.
    pub(crate) is_at_path: bool,
    /// The last time at which the file was at its path and had the content that was read.
    pub(crate) verified_at: SystemTime,
    /// Size and time of modification at the last turn.
    pub(crate) seen: Option<(u64, SystemTime)>,
    /// The time at which the file was last seen to grow.
    pub(crate) grown_at: Instant,
    /// Whether all that was there at the last turn was read, except for a line or a record that may go on.
    pub(crate) is_at_end: bool,
    /// Whether the last record waits for further lines.
    pub(crate) has_open_record: bool,
    /// Whether the last turn failed. The next one tries again.
    pub(crate) has_failed: bool,
}

/// The file that was at the path before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct After {
    pub(crate) source: u32,
    /// Its size when this file was first used: then its writers had moved on. `None` before that.
    pub(crate) until: Option<u64>,
}

impl After {
    pub(crate) fn new(source: u32) -> Self {
        Self { source, until: None }
    }
}

/// The time without growth after which a rotated file has ended. Its writers move to the new one only after a signal.
const ROTATED_QUIET: Duration = Duration::from_secs(30);

/// The time without growth after which a record of several lines is complete.
const RECORD_QUIET: Duration = Duration::from_secs(1);

/// What the end of a file means for a line or a record that may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// Both wait.
    Wait,
    /// A record is complete, but a line without a newline is not.
    EndRecord,
    /// Both are complete.
    EndLine,
}

/// What was read in one turn.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) batches: Vec<Batch>,
    pub(crate) position: Position,
    is_at_end: bool,
    has_open_record: bool,
    /// The number of resolved ranges that were skipped.
    skipped: usize,
}

impl Tail {
    /// Returns what ends when the file does not grow for a time, and the rest of this time.
    pub(crate) fn quiet(&self) -> Option<(AtEnd, Duration)> {
        let (ends, time) = match self {
            Self { has_failed: true, .. } | Self { is_at_end: false, .. } | Self { after: Some(_), .. } => return None,
            Self { is_at_path: false, .. } => (AtEnd::EndLine, ROTATED_QUIET),
            Self { has_open_record: true, .. } => (AtEnd::EndRecord, RECORD_QUIET),
            _ => return None,
        };
        Some((ends, time.saturating_sub(self.grown_at.elapsed())))
    }

    /// Returns whether the file may have more than at the last turn.
    pub(crate) fn has_changed(&mut self) -> io::Result<bool> {
        let metadata = self.file.metadata()?;
        let seen = Some((metadata.len(), metadata.modified()?));
        if seen != self.seen {
            if mem::replace(&mut self.seen, seen).is_some() {
                self.grown_at = Instant::now();
            }
            return Ok(true);
        }
        Ok(!self.is_at_end)
    }

    /// Reads some lines. They count only if [`accept`](Self::accept) says so.
    pub(crate) fn read(&self, rule: Option<&Multiline>, at_end: AtEnd) -> io::Result<Turn> {
        let mut turn =
            Turn { batches: Vec::new(), position: self.position, is_at_end: true, has_open_record: false, skipped: 0 };
        let mut bytes = 0;
        loop {
            while let Some((start, end)) = self.resolved.get(turn.skipped) {
                if start.offset > turn.position.offset {
                    break;
                }
                turn.position = turn.position.max(*end);
                turn.skipped += 1;
            }
            let stop = self.resolved.get(turn.skipped).map(|(start, _)| start.offset);
            let mut file = &*self.file;
            file.seek(SeekFrom::Start(turn.position.offset))?;
            let part = file.take(stop.unwrap_or(u64::MAX) - turn.position.offset);
            let mut splitter = Splitter::new(BufReader::with_capacity(READ_SIZE, part), self.source, turn.position);
            // A line before a range that an earlier run has put gets no newline any more.
            if at_end != AtEnd::EndLine && stop.is_none() {
                splitter = splitter.waiting_for_newline();
            }
            let mut joiner = rule.map(Joiner::new);
            loop {
                let batch = match splitter.next_batch() {
                    Ok(batch) => batch,
                    Err(error) if turn.batches.is_empty() => return Err(error),
                    // The next turn has the error.
                    Err(_) => {
                        turn.is_at_end = false;
                        return Ok(turn);
                    }
                };
                if batch.lines.is_empty() {
                    break;
                }
                let batch = match &mut joiner {
                    Some(joiner) => joiner.join(batch),
                    None => batch,
                };
                turn.position = batch.end();
                bytes += turn.position.offset - batch.start.offset;
                if !batch.lines.is_empty() {
                    turn.batches.push(batch);
                }
                if bytes >= TURN_BYTES {
                    turn.is_at_end = false;
                    return Ok(turn);
                }
            }
            // What follows a record that an earlier run has put does not belong to it.
            let is_complete = stop.is_some() || at_end != AtEnd::Wait;
            if let Some(joiner) = &mut joiner {
                turn.has_open_record = !is_complete && joiner.open_at().is_some();
                if let Some(batch) = joiner.end(self.source).filter(|_| is_complete) {
                    turn.position = batch.end();
                    turn.batches.push(batch);
                }
            }
            if stop != Some(turn.position.offset) {
                return Ok(turn);
            }
        }
    }

    /// Takes over what was read, unless the file was truncated in the meantime: then the lines may be of another content.
    /// Returns whether it did.
    pub(crate) fn accept(&mut self, turn: &Turn, at: SystemTime) -> io::Result<bool> {
        let before = match Fingerprint::before(&self.file, turn.position.offset) {
            Ok(before) => before,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        };
        // After the read, so that it proves what was read.
        let Some(head) = self.head.extended_by(&self.file)? else { return Ok(false) };
        if !self.before.is_before(&self.file, self.position.offset)? {
            return Ok(false);
        }
        (self.head, self.before, self.position) = (head, before, turn.position);
        self.resolved.drain(..turn.skipped);
        (self.is_at_end, self.has_open_record) = (turn.is_at_end, turn.has_open_record);
        if mem::take(&mut self.has_failed) {
            // It may have grown meanwhile.
            self.grown_at = Instant::now();
        }
        if self.is_at_path && fs::metadata(&self.path).is_ok_and(|found| FileId::new(&found) == self.id) {
            self.verified_at = at;
        }
        Ok(true)
    }

    /// Returns whether a file is to be read before this one.
    pub(crate) fn is_after(&self, source: u32) -> bool {
        self.after.is_some_and(|after| after.source == source)
    }

    /// Returns an entry of which all is read.
    pub(crate) fn entry_at_end(&self) -> FileEntry {
        FileEntry {
            path: self.path.clone(),
            device: self.id.device,
            inode: self.id.inode,
            head: self.head,
            offset: self.position.offset,
            line: self.position.line,
            before_offset: self.before,
            resolved: Vec::new(),
            limit: self.position.offset,
            verified_at_ms: to_ms(self.verified_at),
            ended: true,
        }
    }

    /// Returns what identifies the file when it is searched for.
    pub(crate) fn lost(&self) -> Lost {
        let Self { id, head, before, position, verified_at, .. } = self;
        let (before_offset, verified_at) = (*before, *verified_at);
        Lost { id: *id, head: *head, offset: position.offset, before_offset, verified_at }
    }

    /// Goes on in a copy of the file.
    pub(crate) fn go_on_in(&mut self, file: Arc<File>, id: FileId) {
        (self.file, self.id, self.seen) = (file, id, None);
        (self.is_at_path, self.is_at_end, self.grown_at) = (false, false, Instant::now());
    }
}

//! Goes on where a checkpoint says.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use serde::Serialize;

use super::search::{self, Found, Lost};
use super::{Ended, Follower, LastAt};
use crate::put::checkpoint::Tracked;
use crate::put::checkpoint::file::{FileEntry, PutAgain};
use crate::put::checkpoint::from_ms;
use crate::put::checkpoint::identity::FINGERPRINT_BYTES_MAX;

/// Where a run goes on.
#[derive(Debug, Default)]
pub(crate) struct Resumed {
    pub(crate) files: Vec<ResumedFile>,
    /// The lines that the runs before may have put although no checkpoint says so.
    pub(crate) put_again: PutAgain,
}

/// Where a file goes on.
#[derive(Debug, Serialize)]
pub(crate) struct ResumedFile {
    file: String,
    offset: u64,
    line: u64,
}

impl Follower {
    /// Adds the files of a checkpoint.
    pub(super) fn resume(&mut self, entries: Vec<FileEntry>) -> anyhow::Result<Resumed> {
        let mut resumed = Resumed::default();
        for mut entry in entries {
            let target = self.targets.iter().find(|target| target.matches(&entry.path));
            let Some(name) = target.map(|target| target.name(&entry.path)) else {
                // The file is not on the command line. It may be again, the next time.
                if entry.path.exists() {
                    let source = self.sources.add(&entry.path.display().to_string());
                    self.offsets.add(source, Tracked::new(entry, None));
                }
                continue;
            };
            if entry.ended {
                self.resume_ended(entry, &name);
                continue;
            }
            let path = entry.path.clone();
            let Some((found, is_at_path)) = self.locate(&entry) else {
                self.messages.print(&format!(
                    "{name} is not the file of the checkpoint, which is not in its directory under another name either: \
                     its lines after offset {} are lost, if it had any",
                    entry.offset
                ));
                let verified_at = from_ms(entry.verified_at_ms);
                self.last_at.insert(path, LastAt { source: u32::MAX, verified_at });
                continue;
            };
            // What was written since was not put.
            entry.limit = entry.limit.min(found.size);
            (entry.device, entry.inode) = (found.id.device, found.id.inode);
            let again = count_again(&found.file, &entry)?;
            resumed.put_again.lines += again.lines;
            resumed.put_again.bytes += again.bytes;
            if !is_at_path {
                self.messages.print(&format!("{name} was rotated: its rest is read from {:?}", found.path));
            }
            resumed.files.push(ResumedFile { file: name.clone(), offset: entry.offset, line: entry.line });
            let after = self.tails.iter().rev().find(|tail| tail.path == path).map(|tail| tail.source);
            self.add_entry(entry, found.file, &name, after, is_at_path);
        }
        Ok(resumed)
    }

    /// Keeps a rotated file that was read to its end, if it still exists.
    fn resume_ended(&mut self, entry: FileEntry, name: &str) {
        let Some(directory) = entry.path.parent() else { return };
        if !search::inodes(directory).contains(&entry.inode) {
            return;
        }
        let source = self.sources.add(name);
        self.ended.push(Ended { source, path: entry.path.clone(), id: entry.id(), head: entry.head });
        self.offsets.add(source, Tracked::new(entry, None));
    }

    /// Finds the file of an entry: at its path, or renamed, or copied.
    fn locate(&self, entry: &FileEntry) -> Option<(Found, bool)> {
        let lost = Lost {
            id: entry.id(),
            head: entry.head,
            offset: entry.offset,
            before_offset: entry.before_offset,
            verified_at: from_ms(entry.verified_at_ms),
        };
        if let Ok(found) = Found::open(&entry.path) {
            // A few equal bytes prove little, without the same inode.
            let is_plausible = found.id.inode == entry.inode || entry.head.bytes == FINGERPRINT_BYTES_MAX;
            if is_plausible && lost.has_content_of(&found) && !self.is_known(&found) {
                return Some((found, true));
            }
        }
        search::find(&entry.path, &lost, |found| self.is_known(found)).map(|found| (found, false))
    }
}

/// Counts the lines that are neither resolved nor beyond the limit of a checkpoint.
fn count_again(file: &File, entry: &FileEntry) -> io::Result<PutAgain> {
    let mut again = PutAgain::default();
    let mut from = entry.offset;
    for (start, end) in entry.ranges().map(|(start, end)| (start.offset, end.offset)).chain([(entry.limit, u64::MAX)]) {
        let to = start.min(entry.limit);
        if from < to {
            let mut part = file;
            part.seek(SeekFrom::Start(from))?;
            let (lines, ends_in_part) = count_lines(part.take(to - from))?;
            again.lines += lines + u64::from(ends_in_part);
            again.bytes += to - from;
        }
        from = end;
    }
    Ok(again)
}

/// Returns the number of newlines, and whether the last line has none.
fn count_lines(part: impl Read) -> io::Result<(u64, bool)> {
    let mut reader = BufReader::with_capacity(super::READ_SIZE, part);
    let (mut lines, mut ends_in_part) = (0, false);
    loop {
        let buffer = reader.fill_buf()?;
        let (Some(last), length) = (buffer.last(), buffer.len()) else { return Ok((lines, ends_in_part)) };
        ends_in_part = *last != b'\n';
        lines += buffer.iter().filter(|byte| **byte == b'\n').count() as u64;
        reader.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::put::checkpoint::identity::Fingerprint;
    use std::io::Write;

    #[test]
    fn lines_that_may_be_put_twice_are_unresolved_and_below_the_limit() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"1\n2\n3\n4\n5\n6").unwrap();
        let mut entry = FileEntry {
            path: "/x".into(),
            device: 0,
            inode: 0,
            head: Fingerprint::default(),
            offset: 2,
            line: 1,
            before_offset: Fingerprint::default(),
            resolved: vec![[4, 2, 6, 3]],
            limit: 11,
            verified_at_ms: 5,
            ended: false,
        };
        // 2, 4, 5, and the half line.
        assert_eq!(count_again(&file, &entry).unwrap(), PutAgain { lines: 4, bytes: 7 });
        entry.limit = 8;
        assert_eq!(count_again(&file, &entry).unwrap(), PutAgain { lines: 2, bytes: 4 });
        entry.limit = 5;
        assert_eq!(count_again(&file, &entry).unwrap(), PutAgain { lines: 1, bytes: 2 });
        entry.limit = 2;
        assert_eq!(count_again(&file, &entry).unwrap(), PutAgain::default());
        (entry.limit, entry.resolved) = (11, vec![]);
        assert_eq!(count_again(&file, &entry).unwrap(), PutAgain { lines: 5, bytes: 9 });
    }
}

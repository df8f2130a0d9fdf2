//! Goes on where a checkpoint says.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::mem;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::search::{self, Found, Lost};
use super::{Ended, Follower, LastAt, Unavailable};
use crate::put::checkpoint::Tracked;
use crate::put::checkpoint::file::{FileEntry, PutAgain};
use crate::put::checkpoint::from_ms;
use crate::put::checkpoint::identity::FINGERPRINT_BYTES_MAX;

/// The time for which a file of the checkpoint is kept that cannot be looked for.
const UNAVAILABLE_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where a file goes on.
#[derive(Debug, Serialize)]
pub(crate) struct ResumedFile {
    file: String,
    offset: u64,
    line: u64,
}

impl Follower {
    /// Adds the files of a checkpoint. Returns those that are read.
    pub(super) fn resume(&mut self, entries: Vec<FileEntry>) -> Vec<ResumedFile> {
        let mut resumed = Vec::new();
        let mut inodes: HashMap<PathBuf, Option<HashSet<u64>>> = HashMap::new();
        for entry in entries {
            let target = self.targets.iter().find(|target| target.matches(&entry.path));
            let Some(name) = target.map(|target| target.name(&entry.path)) else {
                // The file is not on the command line. It may be again, the next time.
                if entry.path.exists() {
                    let source = self.sources.add(&entry.path.display().to_string());
                    self.offsets.add(source, Tracked::new(entry, None));
                }
                continue;
            };
            let directory = entry.path.parent().map(Path::to_owned).unwrap_or_default();
            let inodes = inodes.entry(directory).or_insert_with_key(|directory| search::inodes(directory));
            let is_listed = inodes.as_ref().map(|inodes| inodes.contains(&entry.inode));
            resumed.extend(self.resume_file(entry, &name, is_listed));
        }
        resumed
    }

    /// Adds a file of a checkpoint. `is_listed` is whether its directory has a file with its inode; `None` if nothing can be said
    /// of the directory's files. Returns the file if it is read.
    fn resume_file(&mut self, mut entry: FileEntry, name: &str, is_listed: Option<bool>) -> Option<ResumedFile> {
        let at_path = self.find_at_path(&entry);
        let is_at_path = matches!(at_path, Ok(Some(_)));
        if is_listed.is_none() && !is_at_path {
            self.wait_until_available(entry, name);
            return None;
        }
        if entry.ended && !is_at_path {
            if is_listed == Some(true) {
                let source = self.sources.add(name);
                self.ended.push(Ended { source, entry: entry.clone() });
                self.offsets.add(source, Tracked::new(entry, None));
            }
            return None;
        }
        let found = at_path.and_then(|at_path| {
            let renamed = || search::find(&entry.path, &Lost::from(&entry), |found| self.is_known(found));
            let Some(found) = at_path.or_else(renamed) else { return Ok(None) };
            // What was written since was not put.
            entry.limit = entry.limit.min(found.size);
            let again = count_again(&found.file, &entry)?;
            Ok(Some((found, again)))
        });
        let (found, again) = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.messages.print(&format!(
                    "{name} is not the file of the checkpoint, which is not in its directory under another name either: \
                     its lines after offset {} are lost, if it had any",
                    entry.offset
                ));
                let verified_at = from_ms(entry.verified_at_ms);
                self.last_at.insert(entry.path, LastAt { source: u32::MAX, verified_at });
                return None;
            }
            Err(error) => {
                self.messages.print_once(&format!("cannot read {name} yet: {error}"));
                self.wait_until_available(entry, name);
                return None;
            }
        };
        (entry.device, entry.inode, entry.ended) = (found.id.device, found.id.inode, false);
        self.offsets.add_put_again(again);
        if !is_at_path {
            self.messages.print(&format!("{name} was rotated: its rest is read from {:?}", found.path));
        }
        let before = self.tails.iter().rev().find(|tail| tail.path == entry.path).map(|tail| tail.source);
        let after = before.or_else(|| self.last_argument());
        let resumed = ResumedFile { file: name.to_owned(), offset: entry.offset, line: entry.line };
        self.add_entry(entry, found.file, name, after, is_at_path);
        Some(resumed)
    }

    /// Keeps a file of the checkpoint that cannot be looked for, but not for ever: directories may come and go.
    pub(super) fn wait_until_available(&mut self, entry: FileEntry, name: &str) {
        if is_long_ago(&entry) {
            self.messages
                .print(&format!("{name} was not there for days: if it comes back, it is read from its beginning"));
            return;
        }
        let source = self.sources.add(name);
        self.offsets.add(source, Tracked::new(entry.clone(), None));
        self.unavailable.push(Unavailable { source, entry });
    }

    /// Adds the files of the checkpoint that could not be looked for, and now can be.
    pub(super) fn resume_available(&mut self) {
        let known = mem::take(&mut self.unavailable);
        let is_available = |Unavailable { entry, .. }: &Unavailable| match self.find_at_path(entry) {
            Ok(Some(_)) => true,
            Ok(None) => !entry.path.parent().is_none_or(search::is_unavailable),
            Err(_) => false,
        };
        let (available, unavailable) = known.into_iter().partition(is_available);
        self.unavailable = unavailable;
        let (sources, entries): (Vec<_>, Vec<_>) =
            Vec::into_iter(available).map(|Unavailable { source, entry }| (source, entry)).unzip();
        for ResumedFile { file, offset, .. } in self.resume(entries) {
            self.messages.print(&format!("goes on in {file} at offset {offset}"));
        }
        // After the new entries, so that a checkpoint at any time has the files.
        for source in sources {
            self.offsets.remove(source);
        }
    }

    /// Returns the file of an entry, if it is at its path.
    ///
    /// # Errors
    ///
    /// There is a file that cannot be opened, so that nothing can be said of it.
    fn find_at_path(&self, entry: &FileEntry) -> io::Result<Option<Found>> {
        match Found::open(&entry.path) {
            Ok(found) => {
                // A few equal bytes prove little, without the same inode.
                let is_plausible = found.id.inode == entry.inode || entry.head.bytes == FINGERPRINT_BYTES_MAX;
                let is_it = is_plausible && Lost::from(entry).has_content_of(&found)? && !self.is_known(&found);
                Ok(is_it.then_some(found))
            }
            Err(error) => {
                let is_absent = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
                // What is not a regular file has no code of the system.
                if is_absent || error.raw_os_error().is_none() { Ok(None) } else { Err(error) }
            }
        }
    }
}

/// Returns whether a file was last seen so long ago that it will not come back.
pub(super) fn is_long_ago(entry: &FileEntry) -> bool {
    from_ms(entry.verified_at_ms).elapsed().is_ok_and(|age| age > UNAVAILABLE_KEPT)
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

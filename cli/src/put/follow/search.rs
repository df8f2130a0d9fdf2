//! Finds rotated files in the directory of the path that they had.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::put::checkpoint::file::FileEntry;
use crate::put::checkpoint::from_ms;
use crate::put::checkpoint::identity::{FINGERPRINT_BYTES_MAX, FileId, Fingerprint};

/// File times come from a clock that is some milliseconds behind.
const CLOCK_SLACK: Duration = Duration::from_millis(100);

/// A file that was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    pub(crate) id: FileId,
    pub(crate) size: u64,
    modified: SystemTime,
}

impl Found {
    /// Opens a regular file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // Opening a FIFO would block.
        if !fs::metadata(path)?.is_file() {
            return Err(not_regular());
        }
        Self::new(path.to_owned(), Arc::new(File::open(path)?))
    }

    /// Returns a regular file that is open.
    pub(crate) fn new(path: PathBuf, file: Arc<File>) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(not_regular());
        }
        let modified = metadata.modified()?;
        let (id, size) = (FileId::new(&metadata), metadata.len());
        Ok(Self { path, file, id, size, modified })
    }
}

fn not_regular() -> io::Error {
    io::Error::other("it is not a regular file")
}

/// What is known of a file that is not at its path any more.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    pub(crate) id: FileId,
    pub(crate) head: Fingerprint,
    pub(crate) offset: u64,
    pub(crate) before_offset: Fingerprint,
    /// The last time at which it was at its path.
    pub(crate) verified_at: SystemTime,
}

impl From<&FileEntry> for Lost {
    fn from(entry: &FileEntry) -> Self {
        Self {
            id: entry.id(),
            head: entry.head,
            offset: entry.offset,
            before_offset: entry.before_offset,
            verified_at: from_ms(entry.verified_at_ms),
        }
    }
}

impl Lost {
    /// Returns whether a file begins as this one did, up to the offset.
    ///
    /// # Errors
    ///
    /// The file cannot be read, so that nothing can be said of it.
    pub(crate) fn has_content_of(&self, found: &Found) -> io::Result<bool> {
        Ok(found.size >= self.offset
            && self.head.extended_by(&found.file)?.is_some()
            && self.before_offset.is_before(&found.file, self.offset)?)
    }

    /// Returns whether a file is this one under another name, or a copy of it that was made since.
    ///
    /// A few equal bytes prove little: without the same inode, the head must be complete, or the name and time those of a
    /// rotated file.
    fn is(&self, found: &Found, real: &Path) -> bool {
        let is_rotated = is_rotated_name(real, &found.path);
        // The device's number may be another one after a reboot.
        let is_plausible = (found.id.inode == self.id.inode && (self.head.bytes > 0 || is_rotated))
            || self.head.bytes == FINGERPRINT_BYTES_MAX
            || (self.head.bytes > 0 && is_rotated && is_newer(found, self.verified_at));
        is_plausible && self.has_content_of(found).unwrap_or(false)
    }
}

/// Searches the directory of `path` for a file that was there: renamed, or copied before it was truncated.
pub(crate) fn find(path: &Path, lost: &Lost, is_excluded: impl Fn(&Found) -> bool) -> Option<Found> {
    let real = real(path);
    let is_it = |found: &Found| lost.is(found, &real) && !is_excluded(found);
    // By its inode first: after a long outage there are many rotated files.
    let names = names(real.parent()?, |_| true);
    let same_inode = names.iter().filter(|(sibling, inode)| **inode == lost.id.inode && **sibling != real);
    let mut renamed = same_inode.filter_map(|(sibling, _)| Found::open(sibling).ok());
    if let Some(renamed) = renamed.find(|found| found.id.inode == lost.id.inode && is_it(found)) {
        return Some(renamed);
    }
    // Of several copies, the longest.
    siblings(&real, |_| true, is_it).into_iter().max_by_key(|found| found.size)
}

/// Returns the path of the file itself: a link's rotated files are where it points, under names like that of its target.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Searches for rotated files that were at `path` since `verified_at`, oldest first: they come after the file that was seen
/// there then.
pub(crate) fn successors(path: &Path, verified_at: SystemTime, is_excluded: impl Fn(&Found) -> bool) -> Vec<Found> {
    let real = real(path);
    let is_searched = |sibling: &Path| is_rotated_name(&real, sibling);
    let mut found = siblings(&real, is_searched, |found| is_newer(found, verified_at) && !is_excluded(found));
    // Files that were rotated in the same tick of the clock: a higher number is older.
    found.sort_by_key(|found| (found.modified, Reverse(rotation_number(&found.path))));
    found
}

/// Returns the number at the end of a name.
fn rotation_number(path: &Path) -> Option<u64> {
    path.extension()?.to_str()?.parse().ok()
}

/// The maximum number of scans of a directory in which files are being renamed.
const SCANS_MAX: u32 = 50;

/// Returns other files in the directory of a path, by their names and then by what they are. A scan during a rotation may
/// miss a file, so it is repeated until the directory did not change.
fn siblings(real: &Path, is_searched: impl Fn(&Path) -> bool, is_it: impl Fn(&Found) -> bool) -> Vec<Found> {
    let Some(directory) = real.parent() else { return Vec::new() };
    let mut scans = 0;
    loop {
        let names = names(directory, &is_searched);
        let (mut found, mut is_stable) = (Vec::new(), true);
        for (sibling, inode) in names.iter().filter(|(sibling, _)| **sibling != real) {
            let Ok(sibling) = Found::open(sibling) else { continue };
            is_stable &= sibling.id.inode == *inode;
            // Only these stay open: a directory may have more files than a process may open.
            if is_it(&sibling) {
                found.push(sibling);
            }
        }
        scans += 1;
        if (is_stable && self::names(directory, &is_searched) == names) || scans >= SCANS_MAX {
            return found;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns the regular files in a directory, with their inodes. (Opening a FIFO would block.)
fn names(directory: &Path, is_searched: impl Fn(&Path) -> bool) -> BTreeMap<PathBuf, u64> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let regular = entries.filter(|entry| is_searched(&entry.path())).filter_map(|entry| {
        let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        Some((entry.path(), FileId::new(&metadata).inode))
    });
    regular.collect()
}

/// Returns whether nothing can be said of the files of a directory: it is missing, or cannot be read, or is empty, as it is
/// before its file system is mounted.
pub(crate) fn is_unavailable(directory: &Path) -> bool {
    fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

/// Returns whether a name is that of a compressed file.
pub(crate) fn is_compressed(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    ["gz", "bz2", "xz", "zst", "lz4", "zip", "Z"].contains(&extension)
}

/// Returns the inodes of the files in a directory; `None` if it [is unavailable](is_unavailable).
pub(crate) fn inodes(directory: &Path) -> Option<HashSet<u64>> {
    (!is_unavailable(directory)).then(|| names(directory, |_| true).into_values().collect())
}

fn is_newer(found: &Found, time: SystemTime) -> bool {
    found.modified >= time.checked_sub(CLOCK_SLACK).unwrap_or(time)
}

/// Returns whether a name is one that rotation gives to `path`: with numbers or a date behind it or before its extension,
/// such as `app.log.1`, `app.log-20261130` or `app-20261130.log`. Compressed files are not.
fn is_rotated_name(path: &Path, rotated: &Path) -> bool {
    let is_suffix = |suffix: &str| {
        suffix.starts_with(['.', '-', '_'])
            && suffix.contains(|c: char| c.is_ascii_digit())
            && suffix.chars().all(|c| c.is_ascii_digit() || ".-_:T".contains(c))
    };
    let text = |name: Option<&OsStr>| name.and_then(OsStr::to_str).unwrap_or_default().to_owned();
    let (name, rotated) = (text(path.file_name()), text(rotated.file_name()));
    if name.is_empty() {
        return false;
    }
    let (stem, extension) = (text(path.file_stem()), text(path.extension()));
    let inner = || rotated.strip_prefix(&stem)?.strip_suffix(&extension)?.strip_suffix('.');
    rotated.strip_prefix(&name).is_some_and(is_suffix) || (!extension.is_empty() && inner().is_some_and(is_suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_rotated_files() {
        let is_rotated = |name: &str| is_rotated_name(Path::new("/l/app.log"), &Path::new("/l").join(name));
        for name in
            ["app.log.1", "app.log.10", "app.log-20261130", "app.log-2026-11-30_01", "app-20261130.log", "app.1.log"]
        {
            assert!(is_rotated(name), "{name}");
        }
        for name in [
            "app.log",
            "app.log.1.gz",
            "app.log.bak",
            "app.log.offset",
            "app-error.log",
            "app1.log",
            "b.log.1",
            "app..log",
        ] {
            assert!(!is_rotated(name), "{name}");
        }
    }

    #[test]
    fn a_copy_is_found_by_its_content_and_a_rename_by_its_inode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.log");
        let lines = "a line of a log\n".repeat(100);
        fs::write(&path, &lines).unwrap();
        fs::write(dir.path().join("other.log"), "other\n".repeat(300)).unwrap();
        let found = Found::open(&path).unwrap();
        let lost = Lost {
            id: found.id,
            head: Fingerprint::of_head(&found.file).unwrap(),
            offset: 160,
            before_offset: Fingerprint::before(&found.file, 160).unwrap(),
            verified_at: SystemTime::now(),
        };
        assert!(find(&path, &lost, |_| false).is_none());
        let copy = dir.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        fs::write(&path, "new\n").unwrap();
        assert_eq!(find(&path, &lost, |_| false).unwrap().path, copy);
        assert!(find(&path, &lost, |found| found.path == copy).is_none());
        // A copy that has less than was read is none.
        fs::write(&copy, &lines[..159]).unwrap();
        assert!(find(&path, &lost, |_| false).is_none());
        // Short files need the inode, or name and time.
        fs::write(&path, "short\n").unwrap();
        let found = Found::open(&path).unwrap();
        let before_offset = Fingerprint::before(&found.file, 6).unwrap();
        let lost = Lost { head: before_offset, offset: 6, before_offset, ..lost };
        fs::write(&copy, "short\nmore\n").unwrap();
        assert!(find(&path, &lost, |_| false).is_none());
        fs::rename(&copy, dir.path().join("app.log.1")).unwrap();
        assert!(find(&path, &lost, |_| false).is_some());
        fs::remove_file(dir.path().join("app.log.1")).unwrap();
        fs::rename(&path, dir.path().join("anything")).unwrap();
        assert_eq!(find(&path, &lost, |_| false).unwrap().path, dir.path().join("anything"));
    }

    #[cfg(unix)]
    #[test]
    fn rotated_files_of_a_link_have_the_name_of_its_target() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "0.log.20261130-101500", "pod.log.1"] {
            fs::write(dir.path().join(name), "1\n").unwrap();
        }
        let link = dir.path().join("pod.log");
        std::os::unix::fs::symlink(dir.path().join("0.log"), &link).unwrap();
        let found = successors(&link, SystemTime::UNIX_EPOCH, |_| false);
        let names: Vec<_> = found.iter().map(|found| found.path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["0.log.20261130-101500"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_fifo_does_not_block() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert!(Found::open(&fifo).unwrap_err().to_string().contains("not a regular file"));
    }

    #[test]
    fn successors_are_in_the_order_of_their_times() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.log");
        let now = SystemTime::now();
        for (name, seconds) in
            [("app.log.1", 30), ("app.log.2", 20), ("app.log.3", 10), ("app.log.4", 0), ("app.log.old", 30)]
        {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_modified(now + Duration::from_secs(seconds)).unwrap();
        }
        let found = successors(&path, now + Duration::from_secs(5), |found| found.path.ends_with("app.log.2"));
        let names: Vec<_> = found.iter().map(|found| found.path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["app.log.3", "app.log.1"]);
    }
}

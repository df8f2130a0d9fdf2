//! The checkpoint's file: its format, and how it is read and replaced.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::identity::{FileId, Fingerprint};
use super::to_ms;
use crate::put::lines::Position;

/// The version of the format.
const VERSION: u64 = 1;

/// The content of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contents {
    version: u64,
    /// The stream, as on the command line.
    stream: String,
    /// The time of the last search for files, in milliseconds since 1970. Each file that could be opened then is in `files`.
    /// Files that are younger may not be. (The time at which the checkpoint was written may be later.)
    pub(crate) searched_at_ms: Option<u64>,
    /// What may have been put twice by all runs so far.
    pub(crate) put_again: PutAgain,
    /// The files, each after those that are to be read before it.
    pub(crate) files: Vec<FileEntry>,
}

/// Lines that may have been put before a crash and are put again after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutAgain {
    pub(crate) lines: u64,
    pub(crate) bytes: u64,
}

impl PutAgain {
    pub(crate) fn add(&mut self, Self { lines, bytes }: Self) {
        (self.lines, self.bytes) = (self.lines + lines, self.bytes + bytes);
    }
}

/// One file: what it is, and what of it is resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileEntry {
    /// The path by which the file was found, absolute. Rotation may have renamed it.
    pub(crate) path: PathBuf,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) head: Fingerprint,
    /// All lines before this offset are resolved.
    pub(crate) offset: u64,
    /// The number of lines before the offset.
    pub(crate) line: u64,
    pub(crate) before_offset: Fingerprint,
    /// Resolved ranges beyond the offset: the offset and line of the start, then those of the end.
    pub(crate) resolved: Vec<[u64; 4]>,
    /// No line that ends beyond this offset was put.
    pub(crate) limit: u64,
    /// The last time, in milliseconds since 1970, at which the file was as described here.
    pub(crate) verified_at_ms: u64,
    /// Whether the file was rotated and read to its end.
    pub(crate) ended: bool,
}

impl FileEntry {
    pub(crate) fn id(&self) -> FileId {
        FileId { device: self.device, inode: self.inode }
    }

    pub(crate) fn position(&self) -> Position {
        Position { offset: self.offset, line: self.line }
    }

    /// Returns the resolved ranges beyond the offset.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (Position, Position)> {
        let position = |offset, line| Position { offset, line };
        self.resolved
            .iter()
            .map(move |[start, line, end, end_line]| (position(*start, *line), position(*end, *end_line)))
    }
}

/// The file of a checkpoint, which this process has locked.
#[derive(Debug)]
pub(crate) struct CheckpointFile {
    path: PathBuf,
    stream: String,
    // Dropping it unlocks it.
    _lock: File,
}

impl CheckpointFile {
    /// Locks and reads a checkpoint. One that does not exist yet has no contents.
    pub(crate) fn open(path: &Path, stream: &str) -> anyhow::Result<(Self, Option<Contents>)> {
        let lock_path = with_suffix(path, ".lock");
        let lock = OpenOptions::new().create(true).append(true).open(&lock_path);
        let lock = lock.with_context(|| format!("cannot write {lock_path:?} beside --checkpoint"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => anyhow::bail!("--checkpoint {path:?} is in use by another kpl put"),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {lock_path:?} beside --checkpoint"));
            }
        }
        let contents = match fs::read(path) {
            Ok(json) => Some(parse(&json, stream).with_context(|| format!("--checkpoint {path:?}"))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read --checkpoint {path:?}")),
        };
        Ok((Self { path: path.to_owned(), stream: stream.into(), _lock: lock }, contents))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the checkpoint. After a crash at any time, there is either the old one or the new one.
    pub(crate) fn write(
        &self,
        put_again: PutAgain,
        searched_at: Option<SystemTime>,
        files: Vec<FileEntry>,
    ) -> io::Result<()> {
        let (stream, searched_at_ms) = (self.stream.clone(), searched_at.map(to_ms));
        let contents = Contents { version: VERSION, stream, searched_at_ms, put_again, files };
        let temporary = with_suffix(&self.path, ".new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&contents)?)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        // The rename is durable only when the directory is.
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn parse(json: &[u8], stream: &str) -> anyhow::Result<Contents> {
    /// What all versions have.
    #[derive(Deserialize)]
    struct Version {
        version: u64,
    }
    let again = "delete it to put all files from their beginning";
    let Version { version } = serde_json::from_slice(json).with_context(|| format!("it is no checkpoint: {again}"))?;
    anyhow::ensure!(
        version <= VERSION,
        "a newer kpl wrote it (version {version}, but this kpl reads version {VERSION}): use that kpl, or {again}"
    );
    let contents: Contents = serde_json::from_slice(json).with_context(|| format!("it is damaged: {again}"))?;
    anyhow::ensure!(
        contents.stream == stream,
        "it belongs to the stream {:?}, not to {stream:?}: each stream needs a checkpoint of its own",
        contents.stream
    );
    for entry in &contents.files {
        let mut before = entry.offset;
        for (start, end) in entry.ranges() {
            anyhow::ensure!(
                before < start.offset && start.offset < end.offset,
                "it is damaged: the ranges of {:?} are not in order: {again}",
                entry.path
            );
            before = end.offset;
        }
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn entry() -> FileEntry {
        FileEntry {
            path: "/var/log/app.log".into(),
            device: 1,
            inode: 2,
            head: Fingerprint::default(),
            offset: 30,
            line: 3,
            before_offset: Fingerprint::default(),
            resolved: vec![[40, 4, 60, 6]],
            limit: 100,
            verified_at_ms: 5,
            ended: false,
        }
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let (file, contents) = CheckpointFile::open(&path, "s").unwrap();
        assert!(contents.is_none());
        let put_again = PutAgain { lines: 1, bytes: 2 };
        file.write(put_again, None, vec![]).unwrap();
        file.write(put_again, Some(UNIX_EPOCH), vec![entry()]).unwrap();
        drop(file);
        let (_file, contents) = CheckpointFile::open(&path, "s").unwrap();
        let contents = contents.unwrap();
        assert_eq!((contents.put_again, contents.searched_at_ms, contents.files), (put_again, Some(0), vec![entry()]));
        assert_eq!(entry().ranges().count(), 1);
    }

    #[test]
    fn a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        let _first = CheckpointFile::open(&path, "s").unwrap();
        let error = CheckpointFile::open(&path, "s").unwrap_err();
        assert!(error.to_string().contains("is in use by another kpl put"), "{error}");
    }

    #[test]
    fn broken_foreign_and_newer_checkpoints_are_errors_that_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        CheckpointFile::open(&path, "s").unwrap().0.write(PutAgain::default(), None, vec![entry()]).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        for (text, message) in [
            (String::new(), "it is no checkpoint: delete it"),
            ("no JSON".into(), "it is no checkpoint: delete it"),
            (good[..good.len() / 2].into(), "it is no checkpoint: delete it"),
            (good.replace("\"version\":1", "\"version\":2"), "a newer kpl wrote it (version 2"),
            (good.replace("\"offset\":30", "\"offset\":-1"), "it is damaged"),
            (good.replace("\"offset\":30", "\"offset\":41"), "are not in order"),
            (good.replace("\"limit\"", "\"other\""), "it is damaged"),
            (good.replace("\"ended\"", "\"new\":1,\"ended\""), "it is damaged"),
            (good.replace("\"stream\":\"s\"", "\"stream\":\"t\""), "it belongs to the stream \"t\", not to \"s\""),
        ] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", CheckpointFile::open(&path, "s").unwrap_err());
            assert!(error.contains(message) && error.contains("--checkpoint"), "{error}");
        }
    }
}

//! Log files that a test writes and rotates.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The number of rotated files that are kept. More are kept while their lines are needed.
const KEPT: usize = 5;

/// A log whose lines are numbered. Its name is its first key.
pub(crate) struct Log {
    path: PathBuf,
    pub(crate) name: String,
    file: File,
    /// The number of lines that were written.
    pub(crate) lines: u64,
    /// The rest of a line that was written in part.
    rest: Option<Vec<u8>>,
}

impl Log {
    /// Creates a log, or appends to it.
    pub(crate) fn open(directory: &Path, name: &str) -> Self {
        let path = directory.join(format!("{name}.log"));
        let file = Self::file(&path);
        Self { path, name: name.into(), file, lines: 0, rest: None }
    }

    fn file(path: &Path) -> File {
        OpenOptions::new().append(true).create(true).open(path).unwrap()
    }

    /// Returns line `number`: a key, of which there are ten, the number, and bytes to make lines of different lengths.
    pub(crate) fn line(name: &str, number: u64) -> String {
        let length = (number * 7_919 % 120) as usize;
        format!("{name}-{} {number} {}", number * 31 % 10, "x".repeat(length))
    }

    /// Returns the key and the number of a line.
    pub(crate) fn parse(line: &[u8]) -> (String, u64) {
        let text = std::str::from_utf8(line).unwrap();
        let (key, rest) = text.split_once(' ').unwrap_or_else(|| panic!("no line of a log: {text:?}"));
        let number = rest.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("no line of a log: {text:?}"));
        let name = key.rsplit_once('-').unwrap().0;
        assert_eq!(text, Self::line(name, number));
        (name.into(), number)
    }

    /// Writes whole lines.
    pub(crate) fn write(&mut self, count: u64) {
        self.complete();
        let mut text = String::new();
        for _ in 0..count {
            text += &Self::line(&self.name, self.lines);
            text.push('\n');
            self.lines += 1;
        }
        self.file.write_all(text.as_bytes()).unwrap();
    }

    /// Writes a part of a line. The next write completes it.
    pub(crate) fn write_part(&mut self) {
        self.complete();
        let line = Self::line(&self.name, self.lines) + "\n";
        let (part, rest) = line.as_bytes().split_at(line.len() / 2);
        self.file.write_all(part).unwrap();
        self.lines += 1;
        self.rest = Some(rest.to_vec());
    }

    pub(crate) fn complete(&mut self) {
        if let Some(rest) = self.rest.take() {
            self.file.write_all(&rest).unwrap();
        }
    }

    fn rotated(&self, number: usize) -> PathBuf {
        self.path.with_extension(format!("log.{number}"))
    }

    /// Renames the rotated files. Deletes old ones, if `is_done` says that they are not needed.
    fn shift(&mut self, is_done: impl Fn(Metadata) -> bool) {
        let mut last = (1..).find(|number| !self.rotated(*number).exists()).unwrap_or(1);
        while last > KEPT && is_done(fs::metadata(self.rotated(last - 1)).unwrap()) {
            last -= 1;
            fs::remove_file(self.rotated(last)).unwrap();
        }
        for number in (1..last).rev() {
            fs::rename(self.rotated(number), self.rotated(number + 1)).unwrap();
        }
    }

    /// Rotates with the real logrotate, if `KPL_LOGROTATE` is set.
    fn has_logrotate(&self, how: &str) -> bool {
        if std::env::var_os("KPL_LOGROTATE").is_none() {
            return false;
        }
        let config = self.path.with_extension("logrotate");
        let state = self.path.with_extension("state");
        fs::write(&config, format!("{} {{\n  rotate 1000\n  {how}\n  ifempty\n}}\n", self.path.display())).unwrap();
        let run = Command::new("logrotate").arg("--force").arg("--state").arg(&state).arg(&config).output().unwrap();
        assert!(run.status.success(), "{run:?}");
        true
    }

    /// Renames the log and creates a new one, as logrotate with `create` does. The writer goes on with the old file until
    /// [`reopen`](Self::reopen).
    pub(crate) fn rename(&mut self, is_done: impl Fn(Metadata) -> bool) {
        if self.has_logrotate("create") {
            return;
        }
        self.shift(is_done);
        fs::rename(&self.path, self.rotated(1)).unwrap();
        drop(Self::file(&self.path));
    }

    /// Goes on with the file at the path.
    pub(crate) fn reopen(&mut self) {
        self.complete();
        self.file = Self::file(&self.path);
    }

    /// Copies and truncates the log, as logrotate with `copytruncate` does. Nothing is written in between.
    pub(crate) fn copy_and_truncate(&mut self, is_done: impl Fn(Metadata) -> bool) {
        self.complete();
        if self.has_logrotate("copytruncate") {
            return;
        }
        self.shift(is_done);
        fs::copy(&self.path, self.rotated(1)).unwrap();
        self.file.set_len(0).unwrap();
    }
}

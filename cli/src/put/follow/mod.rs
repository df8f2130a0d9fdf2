//! Reads files that grow, rotate and vanish, and goes on where a checkpoint says.
//!
//! One thread reads all files in turns, so that neither threads nor memory grow with their number. Each content of a file is
//! a source. It is known by inode and fingerprints, not by its name:
//!
//! - **Rotation by rename**: the path names another file. The old one is read through its open handle, and the new one
//!   after it.
//! - **Rotation by copy and truncation**: the file is shorter than what was read of it, or begins differently. The rest is
//!   in a copy, which is searched for in the directory ([`search`]); the file itself is a new source.
//! - **While no `kpl` runs**, or while reading waits for the service, files may rotate several times: [`resume`] and
//!   [`Follower::discover`] search for all that were at the path in between.

mod discover;
pub(crate) mod lag;
mod messages;
pub(crate) mod multiline;
mod resume;
mod search;
mod tail;
mod target;
mod watch;

use std::collections::BTreeMap;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use tokio::sync::mpsc;

use self::messages::Messages;
use self::multiline::Multiline;
pub(crate) use self::resume::{Resumed, ResumedFile};
use self::search::Found;
use self::tail::{AtEnd, Tail};
use self::target::Target;
use self::watch::{Change, Watch};
use super::checkpoint::file::Contents;
use super::checkpoint::identity::{FileId, Fingerprint};
use super::checkpoint::{Offsets, from_ms};
use super::console::Console;
use super::lines::{BATCHES_AHEAD, Input, READ_SIZE, ReadError};
use super::sources::Sources;

/// The time between two searches for files without any event: for lost events, and for network file systems.
const RESCAN_INTERVAL: Duration = Duration::from_secs(10);

/// The time without growth after which a rotated file has ended. Its writers move to the new one only after a signal.
const ROTATED_QUIET: Duration = Duration::from_secs(30);

/// The time without growth after which a record of several lines is complete.
const RECORD_QUIET: Duration = Duration::from_secs(1);

/// How files are read.
#[derive(Clone, Debug)]
pub(crate) struct FollowOptions {
    /// Whether to wait for more at the end of the files.
    pub(crate) follow: bool,
    pub(crate) multiline: Option<Multiline>,
}

/// The reader of all files.
pub(crate) struct Follower {
    options: FollowOptions,
    targets: Vec<Target>,
    /// The files that are read, each after the one that is to be read before it.
    tails: Vec<Tail>,
    /// Rotated files that were read to their ends and still exist.
    ended: Vec<Ended>,
    /// The last file at each path.
    last_at: BTreeMap<PathBuf, LastAt>,
    offsets: Arc<Offsets>,
    sources: Sources,
    messages: Messages,
    watch: Option<Watch>,
    discovered_at: Instant,
    /// The time of the last search for files, by this run or by the one before.
    searched_at: Option<SystemTime>,
    needs_discovery: bool,
}

/// A rotated file that was read to its end.
#[derive(Debug)]
struct Ended {
    source: u32,
    path: PathBuf,
    id: FileId,
    head: Fingerprint,
}

impl Ended {
    /// Returns whether a file is this one: a deleted file's inode is reused.
    fn is(&self, found: &Found) -> bool {
        let is_same = |head: Option<Fingerprint>| head.is_some_and(|head| self.head.bytes > 0 || head.bytes == 0);
        found.id == self.id && self.head.extended_by(&found.file).is_ok_and(is_same)
    }
}

/// The last file at a path.
#[derive(Debug)]
struct LastAt {
    source: u32,
    verified_at: SystemTime,
}

/// The receiver of the lines was closed.
struct Closed;

impl Follower {
    /// Returns a reader of files. Goes on where a checkpoint says. `written` are the files that this run writes.
    pub(crate) fn new(
        arguments: &[PathBuf],
        written: &[&Path],
        options: FollowOptions,
        checkpoint: Option<Contents>,
        offsets: Arc<Offsets>,
        sources: Sources,
        console: Console,
    ) -> anyhow::Result<(Self, Resumed)> {
        let targets = arguments.iter().map(|argument| Target::new(argument, options.follow));
        let targets = targets.collect::<anyhow::Result<Vec<_>>>()?;
        for path in written {
            let path = std::path::absolute(path).with_context(|| format!("cannot find {path:?}"))?;
            let is_read = targets.iter().any(|target| target.matches(&path));
            anyhow::ensure!(!is_read, "{path:?} is also an input file: what is written to it would be put");
        }
        let watch = if options.follow { Some(Watch::new()?) } else { None };
        let mut follower = Self {
            options,
            targets,
            tails: Vec::new(),
            ended: Vec::new(),
            last_at: BTreeMap::new(),
            offsets,
            sources,
            messages: Messages::new(console),
            watch,
            discovered_at: Instant::now(),
            searched_at: None,
            needs_discovery: false,
        };
        let mut resumed = Resumed::default();
        if let Some(contents) = checkpoint {
            follower.searched_at = contents.searched_at_ms.map(from_ms);
            resumed = follower.resume(contents.files)?;
        }
        follower.discover()?;
        Ok((follower, resumed))
    }

    /// Reads in a separate thread, which reads a bounded number of lines ahead. It ends when the receiver is closed.
    pub(crate) fn start(mut self) -> std::io::Result<mpsc::Receiver<Input>> {
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        thread::Builder::new().name("kpl-lines".into()).spawn(move || {
            // An error means that the receiver was closed.
            if self.run(&sender).is_ok() {
                let _ = sender.blocking_send(Input::End);
            }
        })?;
        Ok(receiver)
    }

    fn run(&mut self, sender: &mpsc::Sender<Input>) -> Result<(), Closed> {
        loop {
            self.read_all(sender)?;
            if !self.options.follow {
                while let Some(index) = self.tails.iter().position(|tail| !tail.is_at_path) {
                    self.end(index);
                }
                return Ok(());
            }
            let Some(watch) = &self.watch else { return Ok(()) };
            let change = watch.wait(self.next_timeout());
            if sender.is_closed() {
                return Err(Closed);
            }
            if change == Change::Names || self.discovered_at.elapsed() >= RESCAN_INTERVAL {
                self.rediscover();
            }
        }
    }

    /// Reads all files in turns until none has more.
    fn read_all(&mut self, sender: &mpsc::Sender<Input>) -> Result<(), Closed> {
        loop {
            let mut has_read = false;
            let mut index = 0;
            while index < self.tails.len() {
                if self.is_next(index, sender)? {
                    has_read |= self.turn(index, AtEnd::Wait, sender)?;
                }
                index += 1;
            }
            if self.options.follow {
                self.end_quiet(sender)?;
            }
            if mem::take(&mut self.needs_discovery) {
                self.rediscover();
                has_read = true;
            }
            if !has_read {
                return Ok(());
            }
        }
    }

    /// Returns whether a file may be read now: the one before it was read to its end.
    fn is_next(&mut self, index: usize, sender: &mpsc::Sender<Input>) -> Result<bool, Closed> {
        let Some(after) = self.tails[index].after else { return Ok(true) };
        if let Some(before) = self.tails.iter().position(|tail| tail.source == after) {
            // The writer moves on to the new file at some time after the rotation. Once it has, the old one has all its
            // lines. The order of these two steps matters.
            let tail = &self.tails[index];
            let is_unused = tail.is_at_path && !tail.file.metadata().is_ok_and(|metadata| metadata.len() > 0);
            if self.options.follow && is_unused {
                return Ok(false);
            }
            if self.tails[before].after.is_some() {
                return Ok(false);
            }
            if self.options.follow {
                while self.turn(before, AtEnd::Wait, sender)? {
                    // The file before it may have been truncated, or have others before it.
                    if self.tails.get(before).is_none_or(|tail| tail.source != after || tail.after.is_some()) {
                        return Ok(false);
                    }
                }
            } else if !self.tails[before].is_at_end {
                return Ok(false);
            }
        }
        self.tails[index].after = None;
        Ok(true)
    }

    /// Reads and passes on some lines of a file. Returns whether there may be more to do.
    fn turn(&mut self, index: usize, at_end: AtEnd, sender: &mpsc::Sender<Input>) -> Result<bool, Closed> {
        let at = SystemTime::now();
        let follow = self.options.follow;
        let tail = &mut self.tails[index];
        if !follow && tail.is_at_end {
            return Ok(false);
        }
        let at_end = if follow { at_end } else { AtEnd::EndLine };
        let (source, after_line) = (tail.source, tail.position.line);
        let changed = tail.has_changed();
        if at_end == AtEnd::Wait && matches!(changed, Ok(false)) {
            return Ok(false);
        }
        let is_filled = tail.seen.is_some_and(|(size, _)| size > 0);
        if tail.is_at_path && tail.head.bytes == 0 && is_filled && self.has_missed_files(index) {
            return Ok(true);
        }
        let tail = &mut self.tails[index];
        let head = tail.head;
        let turn = changed.and_then(|_| tail.read(self.options.multiline.as_ref(), at_end));
        let accepted = turn.and_then(|turn| Ok((tail.accept(&turn, at)?, turn)));
        match accepted {
            Ok((true, turn)) => {
                let verified_at = tail.verified_at;
                if tail.head != head {
                    let head = tail.head;
                    self.offsets.update(source, |tracked| tracked.head = head);
                }
                self.offsets.set_verified_at(source, verified_at);
                let has_read = !turn.batches.is_empty();
                for batch in turn.batches {
                    self.offsets.pass(source, batch.end());
                    sender.blocking_send(Input::Batch(batch)).map_err(|_| Closed)?;
                }
                Ok(has_read)
            }
            Ok((false, _)) => {
                self.go_on_in_copy(index);
                Ok(true)
            }
            Err(error) => {
                // In a later turn, the file may be readable.
                self.tails[index].is_at_end = true;
                if follow {
                    self.messages.print_once(&format!("cannot read {}: {error}", self.sources.name(source)));
                } else {
                    let error = Input::Error(ReadError { source, after_line, error });
                    sender.blocking_send(error).map_err(|_| Closed)?;
                }
                Ok(false)
            }
        }
    }

    /// Goes on in the copy of a file that was truncated. The file itself is found again as a new one.
    fn go_on_in_copy(&mut self, index: usize) {
        let (lost, path, source) = (self.tails[index].lost(), self.tails[index].path.clone(), self.tails[index].source);
        let copy = search::find(&path, &lost, |found| found.id == lost.id || self.is_known(found));
        let name = self.sources.name(source);
        self.needs_discovery = true;
        if let Some(copy) = copy {
            self.messages.print(&format!("{name} was truncated: its rest is read from {:?}", copy.path));
            self.tails[index].go_on_in(copy.file.clone(), copy.id);
            self.offsets.update(source, |tracked| (tracked.file, tracked.id) = (Some(copy.file), copy.id));
        } else {
            self.messages.print(&format!(
                "{name} was truncated after offset {} was read, and no copy of it is in its directory: lines that were \
                 written after this offset and before the truncation are lost",
                lost.offset
            ));
            self.offsets.update(source, |tracked| (tracked.ended, tracked.gone) = (true, true));
            self.remove(index);
        }
    }

    /// Ends rotated files that do not grow any more, and records that got no further line.
    fn end_quiet(&mut self, sender: &mpsc::Sender<Input>) -> Result<(), Closed> {
        let mut index = 0;
        while index < self.tails.len() {
            let tail = &self.tails[index];
            let quiet = tail.grown_at.elapsed();
            let source = tail.source;
            if tail.after.is_none() && tail.is_at_end {
                if !tail.is_at_path && quiet >= ROTATED_QUIET {
                    self.turn(index, AtEnd::EndLine, sender)?;
                    if self.tails.get(index).is_some_and(|tail| tail.source == source && !tail.is_at_path) {
                        self.end(index);
                        continue;
                    }
                } else if tail.has_open_record && quiet >= RECORD_QUIET {
                    self.turn(index, AtEnd::EndRecord, sender)?;
                }
            }
            index += 1;
        }
        Ok(())
    }

    fn end(&mut self, index: usize) {
        let Tail { source, path, id, head, .. } = &self.tails[index];
        self.offsets.update(*source, |tracked| tracked.ended = true);
        self.ended.push(Ended { source: *source, path: path.clone(), id: *id, head: *head });
        self.remove(index);
    }

    fn remove(&mut self, index: usize) {
        let Tail { source, path, verified_at, after, .. } = self.tails.remove(index);
        if let Some(last) = self.last_at.get_mut(&path).filter(|last| last.source == source) {
            last.verified_at = verified_at;
        }
        for tail in self.tails.iter_mut().filter(|tail| tail.after == Some(source)) {
            tail.after = after;
        }
    }

    /// Returns the time until something is due without an event.
    fn next_timeout(&self) -> Duration {
        let due = self.tails.iter().filter_map(|tail| {
            let quiet = match tail {
                Tail { is_at_path: false, .. } => ROTATED_QUIET,
                Tail { has_open_record: true, .. } => RECORD_QUIET,
                _ => return None,
            };
            Some(quiet.saturating_sub(tail.grown_at.elapsed()))
        });
        let rescan = RESCAN_INTERVAL.saturating_sub(self.discovered_at.elapsed());
        due.chain([rescan]).min().unwrap_or(RESCAN_INTERVAL).max(Duration::from_millis(10))
    }
}

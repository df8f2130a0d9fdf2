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
#[cfg(all(test, unix))]
mod tests;
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
pub(crate) use self::resume::ResumedFile;
use self::search::{Found, Lost};
use self::tail::{After, AtEnd, Tail};
use self::target::Target;
use self::watch::{Change, Watch};
use super::checkpoint::file::{Contents, FileEntry};
use super::checkpoint::{Offsets, from_ms};
use super::console::Console;
use super::lines::{BATCHES_AHEAD, Input, READ_SIZE, ReadError};
use super::sources::Sources;

/// The time between two searches for files without any event: for lost events, and for network file systems.
const RESCAN_INTERVAL: Duration = Duration::from_secs(10);

/// How many times as long as a search for files the time until the next one is at least. So searches in a directory with many
/// files take a tenth of a core at most.
const SEARCH_PAUSE: u32 = 9;

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
    /// Files of the checkpoint that cannot be looked for yet.
    unavailable: Vec<Unavailable>,
    /// The last file at each path.
    last_at: BTreeMap<PathBuf, LastAt>,
    offsets: Arc<Offsets>,
    sources: Sources,
    messages: Messages,
    watch: Option<Watch>,
    /// The time of the last search for files, by this run or by the one before. Files that could be opened then are known.
    searched_at: Option<SystemTime>,
    /// When the last search for files ended, and the earliest time of one because names have changed.
    discovered_at: Instant,
    next_discovery_at: Instant,
    /// Whether names have changed since the last search.
    have_names_changed: bool,
    /// Whether a search must not wait.
    needs_discovery: bool,
    /// Whether the turns since the last look have read something, or have found that there is something to do.
    has_progress: bool,
}

/// A rotated file that was read to its end.
#[derive(Debug)]
struct Ended {
    source: u32,
    /// What was read of it: all.
    entry: FileEntry,
}

impl Ended {
    /// Returns whether a file is this one: a deleted file's inode is reused.
    fn is(&self, found: &Found) -> bool {
        found.id.inode == self.entry.inode
            && Lost::from(&self.entry).has_content_of(found).unwrap_or(false)
            // An empty one has no content by which it is known.
            && (self.entry.offset > 0 || found.size == 0)
    }
}

/// A file of the checkpoint that cannot be looked for: it cannot be read, or its directory is missing, empty or unreadable, as
/// before its file system is mounted.
#[derive(Debug)]
struct Unavailable {
    source: u32,
    entry: FileEntry,
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
    /// Returns a reader of files, and where they go on according to a checkpoint. `written` are the files that this run
    /// writes.
    pub(crate) fn new(
        arguments: &[PathBuf],
        written: &[&Path],
        options: FollowOptions,
        checkpoint: Option<Contents>,
        offsets: Arc<Offsets>,
        sources: Sources,
        console: Console,
    ) -> anyhow::Result<(Self, Vec<ResumedFile>)> {
        let targets = arguments.iter().map(|argument| Target::new(argument, options.follow));
        let targets = targets.collect::<anyhow::Result<Vec<_>>>()?;
        for path in written {
            let is_read = is_read(&targets, path)?;
            anyhow::ensure!(!is_read, "{path:?} is also an input file: what is written to it would be put");
        }
        raise_file_limit();
        let watch = if options.follow { Some(Watch::new()?) } else { None };
        let mut follower = Self {
            options,
            targets,
            tails: Vec::new(),
            ended: Vec::new(),
            unavailable: Vec::new(),
            last_at: BTreeMap::new(),
            offsets,
            sources,
            messages: Messages::new(console),
            watch,
            searched_at: None,
            discovered_at: Instant::now(),
            next_discovery_at: Instant::now(),
            have_names_changed: false,
            needs_discovery: false,
            has_progress: false,
        };
        let mut resumed = Vec::new();
        if let Some(contents) = checkpoint {
            follower.searched_at = contents.searched_at_ms.map(from_ms);
            resumed = follower.resume(contents.files);
        }
        follower.discover(true)?;
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
                // A file that could not be read has not ended.
                let has_ended = |tail: &Tail| !tail.is_at_path && tail.is_at_end && !tail.has_failed;
                while let Some(index) = self.tails.iter().position(has_ended) {
                    self.end(index);
                }
                return Ok(());
            }
            let Some(watch) = &self.watch else { return Ok(()) };
            let change = watch.wait(self.next_timeout());
            self.have_names_changed |= change == Some(Change::Names);
            if sender.is_closed() {
                return Err(Closed);
            }
            if self.is_discovery_due() {
                self.rediscover();
            }
        }
    }

    fn is_discovery_due(&mut self) -> bool {
        self.have_names_changed |= self.watch.as_ref().is_some_and(Watch::take_names);
        self.needs_discovery || (self.options.follow && Instant::now() >= self.discovery_due_at())
    }

    /// Returns when the next search for files is due.
    fn discovery_due_at(&self) -> Instant {
        let rescan_at = self.discovered_at + RESCAN_INTERVAL;
        if self.have_names_changed { rescan_at.min(self.next_discovery_at) } else { rescan_at }
    }

    /// Reads all files in turns until none has more.
    fn read_all(&mut self, sender: &mpsc::Sender<Input>) -> Result<(), Closed> {
        loop {
            let mut index = 0;
            while index < self.tails.len() {
                if self.is_next(index, sender)? {
                    self.turn(index, AtEnd::Wait, sender)?;
                }
                index += 1;
            }
            if self.options.follow {
                self.end_quiet(sender)?;
            }
            // Also while files have more: others may be rotated, and deleted, before all is read.
            if self.is_discovery_due() {
                self.rediscover();
                self.has_progress = true;
            }
            if !mem::take(&mut self.has_progress) {
                return Ok(());
            }
        }
    }

    /// Returns whether a file may be read now: the one before it was read to its end.
    fn is_next(&mut self, index: usize, sender: &mpsc::Sender<Input>) -> Result<bool, Closed> {
        let Some(After { source, until }) = self.tails[index].after else { return Ok(true) };
        let Some(before) = self.tails.iter().position(|tail| tail.source == source) else {
            self.tails[index].after = None;
            return Ok(true);
        };
        if self.tails[before].after.is_some() {
            return Ok(false);
        }
        if !self.options.follow {
            if self.tails[before].is_at_end {
                self.tails[index].after = None;
            }
            return Ok(self.tails[before].is_at_end);
        }
        let size = |tail: &Tail| tail.file.metadata().map_or(0, |metadata| metadata.len());
        let until = if let Some(until) = until {
            until
        } else {
            // The writers move on to the new file at some time after the rotation. Once they have, the old one has all its
            // lines. The order of these two steps matters.
            if self.tails[index].is_at_path && size(&self.tails[index]) == 0 {
                return Ok(false);
            }
            let until = size(&self.tails[before]);
            self.tails[index].after = Some(After { source, until: Some(until) });
            until
        };
        self.turn(before, AtEnd::Wait, sender)?;
        // The turn may have found that it was truncated, or that others come before it. Then it is not where it was.
        let Some(tail) = self.tails.get(before).filter(|tail| tail.source == source && tail.after.is_none()) else {
            return Ok(false);
        };
        if tail.position.offset < until && !tail.is_at_end && !tail.has_failed {
            return Ok(false);
        }
        if tail.has_open_record && !tail.has_failed {
            self.turn(before, AtEnd::EndRecord, sender)?;
            let is_open = |tail: &Tail| tail.has_open_record && !tail.has_failed;
            if self.tails.get(before).is_none_or(|tail| tail.source != source || is_open(tail)) {
                return Ok(false);
            }
        }
        self.tails[index].after = None;
        Ok(true)
    }

    /// Reads and passes on some lines of a file.
    fn turn(&mut self, index: usize, at_end: AtEnd, sender: &mpsc::Sender<Input>) -> Result<(), Closed> {
        let at = SystemTime::now();
        let follow = self.options.follow;
        let tail = &mut self.tails[index];
        if !follow && tail.is_at_end {
            return Ok(());
        }
        let at_end = if follow { at_end } else { AtEnd::EndLine };
        let (source, after_line) = (tail.source, tail.position.line);
        let changed = tail.has_changed();
        if at_end == AtEnd::Wait && matches!(changed, Ok(false)) {
            return Ok(());
        }
        let is_filled = tail.seen.is_some_and(|(size, _)| size > 0);
        if tail.is_at_path && tail.head.bytes == 0 && is_filled && self.has_missed_files(index) {
            self.has_progress = true;
            return Ok(());
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
                self.has_progress |= !turn.batches.is_empty();
                for batch in turn.batches {
                    self.offsets.pass(source, batch.end());
                    sender.blocking_send(Input::Batch(batch)).map_err(|_| Closed)?;
                }
            }
            Ok((false, _)) => {
                self.has_progress = true;
                self.go_on_in_copy(index);
            }
            Err(error) => {
                let tail = &mut self.tails[index];
                (tail.has_failed, tail.seen) = (true, None);
                if follow {
                    self.messages.print_once(&format!("cannot read {}: {error}", self.sources.name(source)));
                } else {
                    tail.is_at_end = true;
                    let error = Input::Error(ReadError { source, after_line, error });
                    sender.blocking_send(error).map_err(|_| Closed)?;
                }
            }
        }
        Ok(())
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
            let source = self.tails[index].source;
            // The turns of other files may have taken long since it was seen to be quiet.
            if self.quiet(index, source).is_some() {
                self.turn(index, AtEnd::Wait, sender)?;
            }
            if let Some(ends) = self.quiet(index, source) {
                self.turn(index, ends, sender)?;
                if self.quiet(index, source) == Some(AtEnd::EndLine) {
                    self.end(index);
                    continue;
                }
            }
            index += 1;
        }
        Ok(())
    }

    /// Returns what of a file is complete, since it did not grow for long. `None` if there is another file at the index.
    fn quiet(&self, index: usize, source: u32) -> Option<AtEnd> {
        let (ends, rest) = self.tails.get(index).filter(|tail| tail.source == source)?.quiet()?;
        rest.is_zero().then_some(ends)
    }

    fn end(&mut self, index: usize) {
        let tail = &self.tails[index];
        let entry = tail.entry_at_end();
        self.offsets.update(tail.source, |tracked| tracked.ended = true);
        self.ended.push(Ended { source: tail.source, entry });
        self.remove(index);
    }

    fn remove(&mut self, index: usize) {
        let Tail { source, path, verified_at, after, .. } = self.tails.remove(index);
        if let Some(last) = self.last_at.get_mut(&path).filter(|last| last.source == source) {
            last.verified_at = verified_at;
        }
        for tail in self.tails.iter_mut().filter(|tail| tail.is_after(source)) {
            tail.after = after;
        }
    }

    /// Returns the time until something is due without an event.
    fn next_timeout(&self) -> Duration {
        let quiet = self.tails.iter().filter_map(|tail| Some(tail.quiet()?.1));
        let discovery = self.discovery_due_at().saturating_duration_since(Instant::now());
        quiet.chain([discovery]).min().unwrap_or(RESCAN_INTERVAL).max(Duration::from_millis(10))
    }
}

/// Returns whether a file that is written would also be read.
fn is_read(targets: &[Target], written: &Path) -> anyhow::Result<bool> {
    let path = std::path::absolute(written).with_context(|| format!("cannot find {written:?}"))?;
    // Links may lead to it by another path.
    let real = |directory: &Path| directory.canonicalize().ok();
    let (Some(directory), Some(name)) = (path.parent().and_then(real), path.file_name()) else {
        return Ok(targets.iter().any(|target| target.matches(&path)));
    };
    Ok(targets.iter().any(|target| {
        let (paths, _) = target.paths();
        let is_same = |read: &PathBuf| path.canonicalize().is_ok_and(|path| read.canonicalize().ok() == Some(path));
        let is_in = |read: &PathBuf| real(read).as_ref() == Some(&directory) && target.matches(&read.join(name));
        target.matches(&path) || paths.iter().any(is_same) || target.directories(&paths).iter().any(is_in)
    }))
}

/// Lets the process open as many files as the system allows: each file that is followed stays open. The usual limit of 1,024
/// is for programs that use `select`.
fn raise_file_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // macOS accepts no more than this, whatever the maximum is.
        let accepted = maximum.map_or(10_240, |maximum| maximum.min(10_240));
        for current in [maximum, Some(accepted)] {
            // Without it, files that cannot be opened are reported.
            if setrlimit(Resource::Nofile, Rlimit { current, maximum }).is_ok() {
                break;
            }
        }
    }
}

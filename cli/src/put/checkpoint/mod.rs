//! The checkpoint: how far each file is resolved, so that the same command goes on there after a crash.
//!
//! A line is resolved when it needs no further put: it is stored, or it is a dead letter, or it can never be stored. The
//! reader registers files and asks before it passes lines on ([`Offsets::pass`]), the collector reports what is resolved
//! ([`Offsets::resolve`]), and a thread writes the file ([`writer`]).

pub(crate) mod file;
pub(crate) mod identity;
mod ranges;
pub(crate) mod writer;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use self::file::{FileEntry, PutAgain};
use self::identity::{FileId, Fingerprint};
pub(crate) use self::ranges::ResolvedRanges;
use super::lines::Position;

/// The minimum number of bytes of a file that may be put until the next checkpoint is written.
const AHEAD_MIN: u64 = 4 << 20;

/// The time between two checkpoints, unless reading waits for one.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// The offsets of all files. Shared by the threads.
#[derive(Debug)]
pub(crate) struct Offsets {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Files by the indices of their sources.
    files: BTreeMap<u32, Tracked>,
    /// The time of the last search for files ([`Contents::searched_at_ms`](file::Contents)).
    searched_at: Option<SystemTime>,
    /// What may have been put twice: by this run, and by all runs.
    put_again: PutAgain,
    put_again_total: PutAgain,
    /// Whether a checkpoint is written. Otherwise, lines are passed on without a limit.
    is_written: bool,
    is_changed: bool,
    /// Whether the reader waits for a checkpoint, or soon will.
    is_urgent: bool,
    /// Whether a checkpoint is being written.
    is_writing: bool,
    /// Whether the next checkpoint is the last one.
    is_ending: bool,
}

/// What the next checkpoint says.
struct Due {
    files: Vec<(u32, Tracked)>,
    searched_at: Option<SystemTime>,
    put_again_total: PutAgain,
    is_last: bool,
}

/// What is known of one file.
#[derive(Clone, Debug)]
pub(crate) struct Tracked {
    /// The path by which the file was found.
    pub(crate) path: PathBuf,
    /// The open file; `None` if it is not read: it has ended, or cannot be looked for.
    pub(crate) file: Option<Arc<File>>,
    pub(crate) id: FileId,
    pub(crate) head: Fingerprint,
    /// The last time at which the head was seen.
    pub(crate) verified_at: SystemTime,
    pub(crate) resolved: ResolvedRanges,
    /// The position after the last line that was passed on.
    pub(crate) passed: Position,
    /// The position after the last line that was put. Others that were passed on may still wait for their put.
    put: Position,
    /// The end of the lines that the reader wants to pass on; `None` before its first lines.
    wanted: Option<u64>,
    /// The limit of the checkpoint from which this run goes on. Lines that end at or before it may have been put.
    pub(crate) resume_limit: u64,
    /// Whether the file was rotated and read to its end.
    pub(crate) ended: bool,
    /// Whether the file was deleted.
    pub(crate) gone: bool,
    /// The entry of the last checkpoint.
    entry: FileEntry,
    is_changed: bool,
    /// The limit of the last written checkpoint.
    limit: u64,
    /// How far lines were passed on when it was written.
    passed_before: u64,
}

/// A file that needs more reading, or results.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) source: u32,
    pub(crate) file: Arc<File>,
    /// The offset up to which all is resolved.
    pub(crate) resolved: u64,
}

impl Tracked {
    /// Returns a file of which all up to an entry's offset is resolved, and its ranges.
    pub(crate) fn new(entry: FileEntry, file: Option<Arc<File>>) -> Self {
        let mut resolved = ResolvedRanges::starting_at(entry.position());
        entry.ranges().for_each(|(start, end)| resolved.insert(start, end));
        Self {
            path: entry.path.clone(),
            file,
            id: entry.id(),
            head: entry.head,
            verified_at: from_ms(entry.verified_at_ms),
            resolved,
            passed: entry.position(),
            put: entry.position(),
            wanted: None,
            resume_limit: entry.limit,
            ended: entry.ended,
            gone: false,
            is_changed: true,
            // A limit counts only when it is in a written checkpoint of this run.
            limit: 0,
            passed_before: entry.offset,
            entry,
        }
    }

    /// Returns whether every line that was passed on is resolved.
    fn is_resolved(&self) -> bool {
        self.resolved.up_to() >= self.passed
    }

    /// Returns the limit of the next checkpoint.
    fn next_limit(&self, is_last: bool) -> u64 {
        let passed = self.passed.offset;
        if is_last {
            return self.resume_limit.max(self.put.offset);
        }
        // A file that is not read yet gets no limit beyond its start: else all its lines would count as in flight.
        let Some(wanted) = self.wanted.filter(|_| !self.ended) else {
            return self.resume_limit.max(passed);
        };
        let ahead = AHEAD_MIN.max(2 * passed.saturating_sub(self.passed_before));
        self.resume_limit.max(wanted + ahead)
    }
}

impl State {
    /// Forgets a file of which nothing is to be read or to be resolved. With a checkpoint, this is done when it is written.
    fn forget_if_complete(&mut self, source: u32) {
        let is_complete = |file: &Tracked| (file.ended || file.gone) && file.is_resolved();
        if !self.is_written && self.files.get(&source).is_some_and(is_complete) {
            self.files.remove(&source);
        }
    }
}

impl Offsets {
    /// Returns the offsets of no files. With `is_written`, a [`writer`] is needed. `put_again` is what the runs before may have put
    /// twice.
    pub(crate) fn new(is_written: bool, put_again: PutAgain) -> Arc<Self> {
        let files = BTreeMap::new();
        let state = State {
            files,
            searched_at: None,
            put_again: PutAgain::default(),
            put_again_total: put_again,
            is_written,
            is_changed: false,
            is_urgent: false,
            is_writing: false,
            is_ending: false,
        };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a file.
    pub(crate) fn add(&self, source: u32, file: Tracked) {
        let mut state = self.lock();
        state.files.insert(source, file);
        state.is_changed = true;
        self.changed.notify_all();
    }

    /// Adds a file again that was rotated, read to its end, and is back. Some of its lines may not be resolved yet.
    pub(crate) fn go_on(&self, source: u32, again: Tracked) {
        let mut state = self.lock();
        let file = state.files.entry(source).or_insert_with(|| again.clone());
        (file.path, file.file, file.id, file.ended, file.gone) = (again.path, again.file, again.id, false, false);
        file.is_changed = true;
        state.is_changed = true;
        self.changed.notify_all();
    }

    /// Adds lines that may be put twice.
    pub(crate) fn add_put_again(&self, again: PutAgain) {
        let mut state = self.lock();
        state.put_again.add(again);
        state.put_again_total.add(again);
    }

    /// Returns the lines that may be put twice: by this run, and by all runs.
    pub(crate) fn put_again(&self) -> (PutAgain, PutAgain) {
        let state = self.lock();
        (state.put_again, state.put_again_total)
    }

    /// Removes a file that is in another entry, or of which no line was passed on.
    pub(crate) fn remove(&self, source: u32) {
        let mut state = self.lock();
        state.files.remove(&source);
        state.is_changed = true;
        self.changed.notify_all();
    }

    /// Changes what is known of a file.
    pub(crate) fn update(&self, source: u32, change: impl FnOnce(&mut Tracked)) {
        let mut state = self.lock();
        let Some(file) = state.files.get_mut(&source) else { return };
        change(file);
        file.is_changed = true;
        state.is_changed = true;
        state.forget_if_complete(source);
        self.changed.notify_all();
    }

    /// Sets the time of the last search for files, whose files were all added. This alone is no reason for a checkpoint.
    pub(crate) fn set_searched_at(&self, searched_at: SystemTime) {
        self.lock().searched_at = Some(searched_at);
    }

    /// Sets the last time at which a file was seen. This alone is no reason for a checkpoint.
    pub(crate) fn set_verified_at(&self, source: u32, verified_at: SystemTime) {
        if let Some(file) = self.lock().files.get_mut(&source) {
            file.verified_at = verified_at;
        }
    }

    /// Waits until a written checkpoint allows lines up to `end` to be put. Without this bound, a checkpoint could not say
    /// how many lines may be put twice.
    pub(crate) fn pass(&self, source: u32, end: Position) {
        let mut state = self.lock();
        loop {
            let State { files, is_written, is_urgent, is_writing, .. } = &mut *state;
            let Some(file) = files.get_mut(&source) else { return };
            file.wanted = Some(end.offset);
            if !*is_written || end.offset <= file.limit {
                file.passed = file.passed.max(end);
                // Asks in time, so that reading does not wait.
                let half = file.limit.saturating_sub(file.passed_before) / 2;
                if *is_written && !*is_writing && !*is_urgent && end.offset > file.passed_before + half {
                    file.is_changed = true;
                    *is_urgent = true;
                    state.is_changed = true;
                    self.changed.notify_all();
                }
                return;
            }
            file.is_changed = true;
            *is_urgent = true;
            state.is_changed = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Reports that the lines of a range need no further put.
    pub(crate) fn resolve(&self, source: u32, start: Position, end: Position) {
        let mut state = self.lock();
        let Some(file) = state.files.get_mut(&source) else { return };
        file.resolved.insert(start, end);
        file.put = file.put.max(end);
        file.is_changed = true;
        if !state.is_changed {
            state.is_changed = true;
            self.changed.notify_all();
        }
        state.forget_if_complete(source);
    }

    /// Reports that the lines up to `end` were put. They may need a further put.
    pub(crate) fn put(&self, source: u32, end: Position) {
        if let Some(file) = self.lock().files.get_mut(&source) {
            file.put = file.put.max(end);
        }
    }

    /// Returns the files that need more reading, or results.
    pub(crate) fn open_files(&self) -> Vec<OpenFile> {
        let state = self.lock();
        let open = state.files.iter().filter(|(_, tracked)| !tracked.gone).filter_map(|(source, tracked)| {
            let Tracked { file, resolved, .. } = tracked;
            Some(OpenFile { source: *source, file: file.clone()?, resolved: resolved.up_to().offset })
        });
        open.collect()
    }

    /// Waits until a checkpoint is due.
    fn wait_until_due(&self, written_at: Option<Instant>) -> Due {
        let mut state = self.lock();
        loop {
            if state.is_ending {
                break;
            }
            let wait = match written_at {
                _ if !state.is_changed => None,
                Some(at) if !state.is_urgent => WRITE_INTERVAL.checked_sub(at.elapsed()).filter(|wait| !wait.is_zero()),
                _ => break,
            };
            state = match wait {
                Some(wait) => self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                None if state.is_changed => break,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        (state.is_changed, state.is_urgent, state.is_writing) = (false, false, true);
        state.files.retain(|_, file| !(file.gone && file.is_resolved()));
        // Many small rotated files that wait for their turns must not wait for a checkpoint each.
        let mut room = AHEAD_MIN;
        for file in state.files.values_mut().filter(|file| file.wanted.is_none() && !file.ended) {
            let Some(metadata) = file.file.as_ref().and_then(|file| file.metadata().ok()) else { continue };
            let Some(left) = room.checked_sub(metadata.len()) else { break };
            room = left;
            file.wanted = Some(file.passed.offset);
            file.is_changed = true;
        }
        let State { searched_at, put_again_total, is_ending: is_last, .. } = *state;
        let files = state.files.iter_mut().map(|(source, file)| {
            let snapshot = file.clone();
            file.is_changed = false;
            // While it is written, it may or may not be the one that counts after a crash.
            file.limit = file.limit.min(file.next_limit(is_last));
            (*source, snapshot)
        });
        Due { files: files.collect(), searched_at, put_again_total, is_last }
    }

    /// Takes over the entries of a written checkpoint.
    fn set_written(&self, entries: Vec<(u32, FileEntry, Position)>) {
        let mut state = self.lock();
        state.is_writing = false;
        for (source, entry, passed) in entries {
            let Some(file) = state.files.get_mut(&source) else { continue };
            (file.limit, file.passed_before) = (entry.limit, passed.offset);
            file.entry = entry;
            if file.ended && file.is_resolved() {
                file.file = None;
            }
        }
        self.changed.notify_all();
    }

    /// Takes over that a checkpoint could not be written.
    fn set_not_written(&self) {
        let mut state = self.lock();
        (state.is_writing, state.is_changed) = (false, true);
        state.files.values_mut().for_each(|file| file.is_changed = true);
    }

    /// Makes the next checkpoint the last one.
    fn end(&self) {
        self.lock().is_ending = true;
        self.changed.notify_all();
    }
}

pub(crate) fn to_ms(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn from_ms(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn at(offset: u64) -> Position {
        Position { offset, line: offset }
    }

    /// Returns offsets with one file, of which a run before has put up to `resume_limit`.
    fn offsets(resume_limit: u64) -> Arc<Offsets> {
        let offsets = Offsets::new(true, PutAgain::default());
        let entry = FileEntry {
            path: "/log".into(),
            device: 1,
            inode: 1,
            head: Fingerprint::default(),
            offset: 0,
            line: 0,
            before_offset: Fingerprint::default(),
            resolved: Vec::new(),
            limit: resume_limit,
            verified_at_ms: 0,
            ended: false,
        };
        offsets.add(0, Tracked::new(entry, None));
        offsets
    }

    /// Writes a checkpoint. Returns the limit in it.
    fn write(offsets: &Offsets) -> u64 {
        let Due { files, is_last, .. } = offsets.wait_until_due(None);
        let [(source, file)] = &files[..] else { panic!("one file") };
        let limit = file.next_limit(is_last);
        offsets.set_written(vec![(*source, FileEntry { limit, ..file.entry.clone() }, file.passed)]);
        limit
    }

    #[test]
    fn no_line_is_passed_beyond_the_limit_of_a_written_checkpoint() {
        let offsets = offsets(0);
        assert_eq!(write(&offsets), 0, "nothing was wanted yet");
        let passed = || offsets.lock().files[&0].passed.offset;
        thread::scope(|scope| {
            let reader = scope.spawn(|| offsets.pass(0, at(100)));
            while !offsets.lock().is_urgent {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(50));
            assert_eq!((passed(), reader.is_finished()), (0, false));
            assert_eq!(write(&offsets), 100 + AHEAD_MIN);
            reader.join().unwrap();
            assert_eq!(passed(), 100);
        });
        // Up to the limit, nothing waits; from half of it on, the next checkpoint is asked for.
        assert!(!offsets.lock().is_urgent);
        offsets.pass(0, at(100 + AHEAD_MIN));
        assert!(offsets.lock().is_urgent);
        assert_eq!(write(&offsets), 3 * (100 + AHEAD_MIN));
    }

    #[test]
    fn a_limit_covers_what_the_runs_before_may_have_put() {
        let offsets = offsets(1_000);
        assert_eq!(write(&offsets), 1_000);
        offsets.end();
        assert_eq!(write(&offsets), 1_000, "nothing below it was read");
        let offsets = self::offsets(10);
        thread::scope(|scope| {
            scope.spawn(|| offsets.pass(0, at(100)));
            while !offsets.lock().is_urgent {
                thread::yield_now();
            }
            write(&offsets);
        });
        offsets.put(0, at(90));
        offsets.end();
        assert_eq!(write(&offsets), 90, "at the end, what was put: the lines after it were not");
    }

    #[test]
    fn a_smaller_limit_counts_before_it_is_written() {
        let offsets = offsets(0);
        thread::scope(|scope| {
            scope.spawn(|| offsets.pass(0, at(100 * AHEAD_MIN)));
            while !offsets.lock().is_urgent {
                thread::yield_now();
            }
            write(&offsets);
        });
        // The next limit is less far ahead. It is on the disk at some time before `set_written`.
        offsets.lock().files.get_mut(&0).unwrap().passed_before = 100 * AHEAD_MIN;
        offsets.lock().files.get_mut(&0).unwrap().limit = 1_000 * AHEAD_MIN;
        let Due { files, is_last, .. } = offsets.wait_until_due(None);
        let limit = files[0].1.next_limit(is_last);
        assert_eq!((limit, offsets.lock().files[&0].limit), (101 * AHEAD_MIN, 101 * AHEAD_MIN));
    }

    #[test]
    fn without_a_checkpoint_a_file_that_ended_is_closed_when_its_lines_are_resolved() {
        let offsets = Offsets::new(false, PutAgain::default());
        let entry = self::offsets(0).lock().files[&0].entry.clone();
        offsets.add(0, Tracked::new(entry, Some(Arc::new(tempfile::tempfile().unwrap()))));
        offsets.pass(0, at(100));
        offsets.update(0, |file| file.ended = true);
        assert_eq!(offsets.open_files().len(), 1);
        offsets.resolve(0, at(0), at(100));
        assert!(offsets.lock().files.is_empty());
    }

    #[test]
    fn a_deleted_file_is_forgotten_when_its_lines_are_resolved() {
        let offsets = offsets(0);
        thread::scope(|scope| {
            scope.spawn(|| offsets.pass(0, at(100)));
            while !offsets.lock().is_urgent {
                thread::yield_now();
            }
            write(&offsets);
        });
        offsets.update(0, |file| file.gone = true);
        write(&offsets);
        offsets.resolve(0, at(0), at(100));
        let Due { files, .. } = offsets.wait_until_due(None);
        assert!(files.is_empty());
    }
}

//! Finds the files at the paths of the command line, and those that were there before them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, Metadata};
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::Context;

use super::resume::is_long_ago;
use super::search::{self, Found};
use super::tail::{After, Tail};
use super::{Ended, Follower, LastAt, SEARCH_PAUSE};
use crate::put::checkpoint::file::FileEntry;
use crate::put::checkpoint::identity::{FileId, Fingerprint};
use crate::put::checkpoint::{Tracked, from_ms, to_ms};

/// A file at a path of the command line.
struct Listed {
    path: PathBuf,
    /// Its name in messages.
    name: String,
    metadata: Metadata,
}

impl Follower {
    pub(super) fn rediscover(&mut self) {
        (self.needs_discovery, self.have_names_changed) = (false, false);
        self.forget_deleted();
        if let Err(error) = self.discover(false) {
            self.messages.print_once(&format!("{error:#}"));
        }
    }

    /// Finds new files at the paths of the command line.
    ///
    /// # Errors
    ///
    /// With `--follow`, only the first time, if a path of the command line can never be a log. Other problems are reported, and
    /// concern only their files.
    pub(super) fn discover(&mut self, is_first: bool) -> anyhow::Result<()> {
        let (started_at, searched_at) = (Instant::now(), SystemTime::now());
        let result = self.search_all(is_first, searched_at);
        self.discovered_at = Instant::now();
        self.next_discovery_at = self.discovered_at + SEARCH_PAUSE * started_at.elapsed();
        // Files that this search could not open are found by the next one, by the time of the one before.
        if result? || self.searched_at.is_none() {
            self.searched_at = Some(searched_at);
            self.offsets.set_searched_at(searched_at);
        }
        Ok(())
    }

    /// Searches for files. Returns whether none was missed.
    fn search_all(&mut self, is_first: bool, searched_at: SystemTime) -> anyhow::Result<bool> {
        let searched_before = self.searched_at;
        self.resume_available();
        let (listed, mut is_complete) = self.list(is_first)?;
        let ids = listed.iter().map(|listed| FileId::new(&listed.metadata)).collect();
        for Listed { path, name, .. } in self.update_known(listed, searched_at) {
            let added = self.add_listed(path, &name, &ids, searched_before);
            match added.with_context(|| format!("cannot open {name:?}")) {
                Err(error) if self.options.follow => {
                    is_complete = false;
                    self.messages.print_once(&format!("{error:#}"));
                }
                added => added?,
            }
        }
        let is_empty = |tail: &&Tail| tail.is_at_path && tail.head.bytes == 0;
        let empty: Vec<u32> = self.tails.iter().filter(is_empty).map(|tail| tail.source).collect();
        for source in empty {
            if let Some(index) = self.tails.iter().position(|tail| tail.source == source) {
                self.has_missed_files(index);
            }
        }
        Ok(is_complete)
    }

    /// Returns the files at the paths of the command line, each once, and whether none was missed. Watches their directories.
    fn list(&mut self, is_first: bool) -> anyhow::Result<(Vec<Listed>, bool)> {
        let (mut listed, mut ids, mut is_complete) = (Vec::new(), HashSet::new(), true);
        if let Some(watch) = &mut self.watch {
            watch.forget_deleted();
        }
        for target in &self.targets {
            let (paths, has_all) = target.paths();
            is_complete &= has_all;
            for directory in target.directories(&paths) {
                let watched = self.watch.as_mut().map_or(Ok(()), |watch| watch.add(&directory));
                if let Err(error) = watched {
                    // Its files are searched for now and then.
                    self.messages.print_once(&format!("cannot watch {directory:?} for --follow: {error}"));
                }
            }
            for path in paths {
                let name = target.name(&path);
                if target.file().is_none() && search::is_compressed(&path) {
                    self.messages.print_once(&format!("{name} is not read, because it is compressed"));
                    continue;
                }
                match fs::metadata(&path) {
                    Ok(metadata) if metadata.is_file() => {
                        // A file may have two names.
                        if ids.insert(FileId::new(&metadata)) {
                            listed.push(Listed { path, name, metadata });
                        }
                    }
                    Ok(_) if self.options.follow && target.file().is_none() => {}
                    Ok(_) => {
                        let message = "with --follow or --checkpoint: it is not a regular file";
                        anyhow::ensure!(self.options.follow && !is_first, "cannot read {name:?} {message}");
                        self.messages.print_once(&format!("cannot read {name:?} {message}"));
                    }
                    Err(error) if self.options.follow => {
                        // What was listed and is not there was rotated since, unless it is a link to nothing.
                        let is_link = || fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
                        is_complete &=
                            error.kind() == io::ErrorKind::NotFound && (target.file().is_some() || is_link());
                        self.messages.print_once(&format!("cannot open {name:?} yet: {error}"));
                    }
                    Err(error) => return Err(error).with_context(|| format!("cannot open {name:?}")),
                }
            }
        }
        Ok((listed, is_complete))
    }

    /// Takes over which of the files that are read are at paths of the command line. Returns the others at these paths.
    fn update_known(&mut self, listed: Vec<Listed>, searched_at: SystemTime) -> Vec<Listed> {
        let at: HashMap<FileId, usize> = self.tails.iter().enumerate().map(|(at, tail)| (tail.id, at)).collect();
        let were_at_path: HashSet<u32> =
            self.tails.iter_mut().filter_map(|tail| mem::take(&mut tail.is_at_path).then_some(tail.source)).collect();
        let mut new = Vec::new();
        for listed in listed {
            let Listed { path, metadata, .. } = &listed;
            let Some(at) = at.get(&FileId::new(metadata)) else {
                new.push(listed);
                continue;
            };
            let tail = &mut self.tails[*at];
            tail.is_at_path = true;
            let is_as_seen = tail.seen.is_some_and(|(size, time)| {
                metadata.len() == size && metadata.modified().is_ok_and(|modified| modified == time)
            });
            if tail.is_at_end && is_as_seen && tail.path == *path {
                tail.verified_at = searched_at;
                self.offsets.set_verified_at(tail.source, tail.verified_at);
            }
        }
        for tail in self.tails.iter_mut().filter(|tail| !tail.is_at_path && were_at_path.contains(&tail.source)) {
            // Its writers may not have moved on yet.
            tail.grown_at = Instant::now();
        }
        new
    }

    /// Adds a file that is not read yet, unless it has ended.
    fn add_listed(
        &mut self,
        path: PathBuf,
        name: &str,
        at_paths: &HashSet<FileId>,
        searched_before: Option<SystemTime>,
    ) -> anyhow::Result<()> {
        // It may be the file of the checkpoint, which could not be read, or was not there a moment ago.
        let is_unavailable = self.unavailable.iter().any(|unavailable| unavailable.entry.path == path);
        anyhow::ensure!(!is_unavailable, "it is in the checkpoint, and cannot be compared with it yet");
        let found = Found::open(&path)?;
        if let Some(index) = self.ended.iter().position(|ended| ended.is(&found)) {
            self.go_on_after_end(index, found, path);
        } else if !self.is_known(&found) {
            self.add_after_rotation(found, path, name, at_paths, searched_before)?;
        }
        Ok(())
    }

    /// Adds a file at a path, after all that were there since the last one was seen.
    fn add_after_rotation(
        &mut self,
        found: Found,
        path: PathBuf,
        name: &str,
        at_paths: &HashSet<FileId>,
        searched_before: Option<SystemTime>,
    ) -> anyhow::Result<()> {
        let last = self.last_at.get(&path);
        let tail = last.and_then(|last| self.tails.iter().find(|tail| tail.source == last.source));
        let verified_at = tail.map(|tail| tail.verified_at).or(last.map(|last| last.verified_at));
        let mut after = tail.map(|tail| tail.source).or_else(|| self.last_argument());
        // At a path that had no file at the last search, there may have been several since. At the first search, rotated
        // files are of no interest.
        if let Some(since) = verified_at.or(searched_before) {
            let missed = search::successors(&path, since, |sibling| {
                at_paths.contains(&sibling.id) || sibling.id == found.id || self.is_known(sibling)
            });
            for missed in missed {
                self.messages.print(&format!("{name} was rotated: {:?} is read before it", missed.path));
                after = Some(self.add(missed, path.clone(), name, after, false)?);
            }
        }
        self.add(found, path, name, after, true)?;
        Ok(())
    }

    /// Returns whether files were at the path of an empty file since it was seen: nothing is known of its content, so that it
    /// may have been filled, copied and truncated. Then it is added again, after them.
    pub(super) fn has_missed_files(&mut self, index: usize) -> bool {
        let Tail { path, verified_at, source, after, id, .. } = &self.tails[index];
        let (path, source, id, mut before) = (path.clone(), *source, *id, after.map(|after| after.source));
        let missed = search::successors(&path, *verified_at, |sibling| {
            sibling.id == id
                || self.is_known(sibling)
                || self.targets.iter().any(|target| target.matches(&sibling.path))
        });
        if missed.is_empty() {
            return false;
        }
        let name = self.sources.name(source);
        for missed in missed {
            self.messages.print(&format!("{name} was rotated: {:?} is read before it", missed.path));
            match self.add(missed, path.clone(), &name, before, false) {
                Ok(added) => before = Some(added),
                Err(error) => self.messages.print(&format!("{error:#}")),
            }
        }
        let Tail { file, is_at_path, .. } = &self.tails[index];
        let (file, is_at_path) = (file.clone(), *is_at_path);
        let again = Found::new(path.clone(), file)
            .and_then(|found| self.add(found, path, &name, before, is_at_path).map_err(io::Error::other));
        let again = match again {
            Ok(again) => again,
            Err(error) => {
                self.messages.print(&format!("cannot read {name}: {error:#}"));
                return true;
            }
        };
        for tail in self.tails.iter_mut().filter(|tail| tail.is_after(source)) {
            tail.after = Some(After::new(again));
        }
        // It was not read, so that nothing needs its old source.
        self.offsets.remove(source);
        self.tails.remove(index);
        true
    }

    /// Adds a file that is read from its beginning. Returns its source.
    fn add(
        &mut self,
        found: Found,
        path: PathBuf,
        name: &str,
        after: Option<u32>,
        is_at_path: bool,
    ) -> anyhow::Result<u32> {
        let head = Fingerprint::of_head(&found.file).with_context(|| format!("cannot read {name:?}"))?;
        let verified_at = SystemTime::now();
        let entry = FileEntry {
            path: path.clone(),
            device: found.id.device,
            inode: found.id.inode,
            head,
            offset: 0,
            line: 0,
            before_offset: Fingerprint::default(),
            resolved: Vec::new(),
            limit: 0,
            verified_at_ms: to_ms(verified_at),
            ended: false,
        };
        Ok(self.add_entry(entry, found.file, name, after, is_at_path))
    }

    /// Adds a file that is read from the offset of its entry. Returns its source.
    pub(super) fn add_entry(
        &mut self,
        entry: FileEntry,
        file: Arc<File>,
        name: &str,
        after: Option<u32>,
        is_at_path: bool,
    ) -> u32 {
        let source = self.sources.add(name);
        let tracked = Tracked::new(entry.clone(), Some(file.clone()));
        self.offsets.add(source, tracked);
        self.push(source, entry, file, after, is_at_path);
        source
    }

    /// Returns the last file so far: without `--follow`, the files of the command line are put one after the other.
    pub(super) fn last_argument(&self) -> Option<u32> {
        self.tails.last().filter(|_| !self.options.follow).map(|tail| tail.source)
    }

    /// Goes on with a file that is at a path of the command line again after it was rotated and read to its end.
    fn go_on_after_end(&mut self, index: usize, found: Found, path: PathBuf) {
        let Ended { source, entry } = self.ended.remove(index);
        // The device's number may be another one after a reboot.
        let FileId { device, inode } = found.id;
        let entry = FileEntry { path, device, inode, ended: false, ..entry };
        self.offsets.go_on(source, Tracked::new(entry.clone(), Some(found.file.clone())));
        self.push(source, entry, found.file, None, true);
    }

    /// Reads a file from the offset of its entry.
    fn push(&mut self, source: u32, entry: FileEntry, file: Arc<File>, after: Option<u32>, is_at_path: bool) {
        // A rotated file that did not grow for long has ended as soon as it is read.
        let modified = file.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default();
        let grown_at = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        let verified_at = from_ms(entry.verified_at_ms);
        self.tails.push(Tail {
            source,
            path: entry.path.clone(),
            file,
            id: entry.id(),
            head: entry.head,
            position: entry.position(),
            before: entry.before_offset,
            resolved: entry.ranges().collect(),
            after: after.map(After::new),
            is_at_path,
            verified_at,
            seen: None,
            grown_at,
            is_at_end: false,
            has_open_record: false,
            has_failed: false,
        });
        self.last_at.insert(entry.path, LastAt { source, verified_at });
    }

    pub(super) fn is_known(&self, found: &Found) -> bool {
        self.tails.iter().any(|tail| tail.id == found.id) || self.ended.iter().any(|ended| ended.is(found))
    }

    /// Forgets rotated files that were deleted or compressed.
    fn forget_deleted(&mut self) {
        let directory = |ended: &Ended| {
            let path = &ended.entry.path;
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            real.parent().map(Path::to_owned).unwrap_or_default()
        };
        // `None` if nothing can be said of a directory's files.
        let mut inodes: BTreeMap<PathBuf, Option<HashSet<u64>>> = BTreeMap::new();
        for ended in &self.ended {
            inodes.entry(directory(ended)).or_insert_with_key(|directory| search::inodes(directory));
        }
        let offsets = &self.offsets;
        self.ended.retain(|ended| {
            let exists = match inodes.get(&directory(ended)) {
                // A link may lead to another directory now.
                Some(Some(_)) => inodes.values().flatten().any(|inodes| inodes.contains(&ended.entry.inode)),
                _ => !is_long_ago(&ended.entry),
            };
            if !exists {
                offsets.update(ended.source, |tracked| tracked.gone = true);
            }
            exists
        });
    }
}

//! Waits until files may have changed.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use crate::put::checkpoint::identity::FileId;

/// The time in which further events join the first one.
const COALESCE: Duration = Duration::from_millis(10);

/// What happened. `Names` includes `Content`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Files grew.
    Content,
    /// Files appeared, vanished, or have other names.
    Names,
}

/// Watches directories: a file that is not there yet cannot be watched, and a watched file can be renamed.
pub(crate) struct Watch {
    watcher: RecommendedWatcher,
    /// The directories, with what they were when they were added.
    watched: HashMap<PathBuf, FileId>,
    changes: Arc<Changes>,
}

/// What happened since the last look. Its size does not depend on the number of events: nobody looks while reading waits.
#[derive(Debug, Default)]
struct Changes {
    change: Mutex<Option<Change>>,
    added: Condvar,
}

impl Changes {
    fn lock(&self) -> MutexGuard<'_, Option<Change>> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, change: Change) {
        let mut known = self.lock();
        *known = (*known).max(Some(change));
        self.added.notify_all();
    }
}

impl Watch {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let changes = Arc::new(Changes::default());
        let shared = changes.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            match event.map(|event| event.kind) {
                // Reading is no change.
                Ok(EventKind::Access(_)) => {}
                Ok(EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_))) => shared.add(Change::Content),
                // An error says that events were lost.
                Ok(_) | Err(_) => shared.add(Change::Names),
            }
        });
        let watcher = watcher.context("cannot watch files for --follow")?;
        Ok(Self { watcher, watched: HashMap::new(), changes })
    }

    /// Watches a directory from now on. Does nothing if it is watched, or not there.
    pub(crate) fn add(&mut self, directory: &Path) -> notify::Result<()> {
        let id = fs::metadata(directory).ok().filter(Metadata::is_dir).map(|metadata| FileId::new(&metadata));
        if id.is_some() && self.watched.get(directory) == id.as_ref() {
            return Ok(());
        }
        // Another directory may be there now, such as a file system that was mounted, or it is deleted. A new one may have the
        // inode of a deleted one.
        if self.watched.remove(directory).is_some() {
            let _ = self.watcher.unwatch(directory);
        }
        if let Some(id) = id {
            self.watcher.watch(directory, RecursiveMode::NonRecursive)?;
            self.watched.insert(directory.to_owned(), id);
        }
        Ok(())
    }

    /// Stops watching directories that are not there any more.
    pub(crate) fn forget_deleted(&mut self) {
        let Self { watcher, watched, .. } = self;
        watched.retain(|directory, _| {
            let exists = directory.is_dir();
            if !exists {
                let _ = watcher.unwatch(directory);
            }
            exists
        });
    }

    /// Returns whether names have changed since the last call. Does not wait, and leaves the rest to [`wait`](Self::wait).
    pub(crate) fn take_names(&self) -> bool {
        let mut change = self.changes.lock();
        let have_changed = *change == Some(Change::Names);
        if have_changed {
            *change = Some(Change::Content);
        }
        have_changed
    }

    /// Waits for a change, and a little for those that come with it.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<Change> {
        let changes = self.changes.lock();
        let waited = self.changes.added.wait_timeout_while(changes, timeout, |change| change.is_none());
        let is_changed = waited.unwrap_or_else(PoisonError::into_inner).0.is_some();
        if is_changed {
            thread::sleep(COALESCE);
        }
        self.changes.lock().take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_nobody_looks_at_take_no_memory_and_names_count_more_than_content() {
        let changes = Changes::default();
        for change in [Change::Content, Change::Names, Change::Content] {
            changes.add(change);
        }
        assert_eq!(changes.lock().take(), Some(Change::Names));
        assert_eq!(changes.lock().take(), None);
    }

    #[test]
    fn a_look_for_names_leaves_the_content() {
        let watch = Watch::new().unwrap();
        watch.changes.add(Change::Content);
        assert!(!watch.take_names());
        watch.changes.add(Change::Names);
        assert!(watch.take_names() && !watch.take_names());
        assert_eq!(watch.wait(Duration::ZERO), Some(Change::Content));
    }

    #[test]
    fn a_directory_in_the_place_of_another_is_watched_again() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        fs::create_dir(&logs).unwrap();
        let mut watch = Watch::new().unwrap();
        watch.add(&logs).unwrap();
        // Not removed: its inode would be used again.
        fs::rename(&logs, dir.path().join("old")).unwrap();
        fs::create_dir(&logs).unwrap();
        watch.add(&logs).unwrap();
        let is_watched = |watch: &Watch| {
            while watch.wait(Duration::from_millis(100)).is_some() {}
            fs::write(logs.join("new.log"), "1\n").unwrap();
            watch.wait(Duration::from_secs(10)) == Some(Change::Names)
        };
        assert!(is_watched(&watch));
        // Deleted, and created again: on some file systems, with the same inode.
        fs::remove_dir_all(&logs).unwrap();
        watch.forget_deleted();
        fs::create_dir(&logs).unwrap();
        watch.add(&logs).unwrap();
        assert!(is_watched(&watch));
    }
}

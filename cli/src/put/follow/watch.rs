//! Waits until files may have changed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use notify::event::{EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// The time in which further events join the first one.
const COALESCE: Duration = Duration::from_millis(10);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Files grew, or a timeout has passed.
    Content,
    /// Files appeared, vanished, or have other names.
    Names,
}

/// Watches directories: a file that is not there yet cannot be watched, and a watched file can be renamed.
pub(crate) struct Watch {
    watcher: RecommendedWatcher,
    watched: HashSet<PathBuf>,
    changes: Receiver<Change>,
}

impl Watch {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let (sender, changes) = channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let change = match event.map(|event| event.kind) {
                // Reading is no change.
                Ok(EventKind::Access(_)) => return,
                Ok(EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_))) => Change::Content,
                // An error says that events were lost.
                Ok(_) | Err(_) => Change::Names,
            };
            // The receiver is dropped at the end.
            let _ = sender.send(change);
        });
        let watcher = watcher.context("cannot watch files for --follow")?;
        Ok(Self { watcher, watched: HashSet::new(), changes })
    }

    /// Watches a directory from now on. Does nothing if it is watched, or not there.
    pub(crate) fn add(&mut self, directory: &Path) -> notify::Result<()> {
        if self.watched.contains(directory) || !directory.is_dir() {
            return Ok(());
        }
        self.watcher.watch(directory, RecursiveMode::NonRecursive)?;
        self.watched.insert(directory.to_owned());
        Ok(())
    }

    /// Forgets directories that are gone, so that they are watched when they are back.
    pub(crate) fn forget_gone(&mut self) {
        self.watched.retain(|directory| directory.is_dir());
    }

    /// Waits for a change, and a little for those that come with it.
    pub(crate) fn wait(&self, timeout: Duration) -> Change {
        let mut change = match self.changes.recv_timeout(timeout) {
            Ok(change) => change,
            Err(RecvTimeoutError::Timeout) => return Change::Content,
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(timeout);
                return Change::Content;
            }
        };
        thread::sleep(COALESCE);
        for more in self.changes.try_iter() {
            if more == Change::Names {
                change = more;
            }
        }
        change
    }
}

//! The thread that writes the checkpoint. Waiting for the disk must not delay puts.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::file::{CheckpointFile, FileEntry};
use super::identity::Fingerprint;
use super::{Due, Offsets, Tracked, WRITE_INTERVAL, to_ms};
use crate::put::console::Console;
use crate::put::lines::Position;

/// Writes the checkpoint until it is ended.
pub(crate) struct Writer {
    offsets: Arc<Offsets>,
    thread: JoinHandle<Result<(), String>>,
}

impl Writer {
    /// Starts the thread. `dead_letters` is the dead-letter file, which has to be on the disk before a checkpoint that
    /// passes its lines.
    pub(crate) fn start(
        offsets: Arc<Offsets>,
        file: CheckpointFile,
        dead_letters: Option<File>,
        console: Console,
    ) -> io::Result<Self> {
        let shared = offsets.clone();
        let thread = thread::Builder::new()
            .name("kpl-checkpoint".into())
            .spawn(move || run(&shared, &file, dead_letters.as_ref(), &console))?;
        Ok(Self { offsets, thread })
    }

    /// Writes the last checkpoint. Blocks until it is on the disk.
    ///
    /// # Errors
    ///
    /// A message, if it could not be written.
    pub(crate) fn end(self) -> Result<(), String> {
        self.offsets.end();
        self.thread.join().unwrap_or_else(|_| Err("the thread of the checkpoint panicked".into()))
    }
}

fn run(offsets: &Offsets, file: &CheckpointFile, dead_letters: Option<&File>, console: &Console) -> Result<(), String> {
    let (mut written_at, mut is_failing) = (None, false);
    loop {
        let Due { files, searched_at, put_again_total, is_last } = offsets.wait_until_due(written_at);
        let entries: Vec<_> = files.iter().map(|(source, file)| (*source, entry(file, is_last), file.passed)).collect();
        let all = entries.iter().map(|(_, entry, _)| entry.clone()).collect();
        // A dead letter must be on the disk before a checkpoint that passes its line.
        let synced = dead_letters.map_or(Ok(()), File::sync_data);
        let synced = synced.map_err(|error| format!("cannot write the file of --dead-letter: {error}"));
        let written = synced.and_then(|()| {
            let written = file.write(put_again_total, searched_at, all);
            written.map_err(|error| format!("cannot write --checkpoint {:?}: {error}", file.path()))
        });
        written_at = Some(Instant::now());
        match written {
            Ok(()) => {
                offsets.set_written(entries);
                is_failing = false;
            }
            Err(message) => {
                if is_last {
                    return Err(message);
                }
                if !is_failing {
                    console.print_warning(&format!("{message}; reading goes on when it can be written"));
                }
                is_failing = true;
                offsets.set_not_written();
                thread::sleep(WRITE_INTERVAL);
            }
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Returns the entry of a file.
fn entry(tracked: &Tracked, is_last: bool) -> FileEntry {
    let limit = tracked.next_limit(is_last);
    // A file that ended counts as such when its last line is resolved: then it is not read again.
    let ended = tracked.ended && tracked.is_resolved();
    let verified_at_ms = to_ms(tracked.verified_at);
    let old = FileEntry { limit, verified_at_ms, ended, ..tracked.entry.clone() };
    let Some(file) = tracked.file.as_ref().filter(|_| tracked.is_changed) else { return old };
    let position = tracked.resolved.up_to();
    let before = Fingerprint::before(file, position.offset);
    // The file may be truncated at any time. If its head is still there, the bytes before the offset were, too.
    // Otherwise the old entry remains: it describes the file that was copied before it was truncated.
    let is_intact = tracked.head.extended_by(file).is_ok_and(|head| head.is_some());
    let Some(before_offset) = before.ok().filter(|_| is_intact) else { return old };
    let range = |(start, end): (Position, Position)| [start.offset, start.line, end.offset, end.line];
    FileEntry {
        path: tracked.path.clone(),
        device: tracked.id.device,
        inode: tracked.id.inode,
        head: tracked.head,
        offset: position.offset,
        line: position.line,
        before_offset,
        resolved: tracked.resolved.beyond().map(range).collect(),
        limit,
        verified_at_ms,
        ended,
    }
}

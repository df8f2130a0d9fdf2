//! The line of those who wait for room.

use std::sync::atomic::{AtomicUsize, Ordering};

use event_listener::{Event, EventListener};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Puts that find the producer full wait here, first come, first served.
///
/// Only the first in line looks for room; when it has got in it goes, and the next one looks. So a record that is
/// resolved wakes one task and not thousands, none is overtaken, and a large record is not starved by small ones.
#[derive(Debug)]
pub(crate) struct Line {
    /// Its one permit belongs to the first in line. It is handed on in the order in which it was asked for.
    first: Semaphore,
    in_line: AtomicUsize,
    room_made: Event,
}

impl Default for Line {
    fn default() -> Self {
        Self { first: Semaphore::new(1), in_line: AtomicUsize::new(0), room_made: Event::new() }
    }
}

impl Line {
    /// Whether nobody waits, behind whom others would have to line up.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_line.load(Ordering::Relaxed) == 0
    }

    /// Lines up, and ends when there is nobody in front. Dropped, it leaves the line.
    pub(crate) async fn line_up(&self) -> Turn<'_> {
        self.in_line.fetch_add(1, Ordering::Relaxed);
        let mut turn = Turn { line: self, _permit: None };
        // Nobody closes the semaphore.
        turn._permit = self.first.acquire().await.ok();
        turn
    }

    /// Ends at the next [`room_made`](Self::room_made). To be called before looking for room, so that no wake-up is lost.
    pub(crate) fn listen(&self) -> EventListener {
        self.room_made.listen()
    }

    /// Tells the first in line that there may be room, or that there never will be any.
    pub(crate) fn room_made(&self) {
        self.room_made.notify(1);
    }
}

/// The turn of the first in line, until it is dropped.
pub(crate) struct Turn<'a> {
    line: &'a Line,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.line.in_line.fetch_sub(1, Ordering::Relaxed);
    }
}

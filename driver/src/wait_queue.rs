//! Where puts wait while the producer is full.

use std::sync::atomic::{AtomicUsize, Ordering};

use event_listener::{Event, EventListener};
use tokio::sync::{Semaphore, SemaphorePermit};

/// A queue of puts that wait for room, first come, first served.
///
/// Only the put at the front looks for room. When it has got in it leaves, and the next one looks. So a resolved record
/// wakes one task and not thousands, no put overtakes another, and small records do not starve a large one.
#[derive(Debug)]
pub(crate) struct WaitQueue {
    /// The put at the front has the only permit. Tokio's semaphore hands it on in the order of requests.
    front: Semaphore,
    waiters: AtomicUsize,
    room_freed: Event,
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self { front: Semaphore::new(1), waiters: AtomicUsize::new(0), room_freed: Event::new() }
    }
}

impl WaitQueue {
    /// Whether no put waits, so that a new one may look for room at once.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiters.load(Ordering::Relaxed) == 0
    }

    /// Waits until this put is at the front. Dropping the future leaves the queue.
    pub(crate) async fn reach_front(&self) -> Front<'_> {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        let mut front = Front { queue: self, _permit: None };
        // The semaphore is never closed.
        front._permit = self.front.acquire().await.ok();
        front
    }

    /// Listens for the next [`notify`](Self::notify). Call it before looking for room, so that no wake-up is lost.
    pub(crate) fn listen(&self) -> EventListener {
        self.room_freed.listen()
    }

    /// Wakes the put at the front: there may be room, or the producer is closed.
    pub(crate) fn notify(&self) {
        self.room_freed.notify(1);
    }
}

/// The front of the queue, until it is dropped.
pub(crate) struct Front<'a> {
    queue: &'a WaitQueue,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Drop for Front<'_> {
    fn drop(&mut self) {
        self.queue.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

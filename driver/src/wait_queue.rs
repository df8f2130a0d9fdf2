//! The queues in which puts wait while the producer or their shard is full.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use event_listener::{Event, EventListener};
use kpl_core::ShardName;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::sync::lock;

/// A first-in, first-out queue of puts that wait for room.
///
/// Only the put at the front tries to put its record. When it succeeds, it leaves, and the next one tries. So a
/// resolved record wakes one task and not thousands, no put overtakes another, and small records do not starve a large
/// one.
#[derive(Debug)]
pub(crate) struct WaitQueue {
    /// The put at the front has the only permit. Tokio's semaphore grants it in the order of requests.
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
    /// Whether no put waits, so that a new one may try at once.
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

    /// Listens for the next [`notify`](Self::notify). Call it before each try, so that no wake-up is lost.
    pub(crate) fn listen(&self) -> EventListener {
        self.room_freed.listen()
    }

    /// Wakes the put at the front: there may be room, or the producer is closed.
    pub(crate) fn notify(&self) {
        self.room_freed.notify(1);
    }
}

/// The place at the front of the queue, kept until it is dropped.
pub(crate) struct Front<'a> {
    queue: &'a WaitQueue,
    _permit: Option<SemaphorePermit<'a>>,
}

impl Drop for Front<'_> {
    fn drop(&mut self) {
        self.queue.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One wait queue per shard. A queue exists while a put waits in it.
#[derive(Debug, Default)]
pub(crate) struct ShardQueues(Mutex<BTreeMap<ShardName, Arc<WaitQueue>>>);

impl ShardQueues {
    /// Whether no put waits for a shard.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }

    /// Whether a put waits for this shard.
    pub(crate) fn has(&self, shard: &ShardName) -> bool {
        lock(&self.0).contains_key(shard)
    }

    /// Returns the queue of a shard.
    pub(crate) fn queue(&self, shard: &ShardName) -> ShardQueue<'_> {
        let queue = lock(&self.0).entry(shard.clone()).or_default().clone();
        ShardQueue { queues: self, shard: shard.clone(), queue }
    }

    /// Wakes the put at the front of a shard's queue: there may be room.
    pub(crate) fn notify(&self, shard: &ShardName) {
        if let Some(queue) = lock(&self.0).get(shard) {
            queue.notify();
        }
    }

    /// Wakes the puts at the front of all queues: the producer is closed.
    pub(crate) fn notify_all(&self) {
        lock(&self.0).values().for_each(|queue| queue.notify());
    }
}

/// A shard's queue, used by one put. The last one that is dropped removes the queue.
pub(crate) struct ShardQueue<'a> {
    queues: &'a ShardQueues,
    shard: ShardName,
    queue: Arc<WaitQueue>,
}

impl Deref for ShardQueue<'_> {
    type Target = WaitQueue;

    fn deref(&self) -> &WaitQueue {
        &self.queue
    }
}

impl Drop for ShardQueue<'_> {
    fn drop(&mut self) {
        let mut queues = lock(&self.queues.0);
        // The map and this put have one reference each. Other puts join under the same lock.
        if Arc::strong_count(&self.queue) == 2 {
            queues.remove(&self.shard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_queue_is_empty_again_when_its_puts_have_left() {
        let queue = WaitQueue::default();
        assert!(queue.is_empty());
        let first = queue.reach_front().await;
        let second = queue.reach_front();
        assert!(!queue.is_empty());
        drop(second); // before its first poll
        drop(first);
        assert!(queue.is_empty());
        let first = queue.reach_front().await;
        let mut second = std::pin::pin!(queue.reach_front());
        assert!(tokio::time::timeout(std::time::Duration::ZERO, &mut second).await.is_err());
        drop(first);
        drop(second.await);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_shard_queue_is_removed_when_its_last_put_leaves() {
        let queues = ShardQueues::default();
        let shard = ShardName::new("events", Some("shardId-000000000000".into()));
        let (first, second) = (queues.queue(&shard), queues.queue(&shard));
        drop(first);
        assert_eq!(lock(&queues.0).len(), 1);
        drop(second);
        assert!(lock(&queues.0).is_empty());
    }
}

//! The submission queue: where handles put records without the state machine's lock.
//!
//! This is flat combining (Hendler, Incze, Shavit, Tzafrir: "Flat combining and the synchronization-parallelism
//! tradeoff", 2010): threads publish what they want done in lists of their own, and the one that holds the combiner's lock
//! does it for all of them. ARCHITECTURE.md, "Concurrency in the driver", has the whole picture.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use crossbeam_utils::CachePadded;
use kpl_core::{BufferDrain, Buffered, CheckedRecord, Config, HashKeyCache, Instant, PutBuffer, Room};

use crate::outcome::Ticket;
use crate::sync::{lock, try_lock};

/// Two cores that share a lane pay more for handing its cache line to and fro than for the put. Eight lanes keep that rare
/// on the machines that were measured.
const LANES: usize = 8;

/// A few [`PutBuffer`]s, each behind a lock of its own, and the lock of the thread that empties them.
#[derive(Debug)]
pub(crate) struct SubmissionQueue {
    lanes: [CachePadded<Mutex<PutBuffer<Ticket>>>; LANES],
    /// Handles are given lanes in turn.
    next_lane: AtomicUsize,
    combiner: Mutex<Combiner>,
}

/// What the thread that empties the lanes needs. Its lock is taken before any other.
#[derive(Debug)]
pub(crate) struct Combiner {
    pub(crate) drain: BufferDrain<Ticket>,
    pub(crate) keys: HashKeyCache,
    /// The least room that the state machine has: only the combiner fills it.
    pub(crate) room: Room,
}

/// The lane that a handle puts into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneId(usize);

/// What the lanes hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Queued {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    pub(crate) oldest_put: Option<Instant>,
}

impl SubmissionQueue {
    pub(crate) fn new(config: &Config) -> Self {
        let combiner =
            Combiner { drain: BufferDrain::new(LANES), keys: HashKeyCache::default(), room: Room::default() };
        Self {
            lanes: std::array::from_fn(|_| CachePadded::new(Mutex::new(PutBuffer::new(config)))),
            next_lane: AtomicUsize::new(0),
            combiner: Mutex::new(combiner),
        }
    }

    /// Chooses a lane for a new handle.
    pub(crate) fn assign_lane(&self) -> LaneId {
        LaneId(self.next_lane.fetch_add(1, Ordering::Relaxed) % LANES)
    }

    /// Queues a record, if it may be queued. Reads the clock while the lane is locked: see [`BufferDrain::take`].
    pub(crate) fn submit(
        &self,
        lane: LaneId,
        clock: impl FnOnce() -> Instant,
        record: CheckedRecord,
        ticket: Ticket,
    ) -> Result<Buffered, (CheckedRecord, Ticket)> {
        let mut lane = lock(&self.lanes[lane.0]);
        lane.push(clock(), record, ticket)
    }

    /// Waits for the combiner's lock.
    pub(crate) fn combiner(&self) -> MutexGuard<'_, Combiner> {
        lock(&self.combiner)
    }

    /// Takes the combiner's lock if nobody has it.
    pub(crate) fn try_combiner(&self) -> Option<MutexGuard<'_, Combiner>> {
        try_lock(&self.combiner)
    }

    /// Takes what was queued until now out of all lanes, and hashes the keys. Returns the time.
    pub(crate) fn drain(&self, combiner: &mut Combiner, room: Room, clock: impl FnOnce() -> Instant) -> Instant {
        let Combiner { drain, keys, .. } = combiner;
        if drain.start(room) {
            self.lanes.iter().for_each(|lane| drain.stop(&mut lock(lane)));
        }
        let now = clock();
        for (number, lane) in self.lanes.iter().enumerate() {
            drain.take(number, &mut lock(lane), now);
        }
        drain.hash_keys(keys);
        now
    }

    /// Tells the lanes when they are emptied next: at `next`, or earlier if a record in one needs that. Returns the earlier.
    pub(crate) fn expect_drain(&self, next: Instant) -> Instant {
        self.lanes.iter().map(|lane| lock(lane).expect_drain(next)).fold(next, Instant::min)
    }

    /// Counts what the lanes hold. With the combiner's lock held, nothing is between the lanes and the state machine.
    pub(crate) fn queued(&self) -> Queued {
        let mut all = Queued::default();
        for lane in &self.lanes {
            let lane = lock(lane);
            all.records += lane.records();
            all.bytes += lane.bytes();
            all.oldest_put = all.oldest_put.into_iter().chain(lane.oldest_put()).min();
        }
        all
    }

    /// Queues nothing from now on.
    pub(crate) fn close(&self) {
        self.lanes.iter().for_each(|lane| lock(lane).close());
    }
}

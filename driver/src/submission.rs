//! The submission queue, into which handles put records without the state machine's lock.
//!
//! It uses flat combining (Hendler, Incze, Shavit, Tzafrir: "Flat combining and the synchronization-parallelism
//! tradeoff", 2010): threads write their operations into separate lists, and the thread that holds the combiner's lock
//! executes them all. See ARCHITECTURE.md, "Concurrency in the driver".

use std::sync::atomic::{self, AtomicUsize};
use std::sync::{Mutex, MutexGuard};

use crossbeam_utils::CachePadded;
use kpl_core::{BufferDrain, Buffered, CheckedRecord, Config, HashKeyCache, Instant, Ordering, PutBuffer, Room};

use crate::outcome::Ticket;
use crate::sync::{lock, try_lock};

/// The number of lanes. If two cores share a lane, moving its cache line between them costs more than the put. With 8
/// lanes, that was rare on the measured machines.
const LANES: usize = 8;

/// The lanes and the combiner, which drains them. A lane is a [`PutBuffer`] with its lock.
#[derive(Debug)]
pub(crate) struct SubmissionQueue {
    lanes: [CachePadded<Mutex<PutBuffer<Ticket>>>; LANES],
    /// The number of lanes that are assigned: with an order per key, only one, since two puts with the same time in
    /// different lanes have no order.
    assigned_lanes: usize,
    /// The number of handles with a lane so far. The lanes are assigned in turn.
    next_lane: AtomicUsize,
    combiner: Mutex<Combiner>,
}

/// The state of the thread that drains the lanes. Its lock is taken before any other.
#[derive(Debug)]
pub(crate) struct Combiner {
    pub(crate) drain: BufferDrain<Ticket>,
    pub(crate) keys: HashKeyCache,
    /// A lower bound of the state machine's room, since only the combiner adds records.
    pub(crate) room: Room,
}

/// The lane of a handle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneId(usize);

/// The records and bytes in the lanes, and the oldest put.
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
            assigned_lanes: if config.ordering() == Ordering::None { LANES } else { 1 },
            next_lane: AtomicUsize::new(0),
            combiner: Mutex::new(combiner),
        }
    }

    /// Returns a lane for a new handle.
    pub(crate) fn assign_lane(&self) -> LaneId {
        LaneId(self.next_lane.fetch_add(1, atomic::Ordering::Relaxed) % self.assigned_lanes)
    }

    /// Queues a record. Returns the record and its ticket if it may not be queued. Reads the clock while the lane is
    /// locked: see [`BufferDrain::take`].
    #[expect(clippy::result_large_err, reason = "the record is returned without an allocation")]
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

    /// Takes the combiner's lock, unless another thread holds it.
    pub(crate) fn try_combiner(&self) -> Option<MutexGuard<'_, Combiner>> {
        try_lock(&self.combiner)
    }

    /// Takes all records that were queued until now out of the lanes, and hashes their keys. Returns the current time.
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

    /// Sets the time of the lanes' next drain to `next`. Returns it, or an earlier time if a queued record requires
    /// that.
    pub(crate) fn expect_drain(&self, next: Instant) -> Instant {
        self.lanes.iter().map(|lane| lock(lane).expect_drain(next)).fold(next, Instant::min)
    }

    /// Counts the records in the lanes. While the combiner's lock is held, no record is between the lanes and the state
    /// machine.
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

    /// Closes the lanes: no record is queued after this.
    pub(crate) fn close(&self) {
        self.lanes.iter().for_each(|lane| lock(lane).close());
    }
}

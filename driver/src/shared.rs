//! The state machine behind its lock: every event enters here. The handles, the drive loop and the requests in flight
//! share it.
//!
//! Lock order: combiner, then a lane or the state; never a lane and the state together. ARCHITECTURE.md, "Concurrency
//! in the driver", describes which threads may wait for which, and why no wake-up is lost.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard};
use std::{fmt, iter, mem, thread};

use event_listener::Event;
use kpl_core::metrics::{MetricsSnapshot, MetricsWindow};
use kpl_core::{Action, Buffered, CheckedRecord, FlushId, Instant, PreparedRecord, PutError, Room, ShardName, Stats};
use tokio::sync::oneshot;

use crate::event_log::EventLog;
use crate::metrics::Exporter;
use crate::outcome::Ticket;
use crate::submission::{Combiner, LaneId, Queued, SubmissionQueue};
use crate::sync::{Latch, lock, try_lock};
use crate::wait_queue::{ShardQueues, WaitQueue};

/// The number of drained puts per lock of the state machine. The lock is held for less than 1 µs.
const PUTS_PER_LOCK: usize = 4;

/// The state machine, the submission queue in front of it, and the wait queues and events of both.
pub(crate) struct Shared {
    pub(crate) submission: SubmissionQueue,
    state: Mutex<State>,
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
    /// Wakes the drive loop.
    pub(crate) wake: Event,
    /// Puts that wait for room.
    pub(crate) wait_queue: WaitQueue,
    /// Puts that wait for room in their shard.
    pub(crate) shard_queues: ShardQueues,
    /// Set when the deadline of a close has passed: requests in flight end at once.
    pub(crate) cancelled: Latch,
    /// Set when the producer is closed and every outcome is resolved.
    pub(crate) finished: Latch,
    pub(crate) event_log: EventLog,
    pub(crate) exporter: Exporter,
}

pub(crate) struct State {
    pub(crate) core: kpl_core::Producer<Ticket>,
    /// The time of the drive loop's next turn, unless it is woken earlier.
    next_turn: Instant,
    flushes: Vec<(FlushId, oneshot::Sender<()>)>,
    /// Whether the drive loop has ended. Then each thread that changes the state also carries out the actions.
    pub(crate) is_abandoned: bool,
    /// The number of threads that carry out actions after the drive loop has ended.
    pub(crate) resolvers: usize,
}

impl Shared {
    pub(crate) fn new(core: kpl_core::Producer<Ticket>, clock: Box<dyn Fn() -> Instant + Send + Sync>) -> Self {
        let submission = SubmissionQueue::new(core.config());
        let state = State { core, next_turn: Instant::NEVER, flushes: Vec::new(), is_abandoned: false, resolvers: 0 };
        Self {
            submission,
            state: Mutex::new(state),
            clock,
            wake: Event::new(),
            wait_queue: WaitQueue::default(),
            shard_queues: ShardQueues::default(),
            cancelled: Latch::default(),
            finished: Latch::default(),
            event_log: EventLog::default(),
            exporter: Exporter::default(),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        (self.clock)()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Puts a record if there is room for it: into the submission queue, or else into the state machine. The error has
    /// the record and its ticket.
    ///
    /// If other puts wait for the record's shard, this one does not overtake them. If it is at the front of a shard's
    /// queue, `in_turn_for` is that shard.
    #[expect(clippy::result_large_err, reason = "the record is returned without an allocation")]
    pub(crate) fn try_put(
        &self,
        lane: LaneId,
        record: CheckedRecord,
        ticket: Ticket,
        in_turn_for: Option<&ShardName>,
    ) -> Result<(), PutError<Ticket>> {
        match self.submission.submit(lane, || self.now(), record, ticket) {
            Ok(Buffered::Waiting) => {}
            Ok(Buffered::DrainDue) => {
                // If another thread holds a lock, the next put tries again, and the drive loop drains in time.
                if let Some(combiner) = self.submission.try_combiner()
                    && try_lock(&self.state).is_some()
                {
                    self.combine(combiner, |room| room, |_, _| {});
                }
            }
            Err((record, ticket)) => {
                let mut combiner = self.submission.combiner();
                let size = record.size();
                let record = record.prepare(&mut combiner.keys);
                self.combine(
                    combiner,
                    |room| room.without(1, size),
                    |state, now| {
                        if self.has_to_queue(&state.core, &record, in_turn_for) {
                            return Err(state.core.refuse(now, record, ticket));
                        }
                        state.core.put(now, record, ticket)
                    },
                )?;
            }
        }
        Ok(())
    }

    /// Puts the first records of a batch of one stream into the state machine: those that need no check of their own.
    /// The others stay in the batch.
    pub(crate) fn put_fitting(&self, batch: &mut VecDeque<(CheckedRecord, Ticket)>) {
        let mut combiner = self.submission.combiner();
        let _wake = WakeOnPanic(&self.wake);
        // Looks at no more records than there is room for: of a batch that waits, this is called again and again.
        let reserve = |room: Room| {
            let fitting = batch.iter().take(room.records);
            fitting.fold(room, |room, (record, _)| room.without(1, record.size()))
        };
        let now = self.drain_lanes(&mut combiner, reserve);
        let fitting = self.lock().core.fitting(batch.iter().map(|(record, _)| record));
        // A put that waits for its shard is not overtaken.
        if fitting > 0 && self.shard_queues.is_empty() {
            let Combiner { drain, keys, .. } = &mut *combiner;
            drain.add(now, batch, fitting);
            drain.hash_keys(keys);
            let mut has_room = true;
            while has_room && !drain.is_empty() {
                let mut state = self.lock();
                let _ = (0..PUTS_PER_LOCK).all(|_| state.core.put_drained(now, drain, keys));
                // The batch may have made the backlog of a shard long.
                has_room = state.core.buffer_room().records > 0;
            }
            drain.take_back(batch);
        }
        self.finish(combiner, |_| {});
    }

    /// Whether other puts wait for the record's shard, and this one is not at the front of their queue.
    fn has_to_queue(
        &self,
        core: &kpl_core::Producer<Ticket>,
        record: &PreparedRecord,
        in_turn_for: Option<&ShardName>,
    ) -> bool {
        !self.shard_queues.is_empty()
            && core.shard_name(record).is_some_and(|shard| in_turn_for != Some(&shard) && self.shard_queues.has(&shard))
    }

    /// Moves all puts so far to the state machine, then applies an event to it.
    pub(crate) fn after_all_puts<R>(&self, event: impl FnOnce(&mut State, Instant) -> R) -> R {
        self.combine(self.submission.combiner(), |room| room, event)
    }

    /// Moves all puts so far to the state machine, then applies an event to it. `reserve` subtracts from the room what
    /// the event may need.
    fn combine<R>(
        &self,
        mut combiner: MutexGuard<'_, Combiner>,
        reserve: impl FnOnce(Room) -> Room,
        event: impl FnOnce(&mut State, Instant) -> R,
    ) -> R {
        let _wake = WakeOnPanic(&self.wake);
        let now = self.drain_lanes(&mut combiner, reserve);
        self.finish(combiner, |state| event(state, now))
    }

    /// Moves all puts so far to the state machine. Returns the current time.
    fn drain_lanes(&self, combiner: &mut Combiner, reserve: impl FnOnce(Room) -> Room) -> Instant {
        let room = reserve(mem::take(&mut combiner.room));
        let now = self.submission.drain(combiner, room, || self.now());
        self.put_drained(combiner, now);
        now
    }

    fn put_drained(&self, combiner: &mut Combiner, now: Instant) {
        let Combiner { drain, keys, .. } = combiner;
        while !drain.is_empty() {
            let mut state = self.lock();
            let _ = (0..PUTS_PER_LOCK).all(|_| state.core.put_drained(now, drain, keys));
        }
    }

    /// Applies an event to the state machine, and frees the combiner. Wakes the drive loop if it has to take an earlier
    /// turn than planned.
    fn finish<R>(&self, mut combiner: MutexGuard<'_, Combiner>, event: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = event(&mut state);
        combiner.room = state.core.buffer_room();
        let must_wake = state.plan_turn();
        drop((state, combiner));
        if must_wake {
            self.wake.notify(1);
        }
        result
    }

    /// Closes the submission queue: every later put goes directly to the state machine.
    fn close_submission(&self) {
        self.submission.close();
        self.after_all_puts(|_, _| {});
    }

    /// Returns the outstanding records and bytes: those in the submission queue and in the state machine.
    pub(crate) fn outstanding(&self) -> Queued {
        self.read(|core, queued| Queued {
            records: core.outstanding_records() + queued.records,
            bytes: core.outstanding_bytes() + queued.bytes,
            oldest_put: core.oldest_put().or(queued.oldest_put),
        })
    }

    pub(crate) fn stats(&self) -> Stats {
        self.read(|core, queued| {
            let mut stats = core.stats();
            stats.user_records_put += queued.records as u64;
            stats
        })
    }

    /// Reads the state machine and the size of the submission queue, consistently. Changes nothing.
    fn read<R>(&self, read: impl FnOnce(&kpl_core::Producer<Ticket>, Queued) -> R) -> R {
        let _combiner = self.submission.combiner();
        let queued = self.submission.queued();
        read(&self.lock().core, queued)
    }

    /// Returns a copy of the metrics, to be rolled up outside the lock.
    pub(crate) fn metrics(&self, window: MetricsWindow) -> MetricsSnapshot {
        self.after_all_puts(|state, now| state.core.metrics(now, window))
    }

    /// Takes a turn of the drive loop, with [`State::take_turn`].
    pub(crate) fn take_turn(&self, actions_max: usize, actions: &mut VecDeque<Action<Ticket>>) -> Turn {
        let mut turn = self.after_all_puts(|state, now| state.take_turn(now, actions_max, actions));
        turn.next = self.submission.expect_drain(turn.next);
        turn
    }

    /// Whether more than half of all room is free. Then puts do not join the queue: it would never end during a flood,
    /// and each put would wake a task.
    pub(crate) fn has_ample_room(&self) -> bool {
        let state = self.lock();
        let (room, config) = (state.core.room(), state.core.config());
        room.records > config.max_outstanding_records() / 2 && room.bytes > config.max_outstanding_bytes() / 2
    }

    /// Starts a flush. The receiver completes when the flush is done.
    pub(crate) fn flush(&self) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        self.after_all_puts(|_, _| {});
        let now = self.now();
        self.change(|state| {
            let flush = state.core.flush(now);
            state.flushes.push((flush, done));
        });
        receiver
    }

    /// Notifies the caller of a flush that it is done.
    pub(crate) fn end_flush(&self, flush: FlushId) {
        let mut state = self.lock();
        if let Some(position) = state.flushes.iter().position(|(id, _)| *id == flush) {
            let (_, done) = state.flushes.swap_remove(position);
            drop(state);
            // The caller may have dropped its future.
            let _ = done.send(());
        }
    }

    /// Starts a close, or brings its deadline forward.
    pub(crate) fn close(&self, deadline: impl FnOnce(Instant) -> Instant) {
        let now = self.now();
        let deadline = deadline(now);
        self.exporter.close_by(deadline);
        self.close_submission();
        self.change(|state| state.core.close(now, deadline));
        self.notify_waiting_puts();
    }

    /// Applies an event to the state machine, and makes sure that its actions are carried out.
    pub(crate) fn change(&self, event: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        event(&mut state);
        let is_abandoned = state.is_abandoned;
        drop(state);
        if is_abandoned {
            self.resolve_all(VecDeque::new());
        } else {
            self.wake.notify(1);
        }
    }

    /// Replaces a drive loop that has ended: closes the state machine, resolves all its records, and makes later events
    /// do the same. `actions` are those that the loop has not carried out.
    pub(crate) fn abandon(&self, actions: VecDeque<Action<Ticket>>) {
        // If a queued record makes the state machine panic, the next try moves the other records.
        while catch_unwind(AssertUnwindSafe(|| self.close_submission())).is_err()
            && !self.submission.combiner().drain.is_empty()
        {}
        let now = self.now();
        {
            let mut state = self.lock();
            state.is_abandoned = true;
            state.core.close(now, now);
        }
        self.resolve_all(actions);
        self.notify_waiting_puts();
    }

    /// Wakes the puts at the front of all queues. They fail because the producer is closed; then the next ones do.
    fn notify_waiting_puts(&self) {
        self.wait_queue.notify();
        self.shard_queues.notify_all();
    }
}

impl State {
    /// Advances the state machine to `now` and takes up to `actions_max` of its actions.
    fn take_turn(&mut self, now: Instant, actions_max: usize, actions: &mut VecDeque<Action<Ticket>>) -> Turn {
        self.core.tick(now);
        actions.extend(iter::from_fn(|| self.core.poll_action()).take(actions_max));
        self.next_turn = self.core.next_tick().unwrap_or(Instant::NEVER);
        Turn { next: self.next_turn, has_more: self.core.has_actions(), is_drained: self.core.is_drained() }
    }

    /// Returns true if the drive loop has to be woken: there are actions, or its next turn is too late. Mostly false.
    fn plan_turn(&mut self) -> bool {
        let next = self.core.next_tick().unwrap_or(Instant::NEVER);
        let is_earlier = next < self.next_turn;
        if is_earlier {
            self.next_turn = next;
        }
        is_earlier || self.core.has_actions()
    }
}

/// The result of a turn: what the drive loop does next.
pub(crate) struct Turn {
    /// The time of the next turn.
    pub(crate) next: Instant,
    /// Whether there are more actions, so that the next turn is due at once.
    pub(crate) has_more: bool,
    pub(crate) is_drained: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Queued { records, bytes, .. } = self.outstanding();
        f.debug_struct("Producer")
            .field("outstanding_records", &records)
            .field("outstanding_bytes", &bytes)
            .finish_non_exhaustive()
    }
}

/// Wakes the drive loop if the state machine panics: the loop processes the remaining drained puts.
struct WakeOnPanic<'a>(&'a Event);

impl Drop for WakeOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.notify(1);
        }
    }
}

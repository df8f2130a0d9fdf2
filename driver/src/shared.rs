//! What the handles, the drive loop and the requests under way share.

use std::collections::VecDeque;
use std::fmt;
use std::iter;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::panicking;

use event_listener::Event;
use kpl_core::metrics::{MetricsWindow, Observations};
use kpl_core::{Action, CheckedRecord, Delivery, FlushId, HashKeyCache, Instant, PutError, Reply, RequestError, Stats};
use tokio::sync::oneshot;

use crate::inbox::{Inbox, Left, Place, Put, Room, Taken};
use crate::line::Line;
use crate::metrics::{Event as MetricsEvent, Exports};
use crate::notices::Notices;
use crate::outcome::{Outcome, Ticket};

/// Records that get to the state machine under one lock, which is held for less than a microsecond.
const PUTS_A_LOCK: usize = 4;

/// The state machine behind its lock, and the events around it.
pub(crate) struct Shared {
    pub(crate) inbox: Inbox,
    /// Whoever has it takes what lies in the inbox to the state machine. It is locked before that.
    courier: Mutex<Courier>,
    state: Mutex<State>,
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
    /// Wakes the drive loop.
    pub(crate) wake: Event,
    /// Where puts wait while the producer is full.
    pub(crate) line: Line,
    /// The deadline of a close has passed: requests under way end at once.
    cancelled: AtomicBool,
    cancel: Event,
    /// Every outcome is resolved, and there will be no more.
    finished: AtomicBool,
    finish: Event,
    notices: Notices,
    pub(crate) exports: Exports,
}

#[derive(Default)]
struct Courier {
    /// From the inbox. A panic in the state machine leaves the rest here, for whoever comes next.
    taken: Taken,
    keys: HashKeyCache,
    /// What the state machine has at least.
    room: Room,
}

pub(crate) struct State {
    pub(crate) core: kpl_core::Producer<Ticket>,
    /// When the drive loop will look by itself.
    looks_at: Instant,
    flushes: Vec<(FlushId, oneshot::Sender<()>)>,
    /// The drive loop is gone: whoever changes the state carries out what follows.
    abandoned: bool,
    /// How many are at that.
    resolving: usize,
}

impl Shared {
    pub(crate) fn new(core: kpl_core::Producer<Ticket>, clock: Box<dyn Fn() -> Instant + Send + Sync>) -> Self {
        Self {
            inbox: Inbox::new(core.config()),
            courier: Mutex::default(),
            state: Mutex::new(State {
                core,
                looks_at: Instant::NEVER,
                flushes: Vec::new(),
                abandoned: false,
                resolving: 0,
            }),
            clock,
            wake: Event::new(),
            line: Line::default(),
            cancelled: AtomicBool::new(false),
            cancel: Event::new(),
            finished: AtomicBool::new(false),
            finish: Event::new(),
            notices: Notices::default(),
            exports: Exports::default(),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        (self.clock)()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Should the state machine ever panic, its records must still be resolved.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(clippy::result_large_err, reason = "the record comes back as it was, without an allocation")]
    pub(crate) fn try_put(&self, place: Place, record: CheckedRecord) -> Result<Outcome, PutError<Ticket>> {
        let (ticket, outcome) = Outcome::new();
        match self.inbox.leave(place, || self.now(), record, ticket) {
            Left::Lies => {}
            Left::LiesAndMany => {
                // If somebody else is at it: the next put looks again, and the drive loop comes by in time.
                if let Some(courier) = unless_locked(&self.courier)
                    && unless_locked(&self.state).is_some()
                {
                    self.deliver(courier, Room::default(), |_, _| {});
                }
            }
            Left::Not(record, ticket) => {
                let mut courier = self.courier();
                let needed = Room { records: 1, bytes: record.size() };
                let record = record.prepare(&mut courier.keys);
                self.deliver(courier, needed, |state, now| state.core.put(now, record, ticket))?;
            }
        }
        Ok(outcome)
    }

    /// Takes to the state machine what was left in the inbox until now, and lets something happen to it after that.
    fn after_all_puts<R>(&self, event: impl FnOnce(&mut State, Instant) -> R) -> R {
        self.deliver(self.courier(), Room::default(), event)
    }

    /// Wakes the drive loop if it has to look earlier than it would by itself; mostly that is not so. `needed` is what the
    /// event may take of the room.
    fn deliver<R>(
        &self,
        mut courier: MutexGuard<'_, Courier>,
        needed: Room,
        event: impl FnOnce(&mut State, Instant) -> R,
    ) -> R {
        let _wake = WakeIfPanicking(&self.wake);
        let Courier { taken, keys, room } = &mut *courier;
        let room_before = mem::take(room);
        let now = self.inbox.take(|| self.now(), taken, room_before.without(needed));
        keys.hash_each(taken.records());
        while !taken.is_empty() {
            let mut state = self.lock();
            for Put { at, record, ticket } in iter::from_fn(|| taken.pop()).take(PUTS_A_LOCK) {
                state.core.put_taken(now, at, record.prepare(keys), ticket);
            }
        }
        let mut state = self.lock();
        let result = event(&mut state, now);
        *room = state.room();
        let wake = state.must_wake();
        drop((state, courier));
        if wake {
            self.wake.notify(1);
        }
        result
    }

    fn courier(&self) -> MutexGuard<'_, Courier> {
        self.courier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All puts that are still to come go to the state machine by themselves.
    fn close_inbox(&self) {
        self.inbox.close();
        self.after_all_puts(|_, _| {});
    }

    /// What is accepted and not yet resolved, wherever it is.
    pub(crate) fn outstanding(&self) -> Outstanding {
        self.look(|core, lying| Outstanding {
            records: core.outstanding_records() + lying.records,
            bytes: core.outstanding_bytes() + lying.bytes,
            oldest_put: core.oldest_put().or(lying.oldest_put),
        })
    }

    pub(crate) fn stats(&self) -> Stats {
        self.look(|core, lying| {
            let mut stats = core.stats();
            stats.user_records_put += lying.records as u64;
            stats
        })
    }

    /// Looks at the state machine, and at what it has not seen yet. Changes nothing.
    fn look<R>(&self, look: impl FnOnce(&kpl_core::Producer<Ticket>, Outstanding) -> R) -> R {
        // While it is locked, nothing is on the way from the inbox to the state machine.
        let _courier = self.courier();
        let lying = self.inbox.lying();
        look(&self.lock().core, lying)
    }

    /// What has been measured, to be added up outside the lock.
    pub(crate) fn metrics(&self, window: MetricsWindow) -> Observations {
        self.after_all_puts(|state, now| state.core.metrics(now, window))
    }

    /// Lets the drive loop do its turn. See [`State::turn`].
    pub(crate) fn turn(&self, most: usize, actions: &mut VecDeque<Action<Ticket>>) -> Turn {
        let mut turn = self.after_all_puts(|state, now| state.turn(now, most, actions));
        turn.next = self.inbox.expect(turn.next);
        turn
    }

    /// Whether half of all room is free. There may still be a line, of those who are about to take it: it would never end
    /// if all others had to go to its end, and each put would wake a task.
    pub(crate) fn has_ample_room(&self) -> bool {
        let state = self.lock();
        let (room, config) = (state.room(), state.core.config());
        room.records > config.max_outstanding_records() / 2 && room.bytes > config.max_outstanding_bytes() / 2
    }

    /// Starts a flush. The receiver ends when it is done.
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

    /// Starts a close, or brings its deadline forward.
    pub(crate) fn close(&self, deadline: impl FnOnce(Instant) -> Instant) {
        let now = self.now();
        let deadline = deadline(now);
        self.exports.close_by(deadline);
        self.close_inbox();
        self.change(|state| state.core.close(now, deadline));
        // Those who wait for room are told, one after the other, that there will be none.
        self.line.room_made();
    }

    /// Ends when every outcome is resolved and nothing will be taken any more.
    pub(crate) async fn finished(&self) {
        until(&self.finished, &self.finish).await;
    }

    /// Ends when requests under way are called back.
    pub(crate) async fn cancelled(&self) {
        until(&self.cancelled, &self.cancel).await;
    }

    /// Lets something happen to the state machine, and sees to it that somebody carries out what follows.
    pub(crate) fn change(&self, event: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        event(&mut state);
        let abandoned = state.abandoned;
        drop(state);
        if abandoned {
            self.resolve_all(VecDeque::new());
        } else {
            self.wake.notify(1);
        }
    }

    /// Carries out actions one by one, so that none is lost should one panic, nor a record of one. Those that take time go to `start`.
    pub(crate) fn carry_out(&self, actions: &mut VecDeque<Action<Ticket>>, mut start: impl FnMut(Action<Ticket>)) {
        let mut resolved = false;
        let outlets = self.exports.outlets();
        let observe = |event: MetricsEvent<'_>| outlets.iter().for_each(|outlet| outlet.observe(|| self.now(), event));
        while let Some(action) = actions.front_mut() {
            // It stays where it is until all of its records are resolved.
            if let Action::Resolve(records) = action {
                resolved = true;
                for (ticket, result) in records {
                    observe(MetricsEvent::Resolved(&result));
                    ticket.complete(result);
                }
            }
            let Some(action) = actions.pop_front() else { break };
            match action {
                Action::FlushDone(flush) => self.flushed(flush),
                Action::CancelRequests => {
                    self.cancelled.store(true, Ordering::Release);
                    self.cancel.notify(usize::MAX);
                }
                Action::Notice(notice) => {
                    observe(MetricsEvent::Notice(&notice));
                    self.notices.tell(self.now(), &notice);
                }
                Action::Resolve(_) => {}
                other => start(other),
            }
        }
        if resolved {
            self.line.room_made();
        }
    }

    /// The drive loop is gone and leaves these actions behind: closes the state machine, and resolves all that it has,
    /// now and from now on.
    pub(crate) fn abandon(&self, actions: VecDeque<Action<Ticket>>) {
        // Should one of its records make the state machine panic, the others get there all the same.
        while catch_unwind(AssertUnwindSafe(|| self.close_inbox())).is_err() && !self.courier().taken.is_empty() {}
        let now = self.now();
        {
            let mut state = self.lock();
            state.abandoned = true;
            state.core.close(now, now);
        }
        self.resolve_all(actions);
        self.line.room_made();
    }

    /// Carries out everything without a runtime: what would be sent is not.
    fn resolve_all(&self, mut actions: VecDeque<Action<Ticket>>) {
        let _resolving = Resolving::new(self);
        loop {
            let mut unsent = Vec::new();
            self.carry_out(&mut actions, |action| {
                // Nobody needs to know a stream's shards any more.
                if let Action::SendBatch(batch) = action {
                    unsent.push(batch);
                }
            });
            let now = self.now();
            let mut state = self.lock();
            for batch in unsent {
                let error = RequestError::new(Delivery::NotSent, "Closed", "the runtime was shut down");
                state.core.respond(now, batch, Reply::Failed(error));
            }
            actions.extend(iter::from_fn(|| state.core.poll_action()));
            if actions.is_empty() {
                return;
            }
        }
    }

    fn flushed(&self, flush: FlushId) {
        let mut state = self.lock();
        if let Some(position) = state.flushes.iter().position(|(id, _)| *id == flush) {
            let (_, done) = state.flushes.swap_remove(position);
            drop(state);
            // Whoever asked for it may have gone.
            let _ = done.send(());
        }
    }
}

impl State {
    /// Brings the state machine to `now` and takes up to `most` of its actions. Says when to look again, and whether
    /// there is more to take right away.
    fn turn(&mut self, now: Instant, most: usize, actions: &mut VecDeque<Action<Ticket>>) -> Turn {
        self.core.tick(now);
        actions.extend(iter::from_fn(|| self.core.poll_action()).take(most));
        self.looks_at = self.core.next_tick().unwrap_or(Instant::NEVER);
        Turn { next: self.looks_at, more: self.core.has_actions(), drained: self.core.is_drained() }
    }

    fn room(&self) -> Room {
        let (core, config) = (&self.core, self.core.config());
        Room {
            records: config.max_outstanding_records().saturating_sub(core.outstanding_records()),
            bytes: config.max_outstanding_bytes().saturating_sub(core.outstanding_bytes()),
        }
    }

    /// Whether the drive loop has to look earlier than it would by itself. Most puts wake nobody.
    fn must_wake(&mut self) -> bool {
        let next = self.core.next_tick().unwrap_or(Instant::NEVER);
        let earlier = next < self.looks_at;
        if earlier {
            self.looks_at = next;
        }
        earlier || self.core.has_actions()
    }
}

/// User records that are accepted and not yet resolved.
pub(crate) struct Outstanding {
    pub(crate) records: usize,
    /// Data and partition keys.
    pub(crate) bytes: usize,
    pub(crate) oldest_put: Option<Instant>,
}

/// What the drive loop does next.
pub(crate) struct Turn {
    pub(crate) next: Instant,
    pub(crate) more: bool,
    pub(crate) drained: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outstanding { records, bytes, .. } = self.outstanding();
        f.debug_struct("Producer")
            .field("outstanding_records", &records)
            .field("outstanding_bytes", &bytes)
            .finish_non_exhaustive()
    }
}

/// Somebody who carries out actions when the drive loop is gone. The last one tells that all is resolved.
struct Resolving<'a>(&'a Shared);

impl<'a> Resolving<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.lock().resolving += 1;
        Self(shared)
    }
}

impl Drop for Resolving<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.resolving -= 1;
        // What is under way comes back, through its guard, and somebody resolves it.
        if state.core.is_drained() && state.resolving == 0 {
            self.0.finished.store(true, Ordering::Release);
            self.0.finish.notify(usize::MAX);
        }
    }
}

/// Should the state machine panic with records on their way to it, the drive loop takes the others there.
struct WakeIfPanicking<'a>(&'a Event);

impl Drop for WakeIfPanicking<'_> {
    fn drop(&mut self) {
        if panicking() {
            self.0.notify(1);
        }
    }
}

/// Locks what nobody has locked.
fn unless_locked<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Ends when `flag` is set, which is done before `event` is notified.
async fn until(flag: &AtomicBool, event: &Event) {
    while !flag.load(Ordering::Acquire) {
        let listener = event.listen();
        if !flag.load(Ordering::Acquire) {
            listener.await;
        }
    }
}

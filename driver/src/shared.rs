//! What the handles, the drive loop and the requests under way share.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use event_listener::{Event, IntoNotification};
use kpl_core::{Action, Delivery, FlushId, Instant, PreparedRecord, PutError, Reply, RequestError};
use tokio::sync::oneshot;

use crate::notices::Notices;
use crate::outcome::{Outcome, Ticket};

/// The state machine behind its lock, and the events around it.
pub(crate) struct Shared {
    state: Mutex<State>,
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
    /// Wakes the drive loop.
    pub(crate) wake: Event,
    /// Wakes puts that wait for room, in the order of their coming.
    pub(crate) room: Event,
    /// The deadline of a close has passed: requests under way end at once.
    cancelled: AtomicBool,
    cancel: Event,
    /// The drive loop has ended, and every outcome is resolved.
    finished: AtomicBool,
    finish: Event,
    notices: Notices,
}

pub(crate) struct State {
    pub(crate) core: kpl_core::Producer<Ticket>,
    /// When the drive loop will look by itself.
    looks_at: Instant,
    flushes: Vec<(FlushId, oneshot::Sender<()>)>,
    /// The drive loop is gone: whoever changes the state carries out what follows.
    abandoned: bool,
}

/// What [`Shared::try_put`] did.
pub(crate) enum Put {
    Taken {
        outcome: Outcome,
        /// Whether there is room for another one.
        room_left: bool,
    },
    Refused(PutError<Ticket>),
}

impl Shared {
    pub(crate) fn new(core: kpl_core::Producer<Ticket>, clock: Box<dyn Fn() -> Instant + Send + Sync>) -> Self {
        Self {
            state: Mutex::new(State { core, looks_at: Instant::NEVER, flushes: Vec::new(), abandoned: false }),
            clock,
            wake: Event::new(),
            room: Event::new(),
            cancelled: AtomicBool::new(false),
            cancel: Event::new(),
            finished: AtomicBool::new(false),
            finish: Event::new(),
            notices: Notices::default(),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        (self.clock)()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Should the state machine ever panic, its records must still be resolved.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn try_put(&self, record: PreparedRecord) -> Put {
        let (ticket, outcome) = Outcome::new();
        let now = self.now();
        let mut state = self.lock();
        if let Err(error) = state.core.put(now, record, ticket) {
            return Put::Refused(error);
        }
        let config = state.core.config();
        let room_left = state.core.outstanding_records() < config.max_outstanding_records()
            && state.core.outstanding_bytes() < config.max_outstanding_bytes();
        let wake = state.must_wake();
        drop(state);
        if wake {
            self.wake.notify(1);
        }
        Put::Taken { outcome, room_left }
    }

    /// Starts a flush. The receiver ends when it is done.
    pub(crate) fn flush(&self) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        let now = self.now();
        let mut state = self.lock();
        if !state.abandoned {
            let flush = state.core.flush(now);
            state.flushes.push((flush, done));
        }
        drop(state);
        self.wake.notify(1);
        receiver
    }

    /// Starts a close, or brings its deadline forward.
    pub(crate) fn close(&self, deadline: impl FnOnce(Instant) -> Instant) {
        let now = self.now();
        self.lock().core.close(now, deadline(now));
        self.wake.notify(1);
        // Those who wait for room are told that there will be none.
        self.room.notify(usize::MAX);
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
    pub(crate) fn change(&self, event: impl FnOnce(&mut kpl_core::Producer<Ticket>)) {
        let mut state = self.lock();
        event(&mut state.core);
        if state.abandoned {
            drop(state);
            self.resolve_all();
        } else {
            drop(state);
            self.wake.notify(1);
        }
    }

    /// Carries out actions that need no runtime. Gives back those that do.
    pub(crate) fn carry_out(&self, actions: &mut Vec<Action<Ticket>>) -> Vec<Action<Ticket>> {
        let mut resolved = 0;
        let mut rest = Vec::new();
        for action in actions.drain(..) {
            match action {
                Action::ResolveRecord(ticket, result) => {
                    resolved += 1;
                    // Nobody may be waiting for it; the record went its way all the same.
                    let _ = ticket.send(result);
                }
                Action::FlushDone(flush) => self.flushed(flush),
                Action::CancelRequests => {
                    self.cancelled.store(true, Ordering::Release);
                    self.cancel.notify(usize::MAX);
                }
                Action::Notice(notice) => self.notices.tell(self.now(), &notice),
                other => rest.push(other),
            }
        }
        if resolved > 0 {
            self.room.notify(resolved.additional());
        }
        rest
    }

    /// The drive loop is gone: closes the state machine and resolves all that it has, now and from now on.
    pub(crate) fn abandon(&self) {
        let now = self.now();
        {
            let mut state = self.lock();
            state.abandoned = true;
            state.core.close(now, now);
            state.flushes.clear();
        }
        self.resolve_all();
        self.finished.store(true, Ordering::Release);
        self.finish.notify(usize::MAX);
        self.room.notify(usize::MAX);
    }

    /// Carries out everything without a runtime: what would be sent is not.
    fn resolve_all(&self) {
        let mut actions = Vec::new();
        loop {
            {
                let mut state = self.lock();
                actions.extend(std::iter::from_fn(|| state.core.poll_action()));
            }
            if actions.is_empty() {
                return;
            }
            for action in self.carry_out(&mut actions) {
                if let Action::SendBatch(batch) = action {
                    let error = RequestError::new(Delivery::NotSent, "Closed", "the runtime was shut down");
                    let now = self.now();
                    self.lock().core.respond(now, batch, Reply::Failed(error));
                }
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
    pub(crate) fn turn(&mut self, now: Instant, most: usize, actions: &mut Vec<Action<Ticket>>) -> Turn {
        self.core.tick(now);
        actions.extend(std::iter::from_fn(|| self.core.poll_action()).take(most));
        self.looks_at = self.core.next_tick().unwrap_or(Instant::NEVER);
        Turn { next: self.looks_at, more: self.core.has_actions(), drained: self.core.is_drained() }
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

/// What the drive loop does next.
pub(crate) struct Turn {
    pub(crate) next: Instant,
    pub(crate) more: bool,
    pub(crate) drained: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Producer")
            .field("outstanding_records", &state.core.outstanding_records())
            .field("outstanding_bytes", &state.core.outstanding_bytes())
            .finish_non_exhaustive()
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

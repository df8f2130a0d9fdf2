//! The outcome of a put, and the ticket that resolves an outcome.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use kpl_core::RecordResult;

use crate::batch::BatchSlot;
use crate::wakers;

/// The future result of a record: its [`Receipt`](kpl_core::Receipt), or its [`PutFailure`](kpl_core::PutFailure),
/// which contains the record.
///
/// It is always resolved: by success, by failure, when the producer is closed, and when its runtime is shut down.
/// Dropping it does not cancel the record. `&mut outcome` is a future, too: in a `select!` in which another branch
/// completes first, the outcome is kept and can be awaited later.
///
/// ```no_run
/// # async fn example(outcome: kpl_driver::Outcome) {
/// match outcome.await {
///     Ok(receipt) => println!("stored in {}", receipt.shard_id()),
///     Err(failure) => println!("{failure}: {:?}", failure.record),
/// }
/// # }
/// ```
#[must_use = "without the outcome, the result of the record is unknown; the record is sent anyway"]
pub struct Outcome(Option<SlotRef>);

/// The other end of an outcome. The state machine keeps it with the record and returns it with the result, which then
/// resolves the outcome.
///
/// `None` once it has resolved the outcome.
pub(crate) struct Ticket(Option<Place>);

/// The place of a result.
enum Place {
    Single(SlotRef),
    InBatch(BatchSlot),
}

/// A reference to a slot: the outcome and the ticket have one each, until the result is taken.
struct SlotRef {
    block: Arc<Block>,
    slot: u8,
}

/// Slots for records that one thread puts in sequence. One allocation per block costs a fraction of one per record, and
/// records that are resolved together are close together in memory.
struct Block([Mutex<State>; BLOCK_SIZE as usize]);

const BLOCK_SIZE: u8 = 32;

thread_local! {
    /// The current block of the thread, and the number of its slots that are in use.
    static BLOCK: RefCell<(Arc<Block>, u8)> = RefCell::new((Block::new(), 0));
}

/// The state of a slot. Each outstanding record has a slot, so it is small.
enum State {
    Open(Option<Waker>),
    Resolved(RecordResult),
    /// The ticket was dropped without a result.
    Lost,
    /// The outcome has its result, or was dropped: a result is not kept.
    Taken,
}

impl Block {
    fn new() -> Arc<Self> {
        Arc::new(Self([const { Mutex::new(State::Open(None)) }; BLOCK_SIZE as usize]))
    }
}

impl SlotRef {
    /// Changes the state under its lock. The lock is held for nothing else.
    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.block.0[usize::from(self.slot)].lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the final state of an open slot, and wakes the task that waits.
    fn end(&self, state: State) {
        let (waker, unused) = self.with(|current| match current {
            State::Open(waker) => {
                let waker = waker.take();
                *current = state;
                (waker, None)
            }
            _ => (None, Some(state)),
        });
        drop(unused); // the outcome was dropped
        if let Some(waker) = waker {
            wakers::wake(&waker);
        }
    }
}

impl Ticket {
    /// Returns the ticket of a record of a batch.
    pub(crate) fn in_batch(slot: BatchSlot) -> Self {
        Self(Some(Place::InBatch(slot)))
    }

    /// Passes the result to the outcome, which may have been dropped.
    pub(crate) fn complete(mut self, result: RecordResult) {
        self.end(Some(result));
    }

    fn end(&mut self, result: Option<RecordResult>) {
        match self.0.take() {
            Some(Place::Single(slot)) => slot.end(result.map_or(State::Lost, State::Resolved)),
            Some(Place::InBatch(slot)) => slot.end(result),
            None => {}
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl Outcome {
    pub(crate) fn new() -> (Ticket, Self) {
        let next = BLOCK.try_with(|current| {
            let (block, used) = &mut *current.borrow_mut();
            if *used == BLOCK_SIZE {
                (*block, *used) = (Block::new(), 0);
            }
            let slot = *used;
            *used += 1;
            (block.clone(), slot)
        });
        // A thread that is about to end has no thread-local block any more.
        let (block, slot) = next.unwrap_or_else(|_| (Block::new(), 0));
        (Ticket(Some(Place::Single(SlotRef { block: block.clone(), slot }))), Self(Some(SlotRef { block, slot })))
    }

    /// Takes the result, if there is one yet. Afterwards the outcome has no result, and awaiting it panics.
    pub fn try_result(&mut self) -> Option<RecordResult> {
        let result = self.0.as_ref()?.with(State::take)?;
        self.0 = None;
        Some(result)
    }
}

impl Drop for Outcome {
    /// Frees a result that was not taken. The other slots of the block may stay in use for any time.
    fn drop(&mut self) {
        if let Some(slot) = &self.0 {
            drop(slot.with(|state| mem::replace(state, State::Taken)));
        }
    }
}

impl State {
    fn take(&mut self) -> Option<RecordResult> {
        match mem::replace(self, Self::Taken) {
            Self::Resolved(result) => Some(result),
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Future for Outcome {
    type Output = RecordResult;

    /// # Panics
    ///
    /// If it is polled again after it has returned its result, or if the state machine panicked with the record in it,
    /// which is a bug.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RecordResult> {
        let Some(slot) = &self.0 else { panic!("the outcome was polled after it returned its result") };
        let result = slot.with(|state| match state {
            State::Open(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                None
            }
            // The drive loop resolves each ticket, or else the guard of the loop or of a request when it is dropped.
            State::Lost => panic!("the record was lost by a panic in the state machine"),
            State::Taken | State::Resolved(_) => state.take(),
        });
        let Some(result) = result else { return Poll::Pending };
        self.0 = None;
        Poll::Ready(result)
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.as_ref().map_or("taken", |slot| {
            slot.with(|state| match state {
                State::Open(_) => "open",
                State::Resolved(_) => "resolved",
                State::Lost => "lost",
                State::Taken => "taken",
            })
        });
        f.debug_tuple("Outcome").field(&state).finish()
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_an_outcome_and_a_slot_have_at_most_72_bytes() {
        let ends = size_of::<Ticket>() + size_of::<Outcome>();
        assert!(ends + size_of::<Block>() / usize::from(BLOCK_SIZE) <= 72, "{} bytes", size_of::<Block>());
    }

    #[test]
    fn each_record_has_its_own_slot() {
        let ends: Vec<(Ticket, Outcome)> = (0..100).map(|_| Outcome::new()).collect();
        let (tickets, outcomes): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        let mut lost: Vec<bool> = Vec::new();
        for (n, ticket) in tickets.into_iter().enumerate() {
            drop(ticket);
            lost = outcomes
                .iter()
                .map(|outcome| outcome.0.as_ref().unwrap().with(|state| matches!(state, State::Lost)))
                .collect();
            assert_eq!(lost.iter().filter(|lost| **lost).count(), n + 1);
        }
        assert!(lost.into_iter().all(|lost| lost));
    }

    #[test]
    #[should_panic(expected = "lost by a panic")]
    fn a_dropped_ticket_does_not_leave_its_outcome_pending() {
        let (ticket, outcome) = Outcome::new();
        let mut outcome = std::pin::pin!(outcome);
        let mut context = Context::from_waker(Waker::noop());
        assert!(outcome.as_mut().poll(&mut context).is_pending());
        drop(ticket);
        let _ = outcome.poll(&mut context);
    }
}

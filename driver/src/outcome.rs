//! What a put gives at once: the promise of an outcome.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use kpl_core::RecordResult;

/// What will become of a record: a future of its [`Receipt`](kpl_core::Receipt), or of its
/// [`PutFailure`](kpl_core::PutFailure) with the record in it.
///
/// It resolves in any case: by success, by failure, when the producer is closed, and when its runtime is shut down.
/// Dropping it does not cancel the record.
///
/// ```no_run
/// # async fn example(outcome: kpl_driver::Outcome) {
/// match outcome.await {
///     Ok(receipt) => println!("stored in {}", receipt.shard_id()),
///     Err(failure) => println!("{failure}: {:?}", failure.record),
/// }
/// # }
/// ```
#[must_use = "dropping the outcome means never to know; the record goes out all the same"]
pub struct Outcome(SlotRef);

/// The other end, which travels with the record.
pub(crate) struct Ticket(SlotRef);

/// One of the two that share a slot.
struct SlotRef {
    block: Arc<Block>,
    slot: u8,
}

/// Slots for records that were put one after the other by one thread. To allocate and free them together costs a fraction
/// of what it costs one by one; and what is resolved together lies together.
struct Block([Mutex<State>; BLOCK_SIZE as usize]);

const BLOCK_SIZE: u8 = 32;

thread_local! {
    /// The block whose slots are given out, and how many are.
    static BLOCK: RefCell<(Arc<Block>, u8)> = RefCell::new((Block::new(), 0));
}

/// What a slot holds. A record that is outstanding has one, so it is small.
enum State {
    Open(Option<Waker>),
    Resolved(RecordResult),
    /// The ticket is gone without a result.
    Lost,
    Taken,
}

impl Block {
    fn new() -> Arc<Self> {
        Arc::new(Self([const { Mutex::new(State::Open(None)) }; BLOCK_SIZE as usize]))
    }
}

impl SlotRef {
    /// Changes the state under its lock, which nobody holds for more than this.
    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        change(&mut self.block.0[usize::from(self.slot)].lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends an open slot, and wakes whoever waits.
    fn end(&self, state: State) {
        let waker = self.with(|open| match open {
            State::Open(waker) => {
                let waker = waker.take();
                *open = state;
                waker
            }
            _ => None,
        });
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Ticket {
    /// Hands the result over. Nobody may be waiting for it; the record went its way all the same.
    pub(crate) fn complete(mut self, result: RecordResult) {
        self.0.end(State::Resolved(result));
        self.0.slot = BLOCK_SIZE;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.0.slot < BLOCK_SIZE {
            self.0.end(State::Lost);
        }
    }
}

impl Outcome {
    pub(crate) fn new() -> (Ticket, Self) {
        let next = BLOCK.try_with(|current| {
            let (block, given) = &mut *current.borrow_mut();
            if *given == BLOCK_SIZE {
                (*block, *given) = (Block::new(), 0);
            }
            let slot = *given;
            *given += 1;
            (block.clone(), slot)
        });
        // A thread that is about to end has none any more.
        let (block, slot) = next.unwrap_or_else(|_| (Block::new(), 0));
        (Ticket(SlotRef { block: block.clone(), slot }), Self(SlotRef { block, slot }))
    }

    /// The result, if it is there already. Once given, the outcome has nothing more to give.
    pub fn try_result(&mut self) -> Option<RecordResult> {
        self.0.with(State::take)
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
    /// When it is polled again after it has given its result; and when the state machine has panicked with the record
    /// in it, which is a bug.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RecordResult> {
        self.0.with(|state| match state {
            State::Open(waker) => {
                match waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => *waker = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
            // Every ticket is resolved by whoever has it last: the drive loop, its guard, or that of a request.
            State::Lost => panic!("the record was lost by a panic in the state machine"),
            State::Taken => panic!("the outcome has given its result already"),
            State::Resolved(_) => state.take().map_or(Poll::Pending, Poll::Ready),
        })
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.with(|state| match state {
            State::Open(_) => "open",
            State::Resolved(_) => "resolved",
            State::Lost => "lost",
            State::Taken => "taken",
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
    fn an_outstanding_record_has_little_to_carry() {
        let ends = size_of::<Ticket>() + size_of::<Outcome>();
        assert!(ends + size_of::<Block>() / usize::from(BLOCK_SIZE) <= 72, "{} bytes", size_of::<Block>());
    }

    #[test]
    fn each_record_has_a_slot_of_its_own() {
        let ends: Vec<(Ticket, Outcome)> = (0..100).map(|_| Outcome::new()).collect();
        let (tickets, outcomes): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        let mut lost: Vec<bool> = Vec::new();
        for (n, ticket) in tickets.into_iter().enumerate() {
            drop(ticket);
            lost = outcomes.iter().map(|outcome| outcome.0.with(|state| matches!(state, State::Lost))).collect();
            assert_eq!(lost.iter().filter(|lost| **lost).count(), n + 1);
        }
        assert!(lost.into_iter().all(|lost| lost));
    }

    #[test]
    #[should_panic(expected = "lost by a panic")]
    fn a_ticket_that_is_dropped_leaves_nobody_waiting() {
        let (ticket, outcome) = Outcome::new();
        let mut outcome = std::pin::pin!(outcome);
        let mut context = Context::from_waker(Waker::noop());
        assert!(outcome.as_mut().poll(&mut context).is_pending());
        drop(ticket);
        let _ = outcome.poll(&mut context);
    }
}

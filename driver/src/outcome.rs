//! What a put gives at once: the promise of an outcome.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use kpl_core::RecordResult;
use tokio::sync::oneshot;

/// What will become of a record: a future of its [`Receipt`](kpl_core::Receipt), or of its
/// [`PutFailure`](kpl_core::PutFailure) with the record in it.
///
/// It resolves in any case: by success, by failure, when the producer is closed, and when its runtime is shut down.
/// Dropping it does not cancel the record.
///
/// ```no_run
/// # async fn example(outcome: kpl_driver::Outcome) {
/// match outcome.await {
///     Ok(receipt) => println!("stored in {}", receipt.shard_id),
///     Err(failure) => println!("{failure}: {:?}", failure.record),
/// }
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping the outcome means never to know; the record goes out all the same"]
pub struct Outcome {
    receiver: oneshot::Receiver<RecordResult>,
}

/// The other end, which travels with the record.
pub(crate) type Ticket = oneshot::Sender<RecordResult>;

impl Outcome {
    pub(crate) fn new() -> (Ticket, Self) {
        let (ticket, receiver) = oneshot::channel();
        (ticket, Self { receiver })
    }

    /// The result, if it is there already. Once given, the outcome has nothing more to give.
    pub fn try_result(&mut self) -> Option<RecordResult> {
        self.receiver.try_recv().ok()
    }
}

impl Future for Outcome {
    type Output = RecordResult;

    /// # Panics
    ///
    /// When it is polled again after it has given its result; and when the state machine has panicked with the record
    /// in it, which is a bug.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RecordResult> {
        // Every ticket is resolved by whoever has it last: the drive loop, its guard, or that of a request.
        Pin::new(&mut self.receiver)
            .poll(cx)
            .map(|result| result.unwrap_or_else(|_| panic!("the record was lost by a panic in the state machine")))
    }
}

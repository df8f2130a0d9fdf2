//! Batches of records: what is put, the outcome, and the error.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use kpl_core::{CheckedRecord, Full, InvalidRecord, RecordResult, UserRecord};

use crate::error::PutError;
use crate::outcome::Ticket;
use crate::producer::WaitingPut;
use crate::sync::lock;
use crate::wakers;

/// A record of a batch: a [`UserRecord`] without its stream. A pair of partition key and data can be converted into it.
///
/// Its `Debug` output has the number of bytes of the data, not the data.
#[derive(Clone, PartialEq, Eq)]
pub struct BatchRecord {
    /// The partition key: 1 to 256 characters.
    pub partition_key: String,
    /// The explicit hash key: see [`UserRecord::explicit_hash_key`](field@UserRecord::explicit_hash_key).
    pub explicit_hash_key: Option<String>,
    /// The data. Data and partition key together have at most 10 MiB, or the stream's limit if that is lower.
    pub data: Bytes,
}

impl fmt::Debug for BatchRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition_key, explicit_hash_key, data } = self;
        f.debug_struct("BatchRecord")
            .field("partition_key", partition_key)
            .field("explicit_hash_key", explicit_hash_key)
            .field("data", &format_args!("{} bytes", data.len()))
            .finish()
    }
}

impl BatchRecord {
    /// Creates a record without an explicit hash key.
    pub fn new(partition_key: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self { partition_key: partition_key.into(), explicit_hash_key: None, data: data.into() }
    }

    /// Sets the explicit hash key: a decimal number from 0 to 2^128 - 1 without leading zeros.
    #[must_use]
    pub fn explicit_hash_key(mut self, explicit_hash_key: impl Into<String>) -> Self {
        self.explicit_hash_key = Some(explicit_hash_key.into());
        self
    }

    fn of_stream(self, stream: Arc<str>) -> UserRecord {
        let Self { partition_key, explicit_hash_key, data } = self;
        UserRecord { stream, partition_key, explicit_hash_key, data }
    }
}

impl<K: Into<String>, D: Into<Bytes>> From<(K, D)> for BatchRecord {
    fn from((partition_key, data): (K, D)) -> Self {
        Self::new(partition_key, data)
    }
}

impl From<UserRecord> for BatchRecord {
    /// Drops the name of the stream.
    fn from(record: UserRecord) -> Self {
        let UserRecord { partition_key, explicit_hash_key, data, .. } = record;
        Self { partition_key, explicit_hash_key, data }
    }
}

/// The future results of a batch: a [`RecordResult`] for each record, in the order of the batch.
///
/// It is always resolved, as an [`Outcome`](crate::Outcome) is. Dropping it does not cancel the records. `&mut outcome`
/// is a future, too: in a `select!` in which another branch completes first, the outcome is kept and can be awaited later.
///
/// ```no_run
/// # async fn example(outcome: kpl_driver::BatchOutcome) {
/// for (index, result) in outcome.await.into_iter().enumerate() {
///     if let Err(failure) = result {
///         println!("record {index}: {failure}: {:?}", failure.record);
///     }
/// }
/// # }
/// ```
#[must_use = "without the outcome, the results of the records are unknown; the records are sent anyway"]
pub struct BatchOutcome {
    slots: Arc<Slots>,
    /// The number of records that were accepted. The slots of the others have no results.
    len: usize,
}

/// The results of the records of a batch. Their tickets share it.
struct Slots(Mutex<State>);

struct State {
    results: Vec<Option<RecordResult>>,
    /// The number of tickets that are in use.
    unresolved: usize,
    waker: Option<Waker>,
    /// Whether the outcome has its results, or was dropped: results are not kept.
    is_taken: bool,
}

/// The place of one result.
pub(crate) struct BatchSlot {
    slots: Arc<Slots>,
    index: u32,
}

impl BatchSlot {
    /// Stores the result; `None` if it is lost. The last result wakes the task that waits.
    pub(crate) fn end(&self, result: Option<RecordResult>) {
        let mut state = lock(&self.slots.0);
        state.unresolved -= 1;
        let waker = if state.unresolved == 0 { state.waker.take() } else { None };
        let is_taken = state.is_taken;
        if let Some(slot) = state.results.get_mut(self.index as usize).filter(|_| !is_taken) {
            *slot = result;
            drop(state);
        } else {
            drop(state);
            drop(result); // the outcome was dropped
        }
        if let Some(waker) = waker {
            wakers::wake(&waker);
        }
    }
}

impl BatchOutcome {
    /// Creates an outcome without records. [`set_len`](Self::set_len) sets their number.
    fn new() -> Self {
        let state = State { results: Vec::new(), unresolved: 0, waker: None, is_taken: false };
        Self { slots: Arc::new(Slots(Mutex::new(state))), len: 0 }
    }

    /// Returns the ticket of a record.
    fn ticket(&self, index: usize) -> Ticket {
        Ticket::in_batch(BatchSlot { slots: self.slots.clone(), index: index as u32 })
    }

    /// Sets the number of records. Call it before a ticket is used or dropped.
    fn set_len(&mut self, len: usize) {
        self.len = len;
        let mut state = lock(&self.slots.0);
        state.results.resize_with(len, || None);
        state.unresolved = len;
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no records.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the result of a record, if there is one yet, although others of the batch may have none. `None` also after
    /// the results were taken, and if there is no such record.
    pub fn result(&self, index: usize) -> Option<RecordResult> {
        lock(&self.slots.0).results.get(..self.len)?.get(index)?.clone()
    }

    /// Takes the results, if all records are resolved. Afterwards the outcome has no results, and awaiting it panics.
    pub fn try_results(&mut self) -> Option<Vec<RecordResult>> {
        let mut state = lock(&self.slots.0);
        if state.is_taken || state.unresolved > 0 {
            return None;
        }
        let results = state.take(self.len);
        drop(state);
        results.into_iter().collect()
    }
}

impl State {
    /// Takes the first `len` results.
    fn take(&mut self, len: usize) -> Vec<Option<RecordResult>> {
        self.is_taken = true;
        let mut results = mem::take(&mut self.results);
        results.truncate(len);
        results
    }
}

impl Drop for BatchOutcome {
    /// Frees the results that were not taken.
    fn drop(&mut self) {
        let unused = lock(&self.slots.0).take(0);
        drop(unused);
    }
}

impl Future for BatchOutcome {
    type Output = Vec<RecordResult>;

    /// # Panics
    ///
    /// If it is polled again after it has returned its results, or if the state machine panicked with a record in it,
    /// which is a bug.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Vec<RecordResult>> {
        let mut state = lock(&self.slots.0);
        assert!(!state.is_taken, "the outcome was polled after it returned its results");
        if state.unresolved > 0 {
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                None => state.waker = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let results = state.take(self.len);
        drop(state);
        let results: Option<Vec<RecordResult>> = results.into_iter().collect();
        // The drive loop resolves each ticket, or else the guard of the loop or of a request when it is dropped.
        Poll::Ready(results.unwrap_or_else(|| panic!("a record was lost by a panic in the state machine")))
    }
}

impl fmt::Debug for BatchOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.slots.0);
        f.debug_struct("BatchOutcome")
            .field("len", &self.len)
            .field("unresolved", &state.unresolved)
            .finish_non_exhaustive()
    }
}

/// The error of a put of a batch. The first records may have been accepted; all others are returned.
///
/// ```no_run
/// # use kpl_driver::{BatchRecord, Producer, Runtime};
/// # fn example<R: Runtime>(producer: Producer<R>, batch: Vec<BatchRecord>) {
/// use kpl_driver::{PutBatchError, Refusal};
///
/// let (outcome, later) = match producer.try_put_batch("events", batch) {
///     Ok(outcome) => (outcome, Vec::new()),
///     Err(PutBatchError { accepted, refusal: Refusal::Full(_), rest, .. }) => (accepted, rest),
///     Err(error) => panic!("{error}"),
/// };
/// # drop((outcome, later));
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[error("record {index} of the batch: {refusal}")]
#[non_exhaustive]
pub struct PutBatchError {
    /// The index of the refused record in the batch.
    pub index: usize,
    /// The reason.
    pub refusal: Refusal,
    /// The outcome of the records that were accepted, from the first one on. It has no records if one of the batch is
    /// invalid by itself.
    pub accepted: BatchOutcome,
    /// The records that were not accepted, in order, including the refused one.
    pub rest: Vec<BatchRecord>,
}

/// Why a record of a batch was refused: see [`PutError`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The record is invalid: no put can succeed.
    #[error("{0}")]
    Invalid(InvalidRecord),
    /// The producer or the record's shard is full. Only `try_put_batch` and a put with a timeout return this.
    #[error("{0}")]
    Full(Full),
    /// A blocking put was called inside an async task, where it could block the thread that it waits for.
    #[error(
        "a blocking put inside an async task: use the async producer, or `try_put_batch`, or a thread for blocking code"
    )]
    AsyncTask,
    /// The producer is closed, or its runtime was shut down.
    #[error("the producer is closed")]
    Closed,
}

impl Refusal {
    /// Returns the reason and the record of an error.
    fn new(error: PutError) -> (Self, UserRecord) {
        match error {
            PutError::Invalid { reason, record } => (Self::Invalid(reason), *record),
            PutError::Full { full, record } => (Self::Full(full), *record),
            PutError::AsyncTask { record } => (Self::AsyncTask, *record),
            PutError::Closed { record } => (Self::Closed, *record),
        }
    }
}

/// A batch of which not all records are accepted yet.
pub(crate) struct WaitingBatch {
    outcome: BatchOutcome,
    /// The first record of those that are left, while it is put alone.
    pub(crate) first: Option<WaitingPut>,
    pub(crate) rest: VecDeque<(CheckedRecord, Ticket)>,
}

impl WaitingBatch {
    /// Checks all records of a batch.
    pub(crate) fn new<B: Into<BatchRecord>>(
        stream: impl Into<Arc<str>>,
        records: impl IntoIterator<Item = B>,
    ) -> Result<Self, PutBatchError> {
        let stream = stream.into();
        let mut records = records.into_iter();
        let mut outcome = BatchOutcome::new();
        let mut checked = VecDeque::with_capacity(records.size_hint().0);
        while let Some(record) = records.next() {
            match record.into().of_stream(stream.clone()).check() {
                Ok(record) => checked.push_back((record, outcome.ticket(checked.len()))),
                Err(error) => {
                    outcome.set_len(checked.len());
                    let index = checked.len();
                    let before = checked.into_iter().map(|(record, _)| UserRecord::from(record).into());
                    let rest = before.chain([(*error.record).into()]).chain(records.map(Into::into)).collect();
                    let refusal = Refusal::Invalid(error.reason);
                    return Err(PutBatchError { index, refusal, accepted: BatchOutcome::new(), rest });
                }
            }
        }
        outcome.set_len(checked.len());
        Ok(Self { outcome, first: None, rest: checked })
    }

    /// Returns the error of a batch that is not put at all.
    pub(crate) fn refuse<B: Into<BatchRecord>>(
        refusal: Refusal,
        records: impl IntoIterator<Item = B>,
    ) -> PutBatchError {
        let rest = records.into_iter().map(Into::into).collect();
        PutBatchError { index: 0, refusal, accepted: BatchOutcome::new(), rest }
    }

    /// Returns the outcome of all records, which are accepted.
    pub(crate) fn into_outcome(self) -> BatchOutcome {
        self.outcome
    }

    /// Returns the error of a put that did not end in time. `producer` returns the reason if there was no try yet.
    pub(crate) fn timed_out(&mut self, producer: impl FnOnce() -> Full) -> PutError {
        let first = self.first.take().unwrap_or_else(|| unreachable!("a put waits with a record"));
        first.into_error(producer)
    }

    /// Returns the error of the first record of those that are left.
    pub(crate) fn into_error(self, error: PutError) -> PutBatchError {
        let Self { mut outcome, rest, .. } = self;
        let (refusal, record) = Refusal::new(error);
        let rest: Vec<BatchRecord> = [record.into()]
            .into_iter()
            .chain(rest.into_iter().map(|(record, _)| UserRecord::from(record).into()))
            .collect();
        outcome.len -= rest.len();
        PutBatchError { index: outcome.len, refusal, accepted: outcome, rest }
    }
}

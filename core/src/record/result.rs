//! The results of user records: receipts and failures.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::{self, Vec};
use core::{fmt, mem, str};

use smallvec::{SmallVec, smallvec};

use super::attempt::{Attempt, AttemptError, Attempts, FailedAttempts};
use crate::record::kinesis_record::{Packed, Pending};
use crate::record::user_record::UserRecord;

/// The result of a user record: a receipt, or a failure with the record.
pub type RecordResult = Result<Receipt, Box<PutFailure>>;

/// The shard, sequence number and attempts of a stored record.
///
/// With [`Consumers::Kcl`](crate::Consumers::Kcl), the default, a consumer that follows the KCL's rules reads the
/// record there. A receipt is small: the user records of one Kinesis record share their common data, and up to 16 Kinesis
/// records of one user record each share an allocation of about 2 KiB, which is freed with the last of their receipts.
///
/// Receipts arrive in any order. With [`Ordering::PerKey`](crate::Ordering::PerKey), those of one hash key arrive in the
/// order of the puts; on one shard, their sequence numbers increase, or are equal and their sub-sequence numbers increase.
#[derive(Clone)]
pub struct Receipt {
    /// Shared with other receipts: that of an aggregate, or those of several Kinesis records.
    stored_at: Arc<SmallVec<[StoredAt; 1]>>,
    place: Place,
    failed: FailedAttempts,
}

/// Which of the places where Kinesis records were stored belongs to a receipt.
#[derive(Clone, Copy)]
enum Place {
    /// The only one, at this position in the aggregate.
    InAggregate(u32),
    /// The one with this index. The Kinesis record has one user record.
    Alone(u32),
}

impl PartialEq for Receipt {
    fn eq(&self, other: &Self) -> bool {
        self.stored_at() == other.stored_at()
            && self.sub_sequence_number() == other.sub_sequence_number()
            && self.failed == other.failed
    }
}

impl Eq for Receipt {}

impl Receipt {
    fn stored_at(&self) -> &StoredAt {
        match self.place {
            Place::InAggregate(_) => &self.stored_at[0],
            Place::Alone(index) => &self.stored_at[index as usize],
        }
    }

    /// Returns the ID of the shard that stored the record, such as `shardId-000000000000`. If the reply did not name it,
    /// it is the predicted one; without a prediction, it is empty.
    pub fn shard_id(&self) -> &str {
        &self.stored_at().shard_id
    }

    /// Returns the sequence number of the Kinesis record that contains it.
    pub fn sequence_number(&self) -> &str {
        self.stored_at().sequence_number.as_str()
    }

    /// Returns its position among the user records of an aggregate, which consumers call the sub-sequence number.
    /// `None` if the record was not aggregated; consumers then report 0.
    pub fn sub_sequence_number(&self) -> Option<u64> {
        match self.place {
            Place::InAggregate(position) => Some(position.into()),
            Place::Alone(_) => None,
        }
    }

    /// Returns the attempts; the last one succeeded.
    pub fn attempts(&self) -> Attempts<'_> {
        Attempts { failed: &self.failed, succeeded: &self.stored_at().attempt }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt")
            .field("shard_id", &self.shard_id())
            .field("sequence_number", &self.sequence_number())
            .field("sub_sequence_number", &self.sub_sequence_number())
            .field("attempts", &self.attempts())
            .finish()
    }
}

/// The place and time at which a Kinesis record was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredAt {
    pub(crate) shard_id: Arc<str>,
    pub(crate) sequence_number: SequenceNumber,
    /// The attempt that succeeded.
    pub(crate) attempt: Attempt,
}

/// A sequence number, without an allocation. Those of Kinesis have 56 digits. It is no part of the reply's body, because a
/// receipt that is kept would keep the whole body.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SequenceNumber(SmallVec<[u8; 56]>);

impl SequenceNumber {
    pub(crate) fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl From<&str> for SequenceNumber {
    fn from(text: &str) -> Self {
        Self(SmallVec::from_slice(text.as_bytes()))
    }
}

impl fmt::Debug for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// A failed user record, with its error and its attempts.
///
/// To put the record again, pass [`record`](Self::record) to the driver's `put_record`. If the failure is
/// [ambiguous](Self::is_ambiguous), this may store a duplicate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error} (after {} attempts)", attempts.len())]
#[non_exhaustive]
pub struct PutFailure {
    /// The record, as it was put.
    pub record: UserRecord,
    /// The reason for the failure.
    pub error: AttemptError,
    /// The attempts to put it. Empty if it was never sent.
    pub attempts: FailedAttempts,
}

impl PutFailure {
    /// Whether the record may be in the stream despite the failure: the outcome of at least one attempt is unknown.
    ///
    /// If it is not ambiguous, no consumer ever sees the record, and putting it again creates no duplicate.
    pub fn is_ambiguous(&self) -> bool {
        self.attempts.ambiguous() > 0
    }
}

/// The results of user records that are resolved together: an iterator over their tickets, each with its result for the
/// caller.
///
/// Each result is created, and its record is freed, when the iterator reaches it. The state machine keeps no part of
/// them.
pub struct Resolution<T>(Resolved<T>);

enum Resolved<T> {
    /// All user records of an aggregate, or the user records of several Kinesis records that are no aggregates.
    Stored {
        stored_at: Arc<SmallVec<[StoredAt; 1]>>,
        users: vec::IntoIter<Packed<T>>,
        next: Place,
    },
    /// The remaining user records of a misrouted aggregate, with their positions in it.
    Misrouted {
        stored_at: Arc<SmallVec<[StoredAt; 1]>>,
        users: vec::IntoIter<(u32, Pending<T>)>,
    },
    Failed(Option<(T, Box<PutFailure>)>),
}

impl<T> Resolution<T> {
    pub(crate) fn aggregate(stored_at: StoredAt, users: Vec<Packed<T>>) -> Self {
        let (stored_at, users) = (Arc::new(smallvec![stored_at]), users.into_iter());
        Self(Resolved::Stored { stored_at, users, next: Place::InAggregate(0) })
    }

    pub(crate) fn misrouted(stored_at: StoredAt, users: Vec<(u32, Pending<T>)>) -> Self {
        Self(Resolved::Misrouted { stored_at: Arc::new(smallvec![stored_at]), users: users.into_iter() })
    }

    pub(crate) fn failed(ticket: T, failure: PutFailure) -> Self {
        Self(Resolved::Failed(Some((ticket, Box::new(failure)))))
    }
}

impl<T> Iterator for Resolution<T> {
    type Item = (T, RecordResult);

    fn next(&mut self) -> Option<Self::Item> {
        let receipt = |stored_at: &Arc<SmallVec<[StoredAt; 1]>>, place, ticket, failed| {
            (ticket, Ok(Receipt { stored_at: stored_at.clone(), place, failed }))
        };
        match &mut self.0 {
            Resolved::Stored { stored_at, users, next } => {
                let user = users.next()?.user;
                let place = *next;
                *next = match place {
                    Place::InAggregate(position) => Place::InAggregate(position + 1),
                    Place::Alone(index) => Place::Alone(index + 1),
                };
                Some(receipt(stored_at, place, user.ticket, user.failed))
            }
            Resolved::Misrouted { stored_at, users } => {
                let (position, user) = users.next()?;
                Some(receipt(stored_at, Place::InAggregate(position), user.ticket, user.failed))
            }
            Resolved::Failed(failed) => failed.take().map(|(ticket, failure)| (ticket, Err(failure))),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match &self.0 {
            Resolved::Stored { users, .. } => users.len(),
            Resolved::Misrouted { users, .. } => users.len(),
            Resolved::Failed(failed) => usize::from(failed.is_some()),
        };
        (left, Some(left))
    }
}

/// Stored Kinesis records of one user record each, which are resolved together: so they share allocations.
#[derive(Debug)]
pub(crate) struct StoredSingles<T> {
    stored_at: SmallVec<[StoredAt; 1]>,
    users: Vec<Packed<T>>,
}

impl<T> Default for StoredSingles<T> {
    fn default() -> Self {
        Self { stored_at: SmallVec::new(), users: Vec::new() }
    }
}

impl<T> StoredSingles<T> {
    /// The maximum number of records. A receipt that is kept keeps the places of all.
    const RECORDS_MAX: usize = 16;

    /// Adds a record. Returns the resolution of all if there are enough.
    pub(crate) fn push(&mut self, stored_at: StoredAt, user: Packed<T>) -> Option<Resolution<T>> {
        if self.users.is_empty() {
            self.stored_at.reserve_exact(Self::RECORDS_MAX);
            self.users.reserve_exact(Self::RECORDS_MAX);
        }
        self.stored_at.push(stored_at);
        self.users.push(user);
        if self.users.len() == Self::RECORDS_MAX { self.take() } else { None }
    }

    /// Returns the resolution of the records that were added.
    pub(crate) fn take(&mut self) -> Option<Resolution<T>> {
        if self.users.is_empty() {
            return None;
        }
        let Self { stored_at, users } = mem::take(self);
        let (stored_at, users) = (Arc::new(stored_at), users.into_iter());
        Some(Resolution(Resolved::Stored { stored_at, users, next: Place::Alone(0) }))
    }
}

impl<T> ExactSizeIterator for Resolution<T> {}

impl<T> fmt::Debug for Resolution<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Resolved::Stored { stored_at, .. } | Resolved::Misrouted { stored_at, .. } => {
                write!(f, "{} stored: {stored_at:?}", self.len())
            }
            Resolved::Failed(Some((_, failure))) => write!(f, "{failure:?}"),
            Resolved::Failed(None) => f.write_str("nothing left"),
        }
    }
}

//! What became of a user record.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::{self, Vec};
use core::fmt;

use super::attempt::{Attempt, AttemptError, Attempts, FailedAttempts};
use crate::record::kinesis_record::{Packed, Pending};
use crate::record::user_record::UserRecord;

/// The end of a user record: a receipt, or a failure with the record.
pub type RecordResult = Result<Receipt, Box<PutFailure>>;

/// Proof that a user record is in the stream, where a consumer that follows the KCL's rules reads it.
///
/// Small: what the user records of one Kinesis record have in common, they share.
#[derive(Clone, PartialEq, Eq)]
pub struct Receipt {
    stored_at: Arc<StoredAt>,
    position: Option<u32>,
    failed: FailedAttempts,
}

impl Receipt {
    /// The shard that took the record.
    pub fn shard_id(&self) -> &str {
        &self.stored_at.shard_id
    }

    /// The sequence number of the Kinesis record that carries it.
    pub fn sequence_number(&self) -> &str {
        &self.stored_at.sequence_number
    }

    /// Its place among the user records of an aggregated Kinesis record: what consumers call the sub-sequence number.
    /// `None` when the record went alone; consumers then say 0.
    pub fn sub_sequence_number(&self) -> Option<u64> {
        self.position.map(u64::from)
    }

    /// Every attempt; the last one succeeded.
    pub fn attempts(&self) -> Attempts<'_> {
        Attempts { failed: self.failed.as_slice(), succeeded: &self.stored_at.attempt }
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

/// Where and when a Kinesis record was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredAt {
    pub(crate) shard_id: Arc<str>,
    pub(crate) sequence_number: Arc<str>,
    /// The one that succeeded.
    pub(crate) attempt: Attempt,
}

/// A user record that did not make it, given back with its history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error} (after {} attempts)", attempts.len())]
#[non_exhaustive]
pub struct PutFailure {
    /// The record, as it was put.
    pub record: UserRecord,
    /// Why it failed.
    pub error: AttemptError,
    /// Every attempt to put it. Empty if it never left.
    pub attempts: Vec<Attempt>,
}

impl PutFailure {
    /// Whether the record may be in the stream all the same: an attempt ended without a reply that can be trusted.
    ///
    /// If not, no consumer will ever see it, and putting it again makes no duplicate.
    pub fn is_ambiguous(&self) -> bool {
        self.attempts.iter().any(Attempt::is_ambiguous)
    }
}

/// What became of user records that share their fate: their tickets, each with its result, to be handed to the callers.
///
/// Results are made as they are read, and what was sent is freed then: the state machine is done with it before.
pub struct Resolution<T>(Users<T>);

enum Users<T> {
    /// All user records of a Kinesis record: of an aggregate, or a single one.
    Stored {
        stored_at: Arc<StoredAt>,
        users: vec::IntoIter<Packed<T>>,
        next: Option<u32>,
    },
    /// What is left of an aggregate on another shard than predicted, with the positions in it.
    Misrouted {
        stored_at: Arc<StoredAt>,
        users: vec::IntoIter<(u32, Pending<T>)>,
    },
    Failed(Option<(T, Box<PutFailure>)>),
}

impl<T> Resolution<T> {
    pub(crate) fn stored(stored_at: StoredAt, users: Vec<Packed<T>>) -> Self {
        let next = (users.len() > 1).then_some(0);
        Self(Users::Stored { stored_at: Arc::new(stored_at), users: users.into_iter(), next })
    }

    pub(crate) fn misrouted(stored_at: StoredAt, users: Vec<(u32, Pending<T>)>) -> Self {
        Self(Users::Misrouted { stored_at: Arc::new(stored_at), users: users.into_iter() })
    }

    pub(crate) fn failed(ticket: T, failure: PutFailure) -> Self {
        Self(Users::Failed(Some((ticket, Box::new(failure)))))
    }
}

impl<T> Iterator for Resolution<T> {
    type Item = (T, RecordResult);

    fn next(&mut self) -> Option<Self::Item> {
        let receipt = |stored_at: &Arc<StoredAt>, position, ticket, failed| {
            (ticket, Ok(Receipt { stored_at: stored_at.clone(), position, failed }))
        };
        match &mut self.0 {
            Users::Stored { stored_at, users, next } => {
                let user = users.next()?.user;
                let position = *next;
                *next = position.map(|position| position + 1);
                Some(receipt(stored_at, position, user.ticket, user.failed))
            }
            Users::Misrouted { stored_at, users } => {
                users.next().map(|(position, user)| receipt(stored_at, Some(position), user.ticket, user.failed))
            }
            Users::Failed(failed) => failed.take().map(|(ticket, failure)| (ticket, Err(failure))),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match &self.0 {
            Users::Stored { users, .. } => users.len(),
            Users::Misrouted { users, .. } => users.len(),
            Users::Failed(failed) => usize::from(failed.is_some()),
        };
        (left, Some(left))
    }
}

impl<T> ExactSizeIterator for Resolution<T> {}

impl<T> fmt::Debug for Resolution<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Users::Stored { stored_at, .. } | Users::Misrouted { stored_at, .. } => {
                write!(f, "{} stored: {stored_at:?}", self.len())
            }
            Users::Failed(Some((_, failure))) => write!(f, "{failure:?}"),
            Users::Failed(None) => f.write_str("nothing left"),
        }
    }
}

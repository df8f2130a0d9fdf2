//! What became of a user record.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::{self, Vec};
use core::fmt;

use crate::kinesis_record::{Packed, Pending};
use crate::record::UserRecord;
use crate::time::Instant;

/// The end of a user record: a receipt, or a failure with the record.
pub type RecordResult = Result<Receipt, Box<PutFailure>>;

/// Proof that a user record is in the stream, where a consumer that follows the KCL's rules reads it.
///
/// Small: what the user records of one Kinesis record have in common, they share.
#[derive(Clone, PartialEq, Eq)]
pub struct Receipt {
    place: Arc<Place>,
    position: Option<u32>,
    failed: FailedAttempts,
}

impl Receipt {
    /// The shard that took the record.
    pub fn shard_id(&self) -> &str {
        &self.place.shard_id
    }

    /// The sequence number of the Kinesis record that carries it.
    pub fn sequence_number(&self) -> &str {
        &self.place.sequence_number
    }

    /// Its place among the user records of an aggregated Kinesis record: what consumers call the sub-sequence number.
    /// `None` when the record went alone; consumers then say 0.
    pub fn sub_sequence_number(&self) -> Option<u64> {
        self.position.map(u64::from)
    }

    /// Every attempt; the last one succeeded.
    pub fn attempts(&self) -> Attempts<'_> {
        Attempts { failed: self.failed.as_slice(), succeeded: &self.place.attempt }
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
pub(crate) struct Place {
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

/// One try to put a user record into Kinesis.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// When its request was handed to the driver.
    pub start: Instant,
    /// When the reply came, or the driver gave up on it.
    pub end: Instant,
    /// Why it failed; `None` if it succeeded.
    pub error: Option<Arc<AttemptError>>,
}

impl Attempt {
    /// Whether the record may have been stored although this attempt did not succeed.
    pub fn is_ambiguous(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.ambiguous)
    }
}

/// Why an attempt, or a whole record, failed. Shared by all user records of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
#[non_exhaustive]
pub struct AttemptError {
    /// Kinesis's own code, or one of [`code`].
    pub code: Box<str>,
    /// In words.
    pub message: Box<str>,
    /// Whether the record may have been stored all the same.
    pub ambiguous: bool,
}

impl AttemptError {
    pub(crate) fn new(code: impl Into<Box<str>>, message: impl Into<Box<str>>) -> Self {
        Self { code: code.into(), message: message.into(), ambiguous: false }
    }

    pub(crate) fn ambiguous(self) -> Self {
        Self { ambiguous: true, ..self }
    }
}

/// Error codes that are not Kinesis's own. The first three are spelled as the KPL spells them.
pub mod code {
    /// The record's time-to-live ran out.
    pub const EXPIRED: &str = "Expired";
    /// The record landed in an aggregate on a shard whose consumers drop it; it is retried.
    pub const WRONG_SHARD: &str = "Wrong Shard";
    /// The reply had fewer or more results than the request had records.
    pub const RECORD_COUNT_MISMATCH: &str = "Record Count Mismatch";
    /// The producer was closed before the record could be put.
    pub const CLOSED: &str = "Closed";
    /// A result had neither a sequence number nor an error code.
    pub const UNKNOWN: &str = "Unknown";
    /// The record is larger than the stream allows, which was learned after it was put.
    pub const RECORD_TOO_LARGE: &str = "Record Too Large";
}

/// The attempts of a record that succeeded, first to last. Never empty.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Attempts<'a> {
    failed: &'a [Attempt],
    succeeded: &'a Attempt,
}

impl<'a> Attempts<'a> {
    /// How many attempts it took: 1 or more.
    #[expect(clippy::len_without_is_empty, reason = "there is always the one that succeeded")]
    pub fn len(&self) -> usize {
        self.failed.len() + 1
    }

    /// All of them, first to last.
    pub fn iter(&self) -> impl Iterator<Item = &'a Attempt> + use<'a> {
        self.failed.iter().chain(core::iter::once(self.succeeded))
    }

    /// The one that succeeded.
    pub fn last(&self) -> &'a Attempt {
        self.succeeded
    }
}

impl fmt::Debug for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The attempts of a record that failed so far. Nearly always there are none, and then it is but a pointer: every record
/// that is outstanding has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::box_collection, reason = "a third of the size of a vector")]
pub(crate) struct FailedAttempts(Option<Box<Vec<Attempt>>>);

impl FailedAttempts {
    pub(crate) fn push(&mut self, attempt: Attempt) {
        self.0.get_or_insert_default().push(attempt);
    }

    pub(crate) fn as_slice(&self) -> &[Attempt] {
        self.0.as_ref().map_or(&[], |attempts| attempts)
    }

    pub(crate) fn into_vec(self) -> Vec<Attempt> {
        self.0.map_or_else(Vec::new, |attempts| *attempts)
    }
}

/// What became of user records that share their fate: their tickets, each with its result, to be handed to the callers.
///
/// Results are made as they are read, and what was sent is freed then: the state machine is done with it before.
pub struct Resolution<T>(Fate<T>);

enum Fate<T> {
    /// All user records of a Kinesis record: of an aggregate, or a single one.
    Stored {
        place: Arc<Place>,
        users: vec::IntoIter<Packed<T>>,
        next: Option<u32>,
    },
    /// What is left of an aggregate on another shard than predicted, with the positions in it.
    Strayed {
        place: Arc<Place>,
        users: vec::IntoIter<(u32, Pending<T>)>,
    },
    Failed(Option<(T, Box<PutFailure>)>),
}

impl<T> Resolution<T> {
    pub(crate) fn stored(place: Place, users: Vec<Packed<T>>) -> Self {
        let next = (users.len() > 1).then_some(0);
        Self(Fate::Stored { place: Arc::new(place), users: users.into_iter(), next })
    }

    pub(crate) fn strayed(place: Place, users: Vec<(u32, Pending<T>)>) -> Self {
        Self(Fate::Strayed { place: Arc::new(place), users: users.into_iter() })
    }

    pub(crate) fn failed(ticket: T, failure: PutFailure) -> Self {
        Self(Fate::Failed(Some((ticket, Box::new(failure)))))
    }
}

impl<T> Iterator for Resolution<T> {
    type Item = (T, RecordResult);

    fn next(&mut self) -> Option<Self::Item> {
        let receipt = |place: &Arc<Place>, position, ticket, failed| {
            (ticket, Ok(Receipt { place: place.clone(), position, failed }))
        };
        match &mut self.0 {
            Fate::Stored { place, users, next } => {
                let user = users.next()?.user;
                let position = *next;
                *next = position.map(|position| position + 1);
                Some(receipt(place, position, user.ticket, user.failed))
            }
            Fate::Strayed { place, users } => {
                users.next().map(|(position, user)| receipt(place, Some(position), user.ticket, user.failed))
            }
            Fate::Failed(failed) => failed.take().map(|(ticket, failure)| (ticket, Err(failure))),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = match &self.0 {
            Fate::Stored { users, .. } => users.len(),
            Fate::Strayed { users, .. } => users.len(),
            Fate::Failed(failed) => usize::from(failed.is_some()),
        };
        (left, Some(left))
    }
}

impl<T> ExactSizeIterator for Resolution<T> {}

impl<T> fmt::Debug for Resolution<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Fate::Stored { place, .. } | Fate::Strayed { place, .. } => {
                write!(f, "{} stored: {place:?}", self.len())
            }
            Fate::Failed(Some((_, failure))) => write!(f, "{failure:?}"),
            Fate::Failed(None) => f.write_str("nothing left"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ms;
    use alloc::vec;

    #[test]
    fn attempts_are_one_list_the_last_of_which_succeeded() {
        let error = Arc::new(AttemptError::new("InternalFailure", "why"));
        let failed = Attempt { start: ms(1), end: ms(2), error: Some(error) };
        let succeeded = Attempt { start: ms(3), end: Instant::NEVER, error: None };
        let twice = [failed.clone(), failed.clone()];
        let attempts = Attempts { failed: &twice, succeeded: &succeeded };
        let list = vec![failed.clone(), failed, succeeded.clone()];
        assert_eq!((attempts.len(), attempts.last()), (3, &succeeded));
        assert_eq!(attempts.iter().collect::<Vec<_>>(), list.iter().collect::<Vec<_>>());
        assert_eq!(alloc::format!("{attempts:?}"), alloc::format!("{list:?}"));
    }
}

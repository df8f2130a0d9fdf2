//! Attempts to put a user record, and why they failed.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::time::Instant;

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
    /// The endpoint answered with a redirect: it is not the endpoint of Kinesis. Set by drivers.
    pub const REDIRECTED: &str = "Redirected";
    /// The record is larger than the stream allows, which was learned after it was put.
    pub const RECORD_TOO_LARGE: &str = "Record Too Large";
}

/// The attempts of a record that succeeded, first to last. Never empty.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Attempts<'a> {
    pub(crate) failed: &'a [Attempt],
    pub(crate) succeeded: &'a Attempt,
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

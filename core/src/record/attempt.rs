//! Attempts to put a user record, and their errors.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use crate::time::Instant;

/// An attempt to put a user record into Kinesis.
///
/// Its times are those of the driver's clock: with the drivers of this project, nanoseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The time at which its request was passed to the driver.
    pub start: Instant,
    /// The time at which the reply arrived, or the driver stopped waiting for it.
    pub end: Instant,
    /// The error; `None` if the attempt succeeded.
    pub error: Option<Arc<AttemptError>>,
}

impl Attempt {
    /// Whether the record may have been stored although this attempt did not succeed.
    pub fn is_ambiguous(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.ambiguous)
    }
}

/// The reason why an attempt, or a whole record, failed. All user records of a request share it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
#[non_exhaustive]
pub struct AttemptError {
    /// The error code: one of Kinesis, such as `InternalFailure`, one of [`code`], or one of the driver.
    ///
    /// These are the codes of the drivers of this project:
    ///
    /// | code | cause |
    /// |---|---|
    /// | `Request Not Sent` | nothing was sent: no region, missing or late credentials, or a signing error |
    /// | `Connection Failed` | nothing was sent: no connection was established |
    /// | `Connection Lost` | the HTTP client failed, and the request may have been sent |
    /// | `Request Timeout` | the reply did not arrive within `request_timeout` |
    /// | `Response Unreadable` | the reply has a success status, but cannot be parsed or is incomplete |
    /// | `HTTP 503` or another status | the reply has this status and no error code of Kinesis |
    /// | `Task Ended` | the task of the request panicked, or its runtime dropped it |
    /// | `Cancelled` | the deadline of a close passed before the reply arrived |
    pub code: Box<str>,
    /// The error message, for people.
    pub message: Box<str>,
    /// Whether the record may have been stored despite the error.
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

/// Error codes that kpl defines, not Kinesis. The first three are spelled as in the KPL. Drivers have further ones: see
/// [`AttemptError::code`](crate::AttemptError::code).
pub mod code {
    /// The record's time-to-live expired.
    pub const EXPIRED: &str = "Expired";
    /// The record was stored in an aggregate on a shard whose consumers drop it. It is retried.
    pub const WRONG_SHARD: &str = "Wrong Shard";
    /// The reply had fewer or more results than the request had records.
    pub const RECORD_COUNT_MISMATCH: &str = "Record Count Mismatch";
    /// The producer was closed, or its runtime was shut down, before the record was stored.
    pub const CLOSED: &str = "Closed";
    /// A result had neither a sequence number nor an error code, or a request failed without a reply in a way that the
    /// driver cannot classify.
    pub const UNKNOWN: &str = "Unknown";
    /// The endpoint answered with a redirect, so it is not an endpoint of Kinesis. Drivers set this code.
    pub const REDIRECTED: &str = "Redirected";
    /// The record is larger than the stream allows. The stream's limit became known after the record was put.
    pub const RECORD_TOO_LARGE: &str = "Record Too Large";
}

/// The attempts of a record that was stored, first to last. Never empty: the last attempt succeeded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Attempts<'a> {
    pub(crate) failed: &'a [Attempt],
    pub(crate) succeeded: &'a Attempt,
}

impl<'a> Attempts<'a> {
    /// Returns the number of attempts: 1 or more.
    #[expect(clippy::len_without_is_empty, reason = "never empty: the last attempt succeeded")]
    pub fn len(&self) -> usize {
        self.failed.len() + 1
    }

    /// Returns all attempts, first to last.
    pub fn iter(&self) -> impl Iterator<Item = &'a Attempt> + use<'a> {
        self.failed.iter().chain(core::iter::once(self.succeeded))
    }

    /// Returns the attempt that succeeded.
    pub fn last(&self) -> &'a Attempt {
        self.succeeded
    }
}

impl fmt::Debug for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The failed attempts of a record so far. Nearly always there are none. Every outstanding record has this field, so it
/// is only a pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::box_collection, reason = "a box has a third of the size of a vector")]
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
    fn attempts_are_listed_in_order_and_the_last_succeeded() {
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

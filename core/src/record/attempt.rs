//! Attempts to put a user record, and their errors.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use core::{fmt, slice};

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
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{code}: {message}")]
#[non_exhaustive]
pub struct AttemptError {
    /// The error code: one of Kinesis, such as `InternalFailure`, one of [`code`], or one of the driver.
    ///
    /// These are the codes of the drivers of this project:
    ///
    /// | code | cause |
    /// |---|---|
    /// | `Request Not Sent` | nothing was sent: no region, missing or late credentials (the message begins with `credentials: `), or a signing error |
    /// | `Connection Failed` | nothing was sent: no connection was established |
    /// | `Connection Lost` | the HTTP client failed, and the request may have been sent |
    /// | `Request Timeout` | the reply did not arrive within `request_timeout` |
    /// | `Response Unreadable` | the reply has a success status, but cannot be parsed or is incomplete |
    /// | `HTTP 503` or another status | the reply has this status and no error code of Kinesis |
    /// | `Task Ended` | the task of the request panicked, or its runtime dropped it |
    /// | `Cancelled` | the deadline of a close passed before the reply arrived |
    pub code: Box<str>,
    /// The error message, for people. At most 1,024 bytes and an ellipsis: a longer message of the service is cut.
    pub message: Box<str>,
    /// Whether the record may have been stored despite the error.
    pub ambiguous: bool,
}

/// The maximum length of a message in bytes, without the ellipsis. Messages are kept with the attempts of outstanding
/// records. Those of the service are shorter, unless they quote a record.
const MESSAGE_MAX: usize = 1_024;

impl AttemptError {
    pub(crate) fn new(code: impl Into<Box<str>>, message: impl Into<Box<str>>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_MAX {
            let end = (0..=MESSAGE_MAX).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
            message = alloc::format!("{}…", &message[..end]).into();
        }
        Self { code: code.into(), message, ambiguous: false }
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
    /// The reply had results, but fewer or more than the request had records.
    pub const RECORD_COUNT_MISMATCH: &str = "Record Count Mismatch";
    /// The producer was closed, or its runtime was shut down, before the record was stored.
    pub const CLOSED: &str = "Closed";
    /// A result had neither a sequence number nor an error code, a reply had no results at all, or a request failed
    /// without a reply in a way that the driver cannot classify.
    pub const UNKNOWN: &str = "Unknown";
    /// The endpoint answered with a redirect, so it is not an endpoint of Kinesis. Drivers set this code.
    pub const REDIRECTED: &str = "Redirected";
    /// The stream ignores keys (`RecordDistributionStrategy = AUTO`), so the order of
    /// [`Ordering::PerKey`](crate::Ordering::PerKey) cannot be kept.
    pub const ORDER_IMPOSSIBLE: &str = "Order Impossible";
    /// The record is larger than the stream allows. The stream's limit became known after the record was put.
    pub const RECORD_TOO_LARGE: &str = "Record Too Large";
}

/// The number of first attempts that are kept of each record, and that of last ones. A record that is retried for hours
/// must not grow.
const KEPT: usize = 8;

/// The failed attempts of a record, first to last.
///
/// It has the first 8 and the last 8; others are only counted.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FailedAttempts(Option<Box<History>>);

/// Nearly all records have no failed attempt. Every outstanding record has this field, so it is only a pointer.
#[derive(Clone, Default, PartialEq, Eq)]
struct History {
    kept: Vec<Attempt>,
    omitted: usize,
    omitted_ambiguous: usize,
}

impl FailedAttempts {
    /// Adds an attempt. It shares the error of the last one if they are equal.
    pub(crate) fn push(&mut self, mut attempt: Attempt) {
        let history = self.0.get_or_insert_default();
        if let Some(last) = history.kept.last()
            && last.error == attempt.error
        {
            attempt.error.clone_from(&last.error);
        }
        if history.kept.len() == 2 * KEPT {
            let omitted = history.kept.remove(KEPT);
            history.omitted += 1;
            history.omitted_ambiguous += usize::from(omitted.is_ambiguous());
        }
        history.kept.push(attempt);
    }

    /// Returns the number of attempts, including omitted ones.
    pub fn len(&self) -> usize {
        self.iter().len() + self.omitted()
    }

    /// Whether the record was never sent.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the first 8 attempts and the last 8, in order.
    pub fn iter(&self) -> slice::Iter<'_, Attempt> {
        self.0.as_ref().map_or(&[][..], |history| &history.kept).iter()
    }

    /// Returns the first attempt.
    pub fn first(&self) -> Option<&Attempt> {
        self.iter().next()
    }

    /// Returns the last attempt.
    pub fn last(&self) -> Option<&Attempt> {
        self.iter().next_back()
    }

    /// Returns the number of attempts between the first 8 and the last 8, which [`iter`](Self::iter) leaves out.
    pub fn omitted(&self) -> usize {
        self.0.as_ref().map_or(0, |history| history.omitted)
    }

    /// Returns the number of [ambiguous](Attempt::is_ambiguous) attempts, including omitted ones.
    pub fn ambiguous(&self) -> usize {
        let omitted = self.0.as_ref().map_or(0, |history| history.omitted_ambiguous);
        omitted + self.iter().filter(|attempt| attempt.is_ambiguous()).count()
    }

    /// Calls `observe` with the time that the record waited before each attempt, except the one after omitted ones.
    /// Returns the end of the last attempt, or `put_at`.
    pub(crate) fn observe_waits(&self, put_at: Instant, mut observe: impl FnMut(Duration)) -> Instant {
        let mut last = put_at;
        for (position, attempt) in self.iter().enumerate() {
            if position != KEPT || self.omitted() == 0 {
                observe(attempt.start.saturating_since(last));
            }
            last = attempt.end;
        }
        last
    }
}

impl<'a> IntoIterator for &'a FailedAttempts {
    type Item = &'a Attempt;
    type IntoIter = slice::Iter<'a, Attempt>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for FailedAttempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_attempts(f, self, None)
    }
}

/// Formats attempts as a list, with the number of omitted ones in their place.
fn fmt_attempts(f: &mut fmt::Formatter<'_>, failed: &FailedAttempts, succeeded: Option<&Attempt>) -> fmt::Result {
    let mut list = f.debug_list();
    list.entries(failed.iter().take(KEPT));
    if failed.omitted() > 0 {
        list.entry(&format_args!("{} omitted", failed.omitted()));
    }
    list.entries(failed.iter().skip(KEPT)).entries(succeeded).finish()
}

/// The attempts of a record that was stored, first to last. Never empty: the last attempt succeeded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Attempts<'a> {
    pub(crate) failed: &'a FailedAttempts,
    pub(crate) succeeded: &'a Attempt,
}

impl<'a> Attempts<'a> {
    /// Returns the number of attempts: 1 or more.
    #[expect(clippy::len_without_is_empty, reason = "never empty: the last attempt succeeded")]
    pub fn len(&self) -> usize {
        self.failed.len() + 1
    }

    /// Returns the attempts, first to last; of more than 16 failed ones, the first 8 and the last 8.
    pub fn iter(&self) -> impl Iterator<Item = &'a Attempt> + use<'a> {
        self.failed.iter().chain(core::iter::once(self.succeeded))
    }

    /// Returns the attempts before the one that succeeded.
    pub fn failed(&self) -> &'a FailedAttempts {
        self.failed
    }

    /// Returns the attempt that succeeded.
    pub fn last(&self) -> &'a Attempt {
        self.succeeded
    }
}

impl fmt::Debug for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_attempts(f, self.failed, Some(self.succeeded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ms;
    use alloc::vec;

    fn failed(n: u64, ambiguous: bool) -> Attempt {
        let error = AttemptError { ambiguous, ..AttemptError::new("InternalFailure", "why") };
        Attempt { start: ms(10 * n), end: ms(10 * n + 1), error: Some(Arc::new(error)) }
    }

    fn history(attempts: &[Attempt]) -> FailedAttempts {
        let mut history = FailedAttempts::default();
        attempts.iter().for_each(|attempt| history.push(attempt.clone()));
        history
    }

    #[test]
    fn attempts_are_listed_in_order_and_the_last_succeeded() {
        let succeeded = Attempt { start: ms(30), end: Instant::NEVER, error: None };
        let twice = history(&[failed(1, false), failed(2, false)]);
        let attempts = Attempts { failed: &twice, succeeded: &succeeded };
        let list = vec![failed(1, false), failed(2, false), succeeded.clone()];
        assert_eq!((attempts.len(), attempts.last()), (3, &succeeded));
        assert_eq!(attempts.iter().collect::<Vec<_>>(), list.iter().collect::<Vec<_>>());
        assert_eq!(alloc::format!("{attempts:?}"), alloc::format!("{list:?}"));
    }

    #[test]
    fn attempts_with_equal_errors_share_one() {
        let attempts = history(&[failed(1, false), failed(2, false), failed(3, true)]);
        let errors: Vec<_> = attempts.iter().filter_map(|attempt| attempt.error.as_ref()).collect();
        assert!(Arc::ptr_eq(errors[0], errors[1]) && !Arc::ptr_eq(errors[1], errors[2]));
    }

    #[test]
    fn a_long_message_is_cut() {
        let message = |len| AttemptError::new("code", "é".repeat(len)).message;
        assert_eq!(message(512).len(), 1_024);
        assert_eq!((message(513), message(10_000).len()), (alloc::format!("{}…", "é".repeat(512)).into(), 1_027));
        assert!(AttemptError::new("code", alloc::format!("x{}", "é".repeat(600))).message.ends_with("é…"));
    }

    #[test]
    fn of_many_attempts_the_first_and_the_last_are_kept_and_all_are_counted() {
        assert_eq!((FailedAttempts::default().len(), FailedAttempts::default().is_empty()), (0, true));
        let all: Vec<Attempt> = (0..100).map(|n| failed(n, n % 10 == 0)).collect();
        for len in 1..=all.len() {
            let (all, history) = (&all[..len], history(&all[..len]));
            assert_eq!((history.len(), history.first(), history.last()), (len, all.first(), all.last()));
            assert_eq!(history.ambiguous(), len.div_ceil(10));
            assert_eq!((history.is_empty(), history.omitted()), (false, len.saturating_sub(16)));
            let kept: Vec<&Attempt> =
                if len <= 16 { all.iter().collect() } else { all[..8].iter().chain(&all[len - 8..]).collect() };
            assert_eq!(history.iter().collect::<Vec<_>>(), kept);
            let mut waits = 0;
            let last = history.observe_waits(ms(0), |wait| {
                assert!(wait <= Duration::from_millis(9), "{wait:?}");
                waits += 1;
            });
            assert_eq!((waits, last), (kept.len() - usize::from(len > 16), all[len - 1].end));
        }
        let debug = alloc::format!("{:?}", history(&all));
        assert_eq!((debug.matches("84 omitted").count(), debug.matches("Attempt {").count()), (1, 16));
    }
}

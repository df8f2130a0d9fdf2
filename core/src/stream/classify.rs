//! Classifies replies. All decisions by error code are in this file.

use alloc::sync::Arc;
use alloc::vec::Vec;

use bytestring::ByteString;
use hashbrown::HashSet;

use crate::record::attempt::{AttemptError, code};
use crate::reply::{Delivery, RecordReply, Reply, RequestError};

/// The result of one Kinesis record, or of a whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Stored on a shard. The shard map decides whether it is the right one. Without a `shard_id`, the reply did not say
    /// on which one.
    Stored { shard_id: Option<ByteString>, sequence_number: ByteString },
    /// Throttled: retried as soon as the shard's limiter allows it.
    Throttled(Arc<AttemptError>),
    /// Retried after a backoff.
    Retry(Arc<AttemptError>),
    /// Invalid: the request or aggregate is split until the invalid record is alone, and fails.
    Split(Arc<AttemptError>),
    /// Fails at once.
    Fail(Arc<AttemptError>),
}

impl Verdict {
    /// Returns the error; `None` if the record is stored.
    pub(crate) fn error(&self) -> Option<&Arc<AttemptError>> {
        match self {
            Self::Stored { .. } => None,
            Self::Throttled(error) | Self::Retry(error) | Self::Split(error) | Self::Fail(error) => Some(error),
        }
    }
}

/// The results of a request's Kinesis records.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Classified {
    /// One for all records.
    Request(Verdict),
    /// One for each record, in order.
    Records(Vec<Verdict>),
}

/// What decides about an error beside its code.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    /// Throttled records fail.
    pub(crate) fail_if_throttled: bool,
    /// The stream exists, as its metadata shows: a reply that does not find it is temporary.
    pub(crate) stream_exists: bool,
    /// Access was allowed before, and records wait until it is allowed again.
    pub(crate) retry_if_denied: bool,
}

/// Classifies the reply to a request of `sent` Kinesis records.
pub(crate) fn classify_reply(reply: Reply, sent: usize, rules: Rules) -> Classified {
    match reply {
        Reply::Records(replies) if replies.is_empty() && sent > 0 => {
            let error = AttemptError::new(code::UNKNOWN, "the reply has no results").ambiguous();
            Classified::Request(Verdict::Retry(Arc::new(error)))
        }
        Reply::Records(replies) if replies.len() != sent => {
            let message = alloc::format!("the request had {sent} records, the reply {} results", replies.len());
            let error = AttemptError::new(code::RECORD_COUNT_MISMATCH, message).ambiguous();
            Classified::Request(Verdict::Fail(Arc::new(error)))
        }
        Reply::Records(replies) => {
            // Most errors of a reply are equal. Its records share them.
            let mut errors = HashSet::new();
            let mut share = |error: AttemptError| errors.get_or_insert(Arc::new(error)).clone();
            Classified::Records(replies.into_iter().map(|reply| classify_record(reply, rules, &mut share)).collect())
        }
        Reply::Failed(error) => Classified::Request(classify_request(error, rules)),
    }
}

fn classify_record(
    reply: RecordReply,
    rules: Rules,
    share: &mut impl FnMut(AttemptError) -> Arc<AttemptError>,
) -> Verdict {
    let RecordReply { shard_id, sequence_number, error_code, error_message } = reply;
    // As in the KPL: a record with a sequence number is stored, whatever else the result has.
    if let Some(sequence_number) = sequence_number.filter(|number| !number.is_empty()) {
        return Verdict::Stored { shard_id: shard_id.filter(|id| !id.is_empty()), sequence_number };
    }
    match error_code.filter(|code| !code.is_empty()) {
        Some(code) => {
            let class = classify(&code);
            verdict(class, share(AttemptError::new(&*code, &*error_message.unwrap_or_default())), rules)
        }
        None => {
            let message = "the result has neither a sequence number nor an error code";
            Verdict::Retry(share(AttemptError::new(code::UNKNOWN, message).ambiguous()))
        }
    }
}

fn classify_request(error: RequestError, rules: Rules) -> Verdict {
    let RequestError { delivery, code, message } = error;
    let error = AttemptError::new(code, message);
    match delivery {
        Delivery::Refused => verdict(classify(&error.code), Arc::new(error), rules),
        Delivery::NotSent => Verdict::Retry(Arc::new(error)),
        Delivery::Unanswered => Verdict::Retry(Arc::new(error.ambiguous())),
    }
}

/// Returns the verdict on an error of the service, for a record or a whole request.
fn verdict(class: ErrorClass, error: Arc<AttemptError>, rules: Rules) -> Verdict {
    match class {
        ErrorClass::Throttled if rules.fail_if_throttled => Verdict::Fail(error),
        ErrorClass::Throttled => Verdict::Throttled(error),
        ErrorClass::Retry => Verdict::Retry(error),
        ErrorClass::Invalid => Verdict::Split(error),
        ErrorClass::NotFound if rules.stream_exists => Verdict::Retry(error),
        ErrorClass::Denied if rules.retry_if_denied => Verdict::Retry(error),
        ErrorClass::NotFound | ErrorClass::Denied | ErrorClass::Permanent => Verdict::Fail(error),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorClass {
    Throttled,
    Retry,
    Invalid,
    /// The stream does not exist, or the service does not know it yet.
    NotFound,
    /// A permission is missing.
    Denied,
    Permanent,
}

impl ErrorClass {
    /// Whether the same request would be refused again.
    pub(crate) fn is_final(self) -> bool {
        !matches!(self, Self::Throttled | Self::Retry)
    }
}

/// Classifies the error codes of PutRecords and of AWS's common errors
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html#API_PutRecords_Errors>), and the
/// statuses of replies without a code, which are not from the service but from a proxy or gateway. A status of 500 or
/// more is no refusal, so it is not in this table.
pub(crate) fn classify(code: &str) -> ErrorClass {
    match code {
        "ProvisionedThroughputExceededException"
        | "LimitExceededException"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequestsException"
        | "HTTP 429" => ErrorClass::Throttled,

        "InvalidArgumentException"
        | "RequestEntityTooLargeException"
        | "SerializationException"
        | "ValidationError"
        | "ValidationException"
        | "HTTP 413" => ErrorClass::Invalid,

        RESOURCE_NOT_FOUND => ErrorClass::NotFound,

        "AccessDenied" | "AccessDeniedException" | "KMSAccessDeniedException" | "NotAuthorized" | "HTTP 403" => {
            ErrorClass::Denied
        }

        // These do not go away within a time-to-live. 401 and 407 are from a gateway or proxy that wants a password.
        "KMSDisabledException"
        | "KMSInvalidStateException"
        | "KMSNotFoundException"
        | "KMSOptInRequired"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "OptInRequired"
        | "UnknownOperationException"
        | "HTTP 401"
        | "HTTP 407"
        | code::REDIRECTED => ErrorClass::Permanent,

        // Expired or replaced credentials (`ExpiredTokenException`, `UnrecognizedClientException`), a wrong clock,
        // `InternalFailure`, `KMSThrottlingException`, `ResourceInUseException` while a stream is created, all unknown
        // codes, and all other statuses: a load balancer answers 404 while nothing is registered behind it.
        _ => ErrorClass::Retry,
    }
}

/// The error code for a stream that does not exist.
pub(crate) const RESOURCE_NOT_FOUND: &str = "ResourceNotFoundException";

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use alloc::vec;
    use proptest::prelude::*;

    fn request(delivery: Delivery, code: &str) -> Verdict {
        let Classified::Request(verdict) =
            classify_reply(Reply::Failed(RequestError::new(delivery, code, "m")), 2, Rules::default())
        else {
            panic!("a failed request has one verdict");
        };
        verdict
    }

    fn record(reply: RecordReply) -> Verdict {
        let Classified::Records(verdicts) = classify_reply(Reply::Records(vec![reply]), 1, Rules::default()) else {
            panic!("each record has its own verdict");
        };
        verdicts.into_iter().next().unwrap()
    }

    fn error(code: &str) -> Arc<AttemptError> {
        Arc::new(AttemptError::new(code, "m"))
    }

    /// Error codes of the service, empty ones, and any text.
    fn codes() -> impl Strategy<Value = String> {
        const KNOWN: [&str; 6] = [
            "ProvisionedThroughputExceededException",
            "InternalFailure",
            "InvalidArgumentException",
            "AccessDeniedException",
            RESOURCE_NOT_FOUND,
            "",
        ];
        prop_oneof![proptest::sample::select(&KNOWN[..]).prop_map(String::from), "\\PC{0,20}"]
    }

    fn replies() -> impl Strategy<Value = Reply> {
        let text = || proptest::option::of("\\PC{0,8}".prop_map(ByteString::from));
        let record = (text(), text(), proptest::option::of(codes().prop_map(ByteString::from)), text()).prop_map(
            |(shard_id, sequence_number, error_code, error_message)| RecordReply {
                shard_id,
                sequence_number,
                error_code,
                error_message,
            },
        );
        let delivery = proptest::sample::select(&[Delivery::NotSent, Delivery::Unanswered, Delivery::Refused][..]);
        prop_oneof![
            proptest::collection::vec(record, 0..6).prop_map(Reply::Records),
            (delivery, codes()).prop_map(|(delivery, code)| Reply::Failed(RequestError::new(delivery, code, "m"))),
        ]
    }

    fn error_of(verdict: &Verdict) -> Option<&AttemptError> {
        match verdict {
            Verdict::Stored { .. } => None,
            Verdict::Throttled(error) | Verdict::Retry(error) | Verdict::Split(error) | Verdict::Fail(error) => {
                Some(error)
            }
        }
    }

    proptest! {
        #[test]
        fn an_attempt_is_ambiguous_if_the_record_may_be_stored(
            reply in replies(),
            sent in 0..6_usize,
            (fail_if_throttled, stream_exists, retry_if_denied) in any::<(bool, bool, bool)>(),
        ) {
            let rules = Rules { fail_if_throttled, stream_exists, retry_if_denied };
            let text = |field: &Option<ByteString>| field.as_ref().is_some_and(|text| !text.is_empty());
            match (classify_reply(reply.clone(), sent, rules), reply) {
                (Classified::Records(verdicts), Reply::Records(replies)) => {
                    prop_assert_eq!((verdicts.len(), replies.len()), (sent, sent));
                    for (verdict, reply) in verdicts.iter().zip(&replies) {
                        let error = error_of(verdict);
                        prop_assert_eq!(error.is_none(), text(&reply.sequence_number));
                        if let Some(error) = error {
                            prop_assert_eq!(error.ambiguous, !text(&reply.error_code));
                            prop_assert!(!error.code.is_empty(), "a failure has a code");
                        }
                        prop_assert!(!(fail_if_throttled && matches!(verdict, Verdict::Throttled(_))));
                    }
                }
                (Classified::Request(verdict), Reply::Records(replies)) => {
                    prop_assert_ne!(replies.len(), sent);
                    prop_assert_eq!(matches!(verdict, Verdict::Retry(_)), replies.is_empty());
                    prop_assert!(error_of(&verdict).is_some_and(|error| error.ambiguous));
                }
                (Classified::Request(verdict), Reply::Failed(error)) => {
                    let ambiguous = error_of(&verdict).map(|error| error.ambiguous);
                    prop_assert_eq!(ambiguous, Some(error.delivery == Delivery::Unanswered), "nothing is stored");
                    prop_assert!(error.delivery == Delivery::Refused || matches!(verdict, Verdict::Retry(_)));
                }
                (Classified::Records(_), Reply::Failed(_)) => prop_assert!(false, "one error has one verdict"),
            }
        }
    }

    #[test]
    fn a_stored_record_has_a_sequence_number() {
        assert_eq!(
            record(RecordReply::stored("s", "1")),
            Verdict::Stored { shard_id: Some("s".into()), sequence_number: "1".into() }
        );
        for shard_id in [None, Some(ByteString::new())] {
            let unnamed = RecordReply { shard_id, ..RecordReply::stored("s", "1") };
            assert_eq!(record(unnamed), Verdict::Stored { shard_id: None, sequence_number: "1".into() });
        }
        let both = RecordReply { error_code: Some("X".into()), ..RecordReply::stored("s", "1") };
        assert!(matches!(record(both), Verdict::Stored { .. }));
    }

    #[test]
    fn throttled_records_are_retried_or_fail_as_configured() {
        let strict = Rules { fail_if_throttled: true, ..Rules::default() };
        let code = "ProvisionedThroughputExceededException";
        assert_eq!(record(RecordReply::failed(code, "m")), Verdict::Throttled(error(code)));
        assert_eq!(request(Delivery::Refused, code), Verdict::Throttled(error(code)));
        let reply = Reply::Records(vec![RecordReply::failed(code, "m")]);
        assert_eq!(classify_reply(reply, 1, strict), Classified::Records(vec![Verdict::Fail(error(code))]));
        let reply = Reply::Failed(RequestError::new(Delivery::Refused, code, "m"));
        assert_eq!(classify_reply(reply, 1, strict), Classified::Request(Verdict::Fail(error(code))));
    }

    #[test]
    fn internal_failure_and_unknown_codes_are_retried() {
        for code in ["InternalFailure", "SomethingNew", "KMSThrottlingException", "HTTP 400", "HTTP 404", "HTTP 408"] {
            assert_eq!(record(RecordReply::failed(code, "m")), Verdict::Retry(error(code)));
            assert_eq!(request(Delivery::Refused, code), Verdict::Retry(error(code)));
        }
    }

    #[test]
    fn an_empty_result_is_retried_as_ambiguous() {
        for reply in [RecordReply::default(), RecordReply::stored("s", ""), RecordReply::failed("", "")] {
            assert!(matches!(record(reply), Verdict::Retry(error) if error.ambiguous && &*error.code == code::UNKNOWN));
        }
    }

    #[test]
    fn a_wrong_number_of_results_fails_all_records_as_ambiguous() {
        for results in [1, 3] {
            let reply = Reply::Records(vec![RecordReply::stored("s", "1"); results]);
            let Classified::Request(Verdict::Fail(error)) = classify_reply(reply, 2, Rules::default()) else {
                panic!("not failed")
            };
            assert_eq!(&*error.code, "Record Count Mismatch");
            assert!(error.ambiguous);
        }
    }

    #[test]
    fn a_reply_without_results_is_retried_as_ambiguous() {
        let reply = || Reply::Records(vec![]);
        let Classified::Request(Verdict::Retry(error)) = classify_reply(reply(), 2, Rules::default()) else {
            panic!("not retried")
        };
        assert_eq!((&*error.code, error.ambiguous), ("Unknown", true));
        assert_eq!(classify_reply(reply(), 0, Rules::default()), Classified::Records(vec![]));
    }

    #[test]
    fn records_of_a_reply_share_equal_errors() {
        let reply = |message: &str| RecordReply::failed("InternalFailure", message);
        let replies = vec![reply("a"), reply("b"), reply("a"), RecordReply::default(), RecordReply::default()];
        let Classified::Records(verdicts) = classify_reply(Reply::Records(replies), 5, Rules::default()) else {
            panic!("each record has its own verdict");
        };
        let errors: Vec<&Arc<AttemptError>> = verdicts.iter().filter_map(Verdict::error).collect();
        let shared = |a: usize, b: usize| Arc::ptr_eq(errors[a], errors[b]);
        assert!(shared(0, 2) && shared(3, 4) && !shared(0, 1) && !shared(0, 3));
    }

    #[test]
    fn a_stream_that_is_not_found_is_retried_only_if_it_exists() {
        let verdict = |stream_exists| {
            let reply = Reply::Failed(RequestError::new(Delivery::Refused, RESOURCE_NOT_FOUND, "m"));
            classify_reply(reply, 1, Rules { stream_exists, ..Rules::default() })
        };
        assert_eq!(verdict(false), Classified::Request(Verdict::Fail(error(RESOURCE_NOT_FOUND))));
        assert_eq!(verdict(true), Classified::Request(Verdict::Retry(error(RESOURCE_NOT_FOUND))));
    }

    #[test]
    fn denied_access_is_retried_with_that_rule_only() {
        let verdict = |code: &str, retry_if_denied| {
            let reply = Reply::Failed(RequestError::new(Delivery::Refused, code, "m"));
            classify_reply(reply, 1, Rules { retry_if_denied, ..Rules::default() })
        };
        for code in ["AccessDenied", "AccessDeniedException", "KMSAccessDeniedException", "NotAuthorized", "HTTP 403"] {
            assert_eq!(verdict(code, false), Classified::Request(Verdict::Fail(error(code))));
            assert_eq!(verdict(code, true), Classified::Request(Verdict::Retry(error(code))));
        }
        for code in ["KMSDisabledException", "HTTP 407", RESOURCE_NOT_FOUND] {
            assert_eq!(verdict(code, true), Classified::Request(Verdict::Fail(error(code))));
        }
    }

    #[test]
    fn an_attempt_without_a_reply_is_ambiguous() {
        assert_eq!(
            request(Delivery::Unanswered, "TimeoutError"),
            Verdict::Retry(Arc::new(AttemptError::new("TimeoutError", "m").ambiguous()))
        );
        assert_eq!(
            request(Delivery::Unanswered, "AccessDeniedException"),
            Verdict::Retry(Arc::new(AttemptError::new("AccessDeniedException", "m").ambiguous())),
            "a 5xx is not a refusal, whatever its code"
        );
    }

    #[test]
    fn an_attempt_that_was_not_sent_is_not_ambiguous() {
        assert_eq!(request(Delivery::NotSent, "ConnectError"), Verdict::Retry(error("ConnectError")));
    }

    #[test]
    fn expired_credentials_are_retried() {
        for code in ["ExpiredTokenException", "ExpiredToken", "UnrecognizedClientException"] {
            assert_eq!(request(Delivery::Refused, code), Verdict::Retry(error(code)));
        }
    }

    /// A second copy of the table, so that no code changes its class by accident.
    #[test]
    fn each_code_has_its_class() {
        let throttled = [
            "ProvisionedThroughputExceededException",
            "LimitExceededException",
            "RequestLimitExceeded",
            "Throttling",
            "ThrottlingException",
            "TooManyRequestsException",
            "HTTP 429",
        ];
        let invalid = [
            "InvalidArgumentException",
            "RequestEntityTooLargeException",
            "SerializationException",
            "ValidationError",
            "ValidationException",
            "HTTP 413",
        ];
        let permanent = [
            "AccessDenied",
            "AccessDeniedException",
            "KMSAccessDeniedException",
            "KMSDisabledException",
            "KMSInvalidStateException",
            "KMSNotFoundException",
            "KMSOptInRequired",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "NotAuthorized",
            "OptInRequired",
            "ResourceNotFoundException",
            "UnknownOperationException",
            "HTTP 401",
            "HTTP 403",
            "HTTP 407",
            "Redirected",
        ];
        for code in throttled {
            assert_eq!(request(Delivery::Refused, code), Verdict::Throttled(error(code)));
            assert_eq!(record(RecordReply::failed(code, "m")), Verdict::Throttled(error(code)));
        }
        for code in invalid {
            assert_eq!(request(Delivery::Refused, code), Verdict::Split(error(code)), "split until it is alone");
            assert_eq!(record(RecordReply::failed(code, "m")), Verdict::Split(error(code)));
        }
        for code in permanent {
            assert_eq!(request(Delivery::Refused, code), Verdict::Fail(error(code)), "waiting does not help");
            assert_eq!(record(RecordReply::failed(code, "m")), Verdict::Fail(error(code)));
        }
    }
}

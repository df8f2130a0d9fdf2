//! Classifies replies. All decisions by error code are in this file.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::record::attempt::{AttemptError, code};
use crate::reply::{Delivery, RecordReply, Reply, RequestError};

/// The result of one Kinesis record, or of a whole request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Stored on a shard. The shard map decides whether it is the right one.
    Stored { shard_id: Arc<str>, sequence_number: Arc<str> },
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

/// Classifies the reply to a request of `sent` Kinesis records.
pub(crate) fn classify_reply(reply: Reply, sent: usize, fail_if_throttled: bool) -> Classified {
    match reply {
        Reply::Records(replies) if replies.len() != sent => {
            let message = alloc::format!("the request had {sent} records, the reply {} results", replies.len());
            let error = AttemptError::new(code::RECORD_COUNT_MISMATCH, message).ambiguous();
            Classified::Request(Verdict::Fail(Arc::new(error)))
        }
        Reply::Records(replies) => {
            Classified::Records(replies.into_iter().map(|reply| classify_record(reply, fail_if_throttled)).collect())
        }
        Reply::Failed(error) => Classified::Request(classify_request(error, fail_if_throttled)),
    }
}

fn classify_record(reply: RecordReply, fail_if_throttled: bool) -> Verdict {
    let RecordReply { shard_id, sequence_number, error_code, error_message } = reply;
    // As in the KPL: a record with a sequence number is stored, whatever else the result has.
    if let Some(sequence_number) = sequence_number.filter(|number| !number.is_empty()) {
        let shard_id: Arc<str> = shard_id.unwrap_or_default().into();
        return Verdict::Stored { shard_id, sequence_number: sequence_number.into() };
    }
    let message = error_message.unwrap_or_default();
    match error_code.filter(|code| !code.is_empty()) {
        Some(code) => classify_code(code, message, fail_if_throttled),
        None => {
            let message = String::from("the result has neither a sequence number nor an error code");
            Verdict::Retry(Arc::new(AttemptError::new(code::UNKNOWN, message).ambiguous()))
        }
    }
}

fn classify_request(error: RequestError, fail_if_throttled: bool) -> Verdict {
    let RequestError { delivery, code, message } = error;
    match delivery {
        Delivery::Refused => classify_code(code.into(), message.into(), fail_if_throttled),
        Delivery::NotSent => Verdict::Retry(Arc::new(AttemptError::new(code, message))),
        Delivery::Unanswered => Verdict::Retry(Arc::new(AttemptError::new(code, message).ambiguous())),
    }
}

/// Classifies an error of the service, for a record or a whole request.
fn classify_code(code: String, message: String, fail_if_throttled: bool) -> Verdict {
    let class = classify(&code);
    let error = Arc::new(AttemptError::new(code, message));
    match class {
        ErrorClass::Throttled if fail_if_throttled => Verdict::Fail(error),
        ErrorClass::Throttled => Verdict::Throttled(error),
        ErrorClass::Retry => Verdict::Retry(error),
        ErrorClass::Invalid => Verdict::Split(error),
        ErrorClass::Permanent => Verdict::Fail(error),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorClass {
    Throttled,
    Retry,
    Invalid,
    Permanent,
}

/// Classifies the error codes of PutRecords and of AWS's common errors
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html#API_PutRecords_Errors>).
pub(crate) fn classify(code: &str) -> ErrorClass {
    match code {
        "ProvisionedThroughputExceededException"
        | "LimitExceededException"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequestsException" => ErrorClass::Throttled,

        "InvalidArgumentException"
        | "RequestEntityTooLargeException"
        | "SerializationException"
        | "ValidationError"
        | "ValidationException" => ErrorClass::Invalid,

        // These do not go away within a time-to-live.
        "AccessDenied"
        | "AccessDeniedException"
        | "KMSAccessDeniedException"
        | "KMSDisabledException"
        | "KMSInvalidStateException"
        | "KMSNotFoundException"
        | "KMSOptInRequired"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "NotAuthorized"
        | "OptInRequired"
        | RESOURCE_NOT_FOUND
        | "UnknownOperationException"
        | code::REDIRECTED => ErrorClass::Permanent,

        // Expired or replaced credentials (`ExpiredTokenException`, `UnrecognizedClientException`), a wrong clock,
        // `InternalFailure`, `KMSThrottlingException`, `ResourceInUseException` while a stream is created, and all
        // unknown codes.
        _ => ErrorClass::Retry,
    }
}

/// The error code for a stream that does not exist.
pub(crate) const RESOURCE_NOT_FOUND: &str = "ResourceNotFoundException";

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn request(delivery: Delivery, code: &str) -> Verdict {
        let Classified::Request(verdict) =
            classify_reply(Reply::Failed(RequestError::new(delivery, code, "m")), 2, false)
        else {
            panic!("a failed request has one verdict");
        };
        verdict
    }

    fn record(reply: RecordReply) -> Verdict {
        let Classified::Records(verdicts) = classify_reply(Reply::Records(vec![reply]), 1, false) else {
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
        let text = || proptest::option::of("\\PC{0,8}");
        let record = (text(), text(), proptest::option::of(codes()), text()).prop_map(
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
            fail_if_throttled in any::<bool>(),
        ) {
            let text = |field: &Option<String>| field.as_ref().is_some_and(|text| !text.is_empty());
            match (classify_reply(reply.clone(), sent, fail_if_throttled), reply) {
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
                    prop_assert!(matches!(verdict, Verdict::Fail(error) if error.ambiguous));
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
            Verdict::Stored { shard_id: "s".into(), sequence_number: "1".into() }
        );
        let both = RecordReply { error_code: Some("X".into()), ..RecordReply::stored("s", "1") };
        assert!(matches!(record(both), Verdict::Stored { .. }));
    }

    #[test]
    fn throttled_records_are_retried_or_fail_as_configured() {
        let code = "ProvisionedThroughputExceededException";
        assert_eq!(record(RecordReply::failed(code, "m")), Verdict::Throttled(error(code)));
        assert_eq!(request(Delivery::Refused, code), Verdict::Throttled(error(code)));
        let reply = Reply::Records(vec![RecordReply::failed(code, "m")]);
        assert_eq!(classify_reply(reply, 1, true), Classified::Records(vec![Verdict::Fail(error(code))]));
        let reply = Reply::Failed(RequestError::new(Delivery::Refused, code, "m"));
        assert_eq!(classify_reply(reply, 1, true), Classified::Request(Verdict::Fail(error(code))));
    }

    #[test]
    fn internal_failure_and_unknown_codes_are_retried() {
        for code in ["InternalFailure", "SomethingNew", "KMSThrottlingException"] {
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
        for results in [0, 1, 3] {
            let reply = Reply::Records(vec![RecordReply::stored("s", "1"); results]);
            let Classified::Request(Verdict::Fail(error)) = classify_reply(reply, 2, false) else {
                panic!("not failed")
            };
            assert_eq!(&*error.code, "Record Count Mismatch");
            assert!(error.ambiguous);
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
        ];
        let invalid = [
            "InvalidArgumentException",
            "RequestEntityTooLargeException",
            "SerializationException",
            "ValidationError",
            "ValidationException",
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

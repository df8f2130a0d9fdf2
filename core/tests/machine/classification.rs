//! Tests of every row of the classification table, through the whole state machine.

use crate::rig::*;
use kpl_core::{Config, Delivery, LogEvent, RecordReply, Reply, RequestError, StreamSummary, UserRecord};

const THROTTLED: &str = "ProvisionedThroughputExceededException";

fn failed(delivery: Delivery, code: &str) -> Reply {
    Reply::Failed(RequestError::new(delivery, code, "why"))
}

/// Creates a producer for a stream of two shards, with one Kinesis record in flight, predicted for shard 0, that has a
/// user record for each of `keys`. Returns their tickets, too.
fn record_in_flight(keys: &[u128]) -> (Rig, Vec<u64>) {
    let mut rig = Rig::with_shards(Config::builder(), 2);
    let tickets = keys.iter().map(|key| rig.put(*key, "data")).collect();
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[keys.len()]]);
    (rig, tickets)
}

#[test]
fn success_on_the_predicted_shard_is_success_for_every_user_record() {
    let (mut rig, tickets) = record_in_flight(&[1, 2, 3]);
    rig.answer_records([RecordReply::stored(shard_id(0), "77")]);
    for (position, ticket) in tickets.into_iter().enumerate() {
        let receipt = rig.receipt(ticket);
        assert_eq!((receipt.shard_id(), receipt.sequence_number()), (&*shard_id(0), "77"));
        assert_eq!(receipt.sub_sequence_number(), Some(position as u64));
        assert_eq!(receipt.attempts().len(), 1);
    }
    assert!(rig.lists.is_empty(), "nothing to refresh");
    assert_eq!(rig.log, [], "nothing is logged");
}

#[test]
fn success_without_a_prediction_is_success() {
    let mut rig = Rig::new(Config::builder().start_timeout(std::time::Duration::ZERO));
    let ticket = rig.put(1, "data");
    rig.run_for(100 * MS); // without a shard list
    rig.answer_records([RecordReply::stored(shard_id(5), "1")]);
    assert_eq!(rig.receipt(ticket).sub_sequence_number(), None);
}

#[test]
fn a_single_record_on_another_shard_is_success_and_refreshes_the_shard_map() {
    let (mut rig, tickets) = record_in_flight(&[1]);
    rig.answer_records([RecordReply::stored(shard_id(9), "1")]);
    assert_eq!(rig.receipt(tickets[0]).shard_id(), shard_id(9));
    assert_eq!(rig.lists.len(), 1);
}

#[test]
fn an_aggregate_on_another_known_shard_is_retried_as_a_whole() {
    let far = start_of(1, 2) - 1;
    let (mut rig, tickets) = record_in_flight(&[1, far]);
    // The shard map has shard 1, the upper half. No record of the aggregate belongs there.
    rig.answer_records([RecordReply::stored(shard_id(1), "1")]);
    assert!(rig.results.is_empty(), "consumers of shard 1 drop both: neither success nor failure yet");
    assert_eq!(rig.lists.len(), 1, "one refresh for the Kinesis record");
    assert!(rig.log.iter().any(|event| matches!(event, LogEvent::WrongShard { kinesis_records: 1, .. })));

    rig.run_for(50 * MS);
    assert_eq!(rig.shape(), [[2]], "both are retried together, within half the buffering time");
    rig.answer_records([RecordReply::stored(shard_id(0), "2")]);
    for ticket in tickets {
        let receipt = rig.receipt(ticket);
        let errors: Vec<_> =
            receipt.attempts().iter().map(|attempt| attempt.error.as_ref().map(|error| &*error.code)).collect();
        assert_eq!(errors, [Some("Wrong Shard"), None]);
        assert!(!receipt.attempts().iter().any(|attempt| attempt.is_ambiguous()), "consumers certainly drop it");
    }
}

#[test]
fn an_aggregate_that_is_stored_on_a_wrong_shard_again_and_again_backs_off() {
    let far = start_of(1, 2) - 1;
    let (mut rig, tickets) = record_in_flight(&[1, far]);
    let mut attempts = 0;
    while rig.results.is_empty() {
        if rig.batches.is_empty() {
            rig.run_for(10 * MS);
        } else {
            attempts += 1;
            rig.answer_records([RecordReply::stored(shard_id(1), "1")]);
        }
        // The list contradicts the replies.
        rig.answer_refreshes(&equal_shards(2));
    }
    assert!((5..=40).contains(&attempts), "{attempts} attempts");
    let failure = rig.failure(tickets[0]);
    assert_eq!((&*failure.error.code, failure.attempts.len()), ("Expired", attempts));
}

#[test]
fn an_aggregate_on_a_shard_of_unknown_range_is_unverified_until_the_shard_map_has_it() {
    let half_of_shard_0 = start_of(1, 2) / 2;
    let (mut rig, tickets) = record_in_flight(&[1, half_of_shard_0 + 1]);
    rig.answer_records([RecordReply::stored(shard_id(2), "1")]);
    rig.run_for(500 * MS);
    assert!(rig.results.is_empty() && rig.batches.is_empty(), "nothing is sent again on a guess");
    assert_eq!(rig.lists.len(), 1);
    assert!(rig.lists[0].include_closed, "the shard may already be closed again");

    let split = [
        child(2, 0, 0, half_of_shard_0),
        child(3, 0, half_of_shard_0 + 1, start_of(1, 2) - 1),
        shard(1, start_of(1, 2), u128::MAX),
    ];
    rig.answer_refreshes(&split);
    assert!(rig.results.is_empty(), "one is outside the child's range, and the KCL drops both: both are retried");
    rig.run_for(50 * MS);
    rig.answer_all_stored(&split);
    assert_eq!(rig.receipt(tickets[0]).shard_id(), shard_id(2));
    assert_eq!(rig.receipt(tickets[1]).shard_id(), shard_id(3));
}

#[test]
fn an_unverified_aggregate_requests_the_shards_even_right_after_a_list() {
    let (mut rig, tickets) = record_in_flight(&[1, 2]);
    // While the aggregate is in flight, another record's reply triggers a refresh. The shard is split after that.
    let other = rig.put(u128::MAX, "single");
    rig.run_for(100 * MS);
    let aggregate = rig.take_batch();
    rig.answer_records([RecordReply::stored(shard_id(0), "1")]);
    rig.receipt(other);
    rig.run_for(SEC);
    rig.answer_refreshes(&equal_shards(2));
    rig.handle_reply(aggregate, Reply::Records(vec![RecordReply::stored(shard_id(2), "1")]));
    rig.run_for(SEC);
    rig.answer_refreshes(&[child(2, 0, 0, start_of(1, 2) - 1), shard(1, start_of(1, 2), u128::MAX)]);
    for ticket in tickets {
        assert_eq!(rig.receipt(ticket).shard_id(), shard_id(2));
    }
}

#[test]
fn an_aggregate_on_a_shard_of_unknown_range_expires_as_ambiguous() {
    let (mut rig, tickets) = record_in_flight(&[1, 2]);
    rig.answer_records([RecordReply::stored(shard_id(2), "1")]);
    for _ in 0..60 {
        rig.answer_refreshes(&equal_shards(2)); // does not list shard 2
        rig.run_for(SEC);
    }
    for ticket in tickets {
        let failure = rig.failure(ticket);
        assert_eq!(&*failure.error.code, "Expired");
        assert!(failure.is_ambiguous());
    }
    assert!(rig.batches.is_empty());
}

#[test]
fn a_throttled_record_fails_at_once_with_fail_if_throttled() {
    let mut rig = Rig::with_shards(Config::builder().fail_if_throttled(true), 1);
    let ticket = rig.put(1, "data");
    rig.run_for(100 * MS);
    rig.answer_records([RecordReply::failed(THROTTLED, "Rate exceeded")]);
    let failure = rig.failure(ticket);
    assert_eq!((&*failure.error.code, failure.attempts.len()), (THROTTLED, 1));
    assert!(!failure.is_ambiguous());
    assert_eq!(failure.record, UserRecord::new("s", "k", "data").explicit_hash_key("1"));
}

#[test]
fn a_throttled_record_slows_its_shard_down_and_is_retried() {
    for whole_request in [false, true] {
        let mut rig = Rig::with_shards(Config::builder(), 2);
        let ticket = rig.put(1, vec![0; 100_000]);
        rig.run_for(100 * MS);
        let error = RecordReply::failed(THROTTLED, "Rate exceeded");
        let whole = failed(Delivery::Refused, THROTTLED);
        rig.answer(if whole_request { whole } else { Reply::Records(vec![error]) });
        rig.run_for(100 * MS);
        assert!(rig.batches.is_empty(), "half the rate, from an empty bucket: 100 kB take 190 ms");
        let other = rig.put(u128::MAX, "data");
        rig.run_for(200 * MS);
        assert_eq!(rig.shape().concat().len(), 2);
        rig.answer_all_stored(&equal_shards(2));
        assert_eq!(rig.receipt(ticket).attempts().len(), 2);
        assert_eq!(rig.receipt(other).attempts().len(), 1, "the other shard keeps its rate");
        assert!(rig.log.iter().any(|event| matches!(event, LogEvent::Throttled { kinesis_records: 1, .. })));
    }
}

#[test]
fn endless_throttling_causes_no_busy_loop() {
    let mut rig = Rig::with_shards(Config::builder(), 1);
    let ticket = rig.put(1, "data");
    let mut requests = 0;
    for _ in 0..4_000 {
        rig.run_for(10 * MS);
        while !rig.batches.is_empty() {
            requests += 1;
            rig.answer_records([RecordReply::failed(THROTTLED, "Rate exceeded")]);
        }
    }
    assert_eq!(&*rig.failure(ticket).error.code, "Expired");
    assert!((10..=600).contains(&requests), "{requests} requests in 30 s");
}

#[test]
fn internal_failures_and_unknown_codes_are_retried_with_growing_backoff() {
    for code in ["InternalFailure", "UnknownCode"] {
        let (mut rig, tickets) = record_in_flight(&[1, 2]);
        let mut pauses = vec![];
        for _ in 0..8 {
            rig.answer_records([RecordReply::failed(code, "why")]);
            let since = rig.now;
            rig.run_until_sent();
            pauses.push(rig.now.saturating_since(since));
        }
        // 50 ms of buffering, then full jitter up to 50, 100, 200, … ms.
        for (n, pause) in pauses.iter().enumerate() {
            assert!(*pause <= 51 * MS + (50 * MS * (1 << n)).min(5 * SEC), "{pauses:?}");
        }
        assert!(pauses.iter().max().unwrap() > &(300 * MS), "{pauses:?}");
        rig.answer_records([RecordReply::stored(shard_id(0), "1")]);
        assert_eq!(rig.receipt(tickets[1]).attempts().len(), 9);
    }
}

#[test]
fn a_reply_with_too_few_or_too_many_results_fails_all_records() {
    let mut rig = Rig::with_shards(Config::builder().aggregation_enabled(false), 1);
    for results in [1, 3] {
        let tickets = [rig.put(1, "a"), rig.put(2, "b")];
        rig.run_for(100 * MS);
        rig.answer_records(vec![RecordReply::stored(shard_id(0), "1"); results]);
        for ticket in tickets {
            let failure = rig.failure(ticket);
            assert_eq!(&*failure.error.code, "Record Count Mismatch");
            assert!(failure.is_ambiguous());
            assert_eq!(failure.attempts.len(), 1);
        }
    }
}

#[test]
fn a_reply_without_results_is_ambiguous_and_the_records_are_retried() {
    let (mut rig, tickets) = record_in_flight(&[1, 2]);
    rig.answer_records([]);
    rig.run_for(100 * MS + MS);
    rig.answer_records([RecordReply::stored(shard_id(0), "1")]);
    for ticket in tickets {
        let attempts = rig.receipt(ticket).attempts();
        assert_eq!(attempts.iter().map(|attempt| attempt.is_ambiguous()).collect::<Vec<_>>(), [true, false]);
    }
}

#[test]
fn a_stored_record_without_a_shard_id_is_on_the_predicted_shard() {
    let (mut rig, tickets) = record_in_flight(&[1, 2]);
    rig.answer_records([RecordReply { shard_id: None, ..RecordReply::stored("", "1") }]);
    for ticket in tickets {
        let receipt = rig.receipt(ticket);
        assert_eq!((receipt.shard_id(), receipt.sequence_number()), (&*shard_id(0), "1"));
    }
    assert!(rig.lists.is_empty(), "nothing contradicts the shard list");
}

#[test]
fn a_stored_record_without_a_shard_id_and_without_a_prediction_is_success() {
    let mut rig = Rig::new(Config::builder());
    let tickets = [rig.put(1, "a"), rig.put(1, "b")];
    let describe = rig.describes.remove(0);
    rig.producer.handle_stream_summary(rig.now, &describe, Ok(StreamSummary::default()));
    rig.run_for(5 * SEC);
    assert_eq!(rig.shape(), [[2]], "aggregated by hash key");
    let batch = rig.take_batch();
    rig.answer_refreshes(&equal_shards(2));
    rig.handle_reply(batch, Reply::Records(vec![RecordReply::stored("", "1")]));
    for ticket in tickets {
        assert_eq!((rig.receipt(ticket).shard_id(), rig.receipt(ticket).sequence_number()), ("", "1"));
    }
}

#[test]
fn denied_access_to_a_stream_that_stored_records_is_retried_if_configured() {
    let denied = || failed(Delivery::Refused, "AccessDeniedException");
    let config = || Config::builder().retry_if_denied(true);
    let mut rig = Rig::with_shards(config(), 1);
    let ticket = rig.put(1, "a");
    for _ in 0..10 {
        rig.run_until_sent();
        rig.answer(denied());
    }
    rig.run_until_sent();
    rig.answer_all_stored(&equal_shards(1));
    assert_eq!(rig.receipt(ticket).attempts().len(), 11);

    let mut never_stored = Rig::new(config());
    let ticket = never_stored.put(1, "a");
    never_stored.answer_refreshes(&equal_shards(1));
    never_stored.run_until_sent();
    never_stored.answer(denied());
    assert_eq!(never_stored.failure(ticket).attempts.len(), 1);
}

#[test]
fn an_unanswered_attempt_is_ambiguous_and_the_record_is_retried() {
    let (mut rig, tickets) = record_in_flight(&[1, 2]);
    rig.answer(failed(Delivery::Unanswered, "TimeoutError"));
    rig.run_for(100 * MS + MS);
    rig.answer_records([RecordReply::stored(shard_id(0), "1")]);
    let ambiguous: Vec<_> = rig.receipt(tickets[0]).attempts().iter().map(|attempt| attempt.is_ambiguous()).collect();
    assert_eq!(ambiguous, [true, false]);
}

#[test]
fn an_attempt_that_was_not_sent_is_not_ambiguous() {
    let (mut rig, tickets) = record_in_flight(&[1, 2]);
    for _ in 0..200 {
        rig.run_for(SEC);
        while !rig.batches.is_empty() {
            rig.answer(failed(Delivery::NotSent, "ConnectError"));
        }
    }
    let failure = rig.failure(tickets[0]);
    assert_eq!(&*failure.error.code, "Expired");
    assert!(failure.error.message.contains("ConnectError: why"), "{}", failure.error);
    assert!(failure.attempts.len() > 3 && !failure.is_ambiguous());
}

#[test]
fn expired_credentials_are_retried() {
    let (mut rig, tickets) = record_in_flight(&[1]);
    rig.answer(failed(Delivery::Refused, "ExpiredTokenException"));
    rig.run_for(200 * MS);
    rig.answer_records([RecordReply::stored(shard_id(0), "1")]);
    assert_eq!(rig.receipt(tickets[0]).attempts().len(), 2);
}

#[test]
fn permanent_errors_fail_at_once() {
    for code in ["AccessDeniedException", "KMSDisabledException", "UnknownOperationException", "HTTP 403", "HTTP 407"] {
        let (mut rig, tickets) = record_in_flight(&[1, 2]);
        rig.answer(failed(Delivery::Refused, code));
        for ticket in tickets {
            let failure = rig.failure(ticket);
            assert_eq!((&*failure.error.code, failure.attempts.len()), (code, 1));
            assert!(!failure.is_ambiguous());
        }
        assert!(rig.lists.is_empty(), "the shards have not changed");
    }
}

#[test]
fn a_refused_request_is_split_until_the_invalid_record_is_alone() {
    for code in ["InvalidArgumentException", "ValidationException", "SerializationException", "HTTP 413"] {
        let mut rig = Rig::with_shards(Config::builder().aggregation_enabled(false), 1);
        let tickets: Vec<u64> = (0..50).map(|key| rig.put(key, if key == 31 { "invalid" } else { "valid" })).collect();
        rig.run_for(100 * MS);
        assert_eq!(rig.shape(), [vec![1; 50]]);
        let mut requests = 0;
        while !rig.batches.is_empty() {
            requests += 1;
            let batch = &rig.batches[0];
            if batch.records().iter().any(|record| record.data() == "invalid") {
                rig.answer(failed(Delivery::Refused, code));
            } else {
                let batch = rig.take_batch();
                let replies = batch.records().iter().map(|_| RecordReply::stored(shard_id(0), "1")).collect();
                rig.handle_reply(batch, Reply::Records(replies));
            }
        }
        for (key, ticket) in tickets.into_iter().enumerate() {
            if key == 31 {
                assert_eq!(&*rig.failure(ticket).error.code, code);
            } else {
                assert_eq!(rig.receipt(ticket).shard_id(), shard_id(0));
            }
        }
        assert!(requests <= 14, "{requests} requests: the first, and at most two for each split");
    }
}

#[test]
fn a_refused_aggregate_is_split_until_the_invalid_record_is_alone() {
    let mut rig = Rig::with_shards(Config::builder(), 1);
    let tickets: Vec<u64> = (0..20).map(|key| rig.put(key, if key == 7 { "invalid" } else { "valid" })).collect();
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[20]]);
    rig.answer(failed(Delivery::Refused, "InvalidArgumentException"));
    let first_keys: Vec<_> = rig.batches.iter().map(|batch| batch.records()[0].explicit_hash_key()).collect();
    assert_eq!((rig.shape(), first_keys), (vec![vec![10], vec![10]], vec![0, 10]), "the halves are in order");
    while !rig.batches.is_empty() {
        let is_invalid = rig.batches[0].records()[0].data().windows(7).any(|window| window == b"invalid");
        // kinesis-mock refuses the record; the service refuses the request.
        rig.answer_records([if is_invalid {
            RecordReply::failed("InvalidArgumentException", "why")
        } else {
            RecordReply::stored(shard_id(0), "1")
        }]);
    }
    let failed: Vec<_> = tickets.iter().filter(|ticket| rig.results[ticket].is_err()).collect();
    assert_eq!(failed, [&tickets[7]]);
}

#[test]
fn waiting_parts_of_a_refused_request_expire_record_by_record() {
    let config = Config::builder().aggregation_enabled(false).max_in_flight_requests(1).record_ttl(SEC);
    let mut rig = Rig::with_shards(config.record_max_buffered_time(300 * MS), 1);
    let [first, second, old] = [1, 2, 3].map(|key| rig.put(key, "old"));
    rig.run_for(200 * MS);
    let young = rig.put(4, "young");
    rig.run_for(100 * MS);
    rig.answer(failed(Delivery::Refused, "ValidationException"));
    assert_eq!(rig.shape(), [[1, 1]], "one half is in flight, the other waits");
    rig.run_for(699 * MS);
    assert!(rig.results.is_empty());
    rig.run_for(MS);
    assert_eq!(&*rig.failure(old).error.code, "Expired");
    assert_eq!(rig.results.len(), 1);
    rig.answer_all_stored(&equal_shards(1));
    for ticket in [first, second, young] {
        assert_eq!(rig.receipt(ticket).attempts().len(), 2);
    }
}

#[test]
fn a_single_refused_record_fails() {
    let (mut rig, tickets) = record_in_flight(&[1]);
    rig.answer(failed(Delivery::Refused, "ValidationException"));
    assert_eq!(&*rig.failure(tickets[0]).error.code, "ValidationException");
}

#[test]
fn no_reply_makes_the_machine_panic() {
    let odd = [
        RecordReply::default(),
        RecordReply::stored("", "1"),
        RecordReply::stored("no shard at all \u{0}", "not a number"),
        RecordReply::stored("shardId-99999999999999999999999999999", "1"),
        RecordReply { error_code: Some("X".into()), ..RecordReply::stored(shard_id(1), "1") },
        RecordReply::failed("", ""),
    ];
    for reply in odd {
        let (mut rig, tickets) = record_in_flight(&[1, 2]);
        rig.answer_records([reply]);
        for _ in 0..100 {
            rig.run_for(SEC);
            rig.answer_refreshes(&equal_shards(2));
            rig.answer_all_stored(&equal_shards(2));
        }
        for ticket in tickets {
            assert!(rig.results.contains_key(&ticket));
        }
    }
}

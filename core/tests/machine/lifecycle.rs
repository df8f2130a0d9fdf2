//! Tests of backpressure, time-to-live, flush and close.

use std::time::Duration;

use kpl_core::{
    Config, Delivery, Instant, LogEvent, PutError, RecordReply, Reply, RequestError, StreamSummary, UserRecord,
};

use crate::rig::*;

const NANO: Duration = Duration::from_nanos(1);

fn unanswered() -> Reply {
    Reply::Failed(RequestError::new(Delivery::Unanswered, "TimeoutError", "no reply"))
}

#[test]
fn the_producer_is_full_by_count_and_returns_the_record() {
    let mut rig = Rig::with_shards(Config::builder().max_outstanding_records(3), 1);
    (0..3).for_each(|key| {
        rig.put(key, "a");
    });
    let record = UserRecord::new("s", "k", "b");
    let error = rig.producer.put(rig.now, record.clone().prepare().unwrap(), 99).unwrap_err();
    assert_eq!(error.to_string(), "the producer is full: 3 records and 6 bytes are outstanding");
    let PutError::Full { record: back, ticket: 99, .. } = error else { panic!("{error:?}") };
    assert_eq!(UserRecord::from(back.clone()), record);
    rig.run_for(100 * MS);
    rig.answer_all_stored(&equal_shards(1));
    rig.producer.put(rig.now, back, 99).unwrap();
}

#[test]
fn the_producer_is_full_by_bytes_but_one_record_always_fits() {
    let mut rig = Rig::with_shards(Config::builder().max_outstanding_bytes(10_000), 1);
    rig.put(1, vec![0; 9_000]);
    assert_eq!(rig.producer.outstanding_bytes(), 9_001);
    let more = UserRecord::new("s", "k", vec![0; 1_000]).prepare().unwrap();
    assert!(matches!(rig.producer.put(rig.now, more, 9), Err(PutError::Full { .. })));
    rig.run_for(100 * MS);
    rig.answer_all_stored(&equal_shards(1));
    rig.put(1, vec![0; 50_000]);
    assert_eq!(rig.producer.outstanding_records(), 1);
}

#[test]
fn a_record_that_cannot_be_sent_expires_exactly_at_its_ttl() {
    let config = Config::builder().rate_limit_records_per_shard(1).record_ttl(2 * SEC).aggregation_enabled(false);
    let mut rig = Rig::with_shards(config.max_shard_backlog(ANY_BACKLOG), 1);
    rig.run_for(SEC);
    let tickets: Vec<u64> = (0..10).map(|key| rig.put(key, "a")).collect();
    rig.run_for(2 * SEC - MS);
    assert!(rig.results.is_empty());
    rig.run_for(MS);
    assert!(tickets.iter().any(|ticket| rig.results.contains_key(ticket)), "records that wait in the limiter");
    rig.answer_all_stored(&equal_shards(1));
    let (stored, expired): (Vec<u64>, Vec<u64>) = tickets.iter().partition(|ticket| rig.results[ticket].is_ok());
    assert!((2..=3).contains(&stored.len()), "one record at once, then one a second: {stored:?}");
    for ticket in expired {
        let failure = rig.failure(ticket);
        assert_eq!(&*failure.error.code, "Expired");
        assert_eq!(&*failure.error.message, "not sent within record_ttl (2s)");
        assert!(failure.attempts.is_empty());
    }
}

#[test]
fn a_record_in_flight_does_not_expire_before_its_reply() {
    let mut rig = Rig::with_shards(Config::builder().record_ttl(SEC), 1);
    let ticket = rig.put(1, "a");
    rig.run_for(5 * SEC);
    assert!(rig.results.is_empty());
    rig.answer_all_stored(&equal_shards(1));
    rig.receipt(ticket);
    let ticket = rig.put(1, "a");
    rig.run_for(5 * SEC);
    rig.answer(unanswered());
    assert_eq!(&*rig.failure(ticket).error.code, "Expired");
    assert!(rig.failure(ticket).is_ambiguous());
}

#[test]
fn a_record_without_a_ttl_never_expires() {
    let mut rig = Rig::with_shards(Config::builder().record_ttl(Duration::MAX), 1);
    let ticket = rig.put(1, "a");
    for _ in 0..1_000 {
        rig.run_for(60 * SEC);
        assert!(!rig.batches.is_empty(), "the record is still retried");
        rig.answer(unanswered());
    }
    assert!(rig.results.is_empty());
    rig.run_for(60 * SEC);
    rig.answer_all_stored(&equal_shards(1));
    assert_eq!(rig.receipt(ticket).attempts().len(), 1_001);
}

#[test]
fn only_the_expired_records_of_an_aggregate_fail() {
    let mut rig = Rig::with_shards(Config::builder().record_ttl(SEC).record_max_buffered_time(900 * MS), 1);
    let old = rig.put(1, "old");
    rig.run_for(850 * MS);
    let young = rig.put(2, "young");
    rig.run_for(60 * MS);
    assert_eq!(rig.shape(), [[2]]);
    rig.run_for(95 * MS);
    rig.answer(unanswered());
    assert_eq!(&*rig.failure(old).error.code, "Expired");
    rig.run_for(SEC / 2);
    assert_eq!(rig.shape(), [[1]]);
    rig.answer_all_stored(&equal_shards(1));
    rig.receipt(young);
}

#[test]
fn a_flush_sends_at_once_and_waits_only_for_earlier_records() {
    let mut rig = Rig::with_shards(Config::builder(), 2);
    rig.put(1, "a");
    rig.put(u128::MAX, "b");
    let flush = rig.producer.flush(rig.now);
    rig.drain();
    assert_eq!(rig.shape(), [[1, 1]], "at once, in one request");
    let after = rig.put(1, "c");
    rig.answer_all_stored(&equal_shards(2));
    assert_eq!(rig.flushed, [flush]);
    assert!(!rig.results.contains_key(&after));
    let nothing = rig.producer.flush(rig.now);
    rig.drain();
    assert_eq!(rig.flushed, [flush]);
    rig.answer_all_stored(&equal_shards(2));
    assert_eq!(rig.flushed, [flush, nothing]);
}

#[test]
fn a_flushed_record_that_is_retried_does_not_wait_again() {
    let mut rig = Rig::with_shards(Config::builder().record_max_buffered_time(10 * SEC), 2);
    rig.put(1, "a");
    let flush = rig.producer.flush(rig.now);
    rig.drain();
    rig.answer(unanswered());
    rig.run_for(50 * MS);
    assert_eq!(rig.shape(), [[1]], "sent at once after the backoff");
    rig.answer_all_stored(&equal_shards(2));
    assert_eq!(rig.flushed, [flush]);
}

#[test]
fn a_flush_expedites_records_that_wait_for_their_shards_pace() {
    let config = Config::builder().record_max_buffered_time(60 * SEC).record_ttl(600 * SEC);
    let mut rig = Rig::with_shards(config, 1);
    // Three seconds' worth for the shard.
    (0..60).for_each(|key| {
        rig.put(key, vec![0; 50_000]);
    });
    let flush = rig.producer.flush(rig.now);
    rig.drain();
    for _ in 0..30 {
        rig.answer_all_stored(&equal_shards(1));
        rig.run_for(100 * MS);
    }
    assert_eq!(rig.flushed, [flush], "{} records are left", rig.producer.outstanding_records());
}

#[test]
fn a_flush_before_the_first_shard_map_waits_for_it() {
    let mut rig = Rig::new(Config::builder());
    (0..10).for_each(|key| {
        rig.put(key, "a");
    });
    rig.producer.flush(rig.now);
    rig.drain();
    assert!(rig.batches.is_empty(), "ten records sent one by one would cost more than a wait of a few milliseconds");
    rig.run_for(20 * MS);
    rig.answer_refreshes(&equal_shards(1));
    assert_eq!(rig.shape(), [[10]], "sent at once after that");
}

#[test]
fn close_drains_without_waiting_for_more_records() {
    let mut rig = Rig::with_shards(Config::builder(), 2);
    let ticket = rig.put(1, "a");
    rig.producer.close(rig.now, Instant::NEVER);
    rig.drain();
    assert_eq!(rig.shape(), [[1]]);
    let record = UserRecord::new("s", "k", "b").prepare().unwrap();
    let error = rig.producer.put(rig.now, record.clone(), 99).unwrap_err();
    assert_eq!(error, PutError::Closed { record, ticket: 99 });
    assert!(!rig.producer.is_drained());
    rig.answer_all_stored(&equal_shards(2));
    rig.receipt(ticket);
    assert!(rig.producer.is_drained());
    assert_eq!(rig.until_tick(), None);
}

#[test]
fn at_the_deadline_of_a_close_outstanding_records_fail_and_are_returned() {
    let config = Config::builder().rate_limit_records_per_shard(1).aggregation_enabled(false);
    let mut rig = Rig::with_shards(config, 1);
    rig.run_for(SEC);
    let tickets: Vec<u64> = (0..5).map(|key| rig.put(key, "a")).collect();
    rig.producer.close(rig.now, rig.now + SEC / 2);
    rig.drain();
    rig.run_for(SEC);
    assert!(rig.cancelled, "the driver is asked to cancel the requests in flight");
    assert_eq!(rig.results.len(), 4);
    rig.answer(unanswered());
    assert!(rig.producer.is_drained());
    for ticket in &tickets {
        let failure = rig.failure(*ticket);
        assert_eq!(&*failure.error.code, "Closed");
        assert_eq!(failure.record.data, "a");
        assert_eq!(failure.is_ambiguous(), *ticket == tickets[0], "only the record in flight may be stored");
    }
    assert_eq!(rig.until_tick(), None);
}

#[test]
fn without_requests_in_flight_a_close_cancels_none() {
    let mut rig = Rig::new(Config::builder());
    let ticket = rig.put(1, "a");
    rig.producer.close(rig.now, rig.now);
    rig.drain();
    assert_eq!(&*rig.failure(ticket).error.code, "Closed");
    assert!(!rig.cancelled && rig.producer.is_drained());
}

#[test]
fn a_late_success_after_the_deadline_is_a_success() {
    let mut rig = Rig::with_shards(Config::builder(), 1);
    let ticket = rig.put(1, "a");
    rig.producer.close(rig.now, rig.now);
    rig.drain();
    assert!(rig.cancelled);
    rig.answer_all_stored(&equal_shards(1));
    rig.receipt(ticket);
    assert!(rig.producer.is_drained());
}

#[test]
fn time_that_goes_backwards_is_harmless() {
    let mut rig = Rig::with_shards(Config::builder(), 1);
    let ticket = rig.put(1, "a");
    let before = rig.now;
    rig.run_for(50 * MS);
    rig.producer.tick(before);
    rig.producer.tick(Instant::from_nanos(0));
    rig.run_for(100 * MS);
    rig.answer_all_stored(&equal_shards(1));
    rig.receipt(ticket);
}

#[test]
fn stats_count_every_record_and_request_once() {
    let mut rig = Rig::with_shards(Config::builder().record_ttl(10 * SEC), 2);
    let before = rig.producer.stats();
    assert_eq!((before.user_records_put, before.user_records_succeeded, before.requests), (1, 1, 1));
    (0..3).for_each(|key| {
        rig.put(key, "a");
    });
    rig.put(u128::MAX, "b");
    assert!(!rig.producer.has_actions());
    rig.producer.flush(rig.now);
    assert!(rig.producer.has_actions());
    rig.drain();
    let throttled = RecordReply::failed("ProvisionedThroughputExceededException", "why");
    rig.answer_records([RecordReply::stored(shard_id(0), "1"), throttled]);
    rig.run_for(100 * MS);
    rig.answer(Reply::Failed(RequestError::new(Delivery::Refused, "AccessDeniedException", "why")));
    let stats = rig.producer.stats();
    assert_eq!(stats.user_records_put, 5);
    assert_eq!(stats.user_records_succeeded, 4);
    assert_eq!(stats.user_records_failed, 1);
    assert_eq!(stats.user_records_retried, 1);
    assert_eq!(stats.requests, 3);
    assert_eq!(stats.kinesis_records, 2);
    assert_eq!(stats.kinesis_records_throttled, 1);
}

#[test]
fn oldest_put_is_the_time_of_the_oldest_outstanding_record() {
    let mut rig = Rig::with_shards(Config::builder(), 1);
    assert_eq!(rig.producer.oldest_put(), None);
    let put_at = rig.now;
    rig.put(1, "a");
    rig.run_for(50 * MS);
    rig.put(2, "b");
    assert_eq!(rig.producer.oldest_put(), Some(put_at));
    rig.run_for(100 * MS);
    rig.answer_all_stored(&equal_shards(1));
    assert_eq!(rig.producer.oldest_put(), None);
}

#[test]
fn a_buffered_record_has_its_deadline_and_its_age_from_its_put() {
    let mut rig = Rig::with_shards(Config::builder(), 1);
    let put_at = rig.now;
    rig.run_for(60 * MS);
    let ticket = rig.put_buffered(put_at, &UserRecord::new("s", "k", "a"));
    assert_eq!(rig.producer.oldest_put(), Some(put_at));
    rig.run_for(40 * MS - NANO);
    assert!(rig.batches.is_empty());
    rig.run_for(NANO);
    rig.answer(Reply::Failed(RequestError::new(Delivery::Refused, "AccessDeniedException", "why")));
    let failure = rig.failure(ticket);
    let attempt = failure.attempts.first().unwrap();
    assert_eq!((attempt.start, attempt.end), (put_at + 100 * MS, put_at + 100 * MS));
}

#[test]
fn a_buffered_record_fails_if_it_is_too_large_for_its_stream() {
    let mut rig = Rig::new(Config::builder());
    rig.put(0, "first");
    rig.answer_refreshes_with(
        &equal_shards(1),
        StreamSummary { max_record_size: Some(1_024), ..StreamSummary::default() },
    );
    let record = UserRecord::new("s", "k", vec![0; 2_000]);
    let ticket = rig.put_buffered(rig.now, &record);
    assert_eq!((&*rig.failure(ticket).error.code, &rig.failure(ticket).record), ("Record Too Large", &record));
    assert_eq!((rig.producer.outstanding_records(), rig.producer.stats().user_records_failed), (1, 1));
}

#[test]
fn records_that_expire_together_are_logged_in_one_event() {
    let mut rig = Rig::with_shards(Config::builder().record_ttl(SEC), 1);
    (0..7).for_each(|key| {
        rig.put(key, "a");
    });
    rig.run_for(5 * SEC);
    assert_eq!(rig.log, []);
    rig.answer(unanswered());
    let expired = |event: &LogEvent| match event {
        LogEvent::Expired { user_records, .. } => Some(*user_records),
        _ => None,
    };
    assert_eq!(rig.log.iter().filter_map(expired).collect::<Vec<_>>(), [7]);
}

#[test]
fn a_retry_shortly_before_the_ttl_is_due_halfway_to_it() {
    // Half the buffering time after the reply would be the end of the time-to-live, or later.
    for (replied, halfway) in [(300, 400), (410, 455)] {
        let config = Config::builder().record_max_buffered_time(400 * MS).record_ttl(500 * MS);
        let mut rig = Rig::with_shards(config.aggregation_enabled(false).collection_max_count(2), 1);
        let tickets = [rig.put(1, "a"), rig.put(2, "b")];
        rig.run_for(replied * MS);
        let throttled = RecordReply::failed("ProvisionedThroughputExceededException", "why");
        rig.answer_records([RecordReply::stored(shard_id(0), "1"), throttled]);
        rig.run_for((halfway - replied - 1) * MS);
        assert!(rig.batches.is_empty(), "there is still time to wait for more records");
        rig.run_for(MS);
        rig.answer_all_stored(&equal_shards(1));
        tickets.iter().for_each(|ticket| {
            rig.receipt(*ticket);
        });
    }
}

#[test]
fn records_in_the_open_aggregate_of_a_backlogged_shard_expire_at_their_ttl() {
    let config = Config::builder().rate_limit_records_per_shard(1).record_ttl(2 * SEC);
    let mut rig = Rig::with_shards(config.aggregation_max_count(2).max_shard_backlog(ANY_BACKLOG), 1);
    rig.run_for(SEC);
    let tickets: Vec<u64> = (0..15).map(|key| rig.put(key, "a")).collect();
    rig.run_for(2 * SEC - MS);
    assert!(rig.results.is_empty());
    rig.run_for(MS);
    assert_eq!(&*rig.failure(tickets[14]).error.code, "Expired", "it was alone in an aggregate");
    rig.answer_all_stored(&equal_shards(1));
    assert!(tickets.iter().all(|ticket| rig.results.contains_key(ticket)));
}

#[test]
fn records_that_wait_for_a_request_expire_one_by_one() {
    let config = Config::builder().max_in_flight_requests(1).record_ttl(SEC).record_max_buffered_time(300 * MS);
    let mut rig = Rig::with_shards(config, 1);
    rig.put(0, "in flight for long");
    rig.run_for(300 * MS);
    let old = rig.put(1, "old");
    rig.run_for(200 * MS);
    let young = rig.put(2, "young");
    rig.run_for(799 * MS);
    assert!(rig.results.is_empty() && rig.shape() == [[1]]);
    rig.run_for(MS);
    assert_eq!(&*rig.failure(old).error.code, "Expired");
    rig.run_for(100 * MS);
    rig.answer_all_stored(&equal_shards(1));
    rig.receipt(young);
}

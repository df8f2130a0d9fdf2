//! The simulator's findings, each reduced to a minimal test.

use std::time::Duration;

use kpl_core::{Config, ConfigBuilder, RecordReply, UserRecord};

use crate::rig::*;

/// Puts two records, `apart` after each other, whose aggregate is stored on a shard that is not in the shard map.
/// Returns both tickets.
fn unverified_aggregate(config: ConfigBuilder, apart: Duration) -> (Rig, u64, u64) {
    let mut rig = Rig::with_shards(config.record_max_buffered_time(SEC), 1);
    let first = rig.put(1, "first");
    rig.run_for(apart);
    let second = rig.put(2, "second");
    rig.run_for(SEC - apart);
    rig.answer_records([RecordReply::stored(shard_id(9), "1")]);
    (rig, first, second)
}

/// Answers metadata requests and stores all sent records for `duration`, as a stream of one shard does.
fn serve_for(rig: &mut Rig, duration: Duration) {
    let end = rig.now + duration;
    while rig.now < end {
        rig.answer_refreshes(&equal_shards(1));
        rig.answer_all_stored(&equal_shards(1));
        rig.run_for(100 * MS);
    }
}

/// Regression: the whole aggregate expired with its first record, so the others failed long before they were due to
/// expire.
#[test]
fn an_unverified_aggregate_expires_record_by_record() {
    let (mut rig, first, second) = unverified_aggregate(Config::builder().record_ttl(5 * SEC), 500 * MS);
    rig.run_for(4 * SEC);
    assert_eq!(&*rig.failure(first).error.code, "Expired");
    assert!(rig.failure(first).is_ambiguous(), "consumers of that shard may read it");
    assert!(!rig.results.contains_key(&second), "its time-to-live has not ended");

    // Shard 9 covers the hash key of the second record, but not that of the first. The stored aggregate has both
    // records.
    rig.answer_refreshes(&[child(9, 0, 2, u128::MAX), child(8, 0, 0, 1)]);
    rig.run_for(500 * MS);
    assert_eq!(rig.shape(), [[1]], "consumers drop the aggregate, so the second record is sent again");
    rig.answer_records([RecordReply::stored(shard_id(9), "2")]);
    assert_eq!(rig.receipt(second).attempts().len(), 2);
}

#[test]
fn remaining_records_of_an_unverified_aggregate_keep_their_positions() {
    let (mut rig, first, second) = unverified_aggregate(Config::builder().record_ttl(5 * SEC), 500 * MS);
    rig.run_for(4 * SEC);
    assert!(rig.failure(first).is_ambiguous());
    rig.answer_refreshes(&[child(9, 0, 0, u128::MAX)]);
    assert_eq!(rig.receipt(second).sub_sequence_number(), Some(1));
}

/// Regression: records without a time-to-live waited forever, and the shard list was requested every second.
#[test]
fn a_shard_missing_from_a_late_complete_list_was_deleted_with_its_stream() {
    let (mut rig, first, second) = unverified_aggregate(Config::builder().record_ttl(Duration::MAX), 500 * MS);
    let mut lists = 0;
    for _ in 0..590 {
        lists += rig.lists.len();
        serve_for(&mut rig, 100 * MS);
    }
    assert!(!rig.results.contains_key(&first), "a list may be outdated");
    assert!((5..15).contains(&lists), "{lists} lists in a minute: with growing backoff");
    serve_for(&mut rig, 40 * SEC);
    for ticket in [first, second] {
        let attempts: Vec<_> = rig.receipt(ticket).attempts().iter().map(|attempt| attempt.is_ambiguous()).collect();
        assert_eq!(attempts, [true, false], "the first attempt may have been read before the stream was deleted");
    }
}

#[test]
fn an_incomplete_list_never_proves_that_a_shard_is_gone() {
    let (mut rig, first, second) = unverified_aggregate(Config::builder().record_ttl(Duration::MAX), 500 * MS);
    for _ in 0..200 {
        rig.answer_refreshes(&[shard(0, 0, 9)]);
        rig.run_for(SEC);
    }
    assert!(rig.batches.is_empty(), "sending the records again might duplicate them");
    assert!(![first, second].iter().any(|ticket| rig.results.contains_key(ticket)));
}

/// Regression: an aggregate that spanned two of the new stream's shards was stored, and its records succeeded although
/// consumers drop those that lie on the other shard.
#[test]
fn waiting_records_are_routed_again_if_their_shard_has_another_range() {
    let mut rig = Rig::with_shards(Config::builder().rate_limit_records_per_shard(1), 1);
    let put_both = |rig: &mut Rig, wait| {
        let tickets = [rig.put(5, "low"), rig.put(u128::MAX, "high")];
        rig.run_for(wait);
        tickets
    };
    let sent = put_both(&mut rig, 100 * MS);
    let waiting = put_both(&mut rig, 100 * MS);
    let buffered = put_both(&mut rig, Duration::ZERO);
    assert_eq!(rig.shape(), [[2]], "the others wait for their rate, or for further records");
    rig.answer_records([RecordReply::stored(shard_id(1), "1")]);

    // The stream was deleted and created again.
    let half = u128::MAX / 2;
    let recreated = [shard(0, 0, half), shard(1, half + 1, u128::MAX)];
    rig.answer_refreshes(&recreated);
    for _ in 0..50 {
        rig.run_for(100 * MS);
        rig.answer_all_stored(&recreated);
    }
    for [low, high] in [sent, waiting, buffered] {
        assert_eq!(rig.receipt(low).shard_id(), shard_id(0));
        assert_eq!(rig.receipt(high).shard_id(), shard_id(1));
    }
}

/// Regression: while a shard had a backlog of large records, a small one waited for others in an open aggregate until it
/// expired, and all large ones overtook it.
#[test]
fn large_records_do_not_overtake_a_small_one_in_a_backlog() {
    let config = Config::builder().rate_limit_bytes_per_shard(100_000).max_shard_backlog(ANY_BACKLOG);
    let mut rig = Rig::with_shards(config, 1);
    let put_large = |rig: &mut Rig| rig.put(1, vec![b'x'; 60_000]);
    for _ in 0..5 {
        put_large(&mut rig);
    }
    let small = rig.put(1, "small");
    let larger: Vec<u64> = (0..40).map(|_| put_large(&mut rig)).collect();
    while !rig.results.contains_key(&small) {
        rig.run_for(100 * MS);
        rig.answer_all_stored(&equal_shards(1));
    }
    rig.receipt(small);
    assert!(larger[2..].iter().all(|ticket| !rig.results.contains_key(ticket)), "they were put later");
}

/// Regression: a put before a late tick sent expired records.
#[test]
fn a_put_before_a_late_tick_does_not_send_expired_records() {
    let config = Config::builder().record_ttl(2 * SEC).aggregation_enabled(false);
    let mut rig = Rig::with_shards(config, 1);
    let expired = rig.put(1, "expired");
    rig.now = rig.now + 2 * SEC;
    let fresh = rig.put(2, "fresh");
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[1]]);
    rig.answer_all_stored(&equal_shards(1));
    assert!(rig.failure(expired).attempts.is_empty());
    rig.receipt(fresh);
}

/// Regression: while requests hung, the limiter kept releasing records to the collector, which then sent all at once.
#[test]
fn the_limiter_releases_nothing_while_no_request_is_free() {
    let config =
        Config::builder().rate_limit_records_per_shard(10).max_in_flight_requests(1).aggregation_enabled(false);
    let mut rig = Rig::with_shards(config.max_shard_backlog(ANY_BACKLOG), 2);
    rig.run_for(SEC);
    rig.put(u128::MAX, "hangs");
    rig.run_for(100 * MS);
    for key in 0..100 {
        rig.put(key, "record");
    }
    rig.run_for(6 * SEC);
    rig.answer_records([RecordReply::stored(shard_id(1), "1")]);
    rig.run_for(50 * MS);
    let sent = rig.batches[0].records().len();
    assert!((10..=11).contains(&sent), "{sent}: the records released before");
    rig.answer_all_stored(&equal_shards(2)); // requests no longer hang
    rig.run_for(200 * MS);
    rig.answer_all_stored(&equal_shards(2));
    let stored = rig.results.len() - 1;
    assert!((20..=24).contains(&stored), "{stored}: one more second's worth, not six");
}

/// Records that were deferred behind another stream's requests are released as soon as a request is free, without
/// waiting for a reply.
#[test]
fn deferred_records_are_released_when_their_stream_leaves_the_wait_queue() {
    let config = Config::builder().max_in_flight_requests(2).aggregation_enabled(false);
    let mut rig = Rig::with_shards(config, 1);
    for _ in 0..2 {
        rig.put_record(UserRecord::new("t", "k", "hangs"));
        rig.answer_refreshes(&equal_shards(1));
        rig.run_for(100 * MS);
    }
    assert_eq!(rig.batches.len(), 2);
    rig.put(1, "first");
    rig.run_for(100 * MS);
    rig.put(2, "deferred");
    for _ in 0..2 {
        rig.answer_records([RecordReply::stored(shard_id(0), "1")]);
    }
    assert_eq!(rig.shape(), [[1]], "the first record");
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[1], [1]], "then the deferred record, although the first is unanswered");
}

/// One of two threads reads the clock first, but puts second. Found by a test of kpl-driver with real threads.
#[test]
fn a_put_with_an_earlier_time_does_not_overtake_the_aggregate_before_it() {
    let mut rig = Rig::with_shards(Config::builder().aggregation_max_count(2), 1);
    let early = rig.now;
    rig.now = rig.now + MS;
    let first = [rig.put(1, "a"), rig.put(2, "b")];
    rig.producer.put(early, UserRecord::new("s", "k", "c").prepare().unwrap(), 99).unwrap();
    let last = rig.put(3, "d");
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[2, 2]]);
    rig.answer_all_stored(&equal_shards(1));
    let sequence = |ticket: u64| rig.receipt(ticket).sequence_number().parse::<u64>().unwrap();
    assert_eq!(first.map(sequence), [sequence(first[0]); 2]);
    assert_eq!(sequence(99), sequence(last));
    assert!(sequence(first[0]) < sequence(last));
}

/// Regression, found by a fuzzer: the records of a stream that waited for a request expired, the stream was retired, and the
/// next reply made the state machine panic.
#[test]
fn a_stream_that_waits_for_a_request_may_be_retired() {
    let mut rig = Rig::with_shards(Config::builder().max_in_flight_requests(1).record_ttl(2 * SEC), 1);
    rig.put(1, "first");
    rig.run_for(SEC);
    let batch = rig.take_batch();
    let other = rig.put_record(UserRecord::new("other", "k", "data"));
    rig.producer.flush(rig.now);
    rig.drain();
    for _ in 0..10 {
        rig.run_for(SEC);
        rig.answer_refreshes(&equal_shards(1));
    }
    assert_eq!(&*rig.failure(other).error.code, "Expired");
    rig.run_for(RETIRED_AFTER + 60 * SEC);
    rig.handle_reply(batch, kpl_core::Reply::Records(vec![RecordReply::stored(shard_id(0), "1")]));
    assert_eq!(rig.producer.outstanding_records(), 0);
}

/// Regression: puts that were not checked, because they were buffered, filled the backlog of a slow shard beyond its limit.
#[test]
fn no_more_records_are_buffered_than_a_shard_may_have_as_backlog() {
    let slow = || Config::builder().rate_limit_records_per_shard(50).max_shard_backlog(Some(200 * MS));
    let room = |config: ConfigBuilder| Rig::with_shards(config, 1).producer.buffer_room().records;
    assert_eq!(room(slow().aggregation_enabled(false)), 5, "at half the rate");
    assert_eq!(room(slow()), 15, "three records in each Kinesis record");
    assert_eq!(room(Config::builder().aggregation_enabled(false)), 7_500, "15 s");
    assert_eq!(room(Config::builder().max_outstanding_records(100)), 100);
}

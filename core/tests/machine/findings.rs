//! What the simulator found, cut down to the least.

use std::time::Duration;

use kpl_core::{Config, ConfigBuilder, RecordReply, UserRecord};

use crate::rig::*;

/// Two records in one aggregate that lands on a shard nobody has heard of: the first put `apart` before the second.
fn stray(config: ConfigBuilder, apart: Duration) -> (Rig, u64, u64) {
    let mut rig = Rig::with_shards(config.record_max_buffered_time(SEC), 1);
    let first = rig.put(1, "first");
    rig.run_for(apart);
    let second = rig.put(2, "second");
    rig.run_for(SEC - apart);
    rig.answer_records([RecordReply::stored(shard_id(9), "1")]);
    (rig, first, second)
}

/// Answers questions for shards, and all that is sent, as a stream of one shard does.
fn live(rig: &mut Rig, duration: Duration) {
    let end = rig.now + duration;
    while rig.now < end {
        rig.answer_refreshes(&equal_shards(1));
        rig.answer_all_stored(&equal_shards(1));
        rig.run_for(100 * MS);
    }
}

/// The whole aggregate used to expire with its first record: the others failed long before their time.
#[test]
fn an_undecided_aggregate_expires_record_by_record() {
    let (mut rig, first, second) = stray(Config::builder().record_ttl(5 * SEC), 500 * MS);
    rig.run_for(4 * SEC);
    assert_eq!(&*rig.failure(first).error.code, "Expired");
    assert!(rig.failure(first).is_ambiguous(), "consumers of that shard may read it");
    assert!(!rig.results.contains_key(&second), "its time has not come");

    // The range covers the second record, and not the first, which was in the aggregate all the same.
    rig.answer_refreshes(&[child(9, 0, 2, u128::MAX), child(8, 0, 0, 1)]);
    rig.run_for(500 * MS);
    assert_eq!(rig.shape(), [[1]], "consumers drop the aggregate: it is sent again");
    rig.answer_records([RecordReply::stored(shard_id(9), "2")]);
    assert_eq!(rig.receipt(second).attempts().len(), 2);
}

#[test]
fn what_is_left_of_an_undecided_aggregate_keeps_its_positions() {
    let (mut rig, first, second) = stray(Config::builder().record_ttl(5 * SEC), 500 * MS);
    rig.run_for(4 * SEC);
    assert!(rig.failure(first).is_ambiguous());
    rig.answer_refreshes(&[child(9, 0, 0, u128::MAX)]);
    assert_eq!(rig.receipt(second).sub_sequence_number(), Some(1));
}

/// A record that may live for ever used to wait for ever, and the shards were asked for every second.
#[test]
fn a_shard_that_no_complete_list_has_is_gone_with_its_stream() {
    let (mut rig, first, second) = stray(Config::builder().record_ttl(Duration::MAX), 500 * MS);
    let mut lists = 0;
    for _ in 0..590 {
        lists += rig.lists.len();
        live(&mut rig, 100 * MS);
    }
    assert!(!rig.results.contains_key(&first), "a list may be late");
    assert!((5..15).contains(&lists), "asked for {lists} times: later and later");
    live(&mut rig, 40 * SEC);
    for ticket in [first, second] {
        let attempts: Vec<_> = rig.receipt(ticket).attempts().iter().map(|attempt| attempt.is_ambiguous()).collect();
        assert_eq!(attempts, [true, false], "it may have been read before the stream went");
    }
}

#[test]
fn lists_with_holes_never_say_that_a_shard_is_gone() {
    let (mut rig, first, second) = stray(Config::builder().record_ttl(Duration::MAX), 500 * MS);
    for _ in 0..200 {
        rig.answer_refreshes(&[shard(0, 0, 9)]);
        rig.run_for(SEC);
    }
    assert!(rig.batches.is_empty(), "sent again, it might be read twice");
    assert!(![first, second].iter().any(|ticket| rig.results.contains_key(ticket)));
}

/// A put that came before a late tick used to send what had expired.
#[test]
fn what_has_expired_is_not_sent_by_a_put_before_a_late_tick() {
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

/// Requests that hang used to let shards go on filling the collector at their pace, and all of it left at once.
#[test]
fn while_no_request_can_leave_shards_let_nothing_go() {
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
    assert!((10..=11).contains(&sent), "{sent}: what had been let go before");
    rig.answer_all_stored(&equal_shards(2)); // as fast as requests can be
    rig.run_for(200 * MS);
    rig.answer_all_stored(&equal_shards(2));
    let stored = rig.results.len() - 1;
    assert!((20..=24).contains(&stored), "{stored}: a second's worth besides, and not six");
}

/// What was put off behind requests of another stream goes on as soon as there is room, without waiting for a reply.
#[test]
fn a_shard_that_was_held_up_goes_on_when_its_stream_has_left_the_line() {
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
    rig.put(2, "put off");
    for _ in 0..2 {
        rig.answer_records([RecordReply::stored(shard_id(0), "1")]);
    }
    assert_eq!(rig.shape(), [[1]], "the first");
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[1], [1]], "and, in its time, the other, though the first is not answered");
}

/// Of two threads, one read the clock first and put second. Found by a test of kpl-driver with real threads.
#[test]
fn a_put_with_an_earlier_time_does_not_take_its_aggregate_past_the_one_before() {
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

//! `Ordering::PerKey`: at most one Kinesis record of a shard is in doubt, or of a hash key without aggregation.

use std::time::Duration;

use kpl_core::codec::decode;
use kpl_core::{
    Config, ConfigBuilder, Delivery, KinesisRecord, LogEvent, Ordering, PutError, RecordReply, Reply, RequestError,
    StreamSummary, UserRecord,
};

use crate::rig::*;

fn in_order() -> ConfigBuilder {
    Config::builder().ordering(Ordering::PerKey)
}

/// The data of the user records in the oldest request in flight. Each has a length of one byte.
fn sent(rig: &Rig) -> Vec<Vec<u8>> {
    let batch = rig.batches.first().expect("a request is in flight");
    let datas = |record: &KinesisRecord<u64>| match record.is_aggregated() {
        true => decode(record.data()).unwrap().iter().map(|user| user.data[0]).collect(),
        false => record.data()[..1].to_vec(),
    };
    batch.records().iter().map(datas).collect()
}

/// Puts records of hash key 1 with these bytes, and waits until they are due.
fn put_due(rig: &mut Rig, bytes: &[u8]) {
    for byte in bytes {
        rig.put(1, [*byte]);
    }
    rig.run_for(100 * MS);
}

fn unanswered() -> Reply {
    Reply::Failed(RequestError::new(Delivery::Unanswered, "Timeout", "no reply"))
}

#[test]
fn newer_records_wait_until_older_ones_are_stored() {
    let mut rig = Rig::with_shards(in_order(), 1);
    put_due(&mut rig, b"ab");
    put_due(&mut rig, b"cd");
    put_due(&mut rig, b"e");
    assert_eq!(sent(&rig), [b"ab"]);
    assert_eq!(rig.batches.len(), 1, "the others wait");

    rig.answer(unanswered());
    rig.run_until_sent();
    assert_eq!(sent(&rig), [b"ab"], "what comes back is sent before what is newer");
    rig.answer_all_stored(&equal_shards(1));
    assert!(rig.batches.is_empty());
    assert_eq!(rig.results.len(), 5, "c, d and e were due, and shared one aggregate");
}

#[test]
fn what_was_due_is_sent_as_soon_as_the_record_before_is_stored() {
    let mut rig = Rig::with_shards(in_order(), 1);
    put_due(&mut rig, b"a");
    put_due(&mut rig, b"bc");
    rig.put(1, *b"d");
    let batch = rig.take_batch();
    rig.handle_reply(batch, Reply::Records(vec![RecordReply::stored(shard_id(0), "1")]));
    assert_eq!(sent(&rig), [b"bcd"], "in the same moment");
}

#[test]
fn other_shards_do_not_wait() {
    let mut rig = Rig::with_shards(in_order(), 2);
    put_due(&mut rig, b"a");
    rig.put(start_of(1, 2), *b"x");
    put_due(&mut rig, b"b");
    assert_eq!(rig.shape(), [[1], [1]]);
    let second = rig.batches.remove(1);
    assert_eq!(second.records()[0].data()[..], b"x"[..]);
    rig.batches.push(second);
    rig.answer_all_stored(&equal_shards(2));
}

/// An aggregate that waits for the one before takes more than `aggregation_max_size`, up to a quarter of the rate limit.
#[test]
fn an_aggregate_grows_while_it_waits() {
    let config = in_order().aggregation_max_size(2_000).rate_limit_bytes_per_shard(40_000);
    let mut rig = Rig::with_shards(config, 1);
    put_due(&mut rig, b"a");
    for _ in 0..300 {
        rig.put(1, [b'b'; 100]);
    }
    rig.answer_stored(&equal_shards(1));
    rig.run_until_sent();
    let size = rig.batches[0].records()[0].data().len();
    assert!((9_800..=10_000).contains(&size), "{size}");
}

#[test]
fn a_record_too_large_for_an_aggregate_keeps_its_place() {
    let mut rig = Rig::with_shards(in_order().aggregation_max_size(100), 1);
    rig.put(1, *b"a");
    rig.put(1, [b'b'; 500]);
    rig.put(1, *b"c");
    rig.run_for(100 * MS);
    let mut order = vec![];
    while !rig.batches.is_empty() {
        order.extend(sent(&rig).concat());
        rig.answer_stored(&equal_shards(1));
        rig.run_for(100 * MS);
    }
    assert_eq!(order, b"abc");
}

#[test]
fn a_refused_aggregate_is_divided_in_order() {
    let mut rig = Rig::with_shards(in_order(), 1);
    put_due(&mut rig, b"abcd");
    let refused = || RecordReply::failed("InvalidArgumentException", "poison");
    let mut stored = vec![];
    while !rig.batches.is_empty() {
        assert_eq!(rig.batches.len(), 1, "one after the other");
        let part = sent(&rig).concat();
        if part.contains(&b'b') {
            rig.answer_records([refused()]);
        } else {
            stored.extend(part);
            rig.answer_stored(&equal_shards(1));
        }
    }
    assert_eq!(stored, b"acd");
    assert_eq!(rig.results.values().filter(|result| result.is_err()).count(), 1);
}

#[test]
fn a_new_shard_waits_for_what_is_in_doubt_on_its_parent() {
    let mut rig = Rig::with_shards(in_order(), 2);
    let quarter = u128::MAX / 4;
    rig.put(1, *b"a");
    rig.put(quarter + 10, *b"x");
    rig.run_for(100 * MS);
    let lost = rig.take_batch();
    // A record for the other shard shows that the list is out of date.
    rig.put(u128::MAX, *b"z");
    rig.run_for(100 * MS);
    rig.answer_records([RecordReply::stored(shard_id(4), "1")]);
    rig.run_for(SEC);
    let half = start_of(1, 2);
    let split = [child(2, 0, 0, quarter), child(3, 0, quarter + 1, half - 1), child(4, 1, half, u128::MAX)];
    rig.answer_refreshes(&split);

    put_due(&mut rig, b"b");
    assert!(rig.batches.is_empty(), "it is not known yet whether a is stored");
    rig.handle_reply(lost, unanswered());
    rig.run_until_sent();
    assert_eq!(sent(&rig), [b"a", b"x"], "each for its new shard");
    rig.answer_all_stored(&split);
    assert_eq!(rig.results.len(), 4);
}

#[test]
fn without_aggregation_each_hash_key_waits_for_itself_only() {
    let mut rig = Rig::with_shards(in_order().aggregation_enabled(false), 1);
    for (hash_key, byte) in [(1, b'a'), (2, b'x'), (1, b'b'), (3, b'y'), (2, b'z')] {
        rig.put(hash_key, [byte]);
    }
    rig.run_for(100 * MS);
    assert_eq!(sent(&rig), [b"a", b"x", b"y"], "in one request");
    rig.answer_records([
        RecordReply::failed("InternalFailure", ""),
        RecordReply::stored(shard_id(0), "1"),
        RecordReply::stored(shard_id(0), "2"),
    ]);
    let mut order = vec![];
    while rig.results.len() < 5 {
        rig.run_until_sent();
        order.extend(sent(&rig).concat());
        rig.answer_stored(&equal_shards(1));
    }
    let position = |byte| order.iter().position(|sent| *sent == byte);
    assert!(position(b'a') < position(b'b'), "{order:?}");
    assert!(order.contains(&b'z'));
}

/// Puts a record unless its shard is full. Returns whether it was accepted.
fn try_put(rig: &mut Rig, hash_key: u128, ticket: u64) -> bool {
    let record = UserRecord::new("s", "k", "x").explicit_hash_key(hash_key.to_string()).prepare().unwrap();
    let put = rig.producer.put(rig.now, record, ticket);
    assert!(matches!(put, Ok(()) | Err(PutError::Full { .. })), "{put:?}");
    rig.drain();
    put.is_ok()
}

/// Returns the number of records of this hash key that are accepted before its shard is full.
fn accepted(rig: &mut Rig, hash_key: u128) -> u64 {
    (1_000_000..1_030_000).position(|ticket| !try_put(rig, hash_key, ticket)).expect("the shard is full") as u64
}

/// The backlog of a hash key takes as long as its requests, so puts are refused in time.
#[test]
fn a_hash_key_with_a_long_sequence_is_full() {
    let mut rig = Rig::with_shards(in_order().aggregation_enabled(false), 1);
    let accepted = accepted(&mut rig, 1);
    assert!((20..200).contains(&accepted), "{accepted} records are accepted");
}

#[test]
fn a_slow_shard_does_not_make_others_full() {
    let records_for_the_other_shard = |is_slow: bool| {
        let mut rig = Rig::with_shards(in_order().aggregation_enabled(false), 2);
        put_due(&mut rig, b"a");
        rig.run_for(if is_slow { 5_900 * MS } else { MS });
        rig.answer_stored(&equal_shards(2));
        accepted(&mut rig, start_of(1, 2))
    };
    assert_eq!(records_for_the_other_shard(true), records_for_the_other_shard(false));
}

/// Before the first list, the records of one hash key may have to be sent one after the other.
#[test]
fn records_that_wait_for_the_list_do_not_expire_because_of_their_order() {
    let mut rig = Rig::new(in_order());
    let accepted = accepted(&mut rig, 1);
    let denied = || RequestError::new(Delivery::Refused, "AccessDeniedException", "");
    let (list, describe) = (rig.lists.remove(0), rig.describes.remove(0));
    rig.producer.handle_shards(rig.now, &list, Err(denied()));
    rig.producer.handle_stream_summary(rig.now, &describe, Err(denied()));
    rig.drain();
    for _ in 0..200 {
        rig.run_for(200 * MS);
        rig.answer_all_stored(&equal_shards(1));
    }
    assert_eq!(rig.results.values().filter(|result| result.is_ok()).count() as u64, accepted);
}

/// While a record of a hash key is in doubt, its other records are aggregated.
#[test]
fn without_a_shard_list_what_waits_is_one_aggregate() {
    let mut rig = Rig::new(in_order().start_timeout(Duration::ZERO));
    rig.put(1, *b"a");
    let describe = rig.describes.remove(0);
    rig.producer.handle_stream_summary(rig.now, &describe, Ok(StreamSummary::default()));
    rig.drain();
    rig.run_for(200 * MS);
    let lost = rig.take_batch();
    for _ in 0..100 {
        rig.put(1, *b"b");
        rig.run_for(50 * MS);
    }
    assert!(try_put(&mut rig, 2, 9_999), "the stream is not full");
    rig.handle_reply(lost, unanswered());
    rig.run_until_sent();
    rig.answer_all_stored(&equal_shards(1));
    rig.run_for(200 * MS);
    rig.answer_all_stored(&equal_shards(1));
    assert_eq!(rig.results.len(), 102, "all of them in one Kinesis record");
}

#[test]
fn a_flush_sends_what_waits_as_soon_as_it_may_be_sent() {
    for start_timeout in [Duration::from_secs(5), Duration::ZERO] {
        let config = in_order().record_max_buffered_time(10 * SEC).start_timeout(start_timeout);
        let mut rig = Rig::new(config);
        rig.put(1, *b"a");
        if !start_timeout.is_zero() {
            rig.answer_refreshes(&equal_shards(1));
        } else {
            let describe = rig.describes.remove(0);
            rig.producer.handle_stream_summary(rig.now, &describe, Ok(StreamSummary::default()));
        }
        rig.producer.flush(rig.now);
        rig.drain();
        rig.put(1, *b"b");
        rig.producer.flush(rig.now);
        rig.drain();
        rig.put(1, *b"c");
        assert_eq!(rig.shape(), [[1]]);
        rig.answer_stored(&equal_shards(1));
        assert_eq!(sent(&rig), [b"bc"], "at once");
        rig.answer_stored(&equal_shards(1));
        assert_eq!(rig.flushed.len(), 2);
    }
}

#[test]
fn a_record_that_expires_is_left_out() {
    let mut rig = Rig::with_shards(in_order().record_ttl(2 * SEC), 1);
    put_due(&mut rig, b"a");
    rig.run_for(SEC);
    put_due(&mut rig, b"b");
    let lost = rig.take_batch();
    rig.run_for(SEC);
    rig.handle_reply(lost, unanswered());
    assert_eq!(rig.results.values().filter(|result| result.is_err()).count(), 1, "a has expired");
    rig.run_until_sent();
    assert_eq!(sent(&rig), [b"b"]);
}

#[test]
fn without_a_shard_list_each_hash_key_is_a_sequence() {
    let mut rig = Rig::new(in_order().start_timeout(Duration::ZERO));
    rig.put(1, *b"a");
    let summary = StreamSummary { open_shards: Some(1), ..StreamSummary::default() };
    let describe = rig.describes.remove(0);
    rig.producer.handle_stream_summary(rig.now, &describe, Ok(summary));
    rig.drain();
    rig.run_for(200 * MS);
    assert_eq!(sent(&rig), [b"a"]);
    rig.put(1, *b"b");
    rig.put(2, *b"x");
    rig.run_for(200 * MS);
    assert_eq!(rig.batches.len(), 2);
    assert_eq!(rig.batches[1].records().len(), 1);
    assert_eq!(rig.batches[1].records()[0].data()[..], b"x"[..], "b waits for a");
    rig.answer_all_stored(&equal_shards(1));
    rig.run_for(200 * MS);
    rig.answer_all_stored(&equal_shards(1));
    assert_eq!(rig.results.len(), 3);
}

/// Found by the simulator: before the first list, a key's backlog counted as if all shards took it, and each record as long as
/// the last replies took. When the list came, one shard had it all, and records expired.
#[test]
fn before_the_shard_list_a_key_has_no_more_records_than_one_shard_takes() {
    let config = in_order().aggregation_enabled(false).start_timeout(Duration::ZERO).rate_limit_records_per_shard(50);
    let mut rig = Rig::new(config);
    rig.put(1, *b"a");
    let summary = StreamSummary { open_shards: Some(5), ..StreamSummary::default() };
    let describe = rig.describes.remove(0);
    rig.producer.handle_stream_summary(rig.now, &describe, Ok(summary));
    rig.drain();
    let mut ticket = 10;
    for _ in 0..200 {
        while try_put(&mut rig, 1, ticket) {
            ticket += 1;
        }
        rig.run_for(2 * MS);
        while !rig.batches.is_empty() {
            rig.answer_stored(&equal_shards(5));
        }
    }
    let waiting = rig.producer.outstanding_records();
    assert!((300..=380).contains(&waiting), "{waiting}: 15 s at half of a shard's 50 records a second");
}

#[test]
fn a_stream_that_ignores_keys_is_refused_with_its_records() {
    let mut rig = Rig::new(in_order());
    let ticket = rig.put(1, *b"a");
    let auto = StreamSummary { auto_distribution: true, ..StreamSummary::default() };
    rig.answer_refreshes_with(&equal_shards(1), auto);
    let failure = rig.failure(ticket);
    assert_eq!(&*failure.error.code, "Order Impossible");
    assert!(failure.error.message.contains("ignores keys"), "{}", failure.error);
    assert_eq!(failure.record.data[..], b"a"[..]);
    assert!(
        rig.log.iter().any(|event| matches!(event, LogEvent::Failed { code, .. } if &**code == "Order Impossible"))
    );
    let later = rig.put(1, *b"b");
    assert_eq!(&*rig.failure(later).error.code, "Order Impossible");
    assert!(rig.batches.is_empty());

    // The stream is changed back.
    rig.run_for(61 * SEC);
    let failed = rig.put(1, *b"c");
    assert!(rig.results.contains_key(&failed));
    rig.run_for(SEC);
    for expected in [[0, 1], [1, 0]] {
        assert_eq!(rig.answer_refreshes_with(&equal_shards(1), StreamSummary::default()), expected);
    }
    put_due(&mut rig, b"d");
    assert_eq!(sent(&rig), [b"d"]);
}

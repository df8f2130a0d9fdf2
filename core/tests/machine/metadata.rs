//! Tests of stream metadata: shards, record size limit, record distribution.

use std::time::Duration;

use kpl_core::{
    Config, Delivery, InvalidRecord, ListedShard, LogEvent, Producer, PutError, RecordDistribution, RecordReply,
    RequestError, ShardPage, StreamSummary, UserRecord,
};

use crate::rig::*;

fn error(code: &str) -> RequestError {
    RequestError::new(Delivery::Refused, code, "why")
}

#[test]
fn the_first_records_wait_for_the_shard_map_and_are_aggregated() {
    let mut rig = Rig::new(Config::builder());
    for key in 0..10 {
        rig.put(key, "a");
    }
    assert_eq!((rig.lists.len(), rig.describes.len()), (1, 1), "one request of each kind");
    rig.run_for(50 * MS);
    rig.answer_refreshes(&equal_shards(2));
    rig.run_for(50 * MS);
    assert_eq!(rig.shape(), [[10]]);
}

#[test]
fn the_first_records_wait_for_a_late_list_until_the_start_timeout() {
    for (ttl, wait) in [(30 * SEC, 5 * SEC), (4 * SEC, 2 * SEC)] {
        let mut rig = Rig::new(Config::builder().record_ttl(ttl));
        (0..3).for_each(|key| {
            rig.put(key, "a");
            rig.put(key, "b");
        });
        let describe = rig.describes.remove(0);
        rig.producer.handle_stream_summary(rig.now, &describe, Ok(StreamSummary::default()));
        rig.run_for(wait - MS);
        assert!(rig.batches.is_empty());
        rig.run_for(MS);
        assert_eq!(rig.shape(), [[2, 2, 2]], "aggregated by hash key");
        let without =
            |event: &LogEvent| matches!(event, LogEvent::WithoutShardList { code, .. } if &**code == "Timeout");
        assert_eq!(rig.log.iter().filter(|event| without(event)).count(), 1);
    }
}

#[test]
fn twenty_thousand_records_wait_for_a_list_that_is_late_or_fails_twice() {
    for failures in [0, 2] {
        let mut rig = Rig::new(Config::builder());
        for key in 0..20_000_u64 {
            rig.put_record(UserRecord::new("s", key.to_string(), vec![0; 90]));
        }
        for _ in 0..failures {
            let request = rig.lists.remove(0);
            let throttled = RequestError::new(Delivery::Refused, "LimitExceededException", "why");
            rig.producer.handle_shards(rig.now, &request, Err(throttled));
            rig.run_for(500 * MS);
        }
        rig.run_for(400 * MS);
        assert!(rig.batches.is_empty());
        rig.answer_refreshes(&equal_shards(4));
        rig.run_for(100 * MS);
        let kinesis_records: usize = rig.shape().iter().map(Vec::len).sum();
        assert!(kinesis_records <= 60, "{kinesis_records} Kinesis records; their bytes need at least 46");
    }
}

#[test]
fn a_late_description_delays_no_record_beyond_its_deadline() {
    let mut rig = Rig::new(Config::builder());
    rig.put(1, "a");
    let request = rig.lists.remove(0);
    let page = ShardPage { shards: equal_shards(2), next_token: None };
    rig.producer.handle_shards(rig.now, &request, Ok(page));
    rig.run_for(99 * MS);
    assert!(rig.batches.is_empty());
    rig.run_for(MS);
    assert_eq!(rig.shape(), [[1]]);
}

#[test]
fn without_a_shard_list_the_stream_has_one_rate_limit() {
    for (open_shards, limit) in [(Some(3), 30), (None, 10)] {
        let config = Config::builder().rate_limit_records_per_shard(10).aggregation_enabled(false);
        let mut rig = Rig::new(config.max_shard_backlog(ANY_BACKLOG));
        (0..300).for_each(|key| {
            rig.put(key, "a");
        });
        let (lists, describes) = (rig.lists.remove(0), rig.describes.remove(0));
        let summary = StreamSummary { open_shards, ..StreamSummary::default() };
        rig.producer.handle_stream_summary(rig.now, &describes, Ok(summary));
        rig.producer.handle_shards(rig.now, &lists, Err(error("AccessDeniedException")));
        rig.run_for(100 * MS);
        let sent = rig.shape().concat().len();
        assert!((limit..=limit * 11 / 10).contains(&sent), "{sent}: a second's worth at once");
        rig.answer_all_stored(&equal_shards(3));
        rig.run_for(SEC - 100 * MS);
        rig.answer_all_stored(&equal_shards(3));
        assert!((2 * limit - 2..=2 * limit).contains(&rig.results.len()), "{}", rig.results.len());
        // If the number of shards is unknown, its estimate doubles.
        for _ in 0..4 {
            rig.run_for(SEC);
            rig.answer_all_stored(&equal_shards(3));
        }
        let expected = if open_shards.is_some() { 170..=180 } else { 130..=300 };
        assert!(expected.contains(&rig.results.len()), "{}", rig.results.len());
    }
}

#[test]
fn without_a_shard_list_records_wait_for_a_description_that_is_late_or_fails() {
    for fails in [false, true] {
        let mut rig = Rig::new(Config::builder());
        (0..2_000).for_each(|n| {
            rig.put(n % 20, "a");
        });
        rig.producer.handle_shards(rig.now, &rig.lists.remove(0), Err(error("AccessDeniedException")));
        rig.run_for(300 * MS);
        if fails {
            let failure = RequestError::new(Delivery::Unanswered, "InternalFailure", "why");
            rig.producer.handle_stream_summary(rig.now, &rig.describes.remove(0), Err(failure));
            rig.run_for(300 * MS);
        }
        assert!(rig.batches.is_empty(), "records would not be aggregated");
        rig.producer.handle_stream_summary(rig.now, &rig.describes.remove(0), Ok(StreamSummary::default()));
        rig.run_for(100 * MS);
        assert_eq!(rig.shape(), [[100; 20]]);
    }
}

#[test]
fn without_metadata_records_are_sent_at_the_start_timeout() {
    let mut rig = Rig::new(Config::builder().start_timeout(2 * SEC));
    rig.put(0, "a");
    rig.producer.handle_shards(rig.now, &rig.lists.remove(0), Err(error("AccessDeniedException")));
    rig.run_for(1_990 * MS);
    assert!(rig.batches.is_empty());
    rig.run_for(20 * MS);
    assert_eq!(rig.shape(), [[1]]);
}

#[test]
fn without_a_shard_list_a_throttled_stream_is_slowed_down() {
    for open_shards in [Some(8), None] {
        let config = Config::builder().rate_limit_records_per_shard(10).aggregation_enabled(false);
        let mut rig = Rig::new(config.max_shard_backlog(ANY_BACKLOG).record_ttl(600 * SEC));
        (0..4_000).for_each(|key| {
            rig.put(key, "a");
        });
        let (lists, describes) = (rig.lists.remove(0), rig.describes.remove(0));
        let summary = StreamSummary { open_shards, ..StreamSummary::default() };
        rig.producer.handle_stream_summary(rig.now, &describes, Ok(summary));
        rig.producer.handle_shards(rig.now, &lists, Err(error("AccessDeniedException")));
        let throttled = || RecordReply::failed("ProvisionedThroughputExceededException", "why");
        let mut results = 0;
        for _ in 0..1_000 {
            rig.run_for(10 * MS);
            while !rig.batches.is_empty() {
                let batch = rig.take_batch();
                results += batch.records().len();
                let replies = batch.records().iter().map(|_| throttled()).collect();
                rig.handle_reply(batch, kpl_core::Reply::Records(replies));
            }
        }
        assert!(results < 250, "{results} results in 10 s of a stream that is always throttled");
    }
}

#[test]
fn records_put_before_the_shard_list_move_to_their_shards_when_it_arrives() {
    let config = Config::builder().start_timeout(Duration::ZERO).rate_limit_records_per_shard(1);
    let mut rig = Rig::new(config.aggregation_max_count(1));
    let tickets: Vec<u64> = (0..4).map(|shard| rig.put(start_of(shard, 4), "a")).collect();
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[1]], "the rate of one shard");
    rig.answer_refreshes(&equal_shards(4));
    rig.answer_all_stored(&equal_shards(4));
    rig.run_for(100 * MS);
    rig.answer_all_stored(&equal_shards(4));
    tickets.iter().for_each(|ticket| {
        rig.receipt(*ticket);
    });
}

#[test]
fn an_auto_stream_has_one_rate_limit_and_described_again() {
    let config = Config::builder().rate_limit_records_per_shard(10);
    let mut rig = Rig::new(config.max_shard_backlog(ANY_BACKLOG).record_ttl(600 * SEC));
    (0..4_000).for_each(|key| {
        rig.put(key, "a");
    });
    let summary =
        |shards| StreamSummary { auto_distribution: true, open_shards: Some(shards), ..StreamSummary::default() };
    rig.answer_refreshes_with(&equal_shards(2), summary(2));
    for second in 1..=59 {
        rig.run_for(SEC);
        rig.answer_all_stored(&equal_shards(2));
        assert!((20 * second..=20 * (second + 1)).contains(&rig.results.len()), "{} at {second}", rig.results.len());
    }
    assert!(rig.describes.is_empty());
    rig.run_for(2 * SEC);
    rig.answer_refreshes_with(&equal_shards(4), summary(4));
    rig.answer_all_stored(&equal_shards(4));
    let before = rig.results.len();
    for _ in 0..10 {
        rig.run_for(SEC);
        rig.answer_all_stored(&equal_shards(4));
    }
    assert!((390..=440).contains(&(rig.results.len() - before)), "{}", rig.results.len() - before);
}

#[test]
fn without_permissions_the_defaults_are_used() {
    let mut rig = Rig::new(Config::builder());
    rig.put(1, "a");
    let (lists, describes) = (rig.lists.remove(0), rig.describes.remove(0));
    rig.producer.handle_shards(rig.now, &lists, Err(error("AccessDeniedException")));
    rig.producer.handle_stream_summary(rig.now, &describes, Err(error("AccessDeniedException")));
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[1]]);
    rig.run_for(300 * SEC);
    assert!(rig.describes.is_empty(), "a denied description is not requested again");
    assert!(rig.lists.len() == 1, "one list request in flight at a time");
}

#[test]
fn after_an_outage_metadata_is_requested_as_soon_as_records_are_stored() {
    let mut rig = Rig::new(Config::builder().record_ttl(300 * SEC));
    rig.put(1, "a");
    let down = || RequestError::new(Delivery::NotSent, "Connection Failed", "refused");
    for _ in 0..60 {
        for request in std::mem::take(&mut rig.lists) {
            rig.producer.handle_shards(rig.now, &request, Err(down()));
        }
        for request in std::mem::take(&mut rig.describes) {
            rig.producer.handle_stream_summary(rig.now, &request, Err(down()));
        }
        while !rig.batches.is_empty() {
            rig.answer(kpl_core::Reply::Failed(down()));
        }
        rig.run_for(SEC);
    }
    assert!(rig.lists.is_empty() && rig.describes.is_empty(), "the next requests are due within 30 s");
    rig.run_until_sent();
    rig.answer_all_stored(&equal_shards(1));
    rig.run_for(SEC);
    assert_eq!((rig.lists.len(), rig.describes.len()), (1, 1), "requested within a second after the service answered");
}

#[test]
fn a_shard_list_in_pages_is_continued_by_its_token() {
    let mut rig = Rig::new(Config::builder());
    rig.put(u128::MAX, "a");
    rig.put(u128::MAX - 1, "b");
    let shards = equal_shards(5);
    let describe = rig.describes.remove(0);
    rig.producer.handle_stream_summary(rig.now, &describe, Ok(StreamSummary::default()));
    for (n, part) in shards.chunks(2).enumerate() {
        let request = rig.lists.remove(0);
        assert_eq!(request.next_token.as_deref(), (n > 0).then(|| format!("page {n}")).as_deref());
        let next_token = (n < 2).then(|| format!("page {}", n + 1));
        rig.producer.handle_shards(rig.now, &request, Ok(ShardPage { shards: part.to_vec(), next_token }));
        rig.drain();
    }
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[2]], "the shard map has the last shard, from the last page");
}

#[test]
fn a_shard_list_that_fails_between_pages_is_requested_from_the_start() {
    let mut rig = Rig::new(Config::builder());
    rig.put(1, "a");
    let request = rig.lists.remove(0);
    let page = ShardPage { shards: equal_shards(2), next_token: Some("t".into()) };
    rig.producer.handle_shards(rig.now, &request, Ok(page));
    rig.drain();
    let request = rig.lists.remove(0);
    rig.producer.handle_shards(rig.now, &request, Err(error("ExpiredNextTokenException")));
    rig.run_for(2 * SEC);
    assert_eq!(rig.lists.len(), 1);
    assert_eq!(rig.lists[0].next_token, None);
    let failed = |event: &LogEvent| matches!(event, LogEvent::RefreshFailed { operation: "ListShards", .. });
    assert!(rig.log.iter().any(failed));
}

#[test]
fn the_shard_of_a_hash_key_is_returned_once_it_is_known() {
    let mut rig = Rig::new(Config::builder());
    rig.put(1, "a");
    assert_eq!(rig.producer.shard("s", 1), None);
    rig.answer_refreshes(&equal_shards(4));
    for shard in 0..4 {
        assert_eq!(rig.producer.shard("s", start_of(shard, 4)).map(|id| &**id), Some(&*shard_id(shard)));
    }
    assert_eq!(rig.producer.shard("another", 1), None);
}

#[test]
fn an_endless_shard_list_is_given_up() {
    let mut rig = Rig::new(Config::builder());
    rig.put(1, "a");
    for _ in 0..2_000 {
        let Some(request) = rig.lists.pop() else { break };
        let page = ShardPage { shards: vec![], next_token: Some("more".into()) };
        rig.producer.handle_shards(rig.now, &request, Ok(page));
        rig.drain();
    }
    assert!(rig.lists.is_empty());
}

#[test]
fn a_shard_list_without_an_open_shard_is_a_failed_refresh() {
    let mut rig = Rig::with_shards(Config::builder(), 2);
    rig.run_for(5 * SEC);
    rig.put(1, "a");
    rig.run_for(100 * MS);
    rig.answer_records([RecordReply::stored(shard_id(1), "1")]); // requests the shards
    let closed = equal_shards(2).into_iter().map(|shard| ListedShard { closed: true, ..shard });
    rig.answer_refreshes(&closed.collect::<Vec<_>>());
    assert!(
        rig.log.iter().any(|event| matches!(event, LogEvent::RefreshFailed { code, .. } if &**code == "No Shards"))
    );
    (1..3).for_each(|key| {
        rig.put(key, "a");
    });
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[2]], "the previous shard map is still used");
}

#[test]
fn an_incomplete_shard_list_is_used_and_requested_again() {
    let mut rig = Rig::new(Config::builder());
    let (known, unknown) = (rig.put(u128::MAX, "a"), rig.put(1, "b"));
    rig.answer_refreshes(&equal_shards(2)[1..]);
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[1, 1]]);
    rig.answer_all_stored(&equal_shards(2));
    rig.receipt(known);
    rig.receipt(unknown);
    rig.run_for(2 * SEC);
    assert_eq!(rig.lists.len(), 1, "requested again");
}

#[test]
fn an_unpredicted_aggregate_on_a_shard_without_its_hash_key_is_sent_again() {
    // The list lacks the shard of this hash key, and the stream ignores hash keys by the time of the request.
    let mut rig = Rig::new(Config::builder().record_distribution(RecordDistribution::ByKey));
    let tickets = [rig.put(1, "a"), rig.put(1, "b")];
    rig.answer_refreshes(&equal_shards(2)[1..]);
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[2]]);
    rig.answer_records([RecordReply::stored(shard_id(1), "1")]);
    assert!(rig.results.is_empty(), "the KCL drops the aggregate: the range of the shard is known");
    rig.run_for(100 * MS);
    rig.answer_records([RecordReply::stored(shard_id(0), "2")]);
    assert!(rig.results.is_empty(), "the range of this shard is not known yet");
    rig.run_for(5 * SEC);
    rig.answer_refreshes(&equal_shards(2));
    for ticket in tickets {
        assert_eq!(rig.receipt(ticket).shard_id(), shard_id(0));
    }
}

#[test]
fn records_that_wait_for_a_closed_shard_move_to_its_children() {
    let config = Config::builder().rate_limit_records_per_shard(1).aggregation_max_count(2);
    let mut rig = Rig::with_shards(config, 1);
    rig.run_for(SEC);
    let half = u128::MAX / 2;
    let tickets: Vec<u64> = (0..9_u128).map(|n| rig.put(if n % 2 == 0 { n } else { u128::MAX - n }, "a")).collect();
    rig.run_for(100 * MS);
    assert_eq!(rig.shape(), [[2]], "one aggregate is sent, three and a half wait");
    let split = [child(1, 0, 0, half), child(2, 0, half + 1, u128::MAX)];
    rig.answer_records([RecordReply::stored(shard_id(2), "1")]); // reveals the split
    rig.answer_refreshes(&split);
    let moved = |event: &LogEvent| matches!(event, LogEvent::ShardMapRefreshed { open: 2, closed: 1, moved: 7, .. });
    assert!(rig.log.iter().any(moved), "{:?}", rig.log);
    for _ in 0..20 {
        rig.run_for(SEC);
        for batch in &rig.batches {
            for record in batch.records() {
                let users = kpl_core::codec::decode(record.data()).unwrap_or_default();
                let halves: Vec<bool> = users.iter().map(|u| u.explicit_hash_key.unwrap() <= half).collect();
                assert!(halves.windows(2).all(|pair| pair[0] == pair[1]), "each aggregate is for one shard: {users:?}");
            }
        }
        rig.answer_all_stored(&split);
    }
    for ticket in tickets {
        rig.receipt(ticket);
    }
    assert_eq!(rig.producer.outstanding_records(), 0);
}

#[test]
fn a_burst_of_misrouted_records_requests_shards_and_description_once() {
    let mut rig = Rig::with_shards(Config::builder(), 50);
    rig.run_for(5 * SEC);
    for n in 0..50 {
        rig.put(start_of(n, 50), "a");
    }
    rig.run_for(100 * MS);
    let replies: Vec<_> = (0..50).map(|n| RecordReply::stored(shard_id((n + 1) % 50), "1")).collect();
    rig.answer_records(replies);
    assert_eq!((rig.lists.len(), rig.describes.len()), (1, 1));
    rig.run_for(10 * SEC);
    assert_eq!((rig.lists.len(), rig.describes.len()), (1, 1));
}

#[test]
fn a_few_misrouted_records_do_not_request_the_description() {
    for (misrouted, distribution, requested) in [
        (9, RecordDistribution::Detect, false),
        (10, RecordDistribution::Detect, true),
        (10, RecordDistribution::ByKey, false),
    ] {
        let mut rig = Rig::with_shards(Config::builder().record_distribution(distribution), 20);
        rig.run_for(5 * SEC);
        (0..misrouted).for_each(|n| {
            rig.put(start_of(n, 20), "a");
        });
        rig.run_for(100 * MS);
        rig.answer_records((0..misrouted).map(|n| RecordReply::stored(shard_id(n + 1), "1")));
        assert_eq!(rig.describes.len(), usize::from(requested), "{misrouted} misrouted records, {distribution:?}");
    }
}

#[test]
fn without_a_shard_map_a_retry_does_not_wait_for_newer_records() {
    let mut rig = Rig::new(Config::builder().record_max_buffered_time(SEC).start_timeout(Duration::ZERO));
    let first = rig.put(1, "a");
    rig.run_for(SEC);
    rig.put(2, "newer");
    rig.answer_records([RecordReply::failed("InternalFailure", "why")]);
    rig.run_for(600 * MS);
    assert_eq!(
        rig.shape(),
        [[1, 1]],
        "after the backoff, within half the buffering time, together with the newer record"
    );
    rig.answer_all_stored(&equal_shards(1));
    rig.receipt(first);
}

#[test]
fn the_streams_record_size_limit_is_learned_and_enforced() {
    let mut rig = Rig::new(Config::builder());
    let too_large = rig.put(1, vec![0; 3 << 20]);
    let at_the_limit = rig.put(2, vec![0; (2 << 20) - 1]);
    let describe = rig.describes.remove(0);
    let summary =
        StreamSummary { max_record_size: Some(2 << 20), auto_distribution: false, ..StreamSummary::default() };
    rig.producer.handle_stream_summary(rig.now, &describe, Ok(summary));
    rig.answer_refreshes(&equal_shards(1));
    let failure = rig.failure(too_large);
    assert_eq!(&*failure.error.code, "Record Too Large");
    assert!(failure.error.message.contains("3145729 bytes, but the stream's limit is 2097152"), "{}", failure.error);
    assert!(failure.attempts.is_empty() && failure.record.data.len() == 3 << 20);

    let record = UserRecord::new("s", "k", vec![0; 2 << 20]);
    let error = rig.producer.put(rig.now, record.clone().prepare().unwrap(), 99).unwrap_err();
    let PutError::Invalid { reason, record: back, ticket: 99 } = error else { panic!("{error:?}") };
    assert_eq!(reason, InvalidRecord::TooLarge { size: (2 << 20) + 1, limit: 2 << 20 });
    assert_eq!(UserRecord::from(back), record);
    rig.put(1, vec![0; (2 << 20) - 1]);
    assert!(!rig.results.contains_key(&at_the_limit), "a record of exactly the limit is valid");
}

#[test]
fn a_stream_that_states_no_record_size_limit_accepts_a_mebibyte() {
    for reply in [Ok(StreamSummary::default()), Err(error("AccessDeniedException"))] {
        let mut rig = Rig::new(Config::builder());
        let waiting = rig.put(1, vec![0; 1 << 20]);
        rig.producer.handle_stream_summary(rig.now, &rig.describes.remove(0), reply);
        rig.answer_refreshes(&equal_shards(1));
        assert_eq!(&*rig.failure(waiting).error.code, "Record Too Large");
        let record = |size| UserRecord::new("s", "k", vec![0; size]).prepare().unwrap();
        let error = rig.producer.put(rig.now, record(1 << 20), 99).unwrap_err();
        let limit = 1 << 20;
        assert!(
            matches!(error, PutError::Invalid { reason: InvalidRecord::TooLarge { limit: stated, .. }, .. } if stated == limit)
        );
        rig.producer.put(rig.now, record(limit - 1), 100).unwrap();
    }
}

#[test]
fn a_description_that_fails_later_leaves_the_previous_one_in_use() {
    let mut rig = Rig::new(Config::builder());
    rig.put(1, "a");
    let describe = rig.describes.remove(0);
    let summary =
        StreamSummary { max_record_size: Some(10 << 20), auto_distribution: false, ..StreamSummary::default() };
    rig.producer.handle_stream_summary(rig.now, &describe, Ok(summary));
    rig.answer_refreshes(&equal_shards(1));
    rig.run_for(SEC);
    rig.answer(not_found()); // requests the description again
    let describe = rig.describes.remove(0);
    let down = RequestError::new(Delivery::Unanswered, "Request Timeout", "no reply");
    rig.producer.handle_stream_summary(rig.now, &describe, Err(down));
    rig.put(1, vec![0; 9 << 20]);
}

#[test]
fn on_an_auto_stream_nothing_is_aggregated_or_retried_as_misrouted() {
    for distribution in [RecordDistribution::Auto, RecordDistribution::Detect] {
        let mut rig = Rig::new(Config::builder().record_distribution(distribution));
        let tickets: Vec<u64> = (0..10).map(|key| rig.put(key, "a")).collect();
        for request in std::mem::take(&mut rig.describes) {
            let summary = StreamSummary {
                max_record_size: None,
                auto_distribution: distribution == RecordDistribution::Detect,
                ..StreamSummary::default()
            };
            rig.producer.handle_stream_summary(rig.now, &request, Ok(summary));
        }
        assert_eq!(rig.lists.len(), usize::from(distribution == RecordDistribution::Detect));
        rig.answer_refreshes(&equal_shards(2));
        rig.run_for(100 * MS);
        assert_eq!(rig.shape(), [[1; 10]]);
        rig.answer_records((0..10).map(|n| RecordReply::stored(shard_id(n % 2), "1")));
        for ticket in tickets {
            rig.receipt(ticket);
        }
        assert!(rig.lists.is_empty(), "any shard is an expected one");
    }
}

#[test]
fn a_switch_to_auto_distribution_is_detected_and_loses_nothing() {
    let mut rig = Rig::with_shards(Config::builder(), 20);
    rig.run_for(5 * SEC);
    let mut tickets: Vec<u64> = (0..40).map(|n| rig.put(start_of(n % 20, 20) + n as u128, "a")).collect();
    rig.run_for(100 * MS);
    // Aggregates of two records, each stored on the next shard: consumers drop all of them.
    let sent = rig.batches[0].records().len();
    rig.answer_records((0..sent).map(|n| RecordReply::stored(shard_id((n + 1) % 20), "1")));
    assert!(rig.results.is_empty());
    let request = rig.describes.remove(0);
    let summary = StreamSummary { max_record_size: None, auto_distribution: true, ..StreamSummary::default() };
    rig.producer.handle_stream_summary(rig.now, &request, Ok(summary));
    tickets.push(rig.put(1, "b"));
    rig.run_for(50 * MS);
    rig.run_for(100 * MS);
    while !rig.batches.is_empty() {
        let batch = rig.take_batch();
        let replies = batch.records().iter().map(|_| RecordReply::stored(shard_id(7), "1")).collect();
        // Records routed before the description arrived may still be aggregated. The shard's range decides whether they
        // are accepted.
        rig.handle_reply(batch, kpl_core::Reply::Records(replies));
        rig.run_for(100 * MS);
    }
    for ticket in tickets {
        rig.receipt(ticket);
    }
}

fn not_found() -> kpl_core::Reply {
    kpl_core::Reply::Failed(error("ResourceNotFoundException"))
}

#[test]
fn the_metadata_of_a_deleted_stream_is_forgotten() {
    let mut rig = Rig::with_shards(Config::builder(), 2);
    rig.run_for(5 * SEC);
    let tickets = [rig.put(10, "a"), rig.put(start_of(1, 2) - 1, "b")];
    rig.run_until_sent();
    rig.answer(not_found());
    assert_eq!((rig.lists.len(), rig.describes.len()), (1, 1), "recreated, the stream may have other shards");
    // Same shard ids, other ranges.
    let recreated = vec![shard(0, 0, 9), shard(1, 10, u128::MAX)];
    rig.answer_refreshes(&recreated);
    rig.run_until_sent();
    assert_eq!(rig.shape(), [[2]]);
    rig.answer_all_stored(&recreated);
    assert_eq!(rig.receipt(tickets[0]).shard_id(), shard_id(1));
}

/// A new stream: for some seconds, some of the service's machines do not know it.
#[test]
fn a_stream_with_metadata_that_is_not_found_is_retried() {
    let mut rig = Rig::with_shards(Config::builder(), 2);
    let ticket = rig.put(1, "a");
    for _ in 0..3 {
        rig.run_until_sent();
        rig.answer(not_found());
        rig.run_for(SEC);
        rig.answer_refreshes(&equal_shards(2));
    }
    rig.run_until_sent();
    rig.answer_all_stored(&equal_shards(2));
    assert_eq!(rig.receipt(ticket).attempts().len(), 4);
}

#[test]
fn a_stream_that_is_not_found_fails_its_records_if_its_metadata_is_not_found_either() {
    let mut rig = Rig::with_shards(Config::builder(), 2);
    let ticket = rig.put(1, "a");
    rig.run_until_sent();
    rig.answer(not_found());
    rig.run_for(SEC);
    let request = rig.lists.remove(0);
    rig.producer.handle_shards(rig.now, &request, Err(error("ResourceNotFoundException")));
    rig.run_until_sent();
    rig.answer(not_found());
    let failure = rig.failure(ticket);
    assert_eq!((&*failure.error.code, failure.attempts.len()), ("ResourceNotFoundException", 2));
    let next = rig.put(1, "b");
    rig.run_until_sent();
    rig.answer(not_found());
    assert_eq!(rig.failure(next).attempts.len(), 1);

    let mut new = Rig::new(Config::builder().start_timeout(Duration::ZERO));
    let ticket = new.put(1, "a");
    new.run_until_sent();
    new.answer(not_found());
    assert_eq!(new.failure(ticket).attempts.len(), 1, "nothing shows that the stream exists");
}

/// Regression: the request was older than the last list, so no new list was requested, and the map stayed empty.
#[test]
fn the_shards_are_listed_again_after_a_late_reply_that_the_stream_is_not_found() {
    let mut rig = Rig::with_shards(Config::builder(), 2);
    rig.put(1, "a");
    rig.run_until_sent();
    let late = rig.take_batch();
    rig.put(2, "b");
    rig.run_until_sent();
    rig.answer_records([RecordReply::stored(shard_id(1), "1")]);
    rig.run_for(SEC);
    rig.answer_refreshes(&equal_shards(2));
    rig.handle_reply(late, not_found());
    rig.run_for(SEC);
    assert_eq!(rig.lists.len(), 1);
}

#[test]
fn a_throttled_list_is_requested_again_within_two_seconds() {
    let mut rig = Rig::new(Config::builder());
    rig.put(1, "a");
    for _ in 0..20 {
        let request = rig.lists.remove(0);
        rig.producer.handle_shards(rig.now, &request, Err(error("LimitExceededException")));
        rig.run_for(2 * SEC);
        assert_eq!(rig.lists.len(), 1);
    }
}

/// The whole account shares a limit of 20 descriptions a second.
#[test]
fn a_throttled_description_backs_off() {
    let mut rig = Rig::new(Config::builder());
    rig.put(1, "a");
    for _ in 0..8 {
        let request = rig.describes.remove(0);
        rig.producer.handle_stream_summary(rig.now, &request, Err(error("LimitExceededException")));
        let start = rig.now;
        while rig.describes.is_empty() {
            rig.run_for(100 * MS);
            rig.answer_all_stored(&equal_shards(1));
            assert!(rig.now < start + 31 * SEC);
        }
    }
    let request = rig.describes.remove(0);
    rig.producer.handle_stream_summary(rig.now, &request, Err(error("LimitExceededException")));
    rig.run_for(14 * SEC);
    assert!(rig.describes.is_empty(), "half of the longest backoff is jitter");
}

#[test]
fn a_thousand_streams_are_described_at_ten_a_second() {
    let mut rig = Rig::new(Config::builder());
    for n in 0..1_000 {
        rig.put_record(UserRecord::new(format!("stream-{n}"), "k", "a"));
    }
    let (mut described, mut listed) = (0, 0);
    for _ in 0..1_000 {
        let answered = rig.answer_refreshes_with(&equal_shards(1), StreamSummary::default());
        (listed, described) = (listed + answered[0], described + answered[1]);
        rig.answer_all_stored(&equal_shards(1));
        rig.run_for(10 * MS);
    }
    assert!((90..=110).contains(&described), "{described}");
    assert_eq!(listed, 1_000);
}

#[test]
fn metadata_requests_count_against_the_limit_on_requests_in_flight() {
    for (max, metadata_max) in [(1, 1), (2, 1), (5, 2), (24, 12)] {
        let mut rig = Rig::new(Config::builder().max_in_flight_requests(max).aggregation_enabled(false));
        for n in 0..100 {
            rig.put_record(UserRecord::new(format!("stream-{n}"), "k", "a"));
        }
        rig.run_for(SEC);
        assert_eq!(rig.lists.len() + rig.describes.len(), metadata_max, "of 100 streams, max {max}");
        // The wait for the list ends, and records and metadata requests take turns.
        rig.run_for(5 * SEC);
        let in_flight = |rig: &Rig| rig.lists.len() + rig.describes.len() + rig.batches.len();
        assert_eq!(in_flight(&rig), max.max(2));
        let (mut sent, mut asked) = (0, 0);
        for _ in 0..20 {
            rig.answer_records([RecordReply::stored(shard_id(0), "1")]);
            sent += 1;
            let [listed, described] = rig.answer_refreshes_with(&equal_shards(1), StreamSummary::default());
            asked += listed + described;
            assert!(in_flight(&rig) <= max.max(2), "{} in flight, max {max}", in_flight(&rig));
        }
        assert!(sent == 20 && asked >= 20, "{sent} requests, {asked} metadata requests, max {max}");
    }
}

#[test]
fn replies_to_another_producers_requests_are_ignored() {
    let mut rig = Rig::with_shards(Config::builder(), 2);
    let mut other = Producer::<u64>::new(Config::default(), rig.now);
    other.put(rig.now, UserRecord::new("s", "k", "").prepare().unwrap(), 0).unwrap();
    let Some(kpl_core::Action::ListShards(request)) = other.poll_action() else { panic!("no list") };
    let wrong: Vec<ListedShard> = vec![shard(7, 0, u128::MAX)];
    rig.producer.handle_shards(rig.now, &request, Ok(ShardPage { shards: wrong, next_token: None }));
    let ticket = rig.put(1, "a");
    rig.run_for(100 * MS);
    rig.answer_all_stored(&equal_shards(2));
    assert_eq!(rig.receipt(ticket).shard_id(), shard_id(0));
    assert!(rig.lists.is_empty(), "the prediction was right");
}

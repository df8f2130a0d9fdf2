//! Tests of the limit on a shard's backlog, and of idle streams.

use std::time::Duration;

use kpl_core::metrics::{Metric, MetricsLevel, MetricsWindow};
use kpl_core::{
    Config, Consumers, Delivery, Full, PutError, RecordDistribution, RecordReply, RequestError, ShardName,
    StreamSummary, UserRecord,
};

use crate::rig::*;

/// Puts records with this hash key until one is refused. Returns the number of accepted records, and what is full.
fn fill(rig: &mut Rig, hash_key: u128, size: usize) -> (usize, Full) {
    fill_with(rig, |_| hash_key, size)
}

fn fill_with(rig: &mut Rig, hash_key: impl Fn(usize) -> u128, size: usize) -> (usize, Full) {
    for accepted in 0.. {
        let record = UserRecord::new("s", "k", vec![0; size]).explicit_hash_key(hash_key(accepted).to_string());
        match rig.producer.put(
            rig.now,
            record.prepare().unwrap(),
            1_000_000 + accepted as u64 + rig.results.len() as u64,
        ) {
            Ok(()) => rig.drain(),
            Err(PutError::Full { full, .. }) => return (accepted, full),
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!()
}

fn backlog(full: &Full) -> Duration {
    let Full::Shard { backlog, .. } = full else { panic!("{full}") };
    *backlog
}

#[test]
fn a_shard_is_full_when_its_backlog_takes_longer_than_the_limit_at_half_its_rate() {
    for (ttl, configured, limit) in [
        (30 * SEC, None, 15),
        (8 * SEC, None, 4),
        (Duration::MAX, None, 15),
        (30 * SEC, Some(2 * SEC), 2),
        (30 * SEC, Some(100 * SEC), 100),
    ] {
        let config = Config::builder().aggregation_enabled(false).rate_limit_records_per_shard(100).record_ttl(ttl);
        let mut rig = Rig::with_shards(config.max_shard_backlog(configured), 2);
        let (accepted, full) = fill(&mut rig, 0, 10);
        // One second's worth is released at once. The backlog is computed at half the rate.
        let expected = 100 + 100 * limit / 2;
        assert!((expected..=expected + 2).contains(&accepted), "{accepted} of {expected}");
        assert!(backlog(&full) > limit as u32 * SEC, "{full}");
        assert_eq!(
            full.to_string(),
            format!("shardId-000000000000 of the stream s is full: its backlog takes {limit}.0s")
        );
        assert_eq!(rig.producer.buffer_room().records, 0, "no put is buffered, so that each one is checked");
        rig.put(u128::MAX, "the other shard has room");
    }
}

#[test]
fn room_is_reported_once_after_a_refusal() {
    let config = Config::builder().aggregation_enabled(false).rate_limit_records_per_shard(100);
    let mut rig = Rig::with_shards(config.max_shard_backlog(Some(4 * SEC)), 2);
    let (_, full) = fill(&mut rig, 0, 10);
    assert!(rig.freed.is_empty());
    let mut freed_after = None;
    for tenth in 1..=40 {
        rig.run_for(100 * MS);
        rig.answer_all_stored(&equal_shards(2));
        if freed_after.is_none() && !rig.freed.is_empty() {
            freed_after = Some(tenth);
        }
    }
    assert_eq!(rig.freed, [ShardName::new("s", Some(shard_id(0).into()))]);
    assert!((3..=5).contains(&freed_after.unwrap()), "after an eighth of 2 s: {freed_after:?} tenths of a second");
    assert!(backlog(&full) > 4 * SEC);
    assert!(rig.producer.buffer_room().records > 0, "the backlog is short again");
}

#[test]
fn a_full_shard_that_is_split_has_room_again() {
    let config = Config::builder().aggregation_enabled(false).rate_limit_records_per_shard(100);
    let mut rig = Rig::with_shards(config.max_shard_backlog(Some(4 * SEC)), 1);
    rig.run_for(2 * SEC);
    fill(&mut rig, 0, 10);
    rig.run_for(100 * MS);
    let count = rig.batches[0].records().len();
    rig.answer_records((0..count).map(|n| RecordReply::stored(shard_id(1), n.to_string())));
    let half = u128::MAX / 2;
    rig.run_for(SEC);
    rig.answer_refreshes(&[child(1, 0, 0, half), child(2, 0, half + 1, u128::MAX)]);
    assert!(rig.freed.contains(&ShardName::new("s", Some(shard_id(0).into()))), "{:?}", rig.freed);
}

#[test]
fn a_shard_with_a_backlog_gets_at_most_half_of_the_producers_room() {
    let config = Config::builder().rate_limit_records_per_shard(1).max_outstanding_records(1_000);
    let mut rig = Rig::with_shards(config.aggregation_enabled(false).max_shard_backlog(Some(1_000 * SEC)), 4);
    let (first, full) = fill(&mut rig, 0, 10);
    assert!((500..=502).contains(&first), "{first}");
    assert!(matches!(full, Full::Shard { .. }));
    let (second, _) = fill(&mut rig, start_of(1, 4), 10);
    assert!((249..=252).contains(&second), "half of the rest: {second}");
    rig.put(u128::MAX, "some room is always left");
}

#[test]
fn records_awaiting_the_shard_list_are_limited_as_if_for_one_shard() {
    let mut rig = Rig::new(Config::builder().record_ttl(8 * SEC));
    let (accepted, full) = fill(&mut rig, 0, 10_000);
    assert_eq!(full, Full::Shard { shard: ShardName::new("s", None), backlog: backlog(&full) });
    assert!((120..=132).contains(&accepted), "{accepted}: 1.2 MiB, which take 2.4 s at half of 1 MiB/s");
    rig.answer_refreshes(&equal_shards(1));
    assert_eq!(rig.freed, [ShardName::new("s", None)]);
    for _ in 0..80 {
        rig.run_for(100 * MS);
        rig.answer_all_stored(&equal_shards(1));
    }
    assert!(rig.results.len() == accepted && rig.results.values().all(Result::is_ok), "none of them expires");
}

#[test]
fn small_records_awaiting_the_shard_list_are_limited_by_number() {
    let mut rig = Rig::new(Config::builder());
    let (accepted, full) = fill(&mut rig, 0, 10);
    assert!(matches!(full, Full::Shard { .. }), "{full}");
    assert!((22_500..=22_503).contains(&accepted), "{accepted}: one shard takes them in 22.5 s");
}

#[test]
fn records_that_wait_until_the_start_timeout_are_sent_before_they_expire() {
    for ttl in [2 * SEC, 10 * SEC, 30 * SEC, 60 * SEC] {
        let mut rig = Rig::new(Config::builder().record_ttl(ttl));
        let (accepted, _) = fill_with(&mut rig, |n| n as u128, 10);
        rig.run_for((ttl / 2).min(5 * SEC) - MS);
        let (lists, describes) = (rig.lists.remove(0), rig.describes.remove(0));
        let summary = StreamSummary { open_shards: Some(1), ..StreamSummary::default() };
        rig.producer.handle_stream_summary(rig.now, &describes, Ok(summary));
        let denied = RequestError::new(Delivery::Refused, "AccessDeniedException", "why");
        rig.producer.handle_shards(rig.now, &lists, Err(denied));
        for _ in 0..ttl.as_secs() * 10 {
            rig.run_for(100 * MS);
            rig.answer_all_stored(&equal_shards(1));
        }
        let stored = rig.results.values().filter(|result| result.is_ok()).count();
        assert_eq!(stored, accepted, "with a time-to-live of {ttl:?}");
        assert!(accepted as u64 >= 800 * ttl.as_secs() / 2, "{accepted} accepted");
    }
}

#[test]
fn a_throttled_record_is_sent_before_those_that_were_put_after_it() {
    let config = Config::builder().aggregation_enabled(false).rate_limit_records_per_shard(10);
    let mut rig = Rig::with_shards(config, 1);
    rig.run_for(SEC);
    let first = rig.put(0, "first");
    rig.run_for(MS);
    let later: Vec<u64> = (0..60).map(|n| rig.put(n, "later")).collect();
    rig.run_for(100 * MS);
    let count = rig.batches[0].records().len();
    let throttled = || RecordReply::failed("ProvisionedThroughputExceededException", "why");
    rig.answer_records((0..count).map(|n| if n == 0 { throttled() } else { RecordReply::stored(shard_id(0), "1") }));
    rig.run_for(2 * SEC);
    rig.answer_all_stored(&equal_shards(1));
    assert_eq!(rig.receipt(first).attempts().len(), 2);
    assert!(!rig.results.contains_key(later.last().unwrap()), "the backlog takes longer than 2 s");
}

#[test]
fn a_misrouted_aggregate_is_accepted_if_consumers_read_any_shard() {
    for (consumers, accepted) in [(Consumers::AnyShard, true), (Consumers::Kcl, false)] {
        let mut rig = Rig::with_shards(Config::builder().consumers(consumers), 2);
        let tickets = [rig.put(1, "a"), rig.put(2, "b")];
        rig.run_for(100 * MS);
        rig.answer_records([RecordReply::stored(shard_id(1), "7")]);
        assert_eq!(rig.results.len(), if accepted { 2 } else { 0 }, "{consumers:?}");
        if accepted {
            let receipt = rig.receipt(tickets[1]);
            assert_eq!((receipt.shard_id(), receipt.sub_sequence_number()), (&*shard_id(1), Some(1)));
            rig.run_for(2 * SEC);
            assert_eq!(rig.lists.len(), 1, "the shard list is refreshed in any case");
        }
    }
}

#[test]
fn an_idle_stream_is_retired_and_restarts_with_its_next_record() {
    let mut rig = Rig::with_shards(Config::builder().metrics_level(MetricsLevel::Detailed), 2);
    assert!(rig.producer.shard("s", 0).is_some());
    rig.run_for(RETIRED_AFTER);
    assert_eq!((rig.producer.shard("s", 0), rig.until_tick()), (None, None));
    let total = |rig: &mut Rig| rig.producer.metrics(rig.now, MetricsWindow::Total).roll_up();
    assert_eq!(total(&mut rig).global(Metric::UserRecordsPut).count, 1, "its metrics stay in the global total");
    assert_eq!(total(&mut rig).stream(Metric::UserRecordsPut, "s").count, 0);
    let ticket = rig.put(1, "a");
    assert_eq!((rig.lists.len(), rig.describes.len()), (1, 1));
    rig.answer_refreshes(&equal_shards(2));
    rig.run_for(100 * MS);
    rig.answer_all_stored(&equal_shards(2));
    rig.receipt(ticket);
    let metrics = total(&mut rig);
    assert_eq!(
        (metrics.global(Metric::UserRecordsPut).count, metrics.stream(Metric::UserRecordsPut, "s").count),
        (2, 1)
    );
    assert_eq!(metrics.latency().unwrap().put_to_ack.count(), 2);
}

#[test]
fn a_stream_of_which_no_record_was_accepted_is_retired() {
    // No metadata is needed, so nothing but its retirement wakes the stream.
    let config = Config::builder().record_distribution(RecordDistribution::Auto).max_record_size(Some(1_024));
    let mut rig = Rig::new(config);
    let refused = rig.producer.put(rig.now, UserRecord::new("s", "k", vec![0; 2_000]).prepare().unwrap(), 1);
    assert!(matches!(refused, Err(PutError::Invalid { .. })), "{refused:?}");
    assert_eq!((rig.producer.streams(), rig.lists.len(), rig.describes.len()), (1, 0, 0));
    rig.run_for(RETIRED_AFTER);
    assert_eq!((rig.producer.streams(), rig.until_tick()), (0, None));
}

#[test]
fn metrics_of_a_retired_stream_are_reported_under_its_name() {
    let config = Config::builder().metrics_level(MetricsLevel::Summary).metrics_upload_interval(3_600 * SEC);
    let mut rig = Rig::with_shards(config, 2);
    rig.run_for(RETIRED_AFTER + SEC);
    assert_eq!(rig.producer.shard("s", 0), None);
    rig.run_for(3_600 * SEC);
    let counts: Vec<u64> = rig.reports.iter().map(|report| report.stream(Metric::UserRecordsPut, "s").count).collect();
    assert_eq!(counts, [1]);
    let total = rig.producer.metrics(rig.now, MetricsWindow::Total).roll_up();
    assert_eq!(total.global(Metric::UserRecordsPut).count, 1);
}

#[test]
fn a_stream_with_outstanding_records_is_not_retired() {
    let mut rig = Rig::with_shards(Config::builder().record_ttl(Duration::MAX), 1);
    let ticket = rig.put(1, "a");
    rig.run_for(2 * RETIRED_AFTER);
    assert_eq!(rig.batches.len(), 1, "its request is in flight");
    rig.answer_all_stored(&equal_shards(1));
    rig.receipt(ticket);
    assert!(rig.producer.shard("s", 0).is_some());
    rig.run_for(RETIRED_AFTER);
    assert_eq!(rig.producer.shard("s", 0), None);
}

#[test]
fn a_hundred_thousand_streams_in_turn_keep_no_state() {
    let mut rig = Rig::new(Config::builder());
    let mut streams_max = 0;
    for n in 0..100_000 {
        rig.put_record(UserRecord::new(format!("stream-{n}"), "k", "a"));
        rig.answer_refreshes(&equal_shards(1));
        rig.run_for(100 * MS);
        rig.answer_all_stored(&equal_shards(1));
        rig.results.clear();
        rig.log.clear();
        streams_max = streams_max.max(rig.producer.streams());
    }
    // Streams of the last five minutes, at ten a second.
    assert!((2_900..=3_100).contains(&streams_max), "{streams_max}");
    rig.run_for(RETIRED_AFTER);
    assert_eq!((rig.producer.streams(), rig.until_tick()), (0, None));
}

#[test]
fn lingering_records_are_sent_when_the_producer_is_full() {
    for aggregation in [true, false] {
        let config = Config::builder()
            .aggregation_enabled(aggregation)
            .record_max_buffered_time(SEC)
            .max_outstanding_records(400);
        let mut rig = Rig::with_shards(config, 64);
        let start = rig.now;
        let mut stored = 0;
        for round in 0..20 {
            // Each key in turn, so that the records are spread over all shards.
            let put = |rig: &mut Rig, n: u128| {
                let key = u128::MAX / 64 * (n * 7 % 64) + 1;
                let record = UserRecord::new("s", "k", "a").explicit_hash_key(key.to_string());
                rig.producer.put(rig.now, record.prepare().unwrap(), 1_000_000 + n as u64).is_ok()
            };
            while put(&mut rig, stored) {
                stored += 1;
            }
            rig.drain();
            let in_flight: usize = rig.batches.iter().flat_map(|batch| batch.records()).map(|r| r.user_records()).sum();
            assert!((200..=400).contains(&in_flight), "{in_flight} in round {round}");
            // A put that is refused while most records are in flight sends no small aggregates.
            let requests = rig.batches.len();
            rig.run_for(10 * MS);
            assert!(!put(&mut rig, stored));
            rig.drain();
            assert_eq!(rig.batches.len(), requests);
            rig.answer_all_stored(&equal_shards(64));
        }
        assert!(stored > 4_000 && rig.now < start + SEC, "{stored} records in {:?}", rig.now.saturating_since(start));
    }
}

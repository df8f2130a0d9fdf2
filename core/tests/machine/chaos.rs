//! A property test: with any order of events and any replies, every accepted record is resolved exactly once, and the
//! machine ends empty.
//!
//! The replies are noise. The simulator (`tests/simulator`) runs the machine against a model of Kinesis.

use std::time::Duration;

use kpl_core::{Config, Delivery, Full, PutError, RecordReply, Reply, RequestError, UserRecord};
use proptest::prelude::*;

use crate::rig::*;

#[derive(Clone, Debug)]
enum Event {
    Put { stream: u8, key: u128, size: usize },
    Pass { ms: u64 },
    Reply { which: usize, kind: ReplyKind },
    Shards { map: usize, fail: bool },
    Flush,
}

#[derive(Clone, Debug)]
enum ReplyKind {
    Stored { map: usize },
    Each(Vec<u8>),
    Whole(u8),
    Short,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let key = prop_oneof![any::<u128>(), (0..4_usize).prop_map(|n| start_of(n, 4)), Just(0), Just(u128::MAX)];
    let size = prop_oneof![8 => 0..200_usize, 1 => 45_000..60_000_usize, 1 => Just(300_000_usize)];
    let kind = prop_oneof![
        4 => (0..3_usize).prop_map(|map| ReplyKind::Stored { map }),
        4 => proptest::collection::vec(0..7_u8, 1..6).prop_map(ReplyKind::Each),
        2 => (0..7_u8).prop_map(ReplyKind::Whole),
        1 => Just(ReplyKind::Short),
    ];
    let event = prop_oneof![
        10 => (0..3_u8, key, size).prop_map(|(stream, key, size)| Event::Put { stream, key, size }),
        4 => prop_oneof![0..20_u64, 0..500_u64, 0..20_000_u64].prop_map(|ms| Event::Pass { ms }),
        5 => (any::<usize>(), kind).prop_map(|(which, kind)| Event::Reply { which, kind }),
        1 => (0..3_usize, any::<bool>()).prop_map(|(map, fail)| Event::Shards { map, fail }),
        1 => Just(Event::Flush),
    ];
    proptest::collection::vec(event, 0..150)
}

fn map(n: usize) -> Vec<kpl_core::ListedShard> {
    let half = u128::MAX / 2;
    match n {
        0 => equal_shards(4),
        1 => vec![child(10, 0, 0, half), child(11, 2, half + 1, u128::MAX)],
        _ => vec![child(12, 10, 0, 99), child(13, 10, 100, half)],
    }
}

const CODES: [&str; 6] = [
    "ProvisionedThroughputExceededException",
    "InternalFailure",
    "InvalidArgumentException",
    "AccessDeniedException",
    "ResourceNotFoundException",
    "",
];

fn reply(kind: &ReplyKind, batch: &kpl_core::Batch<u64>) -> Reply {
    let count = batch.records().len();
    match kind {
        ReplyKind::Stored { map: n } => Reply::Records(
            batch
                .records()
                .iter()
                .map(|record| {
                    let key = record.explicit_hash_key();
                    let shards = map(*n);
                    let shard = shards.iter().find(|shard| shard.start <= key && key <= shard.end);
                    RecordReply::stored(shard.map_or("shardId-000000000099", |shard| &shard.id), "1")
                })
                .collect(),
        ),
        ReplyKind::Each(codes) => Reply::Records(
            (0..count)
                .map(|n| match codes[n % codes.len()] as usize {
                    6 => RecordReply::stored(shard_id(n % 4), "1"),
                    code => RecordReply::failed(CODES[code], "why"),
                })
                .collect(),
        ),
        ReplyKind::Whole(code) => {
            let (delivery, code) = match *code as usize {
                5 => (Delivery::NotSent, "ConnectError"),
                6 => (Delivery::Unanswered, "TimeoutError"),
                code => (Delivery::Refused, CODES[code]),
            };
            Reply::Failed(RequestError::new(delivery, code, "why"))
        }
        ReplyKind::Short => Reply::Records(vec![]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_record_is_resolved_exactly_once_and_the_machine_ends_empty(
        events in events(),
        aggregation in any::<bool>(),
        in_flight in 1..4_usize,
        close_after in prop_oneof![Just(None), (0..5_000_u64).prop_map(Some)],
    ) {
        let config = Config::builder()
            .aggregation_enabled(aggregation)
            .max_in_flight_requests(in_flight)
            .max_outstanding_records(60)
            .max_outstanding_bytes(400_000)
            .record_ttl(Duration::from_secs(10));
        let mut rig = Rig::new(config);
        let mut accepted = 0;
        for event in events {
            match event {
                Event::Put { stream, key, size } => {
                    let record = UserRecord::new(format!("s{stream}"), "k", vec![0; size])
                        .explicit_hash_key(key.to_string());
                    match rig.producer.put(rig.now, record.prepare().unwrap(), accepted) {
                        Ok(()) => accepted += 1,
                        Err(PutError::Full { full: Full::Producer { records, bytes }, .. }) => {
                            prop_assert!(records == 60 || bytes + size + 1 > 400_000);
                        }
                        Err(PutError::Full { full: Full::Shard { backlog, .. }, .. }) => {
                            prop_assert!(backlog > Duration::ZERO);
                        }
                        Err(error) => prop_assert!(false, "{}", error),
                    }
                }
                Event::Pass { ms } => rig.run_for(ms as u32 * MS),
                Event::Reply { which, kind } if !rig.batches.is_empty() => {
                    let batch = rig.batches.remove(which % rig.batches.len());
                    let reply = reply(&kind, &batch);
                    rig.handle_reply(batch, reply);
                }
                Event::Reply { .. } => {}
                Event::Shards { fail: true, .. } => {
                    for request in std::mem::take(&mut rig.lists) {
                        let error = RequestError::new(Delivery::Unanswered, "X", "why");
                        rig.producer.handle_shards(rig.now, &request, Err(error));
                    }
                }
                Event::Shards { map: n, .. } => rig.answer_refreshes(&map(n)),
                Event::Flush => { rig.producer.flush(rig.now); }
            }
            rig.drain();
            prop_assert!(rig.batches.len() <= in_flight);
            prop_assert_eq!(rig.producer.outstanding_records(), accepted as usize - rig.results.len());
        }

        // All faults end, and everything must drain within the time-to-live.
        let deadline = close_after.map_or(kpl_core::Instant::NEVER, |ms| rig.now + ms as u32 * MS);
        rig.producer.close(rig.now, deadline);
        rig.drain();
        for _ in 0..1_200 {
            rig.answer_refreshes(&equal_shards(4));
            rig.answer_all_stored(&equal_shards(4));
            rig.run_for(10 * MS);
        }
        prop_assert!(rig.producer.is_drained(), "{} left", rig.producer.outstanding_records());
        prop_assert_eq!(rig.producer.outstanding_bytes(), 0);
        prop_assert_eq!(rig.results.len() as u64, accepted);
        prop_assert_eq!(rig.producer.requests_in_flight(), 0);
    }
}

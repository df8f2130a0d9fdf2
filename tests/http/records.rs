//! Tests of records and their receipts.

use crate::driver::{Config, PutError, block_on};
use kpl_emulator::consumer;

use crate::rig::{emulator, producer};

#[test]
fn records_are_stored_where_their_receipts_say() {
    block_on(async {
        let (emulator, server) = emulator();
        let producer = producer(&server.url(), Config::builder());
        let mut outcomes = vec![];
        for n in 0..1_000 {
            outcomes.push(producer.put("events", format!("key-{n}"), format!("data-{n}")).await.unwrap());
        }
        producer.flush().await;
        let reading = emulator.with(|kinesis, _| consumer::read_stream(kinesis, "events"));
        assert_eq!((reading.records.len(), reading.dropped), (1_000, 0));
        for (n, outcome) in outcomes.into_iter().enumerate() {
            let receipt = outcome.await.unwrap();
            let found: Vec<_> = reading.records.iter().filter(|record| record.data == format!("data-{n}")).collect();
            let [record] = found[..] else { panic!("record {n} is stored {} times", found.len()) };
            assert_eq!(record.shard_id, *receipt.shard_id());
            assert_eq!(record.sequence_number, *receipt.sequence_number());
            assert_eq!(record.sub_sequence_number, receipt.sub_sequence_number().unwrap_or(0));
            assert_eq!(record.partition_key, format!("key-{n}"));
            assert_eq!(receipt.attempts().len(), 1);
            assert!(receipt.attempts().last().start <= receipt.attempts().last().end);
        }
        assert!(producer.stats().kinesis_records <= 6, "{:?}", producer.stats());
        producer.close().await;
        assert!(
            matches!(producer.try_put("events", "k", "late"), Err(PutError::Closed { record }) if record.data == "late")
        );
    });
}

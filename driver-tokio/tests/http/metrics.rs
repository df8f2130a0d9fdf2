//! Test that the metrics equal the counters of the emulator.

use std::collections::BTreeMap;

use kpl_emulator::{Faults, consumer};
use kpl_tokio::Config;
use kpl_tokio::metrics::{Metric, MetricsLevel};

use crate::driver::block_on;
use crate::rig::{emulator, producer};

#[test]
fn under_faults_each_metric_equals_the_services_counters() {
    const RECORDS: u64 = 20_000;
    let throttled = "ProvisionedThroughputExceededException";
    let (emulator, server) = emulator();
    emulator.set_faults(Faults {
        throttle_rate: 0.1,
        internal_failure_rate: 0.05,
        http_500_rate: 0.1,
        ..Faults::default()
    });
    let config =
        Config::builder().metrics_level(MetricsLevel::Detailed).aggregation_max_size(1_000).collection_max_count(20);
    let producer = block_on(async {
        let producer = producer(&server.url(), config);
        for n in 0..RECORDS {
            drop(producer.put("events", format!("key-{n}"), format!("record {n}")).await.unwrap());
        }
        producer.close().await;
        producer
    });
    let metrics = producer.metrics();
    let (counters, reading) =
        emulator.with(|kinesis, _| (kinesis.counters().clone(), consumer::read_stream(kinesis, "events")));
    assert_eq!(reading.records.len() as u64, RECORDS, "each record is stored once");
    let bytes: usize = reading.records.iter().map(|record| record.data.len()).sum();
    // Requests that fail with HTTP 500 have the same code as records that fail.
    let errors = |code| metrics.errors(code).count;
    let (record_errors, request_errors) =
        (counters.records_throttled + counters.records_failed, counters.requests_failed);
    assert!(counters.records_throttled > 0 && counters.records_failed > 0 && request_errors > 0, "{counters:?}");

    let count_and_sum = |metric| (metrics.global(metric).count, metrics.global(metric).sum as u64);
    let requests = counters.requests["PutRecords"];
    let table = [
        ("user records received", count_and_sum(Metric::UserRecordsReceived), (RECORDS, RECORDS)),
        ("user records put", count_and_sum(Metric::UserRecordsPut), (RECORDS, RECORDS)),
        ("bytes of user records", count_and_sum(Metric::UserRecordsDataPut), (RECORDS, bytes as u64)),
        ("retries", count_and_sum(Metric::RetriesPerRecord), (RECORDS, producer.stats().user_records_retried)),
        (
            "Kinesis records put",
            count_and_sum(Metric::KinesisRecordsPut),
            (counters.records_stored + record_errors, counters.records_stored),
        ),
        (
            "bytes of Kinesis records",
            count_and_sum(Metric::KinesisRecordsDataPut),
            (counters.records_stored, counters.bytes_stored),
        ),
        (
            "errors",
            count_and_sum(Metric::AllErrors),
            (counters.records_stored + record_errors + request_errors, record_errors + request_errors),
        ),
        ("throttled", (errors(throttled), 0), (counters.records_throttled, 0)),
        ("internal failures", (errors("InternalFailure"), 0), (counters.records_failed + request_errors, 0)),
        ("requests", (metrics.global(Metric::RequestTime).count, 0), (requests, 0)),
        (
            "attempts",
            (metrics.global(Metric::BufferingTime).count, 0),
            (RECORDS + producer.stats().user_records_retried, 0),
        ),
    ];
    for (what, metric, counted) in &table {
        println!("{what}: {metric:?} in the metrics, {counted:?} in the service");
    }
    for (what, metric, counted) in table {
        assert_eq!(metric, counted, "{what}");
    }

    let mut shards: BTreeMap<&str, u64> = BTreeMap::new();
    for record in &reading.records {
        *shards.entry(&record.shard_id).or_default() += 1;
    }
    assert_eq!(shards.len(), 3);
    for (shard, records) in shards {
        assert_eq!(metrics.shard(Metric::UserRecordsPut, "events", shard).sum as u64, records, "{shard}");
    }
}

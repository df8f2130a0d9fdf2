//! Tests of a stream's first records: the shard list or the credentials are late, or missing.

use std::time::Duration;

use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_kinesis::config::Credentials;
use kpl_driver::AwsRuntime;
use kpl_emulator::{Emulator, Faults, OperationFault, ServiceError, consumer};

use crate::driver::{Config, ConfigBuilder, Producer, Runtime, block_on, sleep};
use crate::rig::{client, emulator, producer};

/// Credentials that take two seconds, as from a slow metadata service.
#[derive(Debug)]
struct SlowCredentials;

impl ProvideCredentials for SlowCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            sleep(Duration::from_secs(2)).await;
            Ok(Credentials::new("AKID", "secret", None, None, "test"))
        })
    }
}

fn list_shards(latency: Duration, error: Option<ServiceError>, first: Option<u64>) -> Faults {
    let fault = OperationFault { operation: "ListShards", latency, error, first };
    Faults { operations: vec![fault], ..Faults::default() }
}

/// Puts records of 100 bytes, each with one of `keys` keys, and waits until all of them are stored.
async fn put(producer: &Producer, records: usize, keys: usize) {
    for n in 0..records {
        drop(producer.put("events", format!("key-{}", n % keys), vec![b'a'; 100]).await.unwrap());
    }
    producer.flush().await;
    assert_eq!(producer.stats().user_records_succeeded, records as u64, "{:?}", producer.stats());
}

/// Checks that all records are stored, in at most `kinesis_records` with at most `throttled` throttled results.
fn check(emulator: &Emulator, records: usize, kinesis_records: u64, throttled: u64) {
    let (read, counters) = emulator
        .with(|kinesis, _| (consumer::read_stream(kinesis, "events").records.len(), kinesis.counters().clone()));
    assert_eq!(read, records);
    assert!(
        counters.records_stored <= kinesis_records && counters.records_throttled <= throttled,
        "{} Kinesis records, {} throttled results",
        counters.records_stored,
        counters.records_throttled
    );
}

fn put_20_000(faults: Faults, producer: impl FnOnce(&str, ConfigBuilder) -> Producer) {
    block_on(async {
        let (emulator, server) = emulator();
        emulator.set_faults(faults);
        put(&producer(&server.url(), Config::builder()), 20_000, 20_000).await;
        check(&emulator, 20_000, 200, 0);
    });
}

#[test]
fn records_before_a_late_shard_list_are_aggregated() {
    put_20_000(list_shards(Duration::from_millis(400), None, None), producer);
}

#[test]
fn records_before_a_shard_list_that_fails_twice_are_aggregated() {
    let error = ServiceError { code: "InternalFailure", message: "for a test".into() };
    put_20_000(list_shards(Duration::ZERO, Some(error), Some(2)), producer);
}

#[test]
fn records_before_late_credentials_are_aggregated() {
    put_20_000(Faults::default(), |url, config| {
        let client = client(url, Runtime::http_client(None).unwrap());
        let late = client.config().to_builder().credentials_provider(SlowCredentials).build();
        Producer::new(aws_sdk_kinesis::Client::from_conf(late), config.build().unwrap())
    });
}

#[test]
fn without_permission_to_list_shards_records_are_aggregated_by_hash_key() {
    block_on(async {
        let (emulator, server) = emulator();
        emulator.set_faults(list_shards(Duration::ZERO, Some(ServiceError::denied("ListShards")), None));
        put(&producer(&server.url(), Config::builder()), 20_000, 20).await;
        check(&emulator, 20_000, 2_000, 200);
    });
}

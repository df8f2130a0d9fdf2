//! Test cases for every driver with every service, from `put` to what a consumer reads.
//!
//! Each case is generic over the driver's runtime. [`end_to_end_tests`](crate::end_to_end_tests) creates a test of
//! each.

use std::time::Duration;

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use kpl_driver::core::{Config, ConfigBuilder, Full, Ordering, Receipt, UserRecord, hash_key};
use kpl_driver::{AwsRuntime, Outcome, Producer, PutError};
use kpl_emulator::consumer::Reading;

use crate::service::Service;

/// Creates a test of each case, for one driver and one service.
///
/// `$service` is an expression of type `Option<Service>`. If it is `None`, the tests do nothing.
#[macro_export]
macro_rules! end_to_end_tests {
    ($test:meta, $runtime:ty, $service:expr) => {
        $crate::end_to_end_tests! { $test, $runtime, $service;
            records_are_read_back_as_they_were_put
            without_aggregation_records_are_sent_as_they_are
            one_producer_puts_into_three_streams
            a_split_and_a_merge_neither_lose_nor_duplicate_records
            each_key_is_read_in_order_while_shards_are_split_and_merged
            a_record_over_the_limit_fails_alone
            throttled_records_are_retried_until_stored
            throttled_records_fail_at_once_with_fail_if_throttled
            records_that_cannot_be_stored_expire
            a_full_producer_makes_puts_wait
            a_flush_ends_when_earlier_records_are_stored
            a_close_drains
            records_are_stored_after_the_endpoint_was_down
            https_with_a_private_certificate_authority
            a_stream_can_be_named_by_its_arn
        }
    };
    ($test:meta, $runtime:ty, $service:expr; $($case:ident)*) => {$(
        #[$test]
        async fn $case() {
            if let Some(mut service) = $service {
                $crate::end_to_end::$case::<$runtime>(&mut service).await;
            }
        }
    )*};
}

const STREAM: &str = "events";

fn producer_at<R: AwsRuntime>(url: &str, ca_pem: Option<&str>, config: ConfigBuilder) -> Producer<R> {
    let http_client = R::http_client(ca_pem.map(str::as_bytes)).expect("an HTTP client");
    let sdk = aws_sdk_kinesis::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static(crate::client::REGION))
        .credentials_provider(Credentials::new("AKIDTEST", "secret", None, None, "kpl-suite"))
        .endpoint_url(url)
        .http_client(http_client)
        .sleep_impl(R::sleep_impl())
        .build();
    Producer::new(Client::from_conf(sdk), config.build().expect("a config"))
}

fn producer<R: AwsRuntime>(service: &Service, config: ConfigBuilder) -> Producer<R> {
    producer_at(&service.proxy.url(), None, config)
}

/// Returns a config with a buffering time of 3 s: records wait for the shard map of a slow service, and are aggregated.
fn long_buffering() -> ConfigBuilder {
    Config::builder().record_max_buffered_time(Duration::from_secs(3))
}

/// Creates `count` records, two for most keys. Some have explicit hash keys, some are empty, some are not ASCII.
fn records(stream: &str, count: usize) -> Vec<UserRecord> {
    let record = |n: usize| {
        let data = match n % 10 {
            0 => String::new(),
            1 => format!("{n} 貓 🐈"),
            2 => format!("{n} {}", "long ".repeat(100)),
            _ => format!("record {n}"),
        };
        let record = UserRecord::new(stream, format!("key {}", n % (count / 2 + 1)), data);
        if n.is_multiple_of(3) { record.explicit_hash_key(hash_key(&n.to_string()).to_string()) } else { record }
    };
    (0..count).map(record).collect()
}

async fn put_all<R: AwsRuntime>(producer: &Producer<R>, records: &[UserRecord]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for record in records {
        outcomes.push(producer.put_record(record.clone()).await.expect("the record is accepted"));
    }
    outcomes
}

async fn receipts(outcomes: Vec<Outcome>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for outcome in outcomes {
        receipts.push(outcome.await.unwrap_or_else(|failure| panic!("{failure:?}")));
    }
    receipts
}

/// Asserts that each record is read exactly once, at the position in its receipt, and that nothing else is read.
fn assert_read(reading: &Reading, records: &[UserRecord], receipts: &[Receipt]) {
    let mut expected: Vec<_> = records
        .iter()
        .zip(receipts)
        .map(|(record, receipt)| {
            let place = (receipt.shard_id(), receipt.sequence_number(), receipt.sub_sequence_number().unwrap_or(0));
            (place, record.partition_key.as_str(), &record.data)
        })
        .collect();
    let mut read: Vec<_> = reading
        .records
        .iter()
        .map(|record| {
            let place = (record.shard_id.as_str(), record.sequence_number.as_str(), record.sub_sequence_number);
            (place, record.partition_key.as_str(), &record.data)
        })
        .collect();
    expected.sort_unstable();
    read.sort_unstable();
    assert_eq!(read, expected);
}

/// Puts records, closes the producer, and reads them back.
pub async fn records_are_read_back_as_they_were_put<R: AwsRuntime>(service: &mut Service) {
    service.create_stream(STREAM, 3).await;
    let producer = producer::<R>(service, long_buffering());
    let records = records(STREAM, 500);
    let receipts = receipts(put_all(&producer, &records).await).await;
    producer.close().await;
    let reading = service.read_back(STREAM).await;
    assert_read(&reading, &records, &receipts);
    assert_eq!(reading.dropped, 0);
    assert!(producer.stats().kinesis_records < 100, "aggregated: {:?}", producer.stats());
    assert!(receipts.iter().all(|receipt| receipt.attempts().len() == 1));
}

/// With aggregation disabled, each user record is one Kinesis record.
pub async fn without_aggregation_records_are_sent_as_they_are<R: AwsRuntime>(service: &mut Service) {
    service.create_stream(STREAM, 3).await;
    let producer = producer::<R>(service, Config::builder().aggregation_enabled(false));
    let records = records(STREAM, 100);
    let receipts = receipts(put_all(&producer, &records).await).await;
    let reading = service.read_back(STREAM).await;
    assert_read(&reading, &records, &receipts);
    assert!(reading.records.iter().all(|record| !record.aggregated));
    assert_eq!(producer.stats().kinesis_records, 100);
}

/// One producer puts into three streams in turn.
pub async fn one_producer_puts_into_three_streams<R: AwsRuntime>(service: &mut Service) {
    let streams = ["one", "two", "three"];
    for (n, stream) in streams.iter().enumerate() {
        service.create_stream(stream, n as i32 + 1).await;
    }
    let producer = producer::<R>(service, Config::builder());
    let sets = streams.map(|stream| records(stream, 100));
    let mut outcomes = [Vec::new(), Vec::new(), Vec::new()];
    for n in 0..100 {
        for (set, outcomes) in sets.iter().zip(&mut outcomes) {
            outcomes.push(producer.put_record(set[n].clone()).await.expect("the record is accepted"));
        }
    }
    producer.flush().await;
    for ((stream, set), outcomes) in streams.iter().zip(&sets).zip(outcomes) {
        let receipts = receipts(outcomes).await;
        assert_read(&service.read_back(stream).await, set, &receipts);
    }
}

/// Shards are split and merged while records are put.
pub async fn a_split_and_a_merge_neither_lose_nor_duplicate_records<R: AwsRuntime>(service: &mut Service) {
    service.create_stream(STREAM, 2).await;
    let config = Config::builder().record_max_buffered_time(Duration::from_millis(20));
    let producer = producer::<R>(service, config);
    let records = records(STREAM, 600);
    let mut outcomes = put_all(&producer, &records[..200]).await;
    producer.flush().await;

    service.split_first_shard(STREAM).await;
    outcomes.extend(put_all(&producer, &records[200..400]).await);
    producer.flush().await;
    service.until_active(STREAM).await;
    service.merge_second_shard(STREAM).await;
    outcomes.extend(put_all(&producer, &records[400..]).await);

    let receipts = receipts(outcomes).await;
    assert_read(&service.read_back(STREAM).await, &records, &receipts);
    assert!(
        receipts.iter().any(|receipt| receipt.attempts().len() > 1),
        "some were predicted for a shard that had been closed"
    );
    assert!(receipts.iter().flat_map(|receipt| receipt.attempts().iter()).all(|attempt| !attempt.is_ambiguous()));
}

/// Shards are split and merged, and requests are throttled, while records of a few keys are put. Some are too large to be
/// aggregated.
pub async fn each_key_is_read_in_order_while_shards_are_split_and_merged<R: AwsRuntime>(service: &mut Service) {
    const KEYS: usize = 10;
    service.create_stream(STREAM, 2).await;
    let config = Config::builder().ordering(Ordering::PerKey).record_max_buffered_time(Duration::from_millis(20));
    let producer = producer::<R>(service, config);
    let record = |n: usize| {
        let padding = if n.is_multiple_of(97) { 60_000 } else { n % 500 };
        UserRecord::new(STREAM, format!("key {}", n % KEYS), format!("{n} {}", "x".repeat(padding)))
    };
    let records: Vec<UserRecord> = (0..2_000).map(record).collect();
    let put = async {
        let mut outcomes = Vec::new();
        for part in records.chunks(100) {
            outcomes.extend(put_all(&producer, part).await);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        receipts(outcomes).await
    };
    let change = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        service.split_first_shard(STREAM).await;
        service.until_active(STREAM).await;
        service.proxy.throttle(true);
        tokio::time::sleep(Duration::from_millis(100)).await;
        service.proxy.throttle(false);
        service.merge_second_shard(STREAM).await;
        service.until_active(STREAM).await;
        service.split_first_shard(STREAM).await;
    };
    let (receipts, ()) = tokio::join!(put, change);
    assert!(receipts.iter().any(|receipt| receipt.attempts().len() > 1), "some records were sent again");

    let mut reading = service.read_back(STREAM).await;
    // Parents before children: the IDs of shards are in the order of their creation.
    reading.records.sort_by(|a, b| a.shard_id.cmp(&b.shard_id));
    for key in 0..KEYS {
        let key = format!("key {key}");
        let read = reading.records.iter().filter(|record| record.partition_key == key);
        let number = |data: &[u8]| String::from_utf8_lossy(data).split(' ').next().and_then(|n| n.parse().ok());
        let read: Vec<usize> = read.map(|record| number(&record.data).expect("a number")).collect();
        let expected: Vec<usize> = (0..records.len()).filter(|n| format!("key {}", n % KEYS) == key).collect();
        assert_eq!(read, expected, "{key}");
    }
}

/// A record that is too large is refused by the service, or by a producer that has the stream's description.
pub async fn a_record_over_the_limit_fails_alone<R: AwsRuntime>(service: &mut Service) {
    service.create_stream(STREAM, 1).await;
    let too_large = UserRecord::new(STREAM, "k", vec![b'x'; (1 << 20) + 1]);
    // The config's limit of 2 MiB is above the stream's.
    let config = Config::builder().max_record_size(Some(2 << 20)).rate_limit_bytes_per_shard(100 << 20);
    let producer = producer::<R>(service, config);
    let good = records(STREAM, 20);
    let mut outcomes = put_all(&producer, &good[..10]).await;
    let refused = producer.put_record(too_large.clone()).await.expect("the record is accepted");
    outcomes.extend(put_all(&producer, &good[10..]).await);
    let failure = refused.await.expect_err("the service refuses it");
    assert_eq!(&*failure.error.code, "InvalidArgumentException");
    assert_eq!(failure.record, too_large);
    let receipts = receipts(outcomes).await;
    assert_read(&service.read_back(STREAM).await, &good, &receipts);

    // A producer that has the stream's description refuses the record itself.
    let described = self::producer::<R>(service, Config::builder());
    described.put(STREAM, "k", "first").await.expect("accepted").await.expect("stored");
    let error = described.put_record(too_large.clone()).await.expect_err("refused");
    assert!(matches!(&error, PutError::Invalid { .. }), "{error}");
    assert_eq!(error.into_record(), too_large);
}

/// The service throttles for some time.
pub async fn throttled_records_are_retried_until_stored<R: AwsRuntime>(service: &mut Service) {
    service.create_stream(STREAM, 2).await;
    let producer = producer::<R>(service, Config::builder());
    service.proxy.throttle(true);
    let records = records(STREAM, 50);
    let outcomes = put_all(&producer, &records).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(producer.outstanding_records(), 50);
    assert!(producer.oldest_record_age().is_some_and(|age| age >= Duration::from_millis(500)));
    let requests = service.proxy.put_records();
    assert!((1..=40).contains(&requests), "{requests} requests in 700 ms: retries back off");
    service.proxy.throttle(false);
    let receipts = receipts(outcomes).await;
    assert_read(&service.read_back(STREAM).await, &records, &receipts);
    let throttled = |receipt: &Receipt| {
        receipt
            .attempts()
            .iter()
            .filter_map(|attempt| attempt.error.as_ref())
            .all(|error| error.code.contains("Throughput"))
    };
    assert!(receipts.iter().all(|receipt| receipt.attempts().len() > 1 && throttled(receipt)));
}

/// With `fail_if_throttled`, throttled records are not retried.
pub async fn throttled_records_fail_at_once_with_fail_if_throttled<R: AwsRuntime>(service: &mut Service) {
    service.create_stream(STREAM, 1).await;
    let producer = producer::<R>(service, Config::builder().fail_if_throttled(true));
    service.proxy.throttle(true);
    for record in records(STREAM, 5) {
        let failure = producer.put_record(record.clone()).await.expect("accepted").await.expect_err("throttled");
        assert_eq!(&*failure.error.code, "ProvisionedThroughputExceededException");
        assert_eq!((failure.attempts.len(), failure.is_ambiguous()), (1, false));
        assert_eq!(failure.record, record);
    }
    assert!(service.read_back(STREAM).await.records.is_empty());
}

/// Records that are always throttled fail at their time-to-live.
pub async fn records_that_cannot_be_stored_expire<R: AwsRuntime>(service: &mut Service) {
    service.create_stream(STREAM, 1).await;
    let producer = producer::<R>(service, Config::builder().record_ttl(Duration::from_millis(400)));
    service.proxy.throttle(true);
    let records = records(STREAM, 5);
    for (record, outcome) in records.iter().zip(put_all(&producer, &records).await) {
        let failure = outcome.await.expect_err("expired");
        assert_eq!(&*failure.error.code, "Expired");
        assert_eq!(failure.record, *record);
        assert!(!failure.attempts.is_empty());
    }
    assert_eq!(producer.outstanding_bytes(), 0);
}

/// At `max_outstanding_records`, `try_put_record` fails and `put_record` waits.
pub async fn a_full_producer_makes_puts_wait<R: AwsRuntime>(service: &mut Service) {
    service.create_stream(STREAM, 1).await;
    let producer = producer::<R>(service, Config::builder().max_outstanding_records(10));
    service.proxy.throttle(true);
    let records = records(STREAM, 30);
    let mut outcomes = put_all(&producer, &records[..10]).await;
    let error = producer.try_put_record(records[10].clone()).expect_err("full");
    assert!(matches!(error, PutError::Full { full: Full::Producer { records: 10, .. }, .. }), "{error}");
    assert_eq!(error.into_record(), records[10]);
    service.proxy.throttle(false);
    outcomes.extend(put_all(&producer, &records[10..]).await);
    let receipts = receipts(outcomes).await;
    assert_read(&service.read_back(STREAM).await, &records, &receipts);
}

/// A flush does not wait for the buffering time.
pub async fn a_flush_ends_when_earlier_records_are_stored<R: AwsRuntime>(service: &mut Service) {
    service.create_stream(STREAM, 2).await;
    let producer = producer::<R>(service, Config::builder().record_max_buffered_time(Duration::from_secs(20)));
    let records = records(STREAM, 20);
    let outcomes = put_all(&producer, &records).await;
    producer.flush().await;
    assert_eq!(producer.outstanding_records(), 0);
    assert_eq!(service.read_back(STREAM).await.records.len(), 20);
    receipts(outcomes).await;
}

/// A close sends all buffered records and refuses later ones.
pub async fn a_close_drains<R: AwsRuntime>(service: &mut Service) {
    service.create_stream(STREAM, 2).await;
    let producer = producer::<R>(service, Config::builder().record_max_buffered_time(Duration::from_secs(20)));
    let records = records(STREAM, 20);
    let outcomes = put_all(&producer, &records).await;
    let other = producer.clone();
    other.close().await;
    assert!(matches!(producer.put(STREAM, "k", "late").await, Err(PutError::Closed { .. })));
    let receipts = receipts(outcomes).await;
    assert_read(&service.read_back(STREAM).await, &records, &receipts);
}

/// The endpoint is down for some time.
pub async fn records_are_stored_after_the_endpoint_was_down<R: AwsRuntime>(service: &mut Service) {
    service.create_stream(STREAM, 2).await;
    let producer = producer::<R>(service, Config::builder());
    let records = records(STREAM, 60);
    let mut outcomes = put_all(&producer, &records[..20]).await;
    producer.flush().await;
    service.proxy.down().await;
    outcomes.extend(put_all(&producer, &records[20..40]).await);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(producer.outstanding_records(), 20);
    service.proxy.up().await;
    outcomes.extend(put_all(&producer, &records[40..]).await);
    let receipts = receipts(outcomes).await;
    assert_read(&service.read_back(STREAM).await, &records, &receipts);
    let refused: Vec<_> = receipts[20..40].iter().flat_map(|receipt| receipt.attempts().iter()).collect();
    assert!(refused.iter().any(|attempt| attempt.error.is_some()));
    assert!(refused.iter().all(|attempt| !attempt.is_ambiguous()), "a refused connection sends nothing");
}

/// A CA bundle makes a server trusted. Without it, the connection fails.
pub async fn https_with_a_private_certificate_authority<R: AwsRuntime>(service: &mut Service) {
    service.create_stream(STREAM, 1).await;
    let (url, ca_pem) = service.https();
    let config = || Config::builder().record_ttl(Duration::from_secs(3));
    let with_ca = producer_at::<R>(url, Some(ca_pem), config());
    with_ca.put(STREAM, "k", "trusted").await.expect("accepted").await.expect("stored");
    let by_default = producer_at::<R>(url, None, config());
    let failure = by_default
        .put(STREAM, "k", "untrusted")
        .await
        .expect("accepted")
        .await
        .expect_err("the certificate is not trusted");
    assert!(!failure.is_ambiguous(), "nothing was sent: {failure}");
    assert_eq!(service.read_back(STREAM).await.records.len(), 1);
    with_ca.close().await;
    by_default.close().await;
}

/// Records are put to a stream's ARN.
pub async fn a_stream_can_be_named_by_its_arn<R: AwsRuntime>(service: &mut Service) {
    service.create_stream(STREAM, 3).await;
    let summary = service.client().describe_stream_summary().stream_name(STREAM).send().await.expect("a summary");
    let arn = summary.stream_description_summary().expect("a summary").stream_arn();
    let producer = producer::<R>(service, long_buffering());
    let records = records(arn, 50);
    let receipts = receipts(put_all(&producer, &records).await).await;
    assert_read(&service.read_back(STREAM).await, &records, &receipts);
    assert!(producer.stats().kinesis_records < 20, "the shard map was requested by ARN, too: {:?}", producer.stats());
}

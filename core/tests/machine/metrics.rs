//! Tests of the metrics, value by value.

use kpl_core::metrics::{Metric, MetricsGranularity, MetricsLevel, MetricsReport, MetricsWindow, StatisticSet};
use kpl_core::{Config, ConfigBuilder, Delivery, RecordReply, Reply, RequestError, UserRecord};

use crate::rig::*;

const THROTTLED: &str = "ProvisionedThroughputExceededException";

fn detailed() -> ConfigBuilder {
    Config::builder().metrics_level(MetricsLevel::Detailed)
}

/// Creates a producer for a stream of two shards. All that it has measured so far is reported.
fn rig(config: ConfigBuilder) -> Rig {
    let mut rig = Rig::with_shards(config, 2);
    rig.run_for(120 * SEC);
    rig.reports.clear();
    rig
}

impl Rig {
    /// Returns the metrics since the last report.
    fn report(&mut self) -> MetricsReport {
        assert!(self.reports.is_empty());
        self.run_for(60 * SEC);
        assert_eq!(self.reports.len(), 1);
        self.reports.remove(0)
    }

    fn total(&mut self) -> MetricsReport {
        self.producer.metrics(self.now, MetricsWindow::Total).roll_up()
    }
}

fn set(values: &[f64]) -> StatisticSet {
    let mut set = StatisticSet::EMPTY;
    values.iter().for_each(|value| set.observe(*value));
    set
}

/// Returns a metric's values for all error codes together: global, of the stream, of shard 0 and of shard 1.
fn values(report: &MetricsReport, metric: Metric) -> [StatisticSet; 4] {
    let shard = |n| report.shard(metric, "s", &shard_id(n));
    [report.global(metric), report.stream(metric, "s"), shard(0), shard(1)]
}

#[test]
fn a_stored_request_counts_for_its_shards_its_stream_and_globally() {
    let mut rig = rig(detailed());
    for data in ["a", "bb", "ccc"] {
        rig.put(1, data);
    }
    rig.run_for(20 * MS);
    rig.put(start_of(1, 2), "dddd");
    rig.run_for(80 * MS); // they are sent 100 ms after the first put
    assert_eq!(rig.shape(), [[3, 1]]);
    let size = rig.batches[0].records()[0].data().len() as f64;
    rig.run_for(7 * MS);
    rig.answer_all_stored(&equal_shards(2));
    let report = rig.report();

    let both = |first: &[f64], second: &[f64]| {
        let all = set(&[first, second].concat());
        [all, all, set(first), set(second)]
    };
    let stream = |value: &[f64]| [set(value), set(value), StatisticSet::EMPTY, StatisticSet::EMPTY];
    assert_eq!(values(&report, Metric::UserRecordsReceived), stream(&[1.0; 4]));
    assert_eq!(values(&report, Metric::UserRecordsPut), both(&[1.0; 3], &[1.0]));
    assert_eq!(values(&report, Metric::UserRecordsDataPut), both(&[1.0, 2.0, 3.0], &[4.0]));
    assert_eq!(values(&report, Metric::KinesisRecordsPut), both(&[1.0], &[1.0]));
    assert_eq!(values(&report, Metric::KinesisRecordsDataPut), both(&[size], &[4.0]));
    assert_eq!(values(&report, Metric::AllErrors), both(&[0.0], &[0.0]));
    assert_eq!(values(&report, Metric::RetriesPerRecord), both(&[0.0; 3], &[0.0]));
    assert_eq!(values(&report, Metric::BufferingTime), both(&[100.0; 3], &[80.0]));
    assert_eq!(values(&report, Metric::UserRecordsPerKinesisRecord), both(&[3.0], &[1.0]));
    assert_eq!(values(&report, Metric::RequestTime), stream(&[7.0]));
    assert_eq!(values(&report, Metric::KinesisRecordsPerPutRecordsRequest), stream(&[2.0]));
    assert_eq!(values(&report, Metric::UserRecordsPerPutRecordsRequest), stream(&[4.0]));
    // One sample a second: the first put is in it, later ones came in the same second.
    assert_eq!(values(&report, Metric::UserRecordsPending), stream(&[1.0]));
    for absent in [Metric::ErrorsByCode, Metric::UserRecordExpired] {
        assert_eq!(values(&report, absent), [StatisticSet::EMPTY; 4]);
    }
    assert!(report.data.iter().all(|datum| !datum.statistics.is_empty()));

    let [all, stream] = &report.latencies[..] else { panic!("one for all streams, one for the stream") };
    assert_eq!((all.stream.as_deref(), stream.stream.as_deref()), (None, Some("s")));
    assert_eq!((all.put_to_ack.clone(), all.buffering.clone()), (stream.put_to_ack.clone(), stream.buffering.clone()));
    assert_eq!((all.put_to_ack.count(), all.put_to_ack.max()), (4, Some(107 * MS)));
    assert_eq!((all.buffering.count(), all.buffering.quantile(1.0)), (4, Some(100 * MS)));
}

#[test]
fn a_throttled_record_is_an_error_of_its_shard_and_a_retry_of_its_user_records() {
    let mut rig = rig(detailed());
    rig.put(1, "a");
    rig.put(start_of(1, 2), "b");
    rig.run_for(100 * MS);
    rig.answer_records([RecordReply::failed(THROTTLED, "slow down"), RecordReply::stored(shard_id(1), "1")]);
    rig.run_until_sent();
    rig.answer_all_stored(&equal_shards(2));
    let report = rig.report();
    assert_eq!(values(&report, Metric::KinesisRecordsPut)[1..], [set(&[0.0, 1.0, 1.0]), set(&[0.0, 1.0]), set(&[1.0])]);
    assert_eq!(values(&report, Metric::AllErrors)[1..], [set(&[1.0, 0.0, 0.0]), set(&[1.0, 0.0]), set(&[0.0])]);
    assert_eq!(values(&report, Metric::UserRecordsPut)[1..], [set(&[1.0; 2]), set(&[1.0]), set(&[1.0])]);
    assert_eq!(values(&report, Metric::RetriesPerRecord)[2..], [set(&[1.0]), set(&[0.0])]);
    assert_eq!(values(&report, Metric::BufferingTime)[2].count, 2, "one for each attempt");
    // Each code alone, and all codes together.
    let one = set(&[1.0]);
    assert_eq!(values(&report, Metric::ErrorsByCode), [one, one, one, StatisticSet::EMPTY]);
    assert_eq!(report.errors(THROTTLED), one);
    let by_code: Vec<_> = report.data.iter().filter(|datum| datum.error_code.is_some()).collect();
    assert_eq!(by_code.len(), 3);
    assert!(by_code.iter().all(|datum| datum.error_code.as_deref() == Some(THROTTLED) && datum.statistics == one));
}

#[test]
fn a_failed_request_is_one_error_of_its_stream() {
    let mut rig = rig(detailed());
    rig.put(1, "a");
    rig.put(start_of(1, 2), "b");
    rig.run_for(100 * MS);
    rig.run_for(5 * MS);
    rig.answer(Reply::Failed(RequestError::new(Delivery::Unanswered, "Request Timeout", "too late")));
    rig.run_until_sent();
    rig.answer_all_stored(&equal_shards(2));
    while !rig.batches.is_empty() || rig.results.len() < 2 {
        rig.run_for(10 * MS);
        rig.answer_all_stored(&equal_shards(2));
    }
    let report = rig.report();
    let one = set(&[1.0]);
    assert_eq!(report.errors("Request Timeout"), one);
    assert_eq!(values(&report, Metric::ErrorsByCode), [one, one, StatisticSet::EMPTY, StatisticSet::EMPTY]);
    assert_eq!(values(&report, Metric::AllErrors)[1..], [set(&[1.0, 0.0, 0.0]), set(&[0.0]), set(&[0.0])]);
    // As in the KPL, a failed request does not count its Kinesis records.
    assert_eq!(report.global(Metric::KinesisRecordsPut), set(&[1.0; 2]));
    assert_eq!(report.global(Metric::RequestTime).max, 5.0);
}

#[test]
fn an_expired_record_counts_as_not_put_and_as_expired() {
    let mut rig = rig(detailed().record_ttl(5 * SEC));
    rig.put(start_of(1, 2), "a");
    rig.run_for(100 * MS);
    rig.answer_records([RecordReply::failed("InternalFailure", "oh")]);
    while rig.results.is_empty() {
        rig.run_for(10 * MS);
        if !rig.batches.is_empty() {
            rig.answer_records([RecordReply::failed("InternalFailure", "oh")]);
        }
    }
    let ticket = *rig.results.keys().next().unwrap();
    let attempts = rig.failure(ticket).attempts.len() as f64;
    let report = rig.report();
    let shard = |metric| report.shard(metric, "s", &shard_id(1));
    assert_eq!(shard(Metric::UserRecordExpired), set(&[1.0]));
    assert_eq!(shard(Metric::UserRecordsPut), set(&[0.0]));
    assert_eq!(shard(Metric::RetriesPerRecord), set(&[attempts - 1.0]));
    assert_eq!(shard(Metric::BufferingTime).count, attempts as u64);
    assert_eq!(shard(Metric::ErrorsByCode).sum, attempts);
    assert_eq!(shard(Metric::UserRecordsDataPut), StatisticSet::EMPTY);
}

#[test]
fn records_that_expire_while_no_reply_arrives_are_reported_in_time() {
    let config = detailed().record_ttl(5 * SEC).metrics_upload_interval(SEC);
    let mut rig = rig(config.max_in_flight_requests(1).collection_max_count(1).aggregation_enabled(false));
    for _ in 0..2 {
        rig.put(start_of(1, 2), "a");
    }
    rig.run_for(4 * SEC);
    assert_eq!((rig.batches.len(), rig.reports.len()), (1, 1), "one is in flight, the other waits");
    rig.run_for(4 * SEC);
    assert_eq!((rig.batches.len(), rig.reports.len()), (1, 2));
    assert_eq!(rig.reports[1].global(Metric::UserRecordExpired), set(&[1.0]));
}

#[test]
fn a_user_record_counts_for_the_shard_that_stored_it() {
    let mut rig = rig(detailed());
    rig.put(1, "a");
    rig.run_for(100 * MS);
    rig.answer_records([RecordReply::stored(shard_id(7), "1")]);
    let report = rig.total();
    assert_eq!(report.shard(Metric::UserRecordsPut, "s", &shard_id(7)), set(&[1.0]));
    // The Kinesis record counts for its predicted shard, as in the KPL.
    assert_eq!(report.shard(Metric::KinesisRecordsPut, "s", &shard_id(7)), StatisticSet::EMPTY);
    // The other one was stored when the rig was created.
    assert_eq!(report.shard(Metric::KinesisRecordsPut, "s", &shard_id(0)), set(&[1.0; 2]));
}

#[test]
fn level_and_granularity_select_the_reported_metrics() {
    use MetricsGranularity::{Global, Shard, Stream};
    use MetricsLevel::{Detailed, None, Summary};
    for (level, granularity) in
        [(None, Shard), (Summary, Shard), (Detailed, Stream), (Summary, Global), (Detailed, Shard)]
    {
        let mut rig = rig(Config::builder().metrics_level(level).metrics_granularity(granularity));
        rig.put(1, "a");
        rig.run_for(100 * MS);
        rig.answer_records([RecordReply::failed(THROTTLED, "slow down")]);
        rig.run_until_sent();
        rig.answer_all_stored(&equal_shards(2));
        if level == None {
            rig.run_for(120 * SEC);
            assert!(rig.reports.is_empty() && rig.total().is_empty());
            continue;
        }
        let report = rig.report();
        for metric in Metric::ALL.into_iter().filter(|metric| *metric != Metric::UserRecordExpired) {
            let is_reported = |wanted: MetricsGranularity| {
                let granularity_of = |stream: Option<&str>, shard: Option<&str>| match (stream, shard) {
                    (Option::None, _) => Global,
                    (Some(_), Option::None) => Stream,
                    _ => Shard,
                };
                report.data.iter().any(|datum| {
                    datum.metric == metric && granularity_of(datum.stream.as_deref(), datum.shard.as_deref()) == wanted
                })
            };
            for wanted in [Global, Stream, Shard] {
                let expected = metric.level() <= level && wanted <= granularity && wanted <= metric.finest();
                assert_eq!(is_reported(wanted), expected, "{metric} {level:?} {granularity:?} {wanted:?}");
            }
        }
    }
}

#[test]
fn reports_are_sent_while_there_is_data_and_add_up_to_the_total() {
    let mut rig = rig(detailed().metrics_upload_interval(10 * SEC));
    let start = rig.now;
    assert!(rig.until_tick() > Some(100 * SEC), "an idle producer sends no report");
    for n in 0..100 {
        rig.put(n, "data");
        rig.run_for(300 * MS);
        rig.answer_all_stored(&equal_shards(2));
    }
    let reports = rig.reports.len();
    assert_eq!(reports, 3);
    assert_eq!(rig.reports[0].end, Some(start + 10 * SEC));
    assert_eq!((rig.reports[1].start, rig.reports[1].end), (Some(start + 10 * SEC), Some(start + 20 * SEC)));
    rig.put(1, "last");
    rig.producer.close(rig.now, rig.now + 10 * SEC);
    rig.drain();
    rig.run_for(MS);
    assert_eq!(rig.reports.len(), reports);
    rig.answer_all_stored(&equal_shards(2));
    assert!(rig.producer.is_drained());
    assert_eq!(rig.reports.len(), reports + 1, "the last report, once everything is drained");

    let total = rig.total();
    for datum in total.data {
        let mut sum = StatisticSet::EMPTY;
        for report in &rig.reports {
            let same = report.data.iter().find(|other| {
                (other.metric, &other.stream, &other.shard) == (datum.metric, &datum.stream, &datum.shard)
            });
            same.into_iter().for_each(|same| sum.merge(&same.statistics));
        }
        // What was measured before `rig` cleared the reports is in the total only.
        assert!(datum.statistics.count - sum.count <= 2, "{datum:?} {sum:?}");
        assert!(sum.count > 0 || datum.metric == Metric::UserRecordsPending);
    }
    assert_eq!(rig.total().global(Metric::UserRecordsPut).count, 102);
}

#[test]
fn a_window_covers_the_given_number_of_seconds() {
    let mut rig = rig(detailed());
    for n in 0..10 {
        rig.put(1, vec![b'x'; n + 1]);
        rig.run_for(SEC);
        rig.answer_all_stored(&equal_shards(2));
    }
    let count =
        |rig: &mut Rig, window| rig.producer.metrics(rig.now, window).roll_up().global(Metric::UserRecordsPut).count;
    assert_eq!(count(&mut rig, MetricsWindow::Total), 11);
    assert_eq!(count(&mut rig, MetricsWindow::Seconds(1)), 1);
    assert_eq!(count(&mut rig, MetricsWindow::Seconds(4)), 4);
    assert_eq!(count(&mut rig, MetricsWindow::Seconds(60)), 10);
    assert_eq!(count(&mut rig, MetricsWindow::Seconds(u64::MAX)), 10, "60 seconds are kept");
    rig.run_for(61 * SEC);
    assert_eq!(count(&mut rig, MetricsWindow::Seconds(60)), 0);
    assert_eq!(count(&mut rig, MetricsWindow::Total), 11);
    let report = rig.producer.metrics(rig.now, MetricsWindow::Seconds(5)).roll_up();
    assert_eq!(report.start.map(|start| start + 5 * SEC), report.end);
    assert!(report.latencies.is_empty());
}

#[test]
fn streams_are_reported_separately_and_rolled_up() {
    let mut rig = Rig::new(detailed());
    for stream in ["one", "two"] {
        rig.put_record(UserRecord::new(stream, "k", "data"));
    }
    rig.answer_refreshes(&equal_shards(1));
    rig.run_for(100 * MS);
    rig.answer_all_stored(&equal_shards(1));
    let total = rig.total();
    for stream in ["one", "two"] {
        assert_eq!(total.stream(Metric::UserRecordsPut, stream), set(&[1.0]));
        assert_eq!(total.shard(Metric::UserRecordsPut, stream, &shard_id(0)), set(&[1.0]));
    }
    assert_eq!(total.global(Metric::UserRecordsPut), set(&[1.0; 2]));
    assert_eq!(total.latencies.len(), 3);
}

#[test]
fn shards_gone_for_long_are_forgotten_and_their_counts_move_to_their_stream() {
    let mut rig = rig(detailed());
    rig.put(1, "a");
    rig.run_for(100 * MS);
    rig.answer_records([RecordReply::failed(THROTTLED, "slow down")]);
    rig.run_until_sent();
    rig.answer_all_stored(&equal_shards(2));
    let shards = |rig: &mut Rig| {
        let report = rig.total();
        report.data.iter().filter(|datum| datum.metric == Metric::UserRecordsPut && datum.shard.is_some()).count()
    };
    let before = shards(&mut rig);
    // Both shards are merged. By the later lists, they have been gone for more than a minute.
    for wait in [1, 62, 62, 62] {
        rig.run_for(wait * SEC);
        rig.put(1, "a");
        rig.run_for(100 * MS);
        rig.answer_records([RecordReply::stored(shard_id(2), "1")]);
        rig.answer_refreshes(&[shard(2, 0, u128::MAX)]);
        // Another shard in a receipt triggers a refresh.
        rig.put(1, "a");
        rig.run_for(100 * MS);
        rig.answer_records([RecordReply::stored(shard_id(3), "1")]);
        rig.run_for(2 * SEC);
        rig.answer_refreshes(&[shard(2, 0, u128::MAX)]);
    }
    rig.run_for(200 * SEC);
    rig.put(1, "a");
    rig.run_for(100 * MS);
    rig.answer_all_stored(&[shard(2, 0, u128::MAX)]);
    rig.run_for(70 * SEC);
    assert_eq!((before, shards(&mut rig)), (1, 1), "shard 0 before, shard 2 after");
    let total = rig.total();
    assert_eq!(total.global(Metric::UserRecordsPut).count, 1 + 1 + 8 + 1);
    assert_eq!((total.errors(THROTTLED).count, total.stream(Metric::ErrorsByCode, "s").count), (1, 1));
}

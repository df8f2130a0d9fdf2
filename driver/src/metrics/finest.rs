//! The data points of a report at the finest granularity, for backends that add over dimensions. Each observation is in
//! exactly one data point.

use std::collections::BTreeMap;
use std::sync::Arc;

use kpl_core::metrics::{Datum, Latency, Metric, MetricsReport, StatisticSet};

/// A data point at the finest granularity. Its observations are in no other such data point.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FinestDatum<'a> {
    /// The metric.
    pub metric: Metric,
    /// The error code, for [`Metric::ErrorsByCode`].
    pub error_code: Option<&'a Arc<str>>,
    /// The stream, by name or ARN as in the put; `None` if the observations have no stream in the report.
    pub stream: Option<&'a Arc<str>>,
    /// The shard; `None` if the observations have no shard in the report.
    pub shard: Option<&'a Arc<str>>,
    /// The statistics. A remainder has the minimum and maximum of the whole, since its own are unknown.
    pub statistics: StatisticSet,
}

/// Returns the data points of a report at the finest granularity. Their counts and sums add up to those of all streams.
///
/// These are the data points of the shards, and for each stream the remainder that is in none of its shards: failed
/// requests, and records that failed before their shard was known. Errors are included per code only, since each has a
/// code.
pub fn finest_data(report: &MetricsReport) -> Vec<FinestDatum<'_>> {
    let mut finest_data = Vec::with_capacity(report.data.len());
    for of_metric in report.data.chunk_by(|a, b| (a.metric, &a.error_code) == (b.metric, &b.error_code)) {
        if of_metric.iter().any(|datum| datum.metric == Metric::ErrorsByCode && datum.error_code.is_none()) {
            continue;
        }
        let (global, streams) = of_metric.split_at(of_metric.partition_point(|datum| datum.stream.is_none()));
        let mut sums = Vec::new();
        for of_stream in streams.chunk_by(|a, b| a.stream == b.stream) {
            let (stream, shards) = of_stream.split_at(of_stream.partition_point(|datum| datum.shard.is_none()));
            finest_data.extend(shards.iter().map(finest));
            finest_data.extend(stream.iter().filter_map(|stream| remainder(stream, shards)));
            sums.extend_from_slice(stream);
        }
        finest_data.extend(global.iter().filter_map(|global| remainder(global, &sums)));
    }
    finest_data
}

fn finest(datum: &Datum) -> FinestDatum<'_> {
    let Datum { metric, error_code, stream, shard, statistics, .. } = datum;
    let (error_code, stream, shard) = (error_code.as_ref(), stream.as_ref(), shard.as_ref());
    FinestDatum { metric: *metric, error_code, stream, shard, statistics: *statistics }
}

/// Returns the observations of `whole` that are in none of its parts; `None` if there are none.
fn remainder<'a>(whole: &'a Datum, parts: &[Datum]) -> Option<FinestDatum<'a>> {
    let mut finest = finest(whole);
    for part in parts {
        finest.statistics.count = finest.statistics.count.saturating_sub(part.statistics.count);
        finest.statistics.sum -= part.statistics.sum;
    }
    // No metric is negative, but a rounding error may be.
    finest.statistics.sum = finest.statistics.sum.max(0.0);
    (!finest.statistics.is_empty()).then_some(finest)
}

/// Returns the latencies at the finest granularity: per stream, if the report has streams.
pub fn finest_latencies(report: &MetricsReport) -> impl Iterator<Item = &Latency> + Clone {
    let has_streams = report.latencies.iter().any(|latency| latency.stream.is_some());
    report.latencies.iter().filter(move |latency| latency.stream.is_some() == has_streams)
}

/// Returns the change in the number of outstanding user records since the previous report, per stream. It needs
/// detailed metrics.
#[cfg_attr(
    not(any(feature = "dogstatsd", feature = "metrics-facade", feature = "opentelemetry")),
    allow(dead_code, reason = "only sinks with a gauge of pending records use it")
)]
pub(super) fn pending_changes<'a>(finest_data: &[FinestDatum<'a>]) -> BTreeMap<Option<&'a Arc<str>>, i64> {
    let mut changes = BTreeMap::new();
    for finest in finest_data {
        let count = i64::try_from(finest.statistics.count).unwrap_or(i64::MAX);
        match finest.metric {
            Metric::UserRecordsReceived => *changes.entry(finest.stream).or_default() += count,
            // This metric has one observation for each resolved record, whatever its result.
            Metric::RetriesPerRecord => *changes.entry(finest.stream).or_default() -= count,
            _ => {}
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kpl_core::metrics::{MetricsGranularity, MetricsLevel, MetricsWindow};
    use kpl_core::{
        Action, Batch, Config, Delivery, Instant, ListedShard, Producer, RecordReply, Reply, RequestError, ShardPage,
        StreamSummary, UserRecord,
    };
    use proptest::prelude::*;

    use super::*;

    /// Runs a producer and returns its reports, the totals last. A step puts records into one of three streams, sets
    /// the result of requests, and advances the time in milliseconds.
    fn reports(granularity: MetricsGranularity, steps: &[(u8, u8, u64)]) -> Vec<MetricsReport> {
        let config = Config::builder()
            .metrics_level(MetricsLevel::Detailed)
            .metrics_granularity(granularity)
            .metrics_upload_interval(Duration::from_secs(5))
            .record_ttl(Duration::from_secs(3));
        let mut now = Instant::from_nanos(1_000_000_000_000);
        let mut producer = Producer::<()>::new(config.build().unwrap(), now);
        let (mut batches, mut reports) = (Vec::new(), Vec::new());
        for (puts, result, pause) in steps {
            for key in 0..puts % 8 {
                let record = UserRecord::new(format!("s{}", puts % 3), format!("k{key}{puts}"), "data");
                let _ = producer.put(now, record.prepare().unwrap(), ());
            }
            now = now + Duration::from_millis(*pause);
            execute_actions(&mut producer, now, &mut batches, &mut reports);
            for batch in batches.drain(..) {
                let reply = reply(&batch, *result);
                producer.handle_reply(now, batch, reply);
            }
        }
        producer.close(now, now);
        execute_actions(&mut producer, now, &mut batches, &mut reports);
        while let Some(batch) = batches.pop() {
            producer.handle_reply(
                now,
                batch,
                Reply::Failed(RequestError::new(Delivery::Unanswered, "Cancelled", "closed")),
            );
            execute_actions(&mut producer, now, &mut batches, &mut reports);
        }
        assert!(producer.is_drained());
        reports.push(producer.metrics(now, MetricsWindow::Total).roll_up());
        reports
    }

    fn execute_actions(
        producer: &mut Producer<()>,
        now: Instant,
        batches: &mut Vec<Batch<()>>,
        reports: &mut Vec<MetricsReport>,
    ) {
        producer.tick(now);
        while let Some(action) = producer.poll_action() {
            match action {
                Action::SendBatch(batch) => batches.push(batch),
                Action::ListShards(request) if &*request.stream != "s2" => {
                    let half = u128::MAX / 2;
                    let shard = |id: &str, start, end| ListedShard {
                        id: id.into(),
                        start,
                        end,
                        closed: false,
                        parents: [None, None],
                    };
                    let shards = vec![shard("shard-0", 0, half), shard("shard-1", half + 1, u128::MAX)];
                    producer.handle_shards(now, &request, Ok(ShardPage { shards, next_token: None }));
                }
                Action::ListShards(request) => {
                    let denied = RequestError::new(Delivery::Refused, "AccessDeniedException", "denied");
                    producer.handle_shards(now, &request, Err(denied));
                }
                Action::DescribeStream(request) => {
                    producer.handle_stream_summary(now, &request, Ok(StreamSummary::default()));
                }
                Action::ExportMetrics(snapshot) => reports.push(snapshot.roll_up()),
                _ => {}
            }
        }
    }

    fn reply(batch: &Batch<()>, result: u8) -> Reply {
        let each = batch.records().iter().enumerate().map(|(n, _)| match (result as usize + n) % 4 {
            0 => RecordReply::failed("ProvisionedThroughputExceededException", "slow down"),
            1 => RecordReply::failed("InternalFailure", "internal failure"),
            2 => RecordReply::stored("shard-0", "1"),
            _ => RecordReply::stored("shard-1", "1"),
        });
        match result % 5 {
            0 => Reply::Failed(RequestError::new(Delivery::NotSent, "ConnectFailure", "connection refused")),
            1 => Reply::Failed(RequestError::new(Delivery::Refused, "ResourceNotFoundException", "not found")),
            _ => Reply::Records(each.collect()),
        }
    }

    proptest! {
        #[test]
        fn finest_data_add_up_to_the_totals(
            granularity in 0..3_usize,
            steps in proptest::collection::vec((any::<u8>(), any::<u8>(), 0..1_500_u64), 1..40),
        ) {
            use MetricsGranularity::{Global, Shard, Stream};
            for report in reports([Global, Stream, Shard][granularity], &steps) {
                let finest_data = finest_data(&report);
                for whole in report.data.iter().filter(|datum| datum.shard.is_none()) {
                    // All errors are the sum over the codes.
                    let all_codes = whole.metric == Metric::ErrorsByCode && whole.error_code.is_none();
                    let mut sum = StatisticSet::EMPTY;
                    let of_whole = finest_data.iter().filter(|finest| {
                        finest.metric == whole.metric
                            && (all_codes || finest.error_code == whole.error_code.as_ref())
                            && (whole.stream.is_none() || finest.stream == whole.stream.as_ref())
                    });
                    of_whole.for_each(|finest| sum.merge(&finest.statistics));
                    prop_assert_eq!(sum.count, whole.statistics.count, "{:?}", whole);
                    let error = (sum.sum - whole.statistics.sum).abs();
                    prop_assert!(error <= whole.statistics.sum * 1e-9, "{} of {:?}", sum.sum, whole);
                    prop_assert_eq!((sum.min, sum.max), (whole.statistics.min, whole.statistics.max));
                }
                let latencies = finest_latencies(&report).map(|latency| latency.put_to_ack.count());
                let whole = report.latency().map_or(0, |latency| latency.put_to_ack.count());
                prop_assert_eq!(latencies.sum::<u64>(), whole);
            }
        }

        #[test]
        fn pending_changes_add_up_to_zero_when_all_records_are_resolved(
            steps in proptest::collection::vec((any::<u8>(), any::<u8>(), 0..1_500_u64), 1..40),
        ) {
            let mut reports = reports(MetricsGranularity::Shard, &steps);
            let total = reports.pop().unwrap();
            prop_assert!(pending_changes(&finest_data(&total)).values().all(|change| *change == 0));
            let mut sums = BTreeMap::<_, i64>::new();
            for report in &reports {
                for (stream, change) in pending_changes(&finest_data(report)) {
                    let pending = sums.entry(stream.cloned()).or_default();
                    *pending += change;
                    prop_assert!(*pending >= 0);
                }
            }
            prop_assert!(sums.values().all(|pending| *pending == 0));
        }
    }

    #[test]
    fn observations_without_a_shard_are_a_datum_of_their_stream() {
        // A request fails; then records are stored on shards.
        let reports = reports(MetricsGranularity::Shard, &[(4, 0, 500), (4, 0, 500), (4, 4, 900), (0, 2, 900)]);
        let (total, mut kinds) = (reports.last().unwrap(), Vec::new());
        for finest in finest_data(total).iter().filter(|finest| finest.metric == Metric::ErrorsByCode) {
            kinds.push((finest.error_code.unwrap().to_string(), finest.shard.is_some()));
        }
        assert!(kinds.contains(&("ConnectFailure".to_owned(), false)), "{kinds:?}");
        assert!(kinds.iter().any(|(_, has_shard)| *has_shard), "{kinds:?}");
    }
}

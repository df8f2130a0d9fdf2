//! What of a report goes to backends that add up by themselves: each observation once. For sinks.

use std::collections::BTreeMap;
use std::sync::Arc;

use kpl_core::metrics::{Datum, Latency, Metric, MetricsReport, StatisticSet};

/// A metric at its finest: no other leaf has any of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FinestDatum<'a> {
    /// Which metric.
    pub metric: Metric,
    /// Of which error code, for [`Metric::ErrorsByCode`].
    pub error_code: Option<&'a Arc<str>>,
    /// Of which stream (its name or ARN, as it was put); `None` is what belongs to none that is told apart.
    pub stream: Option<&'a Arc<str>>,
    /// `None` is what belongs to no shard, or to none that is told apart.
    pub shard: Option<&'a Arc<str>>,
    /// What is left of a whole has the least and the largest of the whole: its own are not known.
    pub statistics: StatisticSet,
}

/// The leaves of a report. Their counts and sums add up to those of all streams.
///
/// They are the shards' data, and of each stream what is in none of its shards: requests that failed as a whole, records
/// that failed before their shard was known. Errors are told by code only, since each has one.
pub fn finest_data(report: &MetricsReport) -> Vec<FinestDatum<'_>> {
    let mut finest_data = Vec::with_capacity(report.data.len());
    for of_metric in report.data.chunk_by(|a, b| (a.metric, &a.error_code) == (b.metric, &b.error_code)) {
        if of_metric.iter().any(|datum| datum.metric == Metric::ErrorsByCode && datum.error_code.is_none()) {
            continue;
        }
        let (whole, streams) = of_metric.split_at(of_metric.partition_point(|datum| datum.stream.is_none()));
        let mut sums = Vec::new();
        for of_stream in streams.chunk_by(|a, b| a.stream == b.stream) {
            let (stream, shards) = of_stream.split_at(of_stream.partition_point(|datum| datum.shard.is_none()));
            finest_data.extend(shards.iter().map(finest));
            finest_data.extend(stream.iter().filter_map(|stream| rest(stream, shards)));
            sums.extend_from_slice(stream);
        }
        finest_data.extend(whole.iter().filter_map(|whole| rest(whole, &sums)));
    }
    finest_data
}

fn finest(datum: &Datum) -> FinestDatum<'_> {
    let Datum { metric, error_code, stream, shard, statistics, .. } = datum;
    let (error_code, stream, shard) = (error_code.as_ref(), stream.as_ref(), shard.as_ref());
    FinestDatum { metric: *metric, error_code, stream, shard, statistics: *statistics }
}

/// What is in `whole` and in none of its parts, if there is something.
fn rest<'a>(whole: &'a Datum, parts: &[Datum]) -> Option<FinestDatum<'a>> {
    let mut finest = finest(whole);
    for part in parts {
        finest.statistics.count = finest.statistics.count.saturating_sub(part.statistics.count);
        finest.statistics.sum -= part.statistics.sum;
    }
    // No metric is negative; rounding may be.
    finest.statistics.sum = finest.statistics.sum.max(0.0);
    (!finest.statistics.is_empty()).then_some(finest)
}

/// Latencies at their finest: by stream, if streams are told apart.
pub fn finest_latencies(report: &MetricsReport) -> impl Iterator<Item = &Latency> + Clone {
    let by_stream = report.latencies.iter().any(|latency| latency.stream.is_some());
    report.latencies.iter().filter(move |latency| latency.stream.is_some() == by_stream)
}

/// By how many the records that are accepted and not resolved have become more, by stream. Only detailed metrics tell.
#[cfg_attr(
    not(any(feature = "dogstatsd", feature = "metrics-facade", feature = "opentelemetry")),
    allow(dead_code, reason = "for sinks that have a gauge of it")
)]
pub(super) fn pending_changes<'a>(finest_data: &[FinestDatum<'a>]) -> BTreeMap<Option<&'a Arc<str>>, i64> {
    let mut changes = BTreeMap::new();
    for finest in finest_data {
        let count = i64::try_from(finest.statistics.count).unwrap_or(i64::MAX);
        match finest.metric {
            Metric::UserRecordsReceived => *changes.entry(finest.stream).or_default() += count,
            // Each record that ends is counted there once, however it ends.
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

    /// What happens to a producer: puts, to one of three streams each, and what becomes of requests.
    fn reports(granularity: MetricsGranularity, steps: &[(u8, u8, u64)]) -> Vec<MetricsReport> {
        let config = Config::builder()
            .metrics_level(MetricsLevel::Detailed)
            .metrics_granularity(granularity)
            .metrics_upload_interval(Duration::from_secs(5))
            .record_ttl(Duration::from_secs(3));
        let mut now = Instant::from_nanos(1_000_000_000_000);
        let mut producer = Producer::<()>::new(config.build().unwrap(), now);
        let (mut batches, mut reports) = (Vec::new(), Vec::new());
        for (what, fate, pause) in steps {
            for key in 0..what % 8 {
                let record = UserRecord::new(format!("s{}", what % 3), format!("k{key}{what}"), "data");
                let _ = producer.put(now, record.prepare().unwrap(), ());
            }
            now = now + Duration::from_millis(*pause);
            act(&mut producer, now, &mut batches, &mut reports);
            for batch in batches.drain(..) {
                let reply = answer(&batch, *fate);
                producer.handle_reply(now, batch, reply);
            }
        }
        producer.close(now, now);
        act(&mut producer, now, &mut batches, &mut reports);
        while let Some(batch) = batches.pop() {
            producer.handle_reply(
                now,
                batch,
                Reply::Failed(RequestError::new(Delivery::Unanswered, "Cancelled", "late")),
            );
            act(&mut producer, now, &mut batches, &mut reports);
        }
        assert!(producer.is_drained());
        reports.push(producer.metrics(now, MetricsWindow::Total).roll_up());
        reports
    }

    fn act(producer: &mut Producer<()>, now: Instant, batches: &mut Vec<Batch<()>>, reports: &mut Vec<MetricsReport>) {
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
                    let denied = RequestError::new(Delivery::Refused, "AccessDeniedException", "no");
                    producer.handle_shards(now, &request, Err(denied));
                }
                Action::DescribeStream(request) => {
                    producer.handle_stream_summary(now, &request, Ok(StreamSummary::default()));
                }
                Action::ExportMetrics(observations) => reports.push(observations.roll_up()),
                _ => {}
            }
        }
    }

    fn answer(batch: &Batch<()>, fate: u8) -> Reply {
        let each = batch.records().iter().enumerate().map(|(n, _)| match (fate as usize + n) % 4 {
            0 => RecordReply::failed("ProvisionedThroughputExceededException", "slow down"),
            1 => RecordReply::failed("InternalFailure", "why"),
            2 => RecordReply::stored("shard-0", "1"),
            _ => RecordReply::stored("shard-1", "1"),
        });
        match fate % 5 {
            0 => Reply::Failed(RequestError::new(Delivery::NotSent, "ConnectFailure", "no way")),
            1 => Reply::Failed(RequestError::new(Delivery::Refused, "ResourceNotFoundException", "none")),
            _ => Reply::Records(each.collect()),
        }
    }

    proptest! {
        #[test]
        fn leaves_add_up_to_the_whole(
            granularity in 0..3_usize,
            steps in proptest::collection::vec((any::<u8>(), any::<u8>(), 0..1_500_u64), 1..40),
        ) {
            use MetricsGranularity::{Global, Shard, Stream};
            for report in reports([Global, Stream, Shard][granularity], &steps) {
                let finest_data = finest_data(&report);
                for whole in report.data.iter().filter(|datum| datum.shard.is_none()) {
                    // All errors together are the sum of their codes.
                    let all_codes = whole.metric == Metric::ErrorsByCode && whole.error_code.is_none();
                    let mut sum = StatisticSet::EMPTY;
                    let of_whole = finest_data.iter().filter(|finest| {
                        finest.metric == whole.metric
                            && (all_codes || finest.error_code == whole.error_code.as_ref())
                            && (whole.stream.is_none() || finest.stream == whole.stream.as_ref())
                    });
                    of_whole.for_each(|finest| sum.merge(&finest.statistics));
                    prop_assert_eq!(sum.count, whole.statistics.count, "{:?}", whole);
                    let off = (sum.sum - whole.statistics.sum).abs();
                    prop_assert!(off <= whole.statistics.sum * 1e-9, "{} of {:?}", sum.sum, whole);
                    prop_assert_eq!((sum.min, sum.max), (whole.statistics.min, whole.statistics.max));
                }
                let latencies = finest_latencies(&report).map(|latency| latency.put_to_ack.count());
                let whole = report.latency().map_or(0, |latency| latency.put_to_ack.count());
                prop_assert_eq!(latencies.sum::<u64>(), whole);
            }
        }

        #[test]
        fn pending_changes_add_up_to_none_when_all_have_ended(
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
    fn what_belongs_to_no_shard_is_a_leaf_of_its_stream() {
        // A request that fails as a whole, and then records that are stored on shards.
        let reports = reports(MetricsGranularity::Shard, &[(4, 0, 500), (4, 0, 500), (4, 4, 900), (0, 2, 900)]);
        let (total, mut kinds) = (reports.last().unwrap(), Vec::new());
        for finest in finest_data(total).iter().filter(|finest| finest.metric == Metric::ErrorsByCode) {
            kinds.push((finest.error_code.unwrap().to_string(), finest.shard.is_some()));
        }
        assert!(kinds.contains(&("ConnectFailure".to_owned(), false)), "{kinds:?}");
        assert!(kinds.iter().any(|(_, has_shard)| *has_shard), "{kinds:?}");
    }
}

//! A report taken apart again, so that each observation is in one place: Datadog adds up over tags by itself.

use std::collections::HashMap;

use kpl_driver::metrics::{Datum, Metric, MetricsReport, StatisticSet};

/// What belongs to one place and to no finer one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Share<'a> {
    pub(super) metric: Metric,
    pub(super) error_code: Option<&'a str>,
    pub(super) stream: Option<&'a str>,
    pub(super) shard: Option<&'a str>,
    pub(super) count: u64,
    pub(super) sum: f64,
    /// Where they are known: if they are not, a finer place has one that goes further.
    pub(super) min: Option<f64>,
    pub(super) max: Option<f64>,
}

/// A metric, its error code and, for the share of a stream, the stream.
type Place<'a> = (Metric, Option<&'a str>, Option<&'a str>);

/// The shares of a report, none of them empty, in its order.
pub(super) fn of(report: &MetricsReport) -> Vec<Share<'_>> {
    let data = || report.data.iter().filter(|datum| is_told(datum));
    // What is in the finer places of each: of all streams, the streams; of a stream, its shards.
    let mut finer: HashMap<Place<'_>, StatisticSet> = HashMap::new();
    for datum in data() {
        let coarser = match (&datum.stream, &datum.shard) {
            (None, _) => continue,
            (Some(_), None) => None,
            (Some(stream), Some(_)) => Some(&**stream),
        };
        finer.entry((datum.metric, datum.error_code.as_deref(), coarser)).or_default().merge(&datum.statistics);
    }
    let shares = data().map(|datum| {
        let (stream, shard) = (datum.stream.as_deref(), datum.shard.as_deref());
        let error_code = datum.error_code.as_deref();
        let finer = if shard.is_some() { None } else { finer.get(&(datum.metric, error_code, stream)) };
        let (all, finer) = (&datum.statistics, finer.copied().unwrap_or_default());
        let count = all.count.saturating_sub(finer.count);
        // What is not whole is not exact, and a sum of none should be 0.
        let sum = (all.sum - finer.sum).max(0.0);
        let min = (all.min < finer.min).then_some(all.min);
        let max = (all.max > finer.max).then_some(all.max);
        Share { metric: datum.metric, error_code, stream, shard, count, sum, min, max }
    });
    shares.filter(|share| share.count > 0).collect()
}

/// The errors of all codes together are those of each.
fn is_told(datum: &Datum) -> bool {
    datum.metric != Metric::ErrorsByCode || datum.error_code.is_some()
}

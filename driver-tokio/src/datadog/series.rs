//! The conversion of a report to Datadog's series.

use std::time::Duration;

use datadog_api_client::datadogV2::model::{MetricIntakeType, MetricPoint, MetricSeries};
use kpl_driver::metrics::{
    FinestDatum, Histogram, Latency, MetricsReport, StatisticSet, Unit, finest_data, finest_latencies, stream_name,
};

const PREFIX: &str = "kinesis_producer";

/// The maximum length of a tag (Datadog's documentation).
const TAG_CHARS_MAX: usize = 200;

/// An upper bound of the JSON overhead of a series, numbers included.
const SERIES_OVERHEAD_BYTES: usize = 512;

/// The names and quantiles that are sent per latency.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)];

/// Returns the series of a report, always in the same order: [`Progress`](kpl_driver::metrics::Progress) counts them.
pub(super) fn of<'a>(report: &'a MetricsReport, tags: &'a [String]) -> impl Iterator<Item = MetricSeries> + 'a {
    let common = Common::new(report, tags);
    let of_data = finest_data(report).into_iter().flat_map(move |datum| common.of_datum(&datum));
    of_data.chain(finest_latencies(report).flat_map(move |latency| common.of_latency(latency)))
}

/// Returns an upper bound of the bytes of a series in JSON. Names and tags need no escapes.
pub(super) fn bytes_of(series: &MetricSeries) -> usize {
    let tags = series.tags.iter().flatten().map(|tag| tag.len() + 3);
    SERIES_OVERHEAD_BYTES + series.metric.len() + tags.sum::<usize>()
}

/// Replaces characters that Datadog does not accept in a tag, and cuts the tag to the maximum length.
pub(super) fn tag(tag: &str) -> String {
    let is_accepted = |char: char| char.is_alphanumeric() || "_-:./".contains(char);
    tag.chars().take(TAG_CHARS_MAX).map(|char| if is_accepted(char) { char } else { '_' }).collect()
}

/// The fields that all series of a report have in common.
#[derive(Clone, Copy)]
struct Common<'a> {
    tags: &'a [String],
    /// The end of the report, in seconds since the Unix epoch.
    end: Option<i64>,
    /// The length of the report, in seconds.
    interval: Option<i64>,
}

impl<'a> Common<'a> {
    fn new(report: &MetricsReport, tags: &'a [String]) -> Self {
        let second = Duration::from_secs(1).as_nanos() as u64;
        let end = report.end.and_then(|end| i64::try_from(end.as_nanos() / second).ok());
        let interval = report.start.zip(report.end).map(|(start, end)| {
            // An interval must be positive, and the last report before a close may be shorter than a second.
            let seconds = end.saturating_since(start).as_secs_f64().round().max(1.0);
            seconds as i64
        });
        Self { tags, end, interval }
    }

    fn of_datum(self, finest: &FinestDatum<'_>) -> Vec<MetricSeries> {
        let name = snake_case(finest.metric.name());
        let (stream, shard, code) = (finest.stream.map(|stream| stream_name(stream)), finest.shard, finest.error_code);
        let tags = self.all_tags([
            ("stream", stream),
            ("shard", shard.map(AsRef::as_ref)),
            ("error_code", code.map(AsRef::as_ref)),
        ]);
        let unit = match finest.metric.unit() {
            Unit::Bytes => Some("byte"),
            Unit::Milliseconds => Some("millisecond"),
            _ => None,
        };
        let StatisticSet { count, sum, min, max } = finest.statistics;
        vec![
            self.count(&format!("{name}.count"), count as f64, &tags, None),
            self.count(&format!("{name}.sum"), sum, &tags, unit),
            self.gauge(&format!("{name}.avg"), sum / count as f64, &tags, unit),
            self.gauge(&format!("{name}.min"), min, &tags, unit),
            self.gauge(&format!("{name}.max"), max, &tags, unit),
        ]
    }

    fn of_latency(self, latency: &Latency) -> Vec<MetricSeries> {
        let tags = self.all_tags([("stream", latency.stream.as_deref().map(stream_name))]);
        let parts = [("put_to_ack", &latency.put_to_ack), ("buffering", &latency.buffering)];
        parts.into_iter().flat_map(|(name, histogram)| self.of_histogram(name, histogram, &tags)).collect()
    }

    /// Returns no series if the histogram is empty.
    fn of_histogram(self, name: &str, histogram: &Histogram, tags: &[String]) -> Vec<MetricSeries> {
        let Some(max) = histogram.max() else { return Vec::new() };
        let quantiles =
            QUANTILES.into_iter().filter_map(|(part, quantile)| Some((part, histogram.quantile(quantile)?)));
        let times = quantiles.chain([("max", max)]);
        let gauges = times.map(|(part, time)| {
            self.gauge(&format!("{name}.{part}"), time.as_secs_f64() * 1_000.0, tags, Some("millisecond"))
        });
        let count = self.count(&format!("{name}.count"), histogram.count() as f64, tags, None);
        [count].into_iter().chain(gauges).collect()
    }

    fn all_tags<const N: usize>(self, tags: [(&str, Option<&str>); N]) -> Vec<String> {
        let own = tags.into_iter().filter_map(|(name, value)| Some(tag(&format!("{name}:{}", value?))));
        own.chain(self.tags.iter().cloned()).collect()
    }

    fn count(self, name: &str, value: f64, tags: &[String], unit: Option<&str>) -> MetricSeries {
        let mut series = self.series(name, value, tags, unit).type_(MetricIntakeType::COUNT);
        series.interval = self.interval;
        series
    }

    fn gauge(self, name: &str, value: f64, tags: &[String], unit: Option<&str>) -> MetricSeries {
        self.series(name, value, tags, unit).type_(MetricIntakeType::GAUGE)
    }

    fn series(self, name: &str, value: f64, tags: &[String], unit: Option<&str>) -> MetricSeries {
        let mut point = MetricPoint::new().value(value);
        point.timestamp = self.end;
        let mut series = MetricSeries::new(format!("{PREFIX}.{name}"), vec![point]).tags(tags.to_vec());
        series.unit = unit.map(str::to_owned);
        series
    }
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for char in name.chars() {
        if char.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(char.to_ascii_lowercase());
    }
    snake
}

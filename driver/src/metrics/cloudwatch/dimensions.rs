//! The dimensions of a metric.

use aws_sdk_cloudwatch::types::Dimension;
use kpl_core::metrics::{Datum, Metric, MetricsGranularity};

use super::CloudWatchSettingError;
use crate::metrics::stream_name;

const ERROR_CODE: &str = "ErrorCode";
const STREAM_NAME: &str = "StreamName";
const SHARD_ID: &str = "ShardId";

/// The dimensions that the sink itself uses.
const OWN: [&str; 3] = [ERROR_CODE, STREAM_NAME, SHARD_ID];

/// The maximum number of dimensions of a metric (API reference of `Dimension`).
const DIMENSIONS_MAX: usize = 30;

/// The maximum lengths of a name and a value (API reference of `Dimension`).
const NAME_CHARS_MAX: usize = 255;
const VALUE_CHARS_MAX: usize = 1_024;

/// The application's dimensions, in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Dimensions(Vec<(MetricsGranularity, Dimension)>);

impl Dimensions {
    pub(super) fn add(
        &mut self,
        name: String,
        value: String,
        granularity: MetricsGranularity,
    ) -> Result<(), CloudWatchSettingError> {
        let error = |field, value: &str, limit| Err(CloudWatchSettingError::new(field, value, limit));
        if !is_valid(&name, NAME_CHARS_MAX) || name.starts_with(':') {
            let limit = "have 1 to 255 printable ASCII characters, not all blank, and not begin with a colon";
            return error("dimension's name", &name, limit);
        }
        let added = self.0.iter().any(|(_, dimension)| dimension.name() == Some(&*name));
        if added || OWN.contains(&&*name) {
            return error(
                "dimension's name",
                &name,
                "be no other dimension's: ErrorCode, StreamName and ShardId are taken",
            );
        }
        if !is_valid(&value, VALUE_CHARS_MAX) {
            return error("dimension's value", &value, "have 1 to 1024 printable ASCII characters, not all blank");
        }
        if self.0.len() + OWN.len() >= DIMENSIONS_MAX {
            return error("dimension", &name, "be one of at most 27: a metric has at most 30 dimensions");
        }
        self.0.push((granularity, dimension(name, value)));
        Ok(())
    }

    /// Returns one list of dimensions for each time that a data point is sent, or no list if it is not sent.
    ///
    /// As in the KPL, an observation also counts for the metrics with fewer of the added dimensions, down to the
    /// data point's own dimensions: see `MetricsFinderBuilder` and `MetricsIndex::get_metric` there.
    pub(super) fn lists(&self, datum: &Datum) -> Vec<Vec<Dimension>> {
        if datum.metric == Metric::ErrorsByCode && datum.error_code.is_none() && datum.stream.is_some() {
            return Vec::new();
        }
        let mut chain = Vec::new();
        // The length up to the data point's own last dimension.
        let mut own = 0;
        self.extend(&mut chain, MetricsGranularity::Global);
        let parts = [
            (ERROR_CODE, datum.error_code.as_deref(), None),
            (STREAM_NAME, datum.stream.as_deref().map(stream_name), Some(MetricsGranularity::Stream)),
            (SHARD_ID, datum.shard.as_deref(), Some(MetricsGranularity::Shard)),
        ];
        for (name, value, granularity) in parts {
            let Some(value) = value else { continue };
            // Without this dimension, the data point would count as another metric.
            let Some(value) = printable(value) else { return Vec::new() };
            chain.push(dimension(name.into(), value));
            own = chain.len();
            if let Some(granularity) = granularity {
                self.extend(&mut chain, granularity);
            }
        }
        (own..=chain.len()).map(|len| chain[..len].to_vec()).collect()
    }

    fn extend(&self, chain: &mut Vec<Dimension>, granularity: MetricsGranularity) {
        let added = self.0.iter().filter(|(added_at, _)| *added_at == granularity);
        chain.extend(added.map(|(_, dimension)| dimension.clone()));
    }
}

fn dimension(name: String, value: String) -> Dimension {
    Dimension::builder().name(name).value(value).build()
}

/// Whether CloudWatch accepts a name or a value.
pub(super) fn is_valid(text: &str, chars_max: usize) -> bool {
    (1..=chars_max).contains(&text.len()) && text.bytes().all(is_printable) && !is_blank(text)
}

/// Returns a value from a service, such as an error code, in a form that CloudWatch accepts; `None` if it is blank. One
/// invalid value would fail the whole call with every retry.
fn printable(value: &str) -> Option<String> {
    let chars = value.chars().take(VALUE_CHARS_MAX);
    let value: String = chars.map(|char| if u8::try_from(char).is_ok_and(is_printable) { char } else { '?' }).collect();
    (!is_blank(&value)).then_some(value)
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

fn is_blank(text: &str) -> bool {
    text.bytes().all(|byte| byte == b' ')
}

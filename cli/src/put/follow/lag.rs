//! How far behind its file each source is, as metrics.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::gauge;

use crate::put::checkpoint::identity::FileId;
use crate::put::checkpoint::{Offsets, Tracked};
use crate::put::sources::Sources;

/// The time between two measurements.
const INTERVAL: Duration = Duration::from_secs(1);

/// Measures until it is dropped. The gauges of a file that is not there any more are dropped by the exporter, when they are
/// not set for a while.
pub(crate) async fn export(offsets: &Offsets, sources: &Sources) -> Infallible {
    let mut behind_since: HashMap<Arc<str>, Instant> = HashMap::new();
    loop {
        let mut bytes: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        for (source, tracked) in offsets.files() {
            if tracked.file.is_some() && !tracked.gone {
                *bytes.entry(sources.name(source)).or_default() += lag(&tracked);
            }
        }
        behind_since.retain(|name, _| bytes.get(name).is_some_and(|bytes| *bytes > 0));
        for (name, bytes) in bytes {
            let seconds = if bytes == 0 {
                0.0
            } else {
                behind_since.entry(name.clone()).or_insert_with(Instant::now).elapsed().as_secs_f64()
            };
            gauge!("kpl_put_lag_bytes", "file" => name.to_string()).set(bytes as f64);
            gauge!("kpl_put_lag_seconds", "file" => name.to_string()).set(seconds);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Returns the number of bytes of a file that are not resolved.
fn lag(tracked: &Tracked) -> u64 {
    let resolved = tracked.resolved.up_to().offset;
    let at_path = fs::metadata(&tracked.path).ok().filter(|metadata| FileId::new(metadata) == tracked.id);
    let metadata = at_path.or_else(|| tracked.file.as_ref()?.metadata().ok());
    let size = metadata.map_or(0, |metadata| metadata.len());
    // A range beyond the offset counts as unresolved, since a crash may come before the range is in a checkpoint.
    size.saturating_sub(resolved)
}

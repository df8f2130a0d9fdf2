//! How far behind its file each source is, as metrics.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::gauge;

use crate::put::checkpoint::Offsets;
use crate::put::sources::Sources;

/// The time between two measurements.
const INTERVAL: Duration = Duration::from_secs(1);

/// The maximum number of sizes that are kept of a file. After that, every second one is dropped.
const SIZES_MAX: usize = 1_000;

/// Measures until it is dropped. The gauges of a file that is not there any more are dropped by the exporter, when they are
/// not set for a while.
pub(crate) async fn export(offsets: &Offsets, sources: &Sources) -> Infallible {
    let mut behind: HashMap<u32, Behind> = HashMap::new();
    loop {
        let now = Instant::now();
        let mut lags: BTreeMap<Arc<str>, (u64, Duration)> = BTreeMap::new();
        let mut open = HashMap::new();
        for file in offsets.open_files() {
            let size = file.file.metadata().map_or(0, |metadata| metadata.len());
            let mut behind = behind.remove(&file.source).unwrap_or_default();
            let time = behind.measure(now, size, file.resolved);
            open.insert(file.source, behind);
            // The rotated files of a path have its name, too.
            let (bytes, longest) = lags.entry(sources.name(file.source)).or_default();
            // A range beyond the offset counts as unresolved, since a crash may come before the range is in a checkpoint.
            *bytes += size.saturating_sub(file.resolved);
            *longest = (*longest).max(time);
        }
        behind = open;
        for (name, (bytes, time)) in lags {
            gauge!("kpl_put_lag_bytes", "file" => name.to_string()).set(bytes as f64);
            gauge!("kpl_put_lag_seconds", "file" => name.to_string()).set(time.as_secs_f64());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The sizes that a file had, until they are resolved.
#[derive(Debug, Default)]
struct Behind(VecDeque<(Instant, u64)>);

impl Behind {
    /// Returns the time since the oldest byte that is not resolved was seen.
    fn measure(&mut self, now: Instant, size: u64, resolved: u64) -> Duration {
        if size <= resolved {
            self.0.clear(); // also sizes of before a truncation
        }
        while self.0.front().is_some_and(|(_, size)| *size <= resolved) {
            self.0.pop_front();
        }
        if size > resolved && self.0.back().is_none_or(|(_, last)| *last < size) {
            self.0.push_back((now, size));
        }
        if self.0.len() > SIZES_MAX {
            let mut index = 0;
            self.0.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.0.front().map_or(Duration::ZERO, |(at, _)| now - *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_the_age_of_the_oldest_byte_that_is_not_resolved() {
        let (mut behind, start) = (Behind::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let mut lag = |second, size, resolved| behind.measure(at(second), size, resolved).as_secs();
        assert_eq!(lag(0, 0, 0), 0);
        assert_eq!(lag(1, 100, 0), 0);
        assert_eq!(lag(2, 200, 0), 1);
        // A file that always grows is never resolved to its end. Its lag is still short.
        assert_eq!(lag(3, 300, 100), 1);
        assert_eq!(lag(4, 400, 350), 0);
        assert_eq!(lag(9, 400, 350), 5);
        assert_eq!(lag(10, 400, 400), 0);
        // After a truncation.
        assert_eq!(lag(11, 50, 0), 0);
        assert_eq!((lag(12, 900, 50), lag(13, 60, 60), lag(20, 70, 60)), (0, 0, 0));
    }

    #[test]
    fn what_is_kept_in_an_outage_is_bounded() {
        let (mut behind, start) = (Behind::default(), Instant::now());
        for second in 0..100_000 {
            let lag = behind.measure(start + Duration::from_secs(second), second + 1, 0);
            assert_eq!(lag.as_secs(), second);
        }
        assert!(behind.0.len() <= SIZES_MAX);
    }
}

//! Measures at several sizes, rates and scales, for the pictures.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use kpl_core::Config;

use crate::picture::{Line, Panel, Picture};
use crate::table::Table;
use crate::work::Work;
use crate::{MeasureArgs, Run, Subject, measure};

/// Bytes of data per record.
const SIZES: [u64; 7] = [30, 100, 300, 1_000, 3_000, 10_000, 30_000];
/// Bytes of data per run.
const BYTES: u64 = 150_000_000;
/// Records per second.
const RATES: [u64; 7] = [1_000, 3_000, 10_000, 30_000, 100_000, 200_000, 400_000];
/// The duration of the puts of a run with a rate.
const SECONDS: u64 = 4;
/// The default time from a request to its reply.
const LATENCY: Duration = Duration::from_millis(20);

/// Values of [`curves`]: shards, streams, outstanding records, and bytes of data.
const SHARDS: [u32; 6] = [4, 16, 100, 1_000, 3_000, 10_000];
const STREAMS: [u32; 5] = [1, 10, 100, 1_000, 10_000];
const OUTSTANDING: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
const CURVE_SIZES: [u64; 6] = [10, 100, 1_000, 10_000, 100_000, 1 << 20];
/// The colors of the lines.
const BLUE: &str = "#0065a8";
const ORANGE: &str = "#b5470b";
const VIOLET: &str = "#8a5a9e";
const GREEN: &str = "#008060";
const GRAY: &str = "#777777";
const LIGHT_GRAY: &str = "#aaaaaa";

/// Measures, prints, and writes the picture. Returns all runs.
pub(crate) fn run(file: &Path, work: &Work, measurement: &MeasureArgs) -> anyhow::Result<Vec<Run>> {
    let mut by_size = Vec::new();
    let mut alone_by_size = Vec::new();
    for size in SIZES {
        let work = Work { size, records: work.records.min(BYTES / size), ..work.clone() };
        by_size.extend(measure_and_print(&format!("{size} bytes"), &work, measurement, Duration::ZERO)?);
        let alone = Work { aggregation_enabled: false, ..work };
        let tokio = MeasureArgs { runtime: vec![Subject::Tokio], ..measurement.clone() };
        let name = format!("{size} bytes, without aggregation");
        alone_by_size.extend(measure_and_print(&name, &alone, &tokio, Duration::ZERO)?);
    }
    let service = measurement.latency.unwrap_or(LATENCY);
    let tokio = MeasureArgs { runtime: vec![Subject::Tokio], ..measurement.clone() };
    let mut by_rate = Vec::new();
    for rate in RATES {
        let work = Work { rate, records: work.records.min(SECONDS * rate), ..work.clone() };
        by_rate.extend(measure_and_print(&format!("{rate} records/s of {} bytes", work.size), &work, &tokio, service)?);
    }
    let line = |runs: &[Run], subject: Subject, name: &str, color| {
        line(runs.iter().filter(|run| run.subject == subject), name, color, |run| run.work.size as f64)
    };
    let cost = [
        line(&by_size, Subject::RawSdk, "AWS SDK alone", ORANGE),
        #[cfg(feature = "async-std")]
        line(&by_size, Subject::AsyncStd, "kpl-async-std", GREEN),
        line(&alone_by_size, Subject::Tokio, "kpl, unaggregated", VIOLET),
        line(&by_size, Subject::Tokio, "kpl-tokio", BLUE),
        line(&by_size, Subject::FloorScalar, "floor, scalar MD5", LIGHT_GRAY),
        line(&by_size, Subject::Floor, "floor", GRAY),
    ];
    let quantile = |which: usize, name: &str, color| {
        let latency = |run: &Run| run.measured.latency.map(|micros| micros[which] as f64 / 1e3);
        let points = by_rate.iter().filter_map(|run| Some((run.work.rate as f64, latency(run)?))).collect();
        Line { name: name.into(), color, points }
    };
    let subtitle = format!(
        "in milliseconds, by records per second (kpl-tokio; the service takes {})",
        humantime::format_duration(service)
    );
    let buffered = Config::default().record_max_buffered_time().as_secs_f64() * 1e3;
    let panels = vec![
        cost_panel("CPU time per record", "bytes of data", cost.into_iter().flatten().collect()),
        Panel {
            titles: ["From put to receipt".into(), subtitle],
            lines: vec![quantile(2, "p99.9", ORANGE), quantile(1, "p99", VIOLET), quantile(0, "p50", BLUE)],
            rule: Some((buffered, "record_max_buffered_time")),
            is_log: false,
        },
    ];
    write(file, "kpl-bench: CPU time per record by its size, and latency by rate", panels)?;
    Ok([by_size, alone_by_size, by_rate].concat())
}

/// Measures the cost of a record as shards, streams, outstanding records and sizes grow; prints it, and writes a picture
/// of the curves. Returns all runs.
pub(crate) fn curves(file: &Path, work: &Work, measurement: &MeasureArgs) -> anyhow::Result<Vec<Run>> {
    let subjects = vec![Subject::Tokio, Subject::TokioBatch];
    let measurement = MeasureArgs { runtime: subjects, ..measurement.clone() };
    let mut all = Vec::new();
    let mut panel = |title: &str, what: &str, works: Vec<(f64, Work)>| -> anyhow::Result<Panel> {
        let mut lines = Vec::new();
        for (aggregation_enabled, suffix, colors) in
            [(true, "", [BLUE, GREEN]), (false, ", unaggregated", [ORANGE, VIOLET])]
        {
            let mut runs: Vec<(f64, Run)> = Vec::new();
            for (x, work) in &works {
                let work = Work { aggregation_enabled, ..work.clone() };
                let name = format!("{x} {what}{suffix}");
                let rows = measure_and_print(&name, &work, &measurement, Duration::ZERO)?;
                runs.extend(rows.into_iter().map(|run| (*x, run)));
            }
            for (subject, name, color) in
                [(Subject::Tokio, "put", colors[0]), (Subject::TokioBatch, "put_batch", colors[1])]
            {
                let points = runs.iter().filter(|(_, run)| run.subject == subject);
                let points = points.map(|(x, run)| (*x, run.cpu() / 1e3)).collect();
                lines.push(Line { name: format!("{name}{suffix}"), color, points });
            }
            all.extend(runs.into_iter().map(|(_, run)| run));
        }
        Ok(cost_panel(title, what, lines))
    };
    let shards = SHARDS.map(|shards| (f64::from(shards), Work { shards, ..work.clone() }));
    // With many streams, the cost of a record is that of a request.
    let few = |streams| if streams < 1_000 { work.records } else { work.records.min(100_000) };
    let streams = STREAMS.map(|streams| {
        let records = few(streams);
        (f64::from(streams), Work { streams, shards: 1, records, ..work.clone() })
    });
    let outstanding = OUTSTANDING.map(|n| (n as f64, Work { outstanding: Some(n), ..work.clone() }));
    let sizes = CURVE_SIZES.map(|size| {
        let (records, outstanding) = (work.records.min(BYTES / size), Some((BYTES / size).min(14_000)));
        (size as f64, Work { size, records, outstanding, ..work.clone() })
    });
    // Not more shards or streams than records.
    let up_to_records = |works: &[(f64, Work)]| -> Vec<(f64, Work)> {
        works.iter().filter(|(n, _)| *n <= work.records as f64).cloned().collect()
    };
    let panels = vec![
        panel("Shards", "shards", up_to_records(&shards))?,
        panel("Streams of one shard", "streams", up_to_records(&streams))?,
        panel("Outstanding records", "outstanding records", outstanding.to_vec())?,
        panel("Size", "bytes of data", sizes.to_vec())?,
    ];
    write(file, "kpl-bench: CPU time per record by shards, streams, outstanding records and size", panels)?;
    Ok(all)
}

fn measure_and_print(
    name: &str,
    work: &Work,
    measurement: &MeasureArgs,
    latency: Duration,
) -> anyhow::Result<Vec<Run>> {
    let rows = measure(work, measurement, latency)?;
    if !measurement.json {
        println!("{name}\n{}", Table(&rows));
    }
    Ok(rows)
}

/// Returns a line of CPU time in microseconds; `None` without runs.
fn line<'a>(
    runs: impl Iterator<Item = &'a Run>,
    name: &str,
    color: &'static str,
    x: impl Fn(&Run) -> f64,
) -> Option<Line> {
    let points: Vec<_> = runs.map(|run| (x(run), run.cpu() / 1e3)).collect();
    (!points.is_empty()).then(|| Line { name: name.into(), color, points })
}

fn cost_panel(title: &str, x: &str, lines: Vec<Line>) -> Panel {
    let subtitle = format!("CPU time per record in microseconds, by {x}");
    Panel { titles: [title.into(), subtitle], lines, rule: None, is_log: true }
}

fn write(file: &Path, title: &'static str, panels: Vec<Panel>) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let measured_on = format!(
        "Measured on {cores} {} cores, with an emulator of Kinesis in another process on the same machine. \
         CPU: user and system time of the producer.",
        std::env::consts::ARCH
    );
    let svg = Picture { title, panels, measured_on }.to_string();
    std::fs::write(file, svg).with_context(|| format!("cannot write {}", file.display()))
}

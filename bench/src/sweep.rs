//! Measures several sizes and rates, for a picture.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use kpl_core::Config;

use crate::picture::{Line, Picture};
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

/// Measures, prints, and writes the picture. Returns all runs.
pub(crate) fn run(file: &Path, work: &Work, measurement: &MeasureArgs) -> anyhow::Result<Vec<Run>> {
    let mut by_size = Vec::new();
    for size in SIZES {
        let work = Work { size, records: work.records.min(BYTES / size), ..work.clone() };
        let rows = measure(&work, measurement, Duration::ZERO)?;
        if !measurement.json {
            println!("{size} bytes\n{}", Table(&rows));
        }
        by_size.extend(rows);
    }
    let service = measurement.latency.unwrap_or(LATENCY);
    let mut by_rate = Vec::new();
    for rate in RATES {
        let work = Work { rate, records: work.records.min(SECONDS * rate), ..work.clone() };
        let rows = measure(&work, &MeasureArgs { runtime: vec![Subject::Tokio], ..measurement.clone() }, service)?;
        if !measurement.json {
            println!("{rate} records/s of {} bytes\n{}", work.size, Table(&rows));
        }
        by_rate.extend(rows);
    }
    let svg = draw(&by_size, &by_rate, service).to_string();
    std::fs::write(file, svg).with_context(|| format!("cannot write {}", file.display()))?;
    by_size.append(&mut by_rate);
    Ok(by_size)
}

fn draw(by_size: &[Run], by_rate: &[Run], service: Duration) -> Picture {
    let line = |subject: Subject, name: &str, color: &'static str| {
        let runs = by_size.iter().filter(|run| run.subject == subject);
        let points: Vec<_> = runs.map(|run| (run.work.size as f64, run.cpu() / 1e3)).collect();
        (!points.is_empty()).then(|| Line { name: name.into(), color, points })
    };
    let cost = [
        line(Subject::RawSdk, "AWS SDK alone", "#b5470b"),
        #[cfg(feature = "async-std")]
        line(Subject::AsyncStd, "kpl-async-std", "#008060"),
        line(Subject::Tokio, "kpl-tokio", "#0065a8"),
        line(Subject::FloorScalar, "floor, scalar MD5", "#aaaaaa"),
        line(Subject::Floor, "floor", "#777777"),
    ];
    let quantile = |which: usize, name: &str, color| {
        let latency = |run: &Run| run.measured.latency.map(|micros| micros[which] as f64 / 1e3);
        let points = by_rate.iter().filter_map(|run| Some((run.work.rate as f64, latency(run)?))).collect();
        Line { name: name.into(), color, points }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Picture {
        cost: cost.into_iter().flatten().collect(),
        latency: vec![quantile(2, "p99.9", "#b5470b"), quantile(1, "p99", "#8a5a9e"), quantile(0, "p50", "#0065a8")],
        latency_title: format!("(kpl-tokio; the service takes {})", humantime::format_duration(service)),
        buffered: Config::default().record_max_buffered_time().as_secs_f64() * 1e3,
        measured_on: format!(
            "Measured on {cores} {} cores, with an emulator of Kinesis in another process on the same machine. \
             CPU: user and system time of the producer.",
            std::env::consts::ARCH
        ),
    }
}

//! The results as text.

use std::fmt;

use crate::work::KEY_SIZE;
use crate::{Run, Subject};

/// A table with a row per run, and further lines below it.
pub(crate) struct Table<'a>(pub(crate) &'a [Run]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let without_hold = self.0.iter().filter(|run| run.measured.held.is_none());
        let cpu_of = |subject| self.0.iter().find(|run| run.subject == subject).map(Run::cpu);
        let floors = [cpu_of(Subject::Floor), cpu_of(Subject::FloorScalar)];
        write_table(f, &without_hold.map(|run| cells(run, floors)).collect::<Vec<_>>())?;
        for run in self.0 {
            let name = run.subject.name();
            match (run.measured.latency, run.measured.requests) {
                (Some(records), Some(requests)) => {
                    writeln!(f, "{name}: put to receipt {}; requests {}", Millis(records), Millis(requests))?;
                }
                (_, Some(requests)) => writeln!(f, "{name}: requests {}", Millis(requests))?,
                _ => {}
            }
            if let Some(held) = &run.measured.held {
                let (name, records, size) = (run.subject.name(), run.work.records, run.work.size);
                let data = if run.work.own_data { "" } else { " (slices of one buffer)" };
                writeln!(f, "{name}: {records} records, keys of {KEY_SIZE} bytes, data of {size}{data}")?;
                writeln!(f, "  {:.0} bytes per outstanding record, beyond keys and data", held.bytes_per_record)?;
                write!(f, "{held}")?;
            }
            if run.measured.stored != run.work.records {
                let (name, stored, records) = (run.subject.name(), run.measured.stored, run.work.records);
                writeln!(f, "{name}: {stored} of {records} records were stored")?;
            }
        }
        Ok(())
    }
}

/// Returns the cells of a row, with the names of their columns.
fn cells(run: &Run, floors: [Option<f64>; 2]) -> Vec<(&'static str, Option<String>)> {
    let (records, usage) = (run.work.records as f64, run.measured.usage);
    let mib = |which: usize| usage.resident.map(|kib| format!("{:.0}", kib[which] as f64 / 1_024.0));
    vec![
        ("", Some(run.subject.name())),
        ("records/s", Some(format!("{:.0}", records / usage.elapsed.as_secs_f64()))),
        ("CPU ns", Some(format!("{:.0}", run.cpu()))),
        ("x floor", floors[0].map(|floor| format!("{:.2}", run.cpu() / floor))),
        ("x scalar", floors[1].map(|floor| format!("{:.2}", run.cpu() / floor))),
        ("allocs", usage.allocations.map(|n| format!("{:.2}", n as f64 / records))),
        ("RSS MiB", mib(0)),
        ("peak", mib(1)),
        ("after", mib(2)),
        ("copies", run.copies().map(|copies| format!("{copies:.2}"))),
        ("requests", Some(run.requests.to_string())),
        ("records/Kinesis record", Some(format!("{:.1}", records / run.kinesis_records as f64))),
        ("units/M", Some(format!("{:.0}", run.payload_units as f64 / records * 1e6))),
        ("x min", Some(format!("{:.3}", run.payload_units as f64 / run.least_units))),
    ]
}

/// Writes a table. Omits columns without values.
fn write_table(f: &mut fmt::Formatter<'_>, rows: &[Vec<(&str, Option<String>)>]) -> fmt::Result {
    let Some(first) = rows.first() else { return Ok(()) };
    let columns = (0..first.len()).filter(|i| rows.iter().any(|row| row[*i].1.is_some()));
    let columns: Vec<(Vec<&str>, usize)> = columns
        .map(|i| {
            let cells = rows.iter().map(|row| row[i].1.as_deref().unwrap_or("-"));
            let cells: Vec<&str> = std::iter::once(first[i].0).chain(cells).collect();
            let width = cells.iter().map(|cell| cell.len()).max().unwrap_or(0);
            (cells, width)
        })
        .collect();
    for line in 0..=rows.len() {
        for (i, (cells, width)) in columns.iter().enumerate() {
            match i {
                0 => write!(f, "{:<width$}", cells[line])?,
                _ => write!(f, "  {:>width$}", cells[line])?,
            }
        }
        writeln!(f)?;
    }
    Ok(())
}

/// Quantiles in microseconds, shown in milliseconds.
struct Millis([u64; 3]);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, p999] = self.0.map(|micros| micros as f64 / 1e3);
        write!(f, "p50 {p50:.1}, p99 {p99:.1}, p99.9 {p999:.1} ms")
    }
}

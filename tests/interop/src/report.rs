//! The printed table: peer, direction, number of comparisons, differences.

use std::collections::BTreeMap;
use std::fmt;

/// The results of all comparisons.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    peer: String,
    direction: String,
    result: Result<Comparison, Gap>,
}

/// The reason why there is no comparison.
#[derive(Debug)]
enum Gap {
    /// The peer is not available on this machine.
    Skipped(String),
    /// The peer is available and its run failed.
    Failed(String),
}

/// The number of compared items, and their differences.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    compared: usize,
    differences: Vec<String>,
}

impl Comparison {
    /// Counts an item that both sides have.
    pub(crate) fn same(&mut self) {
        self.compared += 1;
    }

    /// Counts an item in which the sides differ.
    pub(crate) fn differs(&mut self, difference: impl Into<String>) {
        self.compared += 1;
        self.differences.push(difference.into());
    }

    /// Counts an item, which differs if `holds` is false.
    pub(crate) fn check(&mut self, holds: bool, difference: impl FnOnce() -> String) {
        if holds { self.same() } else { self.differs(difference()) }
    }

    /// Compares two multisets: each item has to occur equally often, in any order.
    pub(crate) fn multisets<T: Ord + fmt::Debug>(
        &mut self,
        expected: impl IntoIterator<Item = T>,
        actual: impl IntoIterator<Item = T>,
    ) {
        let mut counts = BTreeMap::<T, isize>::new();
        for item in expected {
            *counts.entry(item).or_default() += 1;
            self.compared += 1;
        }
        for item in actual {
            *counts.entry(item).or_default() -= 1;
        }
        for (item, count) in counts {
            let kind = if count > 0 { "missing" } else { "not expected" };
            let difference = || format!("{kind}: {}", shortened(&format!("{item:?}")));
            self.differences.extend(std::iter::repeat_with(difference).take(count.unsigned_abs()));
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

/// The error for a peer that is not available on this machine. It contains the reason.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

impl Report {
    /// Joins the rows of several reports.
    pub(crate) fn of(reports: impl IntoIterator<Item = Self>) -> Self {
        Self { rows: reports.into_iter().flat_map(|report| report.rows).collect() }
    }

    /// Adds a row and prints it. If the error is [`Missing`], the peer is skipped.
    pub(crate) fn add(&mut self, peer: &str, direction: &str, result: anyhow::Result<Comparison>) {
        let result = result.map_err(|error| match error.downcast::<Missing>() {
            Ok(missing) => Gap::Skipped(missing.0),
            Err(error) => Gap::Failed(format!("{error:#}")),
        });
        let row = Row { peer: peer.to_owned(), direction: direction.to_owned(), result };
        eprintln!("{row}");
        self.rows.push(row);
    }

    /// Returns whether nothing differs and nothing failed. If it must be complete, nothing may be skipped either.
    pub(crate) fn is_good(&self, must_be_complete: bool) -> bool {
        !self.rows.is_empty()
            && self.rows.iter().all(|row| match &row.result {
                Ok(comparison) => comparison.compared > 0 && comparison.differences.is_empty(),
                Err(Gap::Skipped(_)) => !must_be_complete,
                Err(Gap::Failed(_)) => false,
            })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} | {} | ", self.peer, self.direction)?;
        match &self.result {
            Ok(comparison) => write!(f, "{} | {} |", comparison.compared, comparison.differences.len()),
            Err(Gap::Skipped(_)) => f.write_str("skipped | - |"),
            Err(Gap::Failed(_)) => f.write_str("FAILED | - |"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        writeln!(f, "| peer | direction | compared | differences |\n|---|---|---|---|")?;
        for row in &self.rows {
            writeln!(f, "{row}")?;
        }
        for Row { peer, direction, result } in &self.rows {
            match result {
                Ok(comparison) => {
                    for difference in comparison.differences.iter().take(SHOWN) {
                        writeln!(f, "{peer}, {direction}: {difference}")?;
                    }
                    if let Some(more @ 1..) = comparison.differences.len().checked_sub(SHOWN) {
                        writeln!(f, "{peer}, {direction}: and {more} more")?;
                    }
                }
                Err(Gap::Skipped(reason)) => writeln!(f, "{peer}, {direction}: skipped: {reason}")?,
                Err(Gap::Failed(error)) => writeln!(f, "{peer}, {direction}: FAILED: {error}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_additional_items_are_differences() {
        let mut comparison = Comparison::default();
        comparison.multisets([1, 2, 3, 3], [2, 3, 4, 4]);
        assert_eq!(comparison.compared, 4);
        let expected = ["missing: 1", "missing: 3", "not expected: 4", "not expected: 4"];
        assert_eq!(comparison.differences, expected);
    }

    #[test]
    fn only_a_complete_report_without_differences_is_good() {
        let mut report = Report::default();
        assert!(!report.is_good(false), "nothing was compared");
        let mut same = Comparison::default();
        same.same();
        report.add("peer", "reads", Ok(same));
        assert!(report.is_good(true));
        report.add("peer", "writes", Err(Missing("no java".into()).into()));
        assert!(report.is_good(false) && !report.is_good(true));
        report.add("peer", "writes", Err(anyhow::anyhow!("it failed")));
        assert!(!report.is_good(false));
    }

    #[test]
    fn a_comparison_without_items_is_not_good() {
        let mut report = Report::default();
        report.add("peer", "reads", Ok(Comparison::default()));
        assert!(!report.is_good(false));
    }
}

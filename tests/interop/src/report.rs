//! The table at the end: peer, direction, records compared, differences.

use std::collections::BTreeMap;
use std::fmt;

/// What became of all comparisons.
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

/// Why there is nothing to show.
#[derive(Debug)]
enum Gap {
    /// The peer cannot be had on this machine.
    Skipped(String),
    /// It could be had, and something broke.
    Failed(String),
}

/// Two sides of one thing, compared.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    compared: usize,
    differences: Vec<String>,
}

impl Comparison {
    /// Both sides have it.
    pub(crate) fn same(&mut self) {
        self.compared += 1;
    }

    /// The sides differ.
    pub(crate) fn differs(&mut self, what: impl Into<String>) {
        self.compared += 1;
        self.differences.push(what.into());
    }

    /// One thing: same if it holds.
    pub(crate) fn check(&mut self, holds: bool, else_what: impl FnOnce() -> String) {
        if holds { self.same() } else { self.differs(else_what()) }
    }

    /// What is expected against what is there, in any order, each as often as it comes.
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
            let what = if count > 0 { "missing" } else { "not expected" };
            let once = || format!("{what}: {}", shortened(&format!("{item:?}")));
            self.differences.extend(std::iter::repeat_with(once).take(count.unsigned_abs()));
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
}

/// The peer cannot be had on this machine.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

impl Report {
    /// The rows of all of them.
    pub(crate) fn of(reports: impl IntoIterator<Item = Self>) -> Self {
        Self { rows: reports.into_iter().flat_map(|report| report.rows).collect() }
    }

    /// Adds a row. An error that is [`Missing`] counts as skipped.
    pub(crate) fn add(&mut self, peer: &str, direction: &str, result: anyhow::Result<Comparison>) {
        let result = result.map_err(|error| match error.downcast::<Missing>() {
            Ok(missing) => Gap::Skipped(missing.0),
            Err(error) => Gap::Failed(format!("{error:#}")),
        });
        let row = Row { peer: peer.to_owned(), direction: direction.to_owned(), result };
        eprintln!("{row}");
        self.rows.push(row);
    }

    /// Whether nothing differs and nothing failed; and, if it must be whole, nothing was skipped.
    pub(crate) fn is_good(&self, must_be_whole: bool) -> bool {
        !self.rows.is_empty()
            && self.rows.iter().all(|row| match &row.result {
                Ok(comparison) => comparison.compared > 0 && comparison.differences.is_empty(),
                Err(Gap::Skipped(_)) => !must_be_whole,
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
                Err(Gap::Skipped(reason)) => writeln!(f, "{peer}, {direction}: skipped, since {reason}")?,
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
    fn what_is_missing_doubled_or_too_many_is_a_difference() {
        let mut comparison = Comparison::default();
        comparison.multisets([1, 2, 3, 3], [2, 3, 4, 4]);
        assert_eq!(comparison.compared, 4);
        let expected = ["missing: 1", "missing: 3", "not expected: 4", "not expected: 4"];
        assert_eq!(comparison.differences, expected);
    }

    #[test]
    fn only_a_whole_report_without_differences_is_good() {
        let mut report = Report::default();
        assert!(!report.is_good(false), "nothing was compared");
        let mut same = Comparison::default();
        same.same();
        report.add("peer", "reads", Ok(same));
        assert!(report.is_good(true));
        report.add("peer", "writes", Err(Missing("no java".into()).into()));
        assert!(report.is_good(false) && !report.is_good(true));
        report.add("peer", "writes", Err(anyhow::anyhow!("it broke")));
        assert!(!report.is_good(false));
    }

    #[test]
    fn a_comparison_of_nothing_is_not_good() {
        let mut report = Report::default();
        report.add("peer", "reads", Ok(Comparison::default()));
        assert!(!report.is_good(false));
    }
}

//! Joins lines to records that begin with certain lines, such as stack traces.

use std::mem;

use bytes::Bytes;
use regex::bytes::Regex;

use crate::put::lines::{Batch, Content, Line, Position};

/// The rule by which lines are joined: a line that matches begins a record, and others belong to the record before them.
#[derive(Clone, Debug)]
pub(crate) struct Multiline {
    pub(crate) start: Regex,
    /// The maximum length of a record. A line that would exceed it begins a record, too.
    pub(crate) record_len_max: usize,
}

/// Joins the lines of one source.
#[derive(Debug)]
pub(crate) struct Joiner<'m> {
    rule: &'m Multiline,
    open: Option<Open>,
}

/// A record to which lines may still be added.
#[derive(Debug)]
struct Open {
    start: Position,
    data: Vec<u8>,
    end: Position,
}

impl<'m> Joiner<'m> {
    pub(crate) fn new(rule: &'m Multiline) -> Self {
        Self { rule, open: None }
    }

    /// Returns the records that a batch completes. The last one remains open.
    pub(crate) fn join(&mut self, batch: Batch) -> Batch {
        let Batch { source, start, lines } = batch;
        let first = self.open.as_ref().map_or(start, |open| open.start);
        let (mut records, mut line_start) = (Vec::new(), start);
        for Line { content, end } in lines {
            match content {
                Content::Data(line) => self.add(&line, line_start, end, &mut records),
                Content::TooLong { .. } => {
                    records.extend(self.finish());
                    records.push(Line { content, end });
                }
            }
            line_start = end;
        }
        Batch { source, start: first, lines: records }
    }

    fn add(&mut self, line: &Bytes, start: Position, end: Position, records: &mut Vec<Line>) {
        if let Some(open) = &mut self.open {
            let length = open.data.len() + 1 + line.len();
            if length <= self.rule.record_len_max && !self.rule.start.is_match(line) {
                open.data.push(b'\n');
                open.data.extend_from_slice(line);
                open.end = end;
                return;
            }
        }
        records.extend(self.finish());
        self.open = Some(Open { start, data: line.to_vec(), end });
    }

    /// Returns the position of the open record, if there is one.
    pub(crate) fn open_at(&self) -> Option<Position> {
        self.open.as_ref().map(|open| open.start)
    }

    /// Ends the open record, and returns it as a batch of a source.
    pub(crate) fn end(&mut self, source: u32) -> Option<Batch> {
        let start = self.open_at()?;
        Some(Batch { source, start, lines: self.finish().into_iter().collect() })
    }

    /// Ends the open record.
    fn finish(&mut self) -> Option<Line> {
        let Open { data, end, .. } = mem::take(&mut self.open)?;
        Some(Line { content: Content::Data(data.into()), end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::put::lines::Splitter;
    use std::io::BufReader;

    /// Returns the records of a text, with the offsets of their ends.
    fn records(text: &str, record_len_max: usize) -> Vec<(String, u64)> {
        let rule = Multiline { start: Regex::new("^[0-9]").unwrap(), record_len_max };
        let mut joiner = Joiner::new(&rule);
        let mut splitter = Splitter::new(BufReader::with_capacity(3, text.as_bytes()), 0, Position::default());
        let (mut all, mut end) = (Vec::new(), Position::default());
        loop {
            let batch = splitter.next_batch().unwrap();
            if batch.lines.is_empty() {
                all.extend(joiner.finish());
                break;
            }
            let joined = joiner.join(batch);
            assert_eq!(joined.start, end, "records follow on each other");
            end = joined.end();
            assert_eq!(joiner.open_at(), Some(end));
            all.extend(joined.lines);
        }
        let text = |line: Line| match line.content {
            Content::Data(data) => (String::from_utf8(data.to_vec()).unwrap(), line.end.offset),
            Content::TooLong { bytes } => (format!("too long: {bytes}"), line.end.offset),
        };
        all.into_iter().map(text).collect()
    }

    fn pairs(of: &[(&str, u64)]) -> Vec<(String, u64)> {
        of.iter().map(|(text, end)| ((*text).to_owned(), *end)).collect()
    }

    #[test]
    fn a_record_goes_on_until_the_next_start() {
        assert_eq!(
            records("1 a\n at b\n\n at c\n2 d\n3 e", 99),
            pairs(&[("1 a\n at b\n\n at c", 17), ("2 d", 21), ("3 e", 24)])
        );
        assert_eq!(records(" lone\n at x\n1\n", 99), pairs(&[(" lone\n at x", 12), ("1", 14)]));
        assert_eq!(records("", 99), []);
    }

    #[test]
    fn a_line_that_does_not_fit_begins_a_record() {
        assert_eq!(records("1\n23456\n b\n c\n d\n", 5), pairs(&[("1", 2), ("23456", 8), (" b\n c", 14), (" d", 17)]));
        assert_eq!(records("1\n longer than that\n b\n", 5), pairs(&[("1", 2), (" longer than that", 20), (" b", 23)]));
    }
}

//! The parts of one file whose lines are resolved.

use std::collections::BTreeMap;

use crate::put::lines::Position;

/// The resolved ranges of one file: all up to a position, and some beyond it. Ranges begin and end between lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResolvedRanges {
    up_to: Position,
    /// Ranges beyond `up_to` by the offsets of their starts. They neither overlap nor touch.
    beyond: BTreeMap<u64, (Position, Position)>,
}

impl ResolvedRanges {
    /// Returns ranges that begin at a position: everything before it is resolved.
    pub(crate) fn starting_at(up_to: Position) -> Self {
        Self { up_to, beyond: BTreeMap::new() }
    }

    /// Returns the position up to which all lines are resolved.
    pub(crate) fn up_to(&self) -> Position {
        self.up_to
    }

    /// Returns the resolved ranges beyond [`up_to`](Self::up_to), in order.
    pub(crate) fn beyond(&self) -> impl Iterator<Item = (Position, Position)> {
        self.beyond.values().copied()
    }

    /// Adds a range. It may overlap with others.
    pub(crate) fn insert(&mut self, mut start: Position, mut end: Position) {
        if start > self.up_to {
            // The usual case of a new last range extends the one before it or stands alone.
            while let Some((_, (first, last))) = self.beyond.range(..=end.offset).next_back() {
                let (first, last) = (*first, *last);
                if last < start {
                    break;
                }
                self.beyond.remove(&first.offset);
                (start, end) = (start.min(first), end.max(last));
            }
            if end > start {
                self.beyond.insert(start.offset, (start, end));
            }
            return;
        }
        self.up_to = self.up_to.max(end);
        while let Some(entry) = self.beyond.first_entry() {
            if entry.get().0 > self.up_to {
                break;
            }
            let (_, last) = entry.remove();
            self.up_to = self.up_to.max(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns a position in a file whose lines have 10 bytes each.
    fn at(line: u64) -> Position {
        Position { offset: 10 * line, line }
    }

    fn ranges(of: &[(u64, u64)]) -> ResolvedRanges {
        let mut ranges = ResolvedRanges::default();
        of.iter().for_each(|(start, end)| ranges.insert(at(*start), at(*end)));
        ranges
    }

    fn shape(ranges: &ResolvedRanges) -> (u64, Vec<(u64, u64)>) {
        (ranges.up_to().line, ranges.beyond().map(|(start, end)| (start.line, end.line)).collect())
    }

    #[test]
    fn ranges_join_where_they_touch() {
        assert_eq!(shape(&ranges(&[(0, 3)])), (3, vec![]));
        assert_eq!(shape(&ranges(&[(5, 7), (2, 3)])), (0, vec![(2, 3), (5, 7)]));
        assert_eq!(shape(&ranges(&[(5, 7), (2, 3), (3, 5)])), (0, vec![(2, 7)]));
        assert_eq!(shape(&ranges(&[(5, 7), (2, 3), (0, 2)])), (3, vec![(5, 7)]));
        assert_eq!(shape(&ranges(&[(2, 3), (5, 7), (1, 9)])), (0, vec![(1, 9)]));
        assert_eq!(shape(&ranges(&[(2, 3), (5, 7), (0, 6)])), (7, vec![]));
        assert_eq!(shape(&ranges(&[(4, 4)])), (0, vec![]));
    }

    proptest! {
        #[test]
        fn the_union_of_all_ranges_is_resolved(inserted in prop::collection::vec((0_u64..60, 0_u64..9), 0..40)) {
            let inserted: Vec<_> = inserted.into_iter().map(|(start, length)| (start, start + length)).collect();
            let ranges = ranges(&inserted);
            let is_inserted = |line| inserted.iter().any(|(start, end)| (*start..*end).contains(&line));
            let (up_to, beyond) = shape(&ranges);
            for line in 0..80 {
                let is_resolved = line < up_to || beyond.iter().any(|(start, end)| (*start..*end).contains(&line));
                prop_assert_eq!(is_resolved, is_inserted(line), "line {}", line);
            }
            prop_assert!(beyond.first().is_none_or(|(start, _)| *start > up_to));
            prop_assert!(beyond.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}

//! What was put, compared with what a consumer reads.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use bytes::Bytes;
use kpl_emulator::consumer::ConsumedRecord;

/// The difference between the records that were put and those that a consumer reads. It prints as a list.
///
/// Two records are the same if their partition key and data are. For tests of order and of duplicates, give each record
/// data of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    seed: u64,
    stream: String,
    /// The number of records that were put.
    pub put: usize,
    /// The number of records that were read.
    pub read: usize,
    /// Records that were put and not read.
    pub lost: Vec<(String, Bytes)>,
    /// Records that were read more often than they were put: once for each time.
    pub duplicates: Vec<(String, Bytes)>,
    /// Records that were read and never put.
    pub unknown: Vec<(String, Bytes)>,
    /// Pairs of records with the same key that were first read in the other order than they were put: the record that
    /// was put first, and then the one that was read first.
    pub reordered: Vec<(String, Bytes, Bytes)>,
}

impl Comparison {
    pub(crate) fn new(seed: u64, stream: &str, put: Vec<(String, Bytes)>, read: &[ConsumedRecord]) -> Self {
        let mut this = Self { seed, stream: stream.to_owned(), put: put.len(), read: read.len(), ..Self::default() };
        // The positions among all puts of each record that was not read yet.
        let mut unread: BTreeMap<(&str, &[u8]), VecDeque<usize>> = BTreeMap::new();
        for (position, (key, data)) in put.iter().enumerate() {
            unread.entry((key, data)).or_default().push_back(position);
        }
        // The latest put of each key that was read.
        let mut latest: BTreeMap<&str, usize> = BTreeMap::new();
        for record in read {
            let owned = || (record.partition_key.clone(), record.data.clone());
            match unread.get_mut(&(&*record.partition_key, &*record.data)) {
                None => this.unknown.push(owned()),
                Some(positions) => match positions.pop_front() {
                    None => this.duplicates.push(owned()),
                    Some(position) => {
                        let before = latest.entry(&record.partition_key).or_insert(position);
                        if position < *before {
                            let (key, data) = owned();
                            this.reordered.push((key, data, put[*before].1.clone()));
                        }
                        *before = position.max(*before);
                    }
                },
            }
        }
        let mut lost: Vec<usize> = unread.into_values().flatten().collect();
        lost.sort_unstable();
        this.lost = lost.into_iter().map(|position| put[position].clone()).collect();
        this
    }

    /// For records that may be stored more than once, or without a confirmation.
    ///
    /// # Panics
    ///
    /// If a record was lost.
    #[track_caller]
    pub fn assert_none_lost(&self) {
        assert!(self.lost.is_empty(), "{self}");
    }

    /// # Panics
    ///
    /// If a record was lost, was read without a put, or was read more often than it was put.
    #[track_caller]
    pub fn assert_exactly_once(&self) {
        assert!(self.lost.is_empty() && self.unknown.is_empty() && self.duplicates.is_empty(), "{self}");
    }

    /// # Panics
    ///
    /// If a record was first read after a record with the same key that was put later.
    #[track_caller]
    pub fn assert_in_order(&self) {
        assert!(self.reordered.is_empty(), "{self}");
    }
}

/// The number of records that are printed of each kind.
const PRINTED_MAX: usize = 10;

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, stream, put, read, lost, duplicates, unknown, reordered } = self;
        write!(f, "seed {seed}, stream {stream}: {put} records were put, {read} were read")?;
        for (kind, records) in [("lost", lost), ("duplicates", duplicates), ("unknown", unknown)] {
            let lines = records.iter().map(|(key, data)| format!("key {key:?}, data {data:?}"));
            print(f, kind, records.len(), lines)?;
        }
        let lines = reordered.iter().map(|(key, first, second)| {
            format!("key {key:?}, data {first:?}, put before {second:?}, is read after it")
        });
        print(f, "reordered", reordered.len(), lines)
    }
}

fn print(f: &mut fmt::Formatter<'_>, kind: &str, count: usize, lines: impl Iterator<Item = String>) -> fmt::Result {
    if count > 0 {
        write!(f, "\n{kind}: {count}")?;
    }
    for line in lines.take(PRINTED_MAX) {
        write!(f, "\n  {line}")?;
    }
    if count > PRINTED_MAX {
        write!(f, "\n  and {} more", count - PRINTED_MAX)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(put: &[(&str, &str)], read: &[(&str, &str)]) -> Comparison {
        let put = put.iter().map(|(key, data)| ((*key).to_owned(), Bytes::copy_from_slice(data.as_bytes())));
        let read: Vec<_> = read
            .iter()
            .map(|(key, data)| ConsumedRecord {
                shard_id: "shardId-000000000000".into(),
                sequence_number: "1".into(),
                sub_sequence_number: 0,
                aggregated: false,
                partition_key: (*key).to_owned(),
                explicit_hash_key: None,
                data: Bytes::copy_from_slice(data.as_bytes()),
            })
            .collect();
        Comparison::new(7, "s", put.collect(), &read)
    }

    #[test]
    fn keys_may_be_read_in_any_order() {
        compare(&[("a", "1"), ("b", "2"), ("a", "3")], &[("b", "2"), ("a", "1"), ("a", "3")]).assert_exactly_once();
        compare(&[("a", "1"), ("b", "2"), ("a", "3")], &[("b", "2"), ("a", "1"), ("a", "3")]).assert_in_order();
    }

    #[test]
    fn each_difference_is_printed() {
        let read = [("a", "3"), ("a", "1"), ("b", "2"), ("b", "2"), ("c", "?")];
        let comparison = compare(&[("a", "1"), ("b", "2"), ("a", "3"), ("d", "4")], &read);
        assert_eq!(
            comparison.to_string(),
            r#"seed 7, stream s: 4 records were put, 5 were read
lost: 1
  key "d", data b"4"
duplicates: 1
  key "b", data b"2"
unknown: 1
  key "c", data b"?"
reordered: 1
  key "a", data b"1", put before b"3", is read after it"#
        );
    }

    #[test]
    fn a_record_that_is_put_twice_may_be_read_twice() {
        let comparison = compare(&[("a", "1"), ("a", "1")], &[("a", "1"), ("a", "1")]);
        comparison.assert_exactly_once();
        let comparison = compare(&[("a", "1"), ("a", "1")], &[("a", "1")]);
        assert_eq!((comparison.lost.len(), comparison.duplicates.len()), (1, 0));
    }

    #[test]
    fn long_lists_are_cut() {
        let many: Vec<String> = (0..12).map(|n| n.to_string()).collect();
        let put: Vec<(&str, &str)> = many.iter().map(|data| ("k", &**data)).collect();
        let printed = compare(&put, &[]).to_string();
        assert!(printed.ends_with("  and 2 more"), "{printed}");
    }
}

//! Compares the lines that were put with the records that arrived.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use serde::Serialize;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use super::order::Order;
use crate::style::{ERROR, HEADING, styled};

/// Returns the 128-bit hash of key and data that identifies a record.
pub(crate) fn fingerprint(partition_key: &str, data: &[u8]) -> u128 {
    xxh3_128_with_seed(data, xxh3_64(partition_key.as_bytes()))
}

/// The result that the producer reported for a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineResult {
    Succeeded,
    /// Succeeded after an ambiguous attempt: a duplicate is possible.
    SucceededMaybeTwice,
    /// Failed, and is not in the stream.
    Failed,
    /// Failed, and may be in the stream.
    FailedAmbiguous,
}

/// Counts per fingerprint. Lines may repeat; then each of them must arrive.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    lines: HashMap<u128, Counts, BuildHasherDefault<FingerprintHasher>>,
    /// The number of lines that were not put.
    refused: u64,
    /// The number of user records that are not lines of this run.
    strangers: u64,
    dropped: u64,
    order: Order,
}

/// The counts of one fingerprint.
#[derive(Debug, Default)]
struct Counts {
    sent: u32,
    succeeded: u32,
    /// Lines with an ambiguous attempt.
    ambiguous: u32,
    failed: u32,
    arrived: u32,
    /// The place of the last of these lines: its source and its number there.
    place: (u32, u64),
}

impl Comparison {
    /// Counts a line that the producer had accepted.
    pub(crate) fn sent(&mut self, fingerprint: u128, place: (u32, u64), result: LineResult) {
        let counts = self.lines.entry(fingerprint).or_default();
        counts.place = place;
        counts.sent += 1;
        counts.succeeded += u32::from(matches!(result, LineResult::Succeeded | LineResult::SucceededMaybeTwice));
        counts.ambiguous += u32::from(matches!(result, LineResult::FailedAmbiguous | LineResult::SucceededMaybeTwice));
        counts.failed += u32::from(result == LineResult::Failed);
    }

    /// Counts a line that was not put.
    pub(crate) fn refused(&mut self) {
        self.refused += 1;
    }

    /// Counts a user record that a consumer receives from a shard, after those before it.
    pub(crate) fn arrived(&mut self, shard_id: &str, partition_key: &str, data: &[u8]) {
        match self.lines.get_mut(&fingerprint(partition_key, data)) {
            Some(counts) => {
                counts.arrived += 1;
                // Of equal lines, it is not known which one this is. Those that failed may be missing.
                if counts.arrived == 1 && counts.sent == 1 && counts.succeeded == 1 {
                    self.order.arrived(shard_id, partition_key, counts.place);
                }
            }
            None => self.strangers += 1,
        }
    }

    /// Counts user records that the consumer dropped, because they are outside their shard's range.
    pub(crate) fn dropped(&mut self, count: u64) {
        self.dropped += count;
    }

    /// Returns whether a line that succeeded has not arrived yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.lines.values().any(|counts| counts.arrived < counts.succeeded)
    }

    /// Returns the result of the comparison.
    pub(crate) fn verification(&self) -> Verification {
        let mut sum = Verification {
            lines: self.refused,
            missing: self.refused,
            missing_failed: self.refused,
            strangers: self.strangers,
            dropped: self.dropped,
            overtaken: self.order.overtaken(),
            ..Verification::default()
        };
        for counts in self.lines.values() {
            let Counts { sent, succeeded, ambiguous, failed, arrived, .. } = *counts;
            let missing = sent.saturating_sub(arrived);
            let twice = arrived.saturating_sub(sent);
            let lost = succeeded.saturating_sub(arrived);
            sum.lines += u64::from(sent);
            sum.arrived += u64::from(sent - missing);
            sum.missing += u64::from(missing);
            sum.missing_failed += u64::from(missing - lost);
            sum.lost += u64::from(lost);
            sum.twice += u64::from(twice);
            if ambiguous == 0 {
                sum.twice_unexplained += u64::from(twice);
                sum.failed_but_arrived += u64::from(arrived.saturating_sub(succeeded).min(failed));
            }
        }
        sum
    }
}

/// The result of the comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verification {
    /// The number of lines: put or refused.
    pub(crate) lines: u64,
    pub(crate) arrived: u64,
    /// The number of duplicates.
    pub(crate) twice: u64,
    pub(crate) missing: u64,
    /// The number of missing lines that had failed.
    pub(crate) missing_failed: u64,
    /// The number of missing lines that had succeeded.
    pub(crate) lost: u64,
    /// The number of duplicates that no ambiguous attempt explains.
    pub(crate) twice_unexplained: u64,
    /// The number of lines that arrived although they had failed without an ambiguous attempt.
    pub(crate) failed_but_arrived: u64,
    /// The number of user records that are not lines of this run.
    pub(crate) strangers: u64,
    /// The number of user records that the consumer dropped, because they are outside their shard's range.
    pub(crate) dropped: u64,
    /// The number of lines that were read before an earlier line of their key.
    pub(crate) overtaken: u64,
}

impl Verification {
    /// Returns whether every line arrived, and nothing contradicts the results that the producer reported.
    pub(crate) fn is_successful(&self) -> bool {
        self.missing == 0 && self.twice_unexplained == 0 && self.failed_but_arrived == 0
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heading = styled(if self.is_successful() { HEADING } else { ERROR }, "verified:");
        write!(f, "{heading} {} of {} lines arrived, {} twice", self.arrived, self.lines, self.twice)?;
        for (count, what) in [
            (self.twice_unexplained, "of them twice without an ambiguous attempt"),
            (self.missing_failed, "missing and reported as failed"),
            (self.lost, "LOST although reported as succeeded"),
            (self.failed_but_arrived, "arrived although reported as failed"),
            (self.strangers, "records of other producers"),
            (self.overtaken, "read before an earlier line of their key"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// Uses the fingerprint as the hash: it is one already.
#[derive(Debug, Default)]
struct FingerprintHasher(u64);

impl Hasher for FingerprintHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = fingerprint as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(sent: &[(u128, LineResult)], arrived: &[u128]) -> Verification {
        let mut comparison = Comparison::default();
        let data = |line: &u128| line.to_string();
        for (number, (line, result)) in (0..).zip(sent) {
            comparison.sent(fingerprint("k", data(line).as_bytes()), (0, number), *result);
        }
        arrived.iter().for_each(|line| comparison.arrived("shardId-0", "k", data(line).as_bytes()));
        comparison.verification()
    }

    #[test]
    fn each_of_several_equal_lines_must_arrive() {
        use LineResult::Succeeded;
        let sent = [(1, Succeeded), (1, Succeeded), (2, Succeeded)];
        let complete = comparison(&sent, &[1, 2, 1]);
        assert!(complete.is_successful());
        assert_eq!(format!("{complete}"), format!("{HEADING}verified:{HEADING:#} 3 of 3 lines arrived, 0 twice"));

        let lost = comparison(&sent, &[1, 2]);
        assert_eq!((lost.arrived, lost.missing, lost.lost, lost.is_successful()), (2, 1, 1, false));

        let twice = comparison(&sent, &[1, 1, 1, 2]);
        assert_eq!((twice.arrived, twice.twice, twice.twice_unexplained, twice.is_successful()), (3, 1, 1, false));
    }

    #[test]
    fn ambiguous_attempt_explains_a_duplicate() {
        let twice = comparison(&[(1, LineResult::SucceededMaybeTwice)], &[1, 1]);
        assert_eq!((twice.twice, twice.twice_unexplained, twice.is_successful()), (1, 0, true));
    }

    #[test]
    fn failed_line_may_arrive_only_if_its_failure_was_ambiguous() {
        let failed = comparison(&[(1, LineResult::Failed)], &[]);
        assert_eq!((failed.missing, failed.missing_failed, failed.lost), (1, 1, 0));
        assert!(!failed.is_successful());
        assert_eq!(comparison(&[(1, LineResult::Failed)], &[1]).failed_but_arrived, 1);
        assert!(comparison(&[(1, LineResult::FailedAmbiguous)], &[1]).is_successful());
        assert_eq!(comparison(&[(1, LineResult::FailedAmbiguous)], &[]).missing_failed, 1);
    }

    #[test]
    fn lines_that_are_read_before_an_earlier_one_of_their_key_are_counted() {
        use LineResult::{Failed, Succeeded, SucceededMaybeTwice};
        let sent = [(1, Succeeded), (2, SucceededMaybeTwice), (3, Failed), (4, Succeeded), (5, Succeeded)];
        assert_eq!(comparison(&sent, &[1, 2, 4, 2, 5]).overtaken, 0);
        let overtaken = comparison(&sent, &[2, 5, 1, 4]);
        assert_eq!(overtaken.overtaken, 2, "2 before 1, and 5 before 1 and 4");
        assert!(overtaken.to_string().contains(", 2 read before an earlier line of their key"), "{overtaken}");
    }

    #[test]
    fn records_of_other_producers_are_counted_separately() {
        let mixed = comparison(&[(1, LineResult::Succeeded)], &[7, 1]);
        assert_eq!((mixed.strangers, mixed.arrived, mixed.is_successful()), (1, 1, true));
    }

    #[test]
    fn fingerprint_distinguishes_key_and_data() {
        let fingerprints =
            [fingerprint("a", b"bc"), fingerprint("ab", b"c"), fingerprint("abc", b""), fingerprint("a", b"")];
        for (i, a) in fingerprints.iter().enumerate() {
            assert!(fingerprints[i + 1..].iter().all(|b| a != b));
        }
    }
}

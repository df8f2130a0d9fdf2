//! What was put against what arrived.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use serde::Serialize;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// By which a record is known again: 128 bits of its key and data.
pub(crate) fn fingerprint(partition_key: &str, data: &[u8]) -> u128 {
    xxh3_128_with_seed(data, xxh3_64(partition_key.as_bytes()))
}

/// What the producer said of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Succeeded,
    /// It succeeded after an attempt of which nobody knows: a duplicate would be no surprise.
    SucceededMaybeTwice,
    /// It failed, and no consumer may ever see it.
    Failed,
    /// It failed, and may be in the stream all the same.
    Unknown,
}

/// Counts by fingerprint: lines may repeat, and then each must arrive.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    lines: HashMap<u128, Counts, BuildHasherDefault<FingerprintHasher>>,
    /// Lines that were never put.
    refused: u64,
    strangers: u64,
    dropped: u64,
}

#[derive(Debug, Default)]
struct Counts {
    sent: u32,
    succeeded: u32,
    /// Failed, or tried more often than known.
    in_doubt: u32,
    failed: u32,
    arrived: u32,
}

impl Tally {
    /// A line that the producer had taken.
    pub(crate) fn sent(&mut self, fingerprint: u128, fate: Fate) {
        let counts = self.lines.entry(fingerprint).or_default();
        counts.sent += 1;
        counts.succeeded += u32::from(matches!(fate, Fate::Succeeded | Fate::SucceededMaybeTwice));
        counts.in_doubt += u32::from(matches!(fate, Fate::Unknown | Fate::SucceededMaybeTwice));
        counts.failed += u32::from(fate == Fate::Failed);
    }

    /// A line that the producer never had.
    pub(crate) fn refused(&mut self) {
        self.refused += 1;
    }

    /// A user record that a consumer sees.
    pub(crate) fn arrived(&mut self, fingerprint: u128) {
        match self.lines.get_mut(&fingerprint) {
            Some(counts) => counts.arrived += 1,
            None => self.strangers += 1,
        }
    }

    /// User records that the consumer dropped, since they lie outside their shard's range.
    pub(crate) fn dropped(&mut self, count: u64) {
        self.dropped += count;
    }

    /// Whether a line that succeeded has not arrived yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.lines.values().any(|counts| counts.arrived < counts.succeeded)
    }

    pub(crate) fn verification(&self) -> Verification {
        let mut sum = Verification {
            lines: self.refused,
            missing: self.refused,
            missing_failed: self.refused,
            strangers: self.strangers,
            dropped: self.dropped,
            ..Verification::default()
        };
        for counts in self.lines.values() {
            let Counts { sent, succeeded, in_doubt, failed, arrived } = *counts;
            let missing = sent.saturating_sub(arrived);
            let twice = arrived.saturating_sub(sent);
            let lost = succeeded.saturating_sub(arrived);
            sum.lines += u64::from(sent);
            sum.arrived += u64::from(sent - missing);
            sum.missing += u64::from(missing);
            sum.missing_failed += u64::from(missing - lost);
            sum.lost += u64::from(lost);
            sum.twice += u64::from(twice);
            if in_doubt == 0 {
                sum.twice_unexplained += u64::from(twice);
                sum.failed_but_arrived += u64::from(arrived.saturating_sub(succeeded).min(failed));
            }
        }
        sum
    }
}

/// What came of the comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verification {
    /// Lines that were dealt with.
    pub(crate) lines: u64,
    pub(crate) arrived: u64,
    /// Arrivals beyond the first of a line.
    pub(crate) twice: u64,
    pub(crate) missing: u64,
    /// Those of the missing that had failed.
    pub(crate) missing_failed: u64,
    /// Those of the missing that had succeeded.
    pub(crate) lost: u64,
    /// Those of the duplicates for which no lost reply can be the reason.
    pub(crate) twice_unexplained: u64,
    /// Lines that had failed for certain, and arrived.
    pub(crate) failed_but_arrived: u64,
    /// User records that are none of the lines.
    pub(crate) strangers: u64,
    /// User records that the consumer dropped, since they lie outside their shard's range.
    pub(crate) dropped: u64,
}

impl Verification {
    /// Whether every line arrived, and nothing contradicts what the producer said.
    pub(crate) fn is_sound(&self) -> bool {
        self.missing == 0 && self.twice_unexplained == 0 && self.failed_but_arrived == 0
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "verified: {} of {} lines arrived, {} twice", self.arrived, self.lines, self.twice)?;
        for (count, what) in [
            (self.twice_unexplained, "of them twice without a lost reply as the reason"),
            (self.missing_failed, "missing as reported failed"),
            (self.lost, "LOST although reported succeeded"),
            (self.failed_but_arrived, "there although reported failed"),
            (self.strangers, "records of others seen"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// A fingerprint is a hash already.
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

    fn tally(sent: &[(u128, Fate)], arrived: &[u128]) -> Verification {
        let mut tally = Tally::default();
        sent.iter().for_each(|(line, fate)| tally.sent(*line, *fate));
        arrived.iter().for_each(|line| tally.arrived(*line));
        tally.verification()
    }

    #[test]
    fn lines_that_repeat_must_each_arrive() {
        use Fate::Succeeded;
        let sent = [(1, Succeeded), (1, Succeeded), (2, Succeeded)];
        let sound = tally(&sent, &[1, 2, 1]);
        assert!(sound.is_sound());
        assert_eq!(sound.to_string(), "verified: 3 of 3 lines arrived, 0 twice");

        let lost = tally(&sent, &[1, 2]);
        assert_eq!((lost.arrived, lost.missing, lost.lost, lost.is_sound()), (2, 1, 1, false));

        let twice = tally(&sent, &[1, 1, 1, 2]);
        assert_eq!((twice.arrived, twice.twice, twice.twice_unexplained, twice.is_sound()), (3, 1, 1, false));
    }

    #[test]
    fn a_lost_reply_explains_a_duplicate() {
        let twice = tally(&[(1, Fate::SucceededMaybeTwice)], &[1, 1]);
        assert_eq!((twice.twice, twice.twice_unexplained, twice.is_sound()), (1, 0, true));
    }

    #[test]
    fn a_failed_line_may_only_arrive_if_its_failure_was_ambiguous() {
        let failed = tally(&[(1, Fate::Failed)], &[]);
        assert_eq!((failed.missing, failed.missing_failed, failed.lost), (1, 1, 0));
        assert!(!failed.is_sound());
        assert_eq!(tally(&[(1, Fate::Failed)], &[1]).failed_but_arrived, 1);
        assert!(tally(&[(1, Fate::Unknown)], &[1]).is_sound());
        assert_eq!(tally(&[(1, Fate::Unknown)], &[]).missing_failed, 1);
    }

    #[test]
    fn records_of_others_are_counted_apart() {
        let mixed = tally(&[(1, Fate::Succeeded)], &[7, 1]);
        assert_eq!((mixed.strangers, mixed.arrived, mixed.is_sound()), (1, 1, true));
    }

    #[test]
    fn key_and_data_are_told_apart() {
        let prints = [fingerprint("a", b"bc"), fingerprint("ab", b"c"), fingerprint("abc", b""), fingerprint("a", b"")];
        for (i, a) in prints.iter().enumerate() {
            assert!(prints[i + 1..].iter().all(|b| a != b));
        }
    }
}

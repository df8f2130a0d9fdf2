//! The user records of the comparisons: a fixed set of cases, and random batches from a seed.

use kpl_core::codec::{self, AggregatedUserRecord};

use crate::line::Record;

/// User records that are put together. The producer is flushed after each case.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) records: Vec<Record>,
}

/// The largest hash key.
const LAST: u128 = u128::MAX;

/// Returns cases of typical records and of records at every limit.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, records: Vec<Record>| Case { name, records };
    let numbered = |count: usize, key: &dyn Fn(usize) -> String| {
        (0..count).map(|n| Record::new(key(n), None, format!("record {n}").as_bytes())).collect()
    };
    let unicode = ["é", "あいう", "ключ", "🦀🦀", "e\u{301}", "\u{feff}", "a\tb\n", "\u{0}", "ß\u{200d}ﷺ"];
    vec![
        case("one record", vec![Record::new("key", None, b"alone")]),
        case("one record with an explicit hash key", vec![Record::new("key", Some(LAST / 3), b"alone")]),
        case("one empty record", vec![Record::new("key", None, b"")]),
        case("two records", numbered(2, &|n| format!("key-{n}"))),
        case("a repeated key", numbered(10, &|_| "the same".into())),
        case("distinct keys", numbered(100, &|n| format!("key-{n}"))),
        case("keys that recur", numbered(100, &|n| format!("key-{}", n * n % 7))),
        case("Unicode keys", numbered(unicode.len() * 2, &|n| unicode[n % unicode.len()].into())),
        case("keys of 256 characters", numbered(4, &|n| ["k", "あ", "🦀", "é"][n].repeat(256))),
        case(
            "explicit hash keys, distinct",
            (0..20).map(|n| Record::new(format!("key-{n}"), Some(LAST / 20 * n), b"placed")).collect(),
        ),
        case(
            "explicit hash keys, repeated, with different partition keys",
            (0..30_u32).map(|n| Record::new(format!("key-{}", n % 4), Some(u128::from(n % 3)), b"placed")).collect(),
        ),
        case(
            "explicit hash keys, first and last",
            vec![
                Record::new("first", Some(0), b"0"),
                Record::new("last", Some(LAST), b"2^128 - 1"),
                Record::new("first", Some(0), b"0 again"),
            ],
        ),
        case(
            "some with explicit hash keys and some without",
            (0..40)
                .map(|n| Record::new(format!("key-{}", n % 5), (n % 3 == 0).then_some(n << 120), b"mixed"))
                .collect(),
        ),
        case(
            "empty data among others",
            (0..20_u8).map(|n| Record::new(format!("key-{n}"), None, &vec![n; usize::from(n % 3)])).collect(),
        ),
        case("all bytes", (0..=255_u8).map(|n| Record::new("bytes", None, &[n; 3])).collect()),
        case("data similar to an aggregate", {
            let nested = aggregated(&[Record::new("inner", None, b"inner")]);
            vec![
                Record::new("outer", None, &nested),
                Record::new("outer", None, b"\xF3\x89\x9A\xC2"),
                Record::new("outer", None, b"\xF3\x89\x9A\xC2 and no more"),
            ]
        }),
        case(
            "large data",
            vec![
                Record::new("large", None, &filled(25_000)),
                Record::new("large", None, &filled(25_000)),
                Record::new("large", None, &filled(50_000)),
                Record::new("larger", None, &filled(51_200)),
                Record::new("larger", None, &filled(60_000)),
                Record::new("small", None, b"small"),
            ],
        ),
        case(
            "the largest records",
            vec![
                Record::new("1 MiB", None, &filled((1 << 20) - 5)),
                Record::new("nearly", None, &filled((1 << 20) - 500)),
            ],
        ),
        case(
            "around the size of an aggregate",
            (0..40).map(|n| Record::new("around", None, &filled(51_200 / 8 - 20 + n))).collect(),
        ),
        case("2,000 records", numbered(2_000, &|n| format!("key-{}", n % 512))),
    ]
}

/// Returns cases with aggregates of `limit` bytes, one byte less and one byte more, and cases in which records that are
/// too large for an aggregate are next to others.
pub(crate) fn cases_at_the_size_limit(limit: usize) -> Vec<Case> {
    let pair = |size: usize| {
        let mut users = vec![Record::new("half", None, &filled(limit / 2)), Record::new("other half", Some(7), b"")];
        users[1].data = filled(size - aggregated(&users).len()).into();
        // Its length field has become longer.
        let excess = aggregated(&users).len() - size;
        users[1].data = users[1].data.slice(excess..);
        assert_eq!(aggregated(&users).len(), size, "the pair has the requested size");
        users
    };
    let (small, large) = (Record::new("small", None, b"small"), Record::new("large", None, &filled(limit + 1)));
    vec![
        // The KPL aggregates only if it has the shard map, which it requests at the first record.
        Case { name: "one record", records: vec![small.clone()] },
        Case { name: "a pair below the limit", records: pair(limit - 1) },
        Case { name: "a pair at the limit", records: pair(limit) },
        Case { name: "a pair over the limit", records: pair(limit + 1) },
        Case { name: "alone at the limit", records: vec![Record::new("alone", None, &filled(limit))] },
        Case { name: "small, then large", records: vec![small.clone(), large.clone()] },
        Case { name: "large, then small", records: vec![large, small] },
    ]
}

fn aggregated(users: &[Record]) -> Vec<u8> {
    let users: Vec<AggregatedUserRecord> = users.iter().map(|user| user.try_into().expect("a hash key")).collect();
    codec::encode(&users)
}

/// Returns the records of all cases.
pub(crate) fn records() -> Vec<Record> {
    cases().into_iter().flat_map(|case| case.records).collect()
}

/// Returns bytes that do not repeat soon.
fn filled(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n * n / 7 % 251) as u8).collect()
}

/// Returns `count` batches of 1 to 30 random user records. The same seed results in the same batches.
pub(crate) fn random_batches(seed: u64, count: usize) -> impl Iterator<Item = Vec<Record>> {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..count).map(move |_| {
        let keys: Vec<String> = (0..rng.usize(1..8)).map(|_| random_key(&mut rng)).collect();
        let hash_keys: Vec<u128> = (0..3).map(|_| rng.u128(..) >> rng.u32(0..128)).collect();
        let explicit = rng.f32();
        let size_max = [0, 10, 200, 2_000][rng.usize(0..4)];
        let record = |rng: &mut fastrand::Rng| {
            let hash_key = (rng.f32() < explicit).then(|| hash_keys[rng.usize(0..hash_keys.len())]);
            let data: Vec<u8> = (0..rng.usize(0..=size_max)).map(|_| rng.u8(..)).collect();
            Record::new(&*keys[rng.usize(0..keys.len())], hash_key, &data)
        };
        (0..rng.usize(1..=30)).map(|_| record(&mut rng)).collect()
    })
}

fn random_key(rng: &mut fastrand::Rng) -> String {
    let length = if rng.u8(..) == 0 { 256 } else { rng.usize(1..=20) };
    let ascii = rng.bool();
    (0..length).map(|_| if ascii { rng.alphanumeric() } else { rng.char('\u{1}'..) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_valid() {
        for user in records().iter().chain(&random_batches(7, 500).flatten().collect::<Vec<_>>()) {
            assert!(user.record("events").prepare().is_ok(), "{:.100}", user.partition_key);
        }
        let sizes: Vec<usize> = cases().iter().map(|case| case.records.len()).collect();
        assert!(sizes.contains(&1) && sizes.contains(&2_000));
    }

    #[test]
    fn the_same_seed_results_in_the_same_batches() {
        let batches = |seed| random_batches(seed, 20).collect::<Vec<_>>();
        assert_eq!(batches(3), batches(3));
        assert_ne!(batches(3), batches(4));
    }
}

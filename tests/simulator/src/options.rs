//! What a world is like: sampled, each fault off in about half of all worlds.

use std::time::Duration;

use arbitrary::{Result, Unstructured};

/// The workload, the settings and the faults of a run.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) streams: usize,
    pub(crate) shards: u32,
    pub(crate) keys: Keys,
    /// Most bytes of a record's data.
    pub(crate) size_max: usize,
    /// Of 256 records, how many have an explicit hash key.
    pub(crate) explicit: u8,
    /// Bursts of puts, and how many records each has at most.
    pub(crate) bursts: usize,
    pub(crate) burst_max: usize,
    /// Longest pause between bursts.
    pub(crate) pause_max: Duration,
    pub(crate) config: Settings,
    pub(crate) faults: Faults,
    pub(crate) reshards: usize,
    pub(crate) flushes: usize,
    /// Whether the producer is closed while records are still under way, with so much time.
    pub(crate) close_within: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Keys {
    Hot,
    Few,
    Distinct,
    /// Explicit hash keys next to the borders of shards.
    Borders,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) aggregation: bool,
    pub(crate) aggregation_max_size: usize,
    pub(crate) buffered: Duration,
    pub(crate) ttl: Duration,
    pub(crate) in_flight: usize,
    pub(crate) outstanding: usize,
    pub(crate) fail_if_throttled: bool,
    pub(crate) seed: u64,
}

/// Rates are of 256.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    pub(crate) latency: Duration,
    pub(crate) jitter: Duration,
    pub(crate) request_lost: u8,
    pub(crate) reply_lost: u8,
    pub(crate) refused: u8,
    pub(crate) http_500: u8,
    pub(crate) throttle: u8,
    pub(crate) internal_failure: u8,
    pub(crate) list_fails: u8,
    pub(crate) list_stale: u8,
    /// Lists come in pages of so few shards that a reshard may fall between them.
    pub(crate) small_pages: bool,
    /// Other producers take most of the shards' throughput.
    pub(crate) others: bool,
    /// The clock jumps forward.
    pub(crate) jumps: u8,
}

impl Options {
    pub(crate) fn sample(u: &mut Unstructured<'_>) -> Result<Self> {
        Ok(Self {
            streams: u.int_in_range(1..=3)?,
            shards: if u.ratio(1, 8)? { u.int_in_range(20..=200)? } else { u.int_in_range(1..=8)? },
            keys: *u.choose(&[Keys::Hot, Keys::Few, Keys::Distinct, Keys::Borders])?,
            size_max: *u.choose(&[0, 20, 200, 2_000, 60_000])?,
            explicit: *u.choose(&[0, 0, 60, 255])?,
            bursts: u.int_in_range(1..=40)?,
            burst_max: *u.choose(&[1, 10, 60])?,
            pause_max: *u.choose(&[Duration::ZERO, ms(20), ms(300), ms(3_000)])?,
            config: Settings {
                aggregation: u.ratio(4, 5)?,
                aggregation_max_size: *u.choose(&[51_200, 51_200, 2_000, 64])?,
                buffered: *u.choose(&[ms(100), ms(100), Duration::ZERO, ms(5), ms(1_000)])?,
                ttl: *u.choose(&[ms(30_000), ms(30_000), ms(2_000), Duration::MAX])?,
                in_flight: *u.choose(&[24, 24, 1, 3])?,
                outstanding: *u.choose(&[100_000, 100_000, 50])?,
                fail_if_throttled: u.ratio(1, 6)?,
                seed: u.arbitrary()?,
            },
            faults: Faults {
                latency: *u.choose(&[ms(1), ms(20), ms(200)])?,
                jitter: *u.choose(&[Duration::ZERO, ms(30), ms(1_000), ms(8_000)])?,
                request_lost: rate(u)?,
                reply_lost: rate(u)?,
                refused: rate(u)?,
                http_500: rate(u)?,
                throttle: rate(u)?,
                internal_failure: rate(u)?,
                list_fails: rate(u)?,
                list_stale: rate(u)?,
                small_pages: u.arbitrary()?,
                others: u.ratio(1, 5)?,
                jumps: if u.ratio(1, 5)? { 5 } else { 0 },
            },
            reshards: if u.arbitrary()? { u.int_in_range(1..=12)? } else { 0 },
            flushes: if u.arbitrary()? { u.int_in_range(1..=6)? } else { 0 },
            close_within: if u.ratio(1, 4)? { Some(*u.choose(&[Duration::ZERO, ms(50), ms(5_000)])?) } else { None },
        })
    }
}

/// Off in half of all worlds.
fn rate(u: &mut Unstructured<'_>) -> Result<u8> {
    Ok(*u.choose(&[0, 0, 0, 8, 40, 150])?)
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

//! What a world is like: sampled, each fault off in about half of all worlds, so that none hides what another would show.

use std::time::Duration;

use crate::choices::Choices;

/// The workload, the settings and the faults of a run.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) work: Work,
    pub(crate) config: Settings,
    pub(crate) network: Network,
    pub(crate) service: Service,
    pub(crate) callers: Callers,
    pub(crate) ending: Ending,
}

/// What is put.
#[derive(Clone, Debug)]
pub(crate) struct Work {
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
    pub(crate) flushes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Keys {
    /// One key for all.
    Hot,
    Few,
    Distinct,
    /// Explicit hash keys next to the borders of shards.
    Borders,
}

/// The producer's settings.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) aggregation: bool,
    pub(crate) aggregation_max_count: usize,
    pub(crate) aggregation_max_size: usize,
    pub(crate) collection_max_count: usize,
    pub(crate) collection_max_size: usize,
    pub(crate) collection_max_size_per_shard: usize,
    pub(crate) buffered: Duration,
    pub(crate) ttl: Duration,
    pub(crate) in_flight: usize,
    pub(crate) outstanding_records: usize,
    pub(crate) outstanding_bytes: usize,
    pub(crate) records_per_second: u64,
    pub(crate) bytes_per_second: u64,
    pub(crate) start_timeout: Duration,
    /// `None`: the default.
    pub(crate) max_shard_backlog: Option<Duration>,
    /// All consumers read aggregates on any shard.
    pub(crate) any_shard: bool,
    pub(crate) fail_if_throttled: bool,
    /// Whether the producer is told what a stream's description says.
    pub(crate) told: bool,
    pub(crate) seed: u64,
}

/// What happens to requests on their way. Rates are of 256.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) latency: Duration,
    /// Requests and replies overtake each other by up to so much.
    pub(crate) jitter: Duration,
    /// The connection does not come about: nothing was sent.
    pub(crate) not_sent: u8,
    pub(crate) request_lost: u8,
    /// The service has stored the records, and nobody says so.
    pub(crate) reply_lost: u8,
    /// HTTP 500, before or after the records were stored.
    pub(crate) http_500: u8,
    /// The reply has too many or too few results, or results that say nothing.
    pub(crate) garbled: u8,
    /// Times in which nothing arrives, and how long each of them is at most.
    pub(crate) outages: usize,
    pub(crate) outage_max: Duration,
    /// The clock jumps forward.
    pub(crate) jumps: u8,
}

/// What the service does. Rates are of 256.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) throttle: u8,
    pub(crate) internal_failure: u8,
    /// Requests refused as a whole, by a code that may pass or, if `permanent`, by one that does not.
    pub(crate) refused: u8,
    pub(crate) permanent: bool,
    pub(crate) list_fails: u8,
    /// How long a list takes beyond the latency.
    pub(crate) list_late: Duration,
    /// Every list is refused for want of a permission.
    pub(crate) list_denied: bool,
    /// Lists of shards that are out of date, that mix old and new, or that lack a shard.
    pub(crate) list_untrue: u8,
    /// Lists come in pages of so few shards that a reshard may fall between them.
    pub(crate) small_pages: bool,
    pub(crate) describe_fails: u8,
    /// Other producers take most of the shards' throughput.
    pub(crate) others: bool,
    /// Puts of a second producer of ours; without any, there is none.
    pub(crate) companion_puts: usize,
    pub(crate) reshards: usize,
    /// Streams that are deleted and made again.
    pub(crate) rebirths: usize,
    /// Most KiB in a record.
    pub(crate) record_kib: Option<usize>,
    /// Whether only the record that is too large is refused, or the whole request.
    pub(crate) oversized_fails_alone: bool,
    /// Streams that ignore keys from the start.
    pub(crate) auto: bool,
    /// Streams that change their mind about that.
    pub(crate) auto_switches: usize,
}

/// What the application and its runtime do. At level (a) there is neither; see `crate::subject`.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "driver"), allow(dead_code, reason = "there are no callers without it"))]
pub(crate) struct Callers {
    /// Whether puts wait for room, and for how long before they are dropped.
    pub(crate) put_patience: Option<Duration>,
    /// Whether tasks that are ready run in any order.
    pub(crate) any_order: bool,
    /// Sleeps end late by up to so much.
    pub(crate) oversleep: Duration,
    /// Of 256 requests, how many panic in their task, before or after they were sent.
    pub(crate) panics: u8,
    /// Times at which the producer is ticked though nothing is due.
    pub(crate) spurious_wakes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// Everything heals and drains by itself, and then the producer is closed.
    Drained,
    /// It is closed when everything heals, with so much time.
    Closed(Duration),
    /// It is closed before everything heals, with so much time.
    ClosedEarly(Duration),
    /// The last handle is dropped before everything heals.
    Dropped,
    /// Its runtime ends in mid-flight.
    RuntimeEnds,
}

impl Options {
    pub(crate) fn sample(c: &mut Choices<'_, '_>) -> Self {
        let mut options = Self {
            work: Work::sample(c),
            config: Settings::sample(c),
            network: Network::sample(c),
            service: Service::sample(c),
            callers: Callers::sample(c),
            ending: c.pick(&[
                Ending::Drained,
                Ending::Drained,
                Ending::Drained,
                Ending::Closed(Duration::MAX),
                Ending::Closed(ms(50)),
                Ending::ClosedEarly(Duration::MAX),
                Ending::ClosedEarly(ms(5_000)),
                Ending::ClosedEarly(Duration::ZERO),
                Ending::Dropped,
                Ending::RuntimeEnds,
            ]),
        };
        options.config.ttl = options.config.ttl.max(2 * options.config.buffered);
        options.config.told &= options.service.auto_switches == 0;
        if options.service.rebirths > 0 && c.chance(128) {
            // What is lost with a stream shows when nothing expires and its shards change.
            options.config.ttl = Duration::MAX;
            options.service.reshards = options.service.reshards.max(6);
        }
        if matches!(options.ending, Ending::Dropped) {
            // Who waits for room has a handle.
            options.callers.put_patience = None;
        }
        options
    }
}

impl Work {
    fn sample(c: &mut Choices<'_, '_>) -> Self {
        let size_max = c.pick(&[100, 100, 100, 0, 20, 20, 300, 300, 2_500, 60_000]);
        // As many bytes in all worlds, more or less.
        let burst_max = match size_max {
            0..=300 => c.pick(&[60, 1, 10, 300, 2_000, 2_000]),
            301..=3_000 => c.pick(&[60, 1, 10]),
            _ => c.pick(&[10, 1, 30]),
        };
        // Few bytes make a small world, which a fuzzer runs often.
        let room = 1 + c.bytes_left() / 4;
        Self {
            streams: if c.chance(6) {
                c.int(20..=120)
            } else if c.chance(100) {
                c.int(2..=5)
            } else {
                1
            },
            shards: if c.chance(32) { c.int(20..=200) } else { c.int(1..=8) },
            keys: c.pick(&[Keys::Hot, Keys::Few, Keys::Distinct, Keys::Borders]),
            size_max,
            explicit: c.pick(&[0, 0, 60, 255]),
            bursts: c.int(1..=if burst_max > 300 { 12 } else { 40 }).min(room),
            burst_max: burst_max.min(room),
            pause_max: if c.chance(12) {
                ms(700_000) // streams are retired in between
            } else {
                c.pick(&[Duration::ZERO, ms(20), ms(300), ms(3_000)])
            },
            flushes: if c.chance(128) { c.int(1..=6) } else { 0 },
        }
    }
}

impl Settings {
    fn sample(c: &mut Choices<'_, '_>) -> Self {
        Self {
            aggregation: c.chance(200),
            aggregation_max_count: if c.chance(40) { c.pick(&[1, 2, 7]) } else { u32::MAX as usize },
            aggregation_max_size: c.pick(&[51_200, 51_200, 51_200, 2_000, 64]),
            collection_max_count: c.pick(&[500, 500, 3]),
            collection_max_size: c.pick(&[5 << 20, 5 << 20, 60_000]),
            collection_max_size_per_shard: c.pick(&[256 << 10, 256 << 10, 3_000]),
            buffered: c.pick(&[ms(100), ms(100), Duration::ZERO, ms(5), ms(1_000)]),
            ttl: c.pick(&[ms(30_000), ms(30_000), ms(2_000), ms(300), Duration::MAX]),
            in_flight: c.pick(&[24, 1, 3]),
            outstanding_records: c.pick(&[100_000, 100_000, 50]),
            outstanding_bytes: c.pick(&[128 << 20, 128 << 20, 20_000]),
            records_per_second: c.pick(&[1_000, 1_000, 50]),
            bytes_per_second: c.pick(&[1 << 20, 1 << 20, 60_000]),
            start_timeout: c.pick(&[ms(5_000), ms(5_000), Duration::ZERO, ms(300)]),
            max_shard_backlog: c.pick(&[None, None, Some(ms(200)), Some(ms(3_600_000))]),
            any_shard: c.chance(30),
            fail_if_throttled: c.chance(40),
            told: c.chance(40),
            seed: c.int(1..=u64::from(u32::MAX)),
        }
    }
}

impl Network {
    fn sample(c: &mut Choices<'_, '_>) -> Self {
        Self {
            latency: c.pick(&[ms(1), ms(20), ms(200)]),
            jitter: c.pick(&[Duration::ZERO, Duration::ZERO, ms(30), ms(1_000), ms(8_000)]),
            not_sent: rate(c),
            request_lost: rate(c),
            reply_lost: rate(c),
            http_500: rate(c),
            garbled: if c.chance(64) { rate(c) } else { 0 },
            outages: if c.chance(80) { c.int(1..=3) } else { 0 },
            outage_max: c.pick(&[ms(500), ms(5_000), ms(12_000)]),
            jumps: if c.chance(50) { 5 } else { 0 },
        }
    }
}

impl Service {
    fn sample(c: &mut Choices<'_, '_>) -> Self {
        let reshards = if c.chance(128) { c.int(1..=12) } else { 0 };
        Self {
            throttle: rate(c),
            internal_failure: rate(c),
            refused: if c.chance(100) { rate(c) } else { 0 },
            permanent: c.chance(64),
            list_fails: rate(c),
            list_late: c.pick(&[Duration::ZERO, Duration::ZERO, Duration::ZERO, ms(400), ms(3_000)]),
            list_denied: c.chance(25),
            list_untrue: rate(c),
            small_pages: c.chance(100),
            describe_fails: rate(c),
            others: c.chance(50),
            companion_puts: if c.chance(40) { c.int(1..=40) } else { 0 },
            reshards,
            rebirths: if c.chance(60) { c.int(1..=3) } else { 0 },
            record_kib: if c.chance(40) { Some(c.pick(&[2, 1, 30])) } else { None },
            oversized_fails_alone: c.chance(128),
            auto: c.chance(20),
            auto_switches: if c.chance(20) { c.int(1..=3) } else { 0 },
        }
    }
}

impl Callers {
    fn sample(c: &mut Choices<'_, '_>) -> Self {
        Self {
            put_patience: if c.chance(128) {
                Some(c.pick(&[Duration::MAX, ms(20), ms(2_000), Duration::ZERO]))
            } else {
                None
            },
            any_order: c.chance(128),
            oversleep: c.pick(&[Duration::ZERO, Duration::ZERO, ms(1), ms(300)]),
            panics: if c.chance(64) { rate(c) } else { 0 },
            spurious_wakes: if c.chance(64) { c.int(1..=20) } else { 0 },
        }
    }
}

/// Off in half of all worlds.
fn rate(c: &mut Choices<'_, '_>) -> u8 {
    c.pick(&[0, 0, 0, 8, 40, 150])
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

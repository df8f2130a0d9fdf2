//! The options of a world. Each fault is off in about half of all worlds, so that it does not hide the effects of
//! others.

use std::time::Duration;

use crate::choices::Choices;

/// The time after which a driver stops waiting for the reply to a request.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(6);

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

/// The puts and flushes of a run.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) streams: usize,
    pub(crate) shards: u32,
    pub(crate) keys: Keys,
    /// The maximum size of a record's data in bytes.
    pub(crate) size_max: usize,
    /// The number of records, of 256, that have an explicit hash key.
    pub(crate) explicit: u8,
    /// The number of bursts of puts.
    pub(crate) bursts: usize,
    /// The maximum number of records in a burst.
    pub(crate) burst_max: usize,
    /// The maximum pause between bursts.
    pub(crate) pause_max: Duration,
    pub(crate) flushes: usize,
    /// Whether a flush follows each burst at once.
    pub(crate) flush_after_bursts: bool,
    /// Whether the records of a burst are put in batches.
    pub(crate) batches: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Keys {
    /// One key for all records.
    Hot,
    Few,
    Distinct,
    /// Explicit hash keys at the borders of shards.
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
    pub(crate) in_flight_max: usize,
    pub(crate) outstanding_records: usize,
    pub(crate) outstanding_bytes: usize,
    pub(crate) records_per_second: u64,
    pub(crate) bytes_per_second: u64,
    pub(crate) start_timeout: Duration,
    /// `None` for the default.
    pub(crate) max_shard_backlog: Option<Duration>,
    /// Whether all consumers accept aggregates on any shard.
    pub(crate) any_shard: bool,
    /// Whether the records of each hash key are to be read in order.
    pub(crate) ordering: bool,
    pub(crate) fail_if_throttled: bool,
    pub(crate) retry_if_denied: bool,
    /// Whether the configuration has the record size limit and the record distribution of a stream's description.
    pub(crate) description_given: bool,
    pub(crate) seed: u64,
}

/// The faults of the network. Rates are per 256 requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    pub(crate) latency: Duration,
    /// The maximum additional latency. It reorders requests and replies.
    pub(crate) jitter: Duration,
    /// Refused connections: nothing is sent.
    pub(crate) not_sent: u8,
    pub(crate) request_lost: u8,
    /// Replies that are lost after the service has processed the request.
    pub(crate) reply_lost: u8,
    /// HTTP 500, before or after the records are stored.
    pub(crate) http_500: u8,
    /// Replies with too many or too few results, or with empty results.
    pub(crate) garbled: u8,
    /// Replies without the ids of shards.
    pub(crate) unnamed_shards: u8,
    /// The number of outages. During an outage, no request arrives.
    pub(crate) outages: usize,
    /// The maximum duration of an outage.
    pub(crate) outage_max: Duration,
    /// Forward jumps of the clock, per 256 steps.
    pub(crate) jumps: u8,
}

/// The faults and changes of the service. Rates are per 256 requests or records.
#[derive(Clone, Debug, Default)]
pub(crate) struct Service {
    pub(crate) throttle: u8,
    pub(crate) internal_failure: u8,
    /// Requests that are refused as a whole.
    pub(crate) refused: u8,
    /// Whether the code of a refused request is a permanent error.
    pub(crate) permanent: bool,
    /// Whether a gateway refuses requests, with the status alone.
    pub(crate) status_only: bool,
    /// The maximum size of a request that the gateway accepts. Each record alone is smaller.
    pub(crate) request_size_max: Option<usize>,
    /// The time for which half of the requests do not find a new stream.
    pub(crate) unknown_for: Duration,
    /// Failed requests for the shard list.
    pub(crate) list_fails: u8,
    /// The additional latency of a shard list.
    pub(crate) list_delay: Duration,
    /// Whether every request for the shard list fails for lack of a permission.
    pub(crate) list_denied: bool,
    /// Shard lists that are out of date, that mix old and new shards, or that lack a shard.
    pub(crate) list_wrong: u8,
    /// Whether shard lists have small pages, so that a reshard may happen between two pages.
    pub(crate) small_pages: bool,
    /// Failed requests for the stream's description.
    pub(crate) describe_fails: u8,
    /// Whether other producers use most of the shards' throughput.
    pub(crate) other_producers: bool,
    /// The number of puts of a second producer of ours. With zero, there is none.
    pub(crate) companion_puts: usize,
    /// The number of splits and merges.
    pub(crate) reshards: usize,
    /// The number of times that a stream is deleted and created again.
    pub(crate) recreations: usize,
    /// The maximum size of a record in KiB.
    pub(crate) record_kib: Option<usize>,
    /// Whether a record that is too large fails alone. Otherwise the whole request fails.
    pub(crate) oversized_fails_alone: bool,
    /// Whether streams have the record distribution `AUTO` at the start: they ignore hash keys.
    pub(crate) auto: bool,
    /// The number of changes of a stream's record distribution.
    pub(crate) auto_switches: usize,
}

/// The behavior of the application and its runtime. The level `core` has neither.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "driver"), allow(dead_code, reason = "there are no callers without it"))]
pub(crate) struct Callers {
    /// The time that a put waits for room before its future is dropped; `None` if puts do not wait.
    pub(crate) put_timeout: Option<Duration>,
    /// Whether ready tasks run in random order.
    pub(crate) any_order: bool,
    /// The maximum delay of the end of a sleep.
    pub(crate) oversleep: Duration,
    /// The number of requests, of 256, whose task panics, before or after they are sent.
    pub(crate) panics: u8,
    /// The number of times that the producer is ticked although nothing is due.
    pub(crate) spurious_wakes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// The producer is closed after all faults have ended and all records are resolved.
    Drained,
    /// The producer is closed when the faults end, with this time limit.
    Closed(Duration),
    /// The producer is closed before the faults end, with this time limit.
    ClosedEarly(Duration),
    /// The last handle is dropped before the faults end.
    Dropped,
    /// The runtime ends while requests are in flight.
    RuntimeEnds,
}

impl Options {
    /// Samples options. `ordering` is whether the records of each key are to be read in order; `None` to sample it, too.
    pub(crate) fn sample(c: &mut Choices<'_, '_>, ordering: Option<bool>) -> Self {
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
        options.add_later_faults();
        if c.chance(40) {
            options.end_faults(c);
        }
        options.config.ttl = options.config.ttl.max(2 * options.config.buffered);
        options.config.description_given &= options.service.auto_switches == 0;
        if options.service.recreations > 0 && c.chance(128) {
            // Records that are lost with a stream are found only if they do not expire and the shards change.
            options.config.ttl = Duration::MAX;
            options.service.reshards = options.service.reshards.max(6);
        }
        if matches!(options.ending, Ending::Dropped) {
            // A put that waits for room owns a handle.
            options.callers.put_timeout = None;
        }
        let Self { config, service, .. } = &mut options;
        config.ordering =
            ordering.unwrap_or(config.ordering) && !config.any_shard && !(config.description_given && service.auto);
        options
    }

    /// Samples the faults that this simulator got last. They come from the seed of the settings, so that older worlds
    /// without them stay as they are.
    fn add_later_faults(&mut self) {
        let mut rng = fastrand::Rng::with_seed(self.config.seed);
        let mut one_in = |n: u32| rng.u32(..n) == 0;
        let Self { work, config, network, service, callers, .. } = self;
        config.retry_if_denied = one_in(4);
        network.unnamed_shards = if one_in(12) { 40 } else { 0 };
        service.status_only = one_in(4);
        service.request_size_max = one_in(12).then_some(work.size_max + 2_000);
        service.unknown_for = if one_in(8) { ms(5_000) } else { Duration::ZERO };
        work.flush_after_bursts = one_in(8);
        if one_in(12) {
            // Lists that lag behind reshards, and records that expire in the meantime, one after the other.
            (service.reshards, service.list_delay) = (12, ms(3_000));
            (config.buffered, config.ttl) = (ms(1_000), ms(2_500));
        }
        config.ordering = one_in(2);
        if config.ordering && one_in(2) {
            // Many records of each hash key, of which some are too large for an aggregate.
            (work.keys, work.explicit) = (if one_in(2) { Keys::Hot } else { Keys::Few }, 0);
            work.size_max = work.size_max.max(100);
            if one_in(2) {
                config.aggregation_max_size = 150;
            } else if one_in(2) {
                // Large bursts and nothing that keeps puts out of the buffers.
                (work.size_max, work.burst_max) = (100, 2_000);
                (config.aggregation, config.aggregation_max_size) = (true, 51_200);
                (config.aggregation_max_count, config.collection_max_count) = (u32::MAX as usize, 500);
                config.collection_max_size_per_shard = 256 << 10;
                (config.outstanding_records, config.outstanding_bytes) = (100_000, 128 << 20);
                (config.records_per_second, config.bytes_per_second) = (1_000, 1 << 20);
                (config.buffered, config.ttl, config.max_shard_backlog) = (ms(100), ms(30_000), None);
                callers.put_timeout = None;
                // Puts are buffered only if the next turn of the drive loop is near.
                work.pause_max = ms(200);
            }
        }
        // Large bursts of one key show whether batches and single puts stay in order.
        let batched = if config.ordering && work.burst_max == 2_000 { 2 } else { 4 };
        work.batches = one_in(batched);
    }

    /// Leaves the load as the only trouble: some promises can be judged only where records are sent once.
    fn end_faults(&mut self, c: &mut Choices<'_, '_>) {
        self.network = Network { latency: self.network.latency, ..Network::default() };
        let Service { list_delay, list_denied, small_pages, companion_puts, other_producers, .. } = self.service;
        self.service =
            Service { list_delay, list_denied, small_pages, companion_puts, other_producers, ..Service::default() };
        self.callers.panics = 0;
        self.config.records_per_second = 50;
        self.config.aggregation = c.chance(128);
        if c.chance(128) {
            // Slow replies, but within the request timeout.
            self.config.in_flight_max = 1;
            self.network.jitter = ms(2_500);
        } else {
            self.config.in_flight_max = 24;
        }
    }
}

impl Work {
    fn sample(c: &mut Choices<'_, '_>) -> Self {
        let size_max = c.pick(&[100, 100, 100, 0, 20, 20, 300, 300, 2_500, 60_000]);
        // All worlds put about the same number of bytes.
        let burst_max = match size_max {
            0..=300 => c.pick(&[60, 1, 10, 300, 2_000, 2_000]),
            301..=3_000 => c.pick(&[60, 1, 10]),
            _ => c.pick(&[10, 1, 30]),
        };
        // A fuzzer's short inputs are small worlds, which run fast.
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
                ms(700_000) // streams are retired between bursts
            } else {
                c.pick(&[Duration::ZERO, ms(20), ms(300), ms(3_000)])
            },
            flushes: if c.chance(128) { c.int(1..=6) } else { 0 },
            flush_after_bursts: false,
            batches: false,
        }
    }
}

impl Settings {
    /// Returns the maximum size of an aggregate. With an order per key, it may grow while it waits for the one before, up
    /// to what its shard takes in a quarter of a second.
    pub(crate) fn aggregate_size_max(&self) -> usize {
        let grown = if self.ordering { (self.bytes_per_second / 4).min(1 << 20) as usize } else { 0 };
        self.aggregation_max_size.max(grown)
    }

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
            in_flight_max: c.pick(&[24, 1, 3]),
            outstanding_records: c.pick(&[100_000, 100_000, 50]),
            outstanding_bytes: c.pick(&[128 << 20, 128 << 20, 20_000]),
            records_per_second: c.pick(&[1_000, 1_000, 50]),
            bytes_per_second: c.pick(&[1 << 20, 1 << 20, 60_000]),
            start_timeout: c.pick(&[ms(5_000), ms(5_000), Duration::ZERO, ms(300)]),
            max_shard_backlog: c.pick(&[None, None, Some(ms(200)), Some(ms(3_600_000))]),
            any_shard: c.chance(30),
            ordering: false,
            fail_if_throttled: c.chance(40),
            retry_if_denied: false,
            description_given: c.chance(40),
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
            unnamed_shards: 0,
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
            status_only: false,
            request_size_max: None,
            unknown_for: Duration::ZERO,
            list_fails: rate(c),
            list_delay: c.pick(&[Duration::ZERO, Duration::ZERO, Duration::ZERO, ms(400), ms(3_000)]),
            list_denied: c.chance(25),
            list_wrong: rate(c),
            small_pages: c.chance(100),
            describe_fails: rate(c),
            other_producers: c.chance(50),
            companion_puts: if c.chance(40) { c.int(1..=40) } else { 0 },
            reshards,
            recreations: if c.chance(60) { c.int(1..=3) } else { 0 },
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
            put_timeout: if c.chance(128) {
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

/// Samples a fault's rate: zero in half of all worlds.
fn rate(c: &mut Choices<'_, '_>) -> u8 {
    c.pick(&[0, 0, 0, 8, 40, 150])
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

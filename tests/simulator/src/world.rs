//! The run itself: events in the order of their time, and the promises that are checked as they go by.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use arbitrary::Unstructured;
use kpl_core::{
    Action, Batch, Config, DescribeRequest, FlushId, Instant, ListShardsRequest, Producer, PutError, Reply,
    RequestError, ShardPage, StreamSummary, UserRecord,
};
use kpl_emulator::api::{CreateStream, ListShards, MergeShards, PutRecords, PutRecordsEntry, SplitShard};
use kpl_emulator::{Faults, Kinesis};

use crate::network;
use crate::options::{Keys, Options, ms};
use crate::oracle::{OTHERS, Oracle};
use crate::{Finding, Report};

/// Lines of the trace that a finding shows.
const TRACE_LINES: usize = 400;

/// After everything heals, all must be resolved within: the longest backoff of a question about a stream, twice, a
/// request's time-out, and the longest wait of a shard that was throttled down to a 64th of its pace.
const DRAIN_MAX: Duration = Duration::from_secs(120);

/// A producer, a service and a network, at one point of virtual time.
#[derive(Debug)]
pub struct World<'u, 'b> {
    u: &'u mut Unstructured<'b>,
    options: Options,
    now: Instant,
    producer: Producer<u64>,
    kinesis: Kinesis,
    streams: Vec<String>,
    events: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    batches: BTreeMap<u64, Batch<u64>>,
    oracle: Oracle,
    /// Flushes that are not done, with the number of records taken before each.
    flushes: BTreeMap<FlushId, u64>,
    healed: bool,
    /// When everything has to be resolved, once everything is healed.
    drained_by: Instant,
    jumped: Duration,
    trace: VecDeque<String>,
    trace_hash: u64,
}

#[derive(Debug)]
struct Scheduled {
    at: Instant,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[derive(Debug)]
enum Event {
    Burst,
    Flush,
    Reshard,
    Others,
    Heal,
    /// A request reaches the service; its reply, if it is not lost, takes so long.
    Arrives {
        batch: u64,
        request: PutRecords,
        back: Option<Duration>,
    },
    Answered {
        batch: u64,
        reply: Reply,
    },
    Listed(ListShardsRequest, Result<ShardPage, RequestError>),
    Described(DescribeRequest, Result<StreamSummary, RequestError>),
}

type Outcome = Result<(), Stop>;

/// Why a run ends before its time.
enum Stop {
    Finding(String),
    /// The bytes are used up: what would be chosen next does not matter any more.
    OutOfBytes,
}

impl From<arbitrary::Error> for Stop {
    fn from(_: arbitrary::Error) -> Self {
        Self::OutOfBytes
    }
}

impl From<String> for Stop {
    fn from(what: String) -> Self {
        Self::Finding(what)
    }
}

impl<'u, 'b> World<'u, 'b> {
    /// Runs a world from its first put until all is drained, and judges it.
    ///
    /// # Errors
    ///
    /// The first broken promise.
    pub fn run(u: &'u mut Unstructured<'b>) -> Result<Report, Box<Finding>> {
        let Ok(options) = Options::sample(u) else { return Ok(Report::default()) };
        let mut world = Self::new(u, options);
        let result = world.live();
        match result {
            Ok(()) | Err(Stop::OutOfBytes) => Ok(Report {
                records: world.oracle.puts.len() as u64,
                succeeded: world.oracle.succeeded,
                complete: result.is_ok(),
                trace_hash: world.trace_hash,
            }),
            Err(Stop::Finding(what)) => {
                Err(Box::new(Finding { what, options: world.options, trace: world.trace.into_iter().collect() }))
            }
        }
    }

    fn new(u: &'u mut Unstructured<'b>, options: Options) -> Self {
        let settings = &options.config;
        let config = Config::builder()
            .aggregation_enabled(settings.aggregation)
            .aggregation_max_size(settings.aggregation_max_size)
            .record_max_buffered_time(settings.buffered)
            .record_ttl(settings.ttl)
            .max_in_flight_requests(settings.in_flight)
            .max_outstanding_records(settings.outstanding)
            .fail_if_throttled(settings.fail_if_throttled)
            .seed(settings.seed)
            .build()
            .unwrap_or_default();
        let now = Instant::from_nanos(1_000_000_000_000);
        let mut kinesis = Kinesis::new(kpl_emulator::Options { seed: settings.seed, ..Default::default() });
        let streams: Vec<String> = (0..options.streams).map(|n| format!("s{n}")).collect();
        for stream in &streams {
            // A fresh service takes any stream.
            let _ = kinesis.create_stream(wall(now), &CreateStream::new(stream, options.shards));
        }
        kinesis.set_faults(Faults {
            throttle_rate: f64::from(options.faults.throttle) / 256.0,
            internal_failure_rate: f64::from(options.faults.internal_failure) / 256.0,
            ..Faults::default()
        });
        Self {
            u,
            now,
            producer: Producer::new(config, now),
            kinesis,
            streams,
            options,
            events: BinaryHeap::new(),
            scheduled: 0,
            batches: BTreeMap::new(),
            oracle: Oracle::default(),
            flushes: BTreeMap::new(),
            healed: false,
            drained_by: Instant::NEVER,
            jumped: Duration::ZERO,
            trace: VecDeque::new(),
            trace_hash: 0xCBF2_9CE4_8422_2325,
        }
    }

    fn live(&mut self) -> Outcome {
        self.plan()?;
        loop {
            let event = self.events.peek().map_or(Instant::NEVER, |Reverse(next)| next.at);
            let tick = self.producer.next_tick().unwrap_or(Instant::NEVER);
            if event == Instant::NEVER && tick == Instant::NEVER {
                break;
            }
            self.now = self.now.max(event.min(tick));
            if self.now > self.drained_by && !self.producer.is_drained() {
                let records = self.producer.outstanding_records();
                return Err(Stop::Finding(format!(
                    "{records} records are left {DRAIN_MAX:?} after everything has healed"
                )));
            }
            if self.options.faults.jumps > 0 && !self.healed && self.chance(self.options.faults.jumps)? {
                let jump = *self.u.choose(&[ms(50), ms(3_000), ms(40_000)])?;
                self.now = self.now + jump;
                self.jumped += jump;
                self.note(&format!("the clock jumps by {jump:?}"));
            }
            self.producer.tick(self.now);
            self.carry_out()?;
            while self.events.peek().is_some_and(|Reverse(next)| next.at <= self.now)
                && let Some(Reverse(next)) = self.events.pop()
            {
                self.happen(next.event)?;
                self.carry_out()?;
            }
            self.producer.tick(self.now);
            self.carry_out()?;
            if let Some(next) = self.producer.next_tick()
                && next <= self.now
            {
                return Err(Stop::Finding(format!("after a tick at {:?} the next one is to be at {next:?}", self.now)));
            }
        }
        if !self.producer.is_drained() || self.producer.outstanding_bytes() != 0 {
            let records = self.producer.outstanding_records();
            return Err(Stop::Finding(format!("nothing is to come, and {records} records are left")));
        }
        if !self.flushes.is_empty() {
            return Err(Stop::Finding(format!("flushes that never end: {:?}", self.flushes)));
        }
        self.oracle.judge(&self.kinesis, &self.streams).map_err(Stop::Finding)
    }

    /// Puts the workload on the calendar.
    fn plan(&mut self) -> Outcome {
        let mut at = self.now;
        for _ in 0..self.options.bursts {
            at = at + self.up_to(self.options.pause_max)?;
            self.schedule(at, Event::Burst);
        }
        let length = at.saturating_since(self.now) + ms(500);
        for _ in 0..self.options.flushes {
            let at = self.now + self.up_to(length)?;
            self.schedule(at, Event::Flush);
        }
        for _ in 0..self.options.reshards {
            let at = self.now + self.up_to(length)?;
            self.schedule(at, Event::Reshard);
        }
        if self.options.faults.others {
            for n in 0..length.as_millis().min(20_000) / 100 {
                self.schedule(self.now + ms(100 * n as u64), Event::Others);
            }
        }
        self.schedule(self.now + length, Event::Heal);
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Outcome {
        match event {
            Event::Burst => {
                let count = self.u.int_in_range(1..=self.options.burst_max)?;
                for _ in 0..count {
                    self.put()?;
                }
            }
            Event::Flush => {
                let flush = self.producer.flush(self.now);
                self.flushes.insert(flush, self.oracle.puts.len() as u64);
                self.note(&format!("{flush:?} of {} records", self.oracle.puts.len()));
            }
            Event::Reshard => self.reshard()?,
            Event::Others => self.others(),
            Event::Heal => self.heal(),
            Event::Arrives { batch, request, back } => {
                let reply = network::put_records(&mut self.kinesis, wall(self.now), request);
                self.note(&format!("request {batch} arrives: {}", brief(&reply)));
                if let Some(back) = back {
                    self.schedule(self.now + back, Event::Answered { batch, reply });
                }
            }
            Event::Answered { batch: id, reply } => {
                if let Some(batch) = self.batches.remove(&id) {
                    self.note(&format!("request {id} is answered: {}", brief(&reply)));
                    self.producer.respond(self.now, batch, reply);
                }
            }
            Event::Listed(request, reply) => {
                let listed = reply.as_ref().map(|page| page.shards.len());
                self.note(&format!("shards of {}: {listed:?}", request.stream));
                self.producer.respond_shards(self.now, &request, reply);
            }
            Event::Described(request, reply) => self.producer.respond_stream(self.now, &request, reply),
        }
        Ok(())
    }

    fn put(&mut self) -> Outcome {
        let ticket = self.oracle.puts.len() as u64;
        let stream = self.u.choose(&self.streams)?.clone();
        let size = self.u.int_in_range(0..=self.options.size_max)?;
        // The ticket must be found again: in the data if there is room for it, else in the key.
        let in_data = size >= 8;
        let mut data = vec![0; size];
        if in_data {
            data[..8].copy_from_slice(&ticket.to_le_bytes());
        }
        let key = match self.options.keys {
            _ if !in_data => format!("#{ticket}"),
            Keys::Hot => "hot".into(),
            Keys::Few | Keys::Borders => format!("few-{}", self.u.int_in_range(0..=20)?),
            Keys::Distinct => format!("distinct-{ticket}"),
        };
        let mut record = UserRecord::new(stream.as_str(), key, data);
        let borders = matches!(self.options.keys, Keys::Borders);
        if borders || self.chance(self.options.explicit)? {
            let hash_key = if borders { self.border(&stream)? } else { self.u.arbitrary::<u128>()? };
            record = record.explicit_hash_key(hash_key.to_string());
        }
        let prepared =
            record.prepare().map_err(|error| Stop::Finding(format!("a legal record is refused: {error}")))?;
        let before = self.producer.outstanding_records();
        match self.producer.put(self.now, prepared, ticket) {
            Ok(()) => self.oracle.taken(self.now),
            Err(PutError::Full { .. }) if before >= self.options.config.outstanding => {}
            Err(PutError::Closed { .. }) if self.healed => {}
            Err(error) => return Err(Stop::Finding(format!("a put is refused without reason: {error}"))),
        }
        if self.producer.outstanding_records() > self.options.config.outstanding {
            return Err(Stop::Finding("more records are outstanding than allowed".into()));
        }
        self.carry_out()
    }

    /// A hash key at the border of an open shard.
    fn border(&mut self, stream: &str) -> Result<u128, Stop> {
        let shards = self.open_shards(stream);
        let (_, first, last) = self.u.choose(&shards)?;
        Ok(*self.u.choose(&[*first, *last, first.saturating_add(1)])?)
    }

    fn carry_out(&mut self) -> Outcome {
        while let Some(action) = self.producer.poll_action() {
            match action {
                Action::SendBatch(batch) => self.send(batch)?,
                Action::ListShards(request) => {
                    let delay = self.latency()? + self.latency()?;
                    let page_size =
                        if self.options.faults.small_pages { Some(self.u.int_in_range(1..=3)?) } else { None };
                    let reply = if self.fault(self.options.faults.list_fails)? {
                        Err(network::time_out())
                    } else {
                        network::list_shards(&self.kinesis, wall(self.now), &request, page_size)
                    };
                    // A stale list is one that takes long.
                    let stale = self.fault(self.options.faults.list_stale)?;
                    let at = self.now + delay + if stale { ms(5_000) } else { Duration::ZERO };
                    self.schedule(at, Event::Listed(request, reply));
                }
                Action::DescribeStream(request) => {
                    let reply = if self.fault(self.options.faults.list_fails)? {
                        Err(network::time_out())
                    } else {
                        network::describe(&self.kinesis, wall(self.now), &request.stream)
                    };
                    let at = self.now + self.latency()?;
                    self.schedule(at, Event::Described(request, reply));
                }
                Action::ResolveRecord(ticket, result) => {
                    let told = result.as_ref().map(|receipt| receipt.shard_id.to_string());
                    self.note(&format!("record {ticket}: {:?}", told.map_err(|failure| failure.error.code.clone())));
                    let config = self.producer.config();
                    let longest = config.record_ttl().saturating_add(config.request_timeout() + self.jumped + ms(1));
                    self.oracle.resolve(self.now, ticket, result, longest)?;
                }
                Action::FlushDone(flush) => {
                    let covered = self.flushes.remove(&flush).ok_or_else(|| format!("{flush:?} ends twice"))?;
                    if let Some(open) = self.oracle.puts[..covered as usize].iter().position(|put| put.result.is_none())
                    {
                        return Err(Stop::Finding(format!("{flush:?} is done, and record {open} is not resolved")));
                    }
                }
                Action::CancelRequests => {
                    self.note("requests are cancelled");
                    for batch in self.batches.keys().copied().collect::<Vec<_>>() {
                        let reply = Reply::Failed(network::time_out());
                        self.schedule(self.now, Event::Answered { batch, reply });
                    }
                }
                Action::Notice(_) => {}
                _ => return Err(Stop::Finding("an action that the world does not know".into())),
            }
        }
        Ok(())
    }

    /// Decides at once what will become of a request, and puts it on the calendar.
    fn send(&mut self, batch: Batch<u64>) -> Outcome {
        let id = self.scheduled;
        let request = network::wire(&batch);
        self.note(&format!("request {id} of {} Kinesis records to {}", request.records.len(), batch.stream()));
        let size: usize = request.records.iter().map(|record| record.data.len() + record.partition_key.len()).sum();
        if request.records.is_empty() || request.records.len() > 500 || size > 10 << 20 {
            let records = request.records.len();
            return Err(Stop::Finding(format!("a request of {records} records and {size} bytes")));
        }
        self.batches.insert(id, batch);
        if self.batches.len() > self.options.config.in_flight {
            return Err(Stop::Finding(format!("{} requests are under way at once", self.batches.len())));
        }
        let answer = |reply: RequestError| Event::Answered { batch: id, reply: Reply::Failed(reply) };
        let (there, back) = (self.latency()?, self.latency()?);
        // Whatever else happens, the driver's time-out comes.
        let time_out = self.now + self.producer.config().request_timeout();
        self.schedule(time_out, answer(network::time_out()));
        if self.fault(self.options.faults.refused)? {
            self.schedule(self.now + there, answer(network::not_sent()));
        } else if self.fault(self.options.faults.http_500)? {
            self.schedule(self.now + there + back, answer(network::http_500()));
        } else if !self.fault(self.options.faults.request_lost)? {
            let back = if self.fault(self.options.faults.reply_lost)? { None } else { Some(back) };
            self.schedule(self.now + there, Event::Arrives { batch: id, request, back });
        }
        Ok(())
    }

    /// Splits a shard or merges two.
    fn reshard(&mut self) -> Outcome {
        let stream = self.u.choose(&self.streams)?.clone();
        let shards = self.open_shards(&stream);
        let at = self.u.choose_index(shards.len())?;
        let (id, first, last) = &shards[at];
        let now = wall(self.now);
        let done = if self.u.arbitrary()? || shards.len() == at + 1 {
            let request = SplitShard {
                stream_name: Some(stream.clone()),
                shard_to_split: id.clone(),
                new_starting_hash_key: (first + (last - first) / self.u.int_in_range(2..=5)?).to_string(),
                stream_arn: None,
            };
            self.kinesis.split_shard(now, &request).map(|_| "split")
        } else {
            let request = MergeShards {
                stream_name: Some(stream.clone()),
                shard_to_merge: id.clone(),
                adjacent_shard_to_merge: shards[at + 1].0.clone(),
                stream_arn: None,
            };
            self.kinesis.merge_shards(now, &request).map(|_| "merged")
        };
        self.note(&format!("{id} of {stream} is {done:?}"));
        Ok(())
    }

    /// Other producers take what the shards give.
    fn others(&mut self) {
        for stream in self.streams.clone() {
            for (_, first, _) in self.open_shards(&stream).into_iter().take(20) {
                let record = PutRecordsEntry {
                    partition_key: OTHERS.into(),
                    explicit_hash_key: Some(first.to_string()),
                    data: vec![0; 100_000].into(),
                };
                let request = PutRecords { stream_name: Some(stream.clone()), stream_arn: None, records: vec![record] };
                // Throttled or not, they have tried.
                let _ = self.kinesis.put_records(wall(self.now), request);
            }
        }
    }

    /// Ends all faults, and closes the producer.
    fn heal(&mut self) {
        self.note("everything heals");
        self.healed = true;
        self.kinesis.set_faults(Faults::default());
        let deadline = self.options.close_within.map_or(Instant::NEVER, |within| self.now + within);
        self.producer.close(self.now, deadline);
        self.note(&format!("closed until {deadline:?}"));
        self.drained_by = self.now + DRAIN_MAX;
    }

    fn open_shards(&self, stream: &str) -> Vec<(String, u128, u128)> {
        let listed = self.kinesis.list_shards(wall(self.now), &ListShards::of(stream));
        let mut open: Vec<_> = listed
            .map(|page| page.shards)
            .unwrap_or_default()
            .into_iter()
            .filter(|shard| shard.sequence_number_range.ending_sequence_number.is_none())
            .map(|shard| (shard.shard_id, shard.hash_key_range.starting_hash_key, shard.hash_key_range.ending_hash_key))
            .collect();
        open.sort_unstable_by_key(|(_, first, _)| *first);
        open
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse(Scheduled { at, order: self.scheduled, event }));
    }

    fn latency(&mut self) -> Result<Duration, Stop> {
        if self.healed {
            return Ok(ms(5));
        }
        Ok(self.options.faults.latency + self.up_to(self.options.faults.jitter)?)
    }

    /// Whether a fault of this rate happens now.
    fn fault(&mut self, rate: u8) -> Result<bool, Stop> {
        if self.healed { Ok(false) } else { self.chance(rate) }
    }

    fn chance(&mut self, of_256: u8) -> Result<bool, Stop> {
        Ok(of_256 > 0 && self.u.arbitrary::<u8>()? < of_256)
    }

    fn up_to(&mut self, most: Duration) -> Result<Duration, Stop> {
        Ok(Duration::from_micros(self.u.int_in_range(0..=most.as_micros() as u64)?))
    }

    fn note(&mut self, event: &str) {
        let line = format!("{:>14?} {event}", self.now);
        for byte in line.bytes() {
            self.trace_hash = (self.trace_hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        if self.trace.len() == TRACE_LINES {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }
}

/// The service's clock: the same time.
fn wall(now: Instant) -> Duration {
    Duration::from_nanos(now.as_nanos())
}

fn brief(reply: &Reply) -> String {
    match reply {
        Reply::Records(records) => {
            let stored = records.iter().filter(|record| record.sequence_number.is_some()).count();
            format!("{stored} of {} stored", records.len())
        }
        other => format!("{other:?}"),
    }
}

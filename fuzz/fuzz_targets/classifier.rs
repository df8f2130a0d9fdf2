//! Fuzz target: any replies to any requests. At any time, each record is either outstanding or resolved. At the end,
//! each record is resolved exactly once. Each result agrees with the replies.

#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arbitrary::Arbitrary;
use kpl_core::codec::decode;
use kpl_core::{
    Action, Batch, Config, Delivery, DescribeStreamRequest, FlushId, Instant, KinesisRecord, ListShardsRequest,
    ListedShard, Producer, RecordDistribution, RecordReply, RecordResult, Reply, RequestError, ShardPage,
    StreamSummary, UserRecord,
};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    settings: Settings,
    events: Vec<Event<'a>>,
}

#[derive(Arbitrary, Debug)]
struct Settings {
    aggregation: bool,
    fail_if_throttled: bool,
    distribution: Distribution,
    in_flight: u8,
    ttl_ms: u16,
    records_per_second: u8,
    seed: u64,
}

#[derive(Arbitrary, Debug)]
enum Distribution {
    Detect,
    ByKey,
    Auto,
}

#[derive(Arbitrary, Debug)]
enum Event<'a> {
    Put { stream: bool, eighth: u8, size: u16 },
    Pass { millis: u16 },
    Reply { which: u8, reply: AnyReply<'a> },
    Shards { which: u8, answer: Answer<'a, AnyPage<'a>> },
    Describe { which: u8, answer: Answer<'a, AnySummary> },
    Flush,
}

#[derive(Arbitrary, Debug)]
enum AnyReply<'a> {
    /// These results, whatever the number of records.
    Records(Vec<AnyRecord<'a>>),
    /// One result for each record, from these in turn.
    Each(Vec<AnyRecord<'a>>),
    Failed(AnyError<'a>),
}

#[derive(Arbitrary, Debug)]
struct AnyRecord<'a> {
    shard_id: Option<ShardId<'a>>,
    sequence_number: Option<&'a str>,
    error_code: Option<Code<'a>>,
    error_message: Option<&'a str>,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum ShardId<'a> {
    Number(u8),
    Any(&'a str),
}

#[derive(Arbitrary, Debug)]
struct AnyError<'a> {
    delivery: u8,
    code: Code<'a>,
}

#[derive(Arbitrary, Debug)]
enum Code<'a> {
    Known(u8),
    Any(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Answer<'a, T> {
    Good(T),
    Error(AnyError<'a>),
}

#[derive(Arbitrary, Debug)]
struct AnyPage<'a> {
    shards: Vec<AnyShard<'a>>,
    next_token: Option<&'a str>,
}

#[derive(Arbitrary, Debug)]
enum AnyShard<'a> {
    /// A shard whose range is given in eighths of the hash key space, `first` and `last` included.
    Eighths {
        number: u8,
        first: u8,
        last: u8,
        parent: Option<u8>,
    },
    Any {
        id: ShardId<'a>,
        start: u128,
        end: u128,
        closed: bool,
        parents: [Option<ShardId<'a>>; 2],
    },
}

#[derive(Arbitrary, Debug)]
struct AnySummary {
    max_record_size: Option<u32>,
    auto_distribution: bool,
}

const EIGHTH: u128 = 1 << 125;

impl ShardId<'_> {
    fn text(self) -> String {
        match self {
            Self::Number(number) => format!("shardId-{number:012}"),
            Self::Any(id) => id.into(),
        }
    }
}

impl Code<'_> {
    fn text(&self) -> &str {
        const KNOWN: [&str; 11] = [
            "ProvisionedThroughputExceededException",
            "InternalFailure",
            "InvalidArgumentException",
            "ValidationException",
            "AccessDeniedException",
            "ResourceNotFoundException",
            "ExpiredTokenException",
            "LimitExceededException",
            "HTTP 403",
            "HTTP 413",
            "HTTP 429",
        ];
        match self {
            Self::Known(n) => KNOWN[usize::from(*n) % KNOWN.len()],
            Self::Any(code) => code,
        }
    }
}

impl From<AnyError<'_>> for RequestError {
    fn from(error: AnyError<'_>) -> Self {
        let delivery = [Delivery::NotSent, Delivery::Unanswered, Delivery::Refused][usize::from(error.delivery) % 3];
        Self::new(delivery, error.code.text(), "why")
    }
}

/// Returns the text of a field, if there is one.
fn non_empty(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

impl From<&AnyRecord<'_>> for RecordReply {
    fn from(record: &AnyRecord<'_>) -> Self {
        Self {
            shard_id: record.shard_id.map(|id| id.text().into()),
            sequence_number: record.sequence_number.map(Into::into),
            error_code: record.error_code.as_ref().map(|code| code.text().into()),
            error_message: record.error_message.map(Into::into),
        }
    }
}

impl From<AnyShard<'_>> for ListedShard {
    fn from(shard: AnyShard<'_>) -> Self {
        match shard {
            AnyShard::Eighths { number, first, last, parent } => Self {
                id: ShardId::Number(number).text().into(),
                start: u128::from(first % 8) * EIGHTH,
                end: u128::from(last % 8) * EIGHTH + (EIGHTH - 1),
                closed: false,
                parents: [parent.map(|parent| ShardId::Number(parent).text().into()), None],
            },
            AnyShard::Any { id, start, end, closed, parents } => Self {
                id: id.text().into(),
                start,
                end,
                closed,
                parents: parents.map(|parent| parent.map(|id| id.text().into())),
            },
        }
    }
}

fn config(settings: &Settings) -> Config {
    Config::builder()
        .aggregation_enabled(settings.aggregation)
        .fail_if_throttled(settings.fail_if_throttled)
        .record_distribution(match settings.distribution {
            Distribution::Detect => RecordDistribution::Detect,
            Distribution::ByKey => RecordDistribution::ByKey,
            Distribution::Auto => RecordDistribution::Auto,
        })
        .max_in_flight_requests(1 + usize::from(settings.in_flight % 4))
        .record_ttl(Duration::from_millis(101 + u64::from(settings.ttl_ms)))
        .rate_limit_records_per_shard(1 + u64::from(settings.records_per_second))
        .seed(settings.seed)
        .build()
        .expect("every setting is within its range")
}

/// The shard, the sequence number, and the position in an aggregate.
type Place = (String, String, Option<u64>);

struct Rig {
    producer: Producer<usize>,
    now: Instant,
    put: Vec<UserRecord>,
    resolved: BTreeMap<usize, RecordResult>,
    batches: Vec<Batch<usize>>,
    lists: Vec<ListShardsRequest>,
    descriptions: Vec<DescribeStreamRequest>,
    /// The number of records that were put before each flush.
    flushes: BTreeMap<FlushId, usize>,
    /// Each record that was stored according to a reply, with the place that its receipt may name.
    stored: BTreeSet<(usize, Place)>,
    /// Records that may have been stored by an attempt without a definite reply.
    ambiguous: BTreeSet<usize>,
}

impl Rig {
    fn drain(&mut self) {
        while let Some(action) = self.producer.poll_action() {
            match action {
                Action::SendBatch(batch) => self.batches.push(batch),
                Action::ListShards(request) => self.lists.push(request),
                Action::DescribeStream(request) => self.descriptions.push(request),
                Action::Resolve(records) => {
                    for (ticket, result) in records {
                        self.check(ticket, &result);
                        assert!(self.resolved.insert(ticket, result).is_none(), "ticket {ticket} is resolved twice");
                    }
                }
                Action::RoomFreed(_) => {}
                Action::FlushDone(flush) => {
                    let before = self.flushes.remove(&flush).expect("the flush was requested and is done only once");
                    assert_eq!(
                        self.resolved.range(..before).count(),
                        before,
                        "a flush waits for all records that were put before it"
                    );
                }
                _ => {}
            }
        }
        let left = || self.put.iter().enumerate().filter(|(ticket, _)| !self.resolved.contains_key(ticket));
        assert_eq!(self.producer.outstanding_records(), left().count(), "each record is resolved or outstanding");
        let bytes: usize = left().map(|(_, record)| record.data.len() + record.partition_key.len()).sum();
        assert_eq!(self.producer.outstanding_bytes(), bytes);
        assert_eq!(self.producer.requests_in_flight(), self.batches.len());
        assert!(self.batches.len() <= self.producer.config().max_in_flight_requests());
    }

    fn check(&self, ticket: usize, result: &RecordResult) {
        let ambiguous = self.ambiguous.contains(&ticket);
        match result {
            Ok(receipt) => {
                let (shard_id, sequence_number) =
                    (receipt.shard_id().to_string(), receipt.sequence_number().to_string());
                // A reply without a shard's id leaves it to the prediction.
                let agrees = [shard_id, String::new()].into_iter().any(|shard_id| {
                    let place = (shard_id, sequence_number.clone(), receipt.sub_sequence_number());
                    self.stored.contains(&(ticket, place))
                });
                assert!(agrees, "a receipt agrees with a reply");
                assert_eq!(receipt.attempts().iter().any(|attempt| attempt.is_ambiguous()), ambiguous);
                assert_eq!(receipt.attempts().last().error, None);
            }
            Err(failure) => {
                assert_eq!(failure.record, self.put[ticket], "a failure returns the record as it was put");
                // An aggregate on a shard whose range stays unknown is ambiguous, too.
                let stored =
                    self.stored.range((ticket, Place::default())..).next().is_some_and(|stored| stored.0 == ticket);
                assert!(failure.is_ambiguous() == ambiguous || (stored && failure.is_ambiguous()));
            }
        }
    }

    fn handle_reply(&mut self, batch: Batch<usize>, reply: Reply) {
        let tickets: Vec<Vec<usize>> = batch.records().iter().map(tickets).collect();
        match &reply {
            Reply::Records(replies) if replies.len() == tickets.len() => {
                for (tickets, reply) in tickets.into_iter().zip(replies) {
                    let text = |field: &Option<_>| non_empty(field.as_deref());
                    match (text(&reply.sequence_number), text(&reply.error_code)) {
                        (Some(number), _) => {
                            let shard = reply.shard_id.as_deref().unwrap_or_default().to_owned();
                            let aggregated = tickets.len() > 1;
                            for (ticket, position) in tickets.into_iter().zip(0..) {
                                let place = (shard.clone(), number.clone(), aggregated.then_some(position));
                                self.stored.insert((ticket, place));
                            }
                        }
                        (None, None) => self.ambiguous.extend(tickets),
                        (None, Some(_)) => {}
                    }
                }
            }
            Reply::Failed(RequestError { delivery: Delivery::NotSent | Delivery::Refused, .. }) => {}
            _ => self.ambiguous.extend(tickets.into_iter().flatten()),
        }
        self.producer.handle_reply(self.now, batch, reply);
        self.drain();
    }

    fn run_until(&mut self, end: Instant) {
        loop {
            self.producer.tick(self.now);
            self.drain();
            let next = self.producer.next_tick().unwrap_or(Instant::NEVER);
            assert!(next > self.now, "after a tick, the next one is in the future");
            if next > end {
                break;
            }
            self.now = next;
        }
        self.now = end;
    }

    fn handle(&mut self, event: Event<'_>) {
        match event {
            Event::Put { stream, eighth, size } => {
                let mut data = vec![0; TICKET_SIZE + usize::from(size)];
                data[..TICKET_SIZE].copy_from_slice(&self.put.len().to_le_bytes());
                let record = UserRecord::new(if stream { "a" } else { "b" }, "key", data)
                    .explicit_hash_key((u128::from(eighth % 8) * EIGHTH + u128::from(eighth)).to_string());
                let prepared = record.clone().prepare().expect("the record is valid");
                if self.producer.put(self.now, prepared, self.put.len()).is_ok() {
                    self.put.push(record);
                }
            }
            Event::Pass { millis } => self.run_until(self.now + Duration::from_millis(millis.into())),
            Event::Reply { which, reply } => {
                let Some(batch) = pick(&mut self.batches, which) else { return };
                let reply = match reply {
                    AnyReply::Records(records) => Reply::Records(records.iter().map(Into::into).collect()),
                    AnyReply::Each(records) => {
                        Reply::Records(records.iter().cycle().take(batch.records().len()).map(Into::into).collect())
                    }
                    AnyReply::Failed(error) => Reply::Failed(error.into()),
                };
                self.handle_reply(batch, reply);
            }
            Event::Shards { which, answer } => {
                let Some(request) = pick(&mut self.lists, which) else { return };
                let answer = match answer {
                    Answer::Good(AnyPage { shards, next_token }) => Ok(ShardPage {
                        shards: shards.into_iter().map(Into::into).collect(),
                        next_token: next_token.map(Into::into),
                    }),
                    Answer::Error(error) => Err(error.into()),
                };
                self.producer.handle_shards(self.now, &request, answer);
            }
            Event::Describe { which, answer } => {
                let Some(request) = pick(&mut self.descriptions, which) else { return };
                let answer = match answer {
                    Answer::Good(AnySummary { max_record_size, auto_distribution }) => Ok(StreamSummary {
                        max_record_size: max_record_size.map(|size| size as usize),
                        auto_distribution,
                        open_shards: None,
                    }),
                    Answer::Error(error) => Err(error.into()),
                };
                self.producer.handle_stream_summary(self.now, &request, answer);
            }
            Event::Flush => {
                let flush = self.producer.flush(self.now);
                self.flushes.insert(flush, self.put.len());
            }
        }
    }
}

/// The length in bytes of a ticket, with which each record's data begins.
const TICKET_SIZE: usize = size_of::<usize>();

fn tickets(record: &KinesisRecord<usize>) -> Vec<usize> {
    let ticket =
        |data: &[u8]| usize::from_le_bytes(data[..TICKET_SIZE].try_into().expect("the data begins with a ticket"));
    if record.is_aggregated() {
        let users = decode(record.data()).expect("the record is an aggregate");
        users.iter().map(|user| ticket(&user.data)).collect()
    } else {
        vec![ticket(&record.data())]
    }
}

fn pick<V>(from: &mut Vec<V>, which: u8) -> Option<V> {
    if from.is_empty() { None } else { Some(from.swap_remove(usize::from(which) % from.len())) }
}

fuzz_target!(|input: Input<'_>| {
    let now = Instant::from_nanos(1_000_000_000_000);
    let mut rig = Rig {
        producer: Producer::new(config(&input.settings), now),
        now,
        put: Vec::new(),
        resolved: BTreeMap::new(),
        batches: Vec::new(),
        lists: Vec::new(),
        descriptions: Vec::new(),
        flushes: BTreeMap::new(),
        stored: BTreeSet::new(),
        ambiguous: BTreeSet::new(),
    };
    for event in input.events {
        rig.handle(event);
        rig.drain();
    }

    rig.producer.close(rig.now, rig.now);
    rig.drain();
    while let Some(batch) = rig.batches.pop() {
        rig.handle_reply(batch, Reply::Failed(RequestError::new(Delivery::Unanswered, "Cancelled", "")));
    }
    assert!(rig.producer.is_drained() && rig.batches.is_empty() && rig.flushes.is_empty());
    assert_eq!(rig.resolved.len(), rig.put.len());
    assert_eq!(rig.producer.next_tick(), None);
});

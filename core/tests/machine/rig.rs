//! A state machine with a clock that the test sets and with replies that the test chooses.

use std::collections::BTreeMap;
use std::time::Duration;

use kpl_core::metrics::MetricsReport;
use kpl_core::{
    Action, Batch, BufferDrain, Config, ConfigBuilder, DescribeStreamRequest, FlushId, HashKeyCache, Instant,
    ListShardsRequest, ListedShard, LogEvent, Producer, PutBuffer, PutFailure, Receipt, RecordReply, RecordResult,
    Reply, ShardName, ShardPage, StreamSummary, UserRecord,
};

pub const MS: Duration = Duration::from_millis(1);
pub const SEC: Duration = Duration::from_secs(1);
/// A limit on the backlog that no test reaches.
pub const ANY_BACKLOG: Option<Duration> = Some(Duration::from_secs(86_400));
/// The time after which an idle stream is retired.
pub const RETIRED_AFTER: Duration = Duration::from_secs(300);

pub struct Rig {
    pub producer: Producer<u64>,
    pub now: Instant,
    /// The requests in flight, oldest first.
    pub batches: Vec<Batch<u64>>,
    pub results: BTreeMap<u64, RecordResult>,
    pub lists: Vec<ListShardsRequest>,
    pub describes: Vec<DescribeStreamRequest>,
    pub flushed: Vec<FlushId>,
    pub freed: Vec<ShardName>,
    pub log: Vec<LogEvent>,
    pub reports: Vec<MetricsReport>,
    pub cancelled: bool,
    next_ticket: u64,
    sequence: u64,
    requests: usize,
}

impl Rig {
    pub fn new(config: ConfigBuilder) -> Self {
        let config: Config = config.build().unwrap();
        let now = Instant::from_nanos(1_000_000_000_000);
        Self {
            producer: Producer::new(config, now),
            now,
            batches: vec![],
            results: BTreeMap::new(),
            lists: vec![],
            describes: vec![],
            flushed: vec![],
            freed: vec![],
            log: vec![],
            reports: vec![],
            cancelled: false,
            next_ticket: 0,
            sequence: 0,
            requests: 0,
        }
    }

    /// Creates a producer that has the metadata of stream `s`, which has `shards` shards of equal size.
    pub fn with_shards(config: ConfigBuilder, shards: usize) -> Self {
        let mut rig = Self::new(config);
        rig.put(0, "first");
        rig.answer_refreshes(&equal_shards(shards));
        rig.producer.flush(rig.now);
        rig.drain();
        rig.answer_all_stored(&equal_shards(shards));
        assert!(rig.results.remove(&0).unwrap().is_ok());
        rig.log.clear();
        rig.flushed.clear();
        rig.run_for(SEC);
        rig
    }

    /// Puts a record with an explicit hash key into stream `s`. Returns its ticket.
    pub fn put(&mut self, hash_key: u128, data: impl Into<Vec<u8>>) -> u64 {
        self.put_record(UserRecord::new("s", "k", data.into()).explicit_hash_key(hash_key.to_string()))
    }

    pub fn put_record(&mut self, record: UserRecord) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.producer.put(self.now, record.prepare().unwrap(), ticket).unwrap();
        self.drain();
        ticket
    }

    /// Puts a record into a put buffer at `put_at`, and drains the buffer at `now`. Returns the record's ticket.
    pub fn put_buffered(&mut self, put_at: Instant, record: &UserRecord) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let mut buffer = PutBuffer::new(self.producer.config());
        let (mut drain, mut keys) = (BufferDrain::new(1), HashKeyCache::default());
        assert!(!drain.start(self.producer.buffer_room()));
        drain.take(0, &mut buffer, put_at);
        buffer.expect_drain(put_at);
        let mut push = || buffer.push(put_at, record.clone().check().unwrap(), ticket).is_ok();
        assert_eq!((push(), push()), (false, true), "the first record of a stream is not buffered");
        assert!(!drain.start(self.producer.buffer_room()));
        drain.take(0, &mut buffer, self.now);
        drain.hash_keys(&mut keys);
        assert!(self.producer.put_drained(self.now, &mut drain, &mut keys));
        self.drain();
        ticket
    }

    /// Carries out the producer's actions.
    pub fn drain(&mut self) {
        while let Some(action) = self.producer.poll_action() {
            match action {
                Action::SendBatch(batch) => {
                    self.requests += 1;
                    assert!(self.requests < 1_000_000, "the producer sends requests in an endless loop");
                    let mut records = batch.records().iter();
                    batch.encode_each(|record, data| {
                        assert!(records.next().is_some_and(|next| std::ptr::eq(next, record)), "records are in order");
                        assert_eq!(data, record.data());
                    });
                    assert!(records.next().is_none());
                    self.batches.push(batch);
                }
                Action::ListShards(request) => self.lists.push(request),
                Action::DescribeStream(request) => self.describes.push(request),
                Action::Resolve(records) => {
                    for (ticket, result) in records {
                        assert!(self.results.insert(ticket, result).is_none(), "ticket {ticket} resolved twice");
                    }
                }
                Action::RoomFreed(shard) => self.freed.push(shard),
                Action::FlushDone(flush) => self.flushed.push(flush),
                Action::CancelRequests => self.cancelled = true,
                Action::Log(event) => self.log.push(event),
                Action::ExportMetrics(snapshot) => self.reports.push(snapshot.roll_up()),
            }
        }
    }

    pub fn tick(&mut self) {
        self.producer.tick(self.now);
        self.drain();
        if let Some(next) = self.producer.next_tick() {
            assert!(next > self.now, "after a tick, the next one is in the future: {next:?} at {:?}", self.now);
        }
    }

    /// Advances the clock by `duration`, with a tick whenever one is due.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.producer.next_tick().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.tick();
        }
        self.now = end;
        self.tick();
    }

    /// Advances the clock until a request is sent.
    pub fn run_until_sent(&mut self) {
        let latest = self.now + 60 * SEC;
        while self.batches.is_empty() {
            assert!(self.now < latest, "no request is sent within 60 s");
            self.run_for(MS);
        }
    }

    /// Returns the time until the next tick is due.
    pub fn until_tick(&self) -> Option<Duration> {
        self.producer.next_tick().map(|next| next.saturating_since(self.now))
    }

    pub fn take_batch(&mut self) -> Batch<u64> {
        assert!(!self.batches.is_empty(), "no request is in flight");
        self.batches.remove(0)
    }

    /// Answers the oldest request in flight.
    pub fn answer(&mut self, reply: Reply) {
        let batch = self.take_batch();
        self.handle_reply(batch, reply);
    }

    pub fn handle_reply(&mut self, batch: Batch<u64>, reply: Reply) {
        self.producer.handle_reply(self.now, batch, reply);
        self.drain();
    }

    /// Answers the oldest request in flight with one result for each record.
    pub fn answer_records(&mut self, replies: impl IntoIterator<Item = RecordReply>) {
        self.answer(Reply::Records(replies.into_iter().collect()));
    }

    /// Answers every request: each record is stored on that of `shards` whose range contains its hash key.
    pub fn answer_all_stored(&mut self, shards: &[ListedShard]) {
        while !self.batches.is_empty() {
            self.answer_stored(shards);
        }
    }

    /// Answers the oldest request in flight: each record is stored, as by `answer_all_stored`.
    pub fn answer_stored(&mut self, shards: &[ListedShard]) {
        let batch = self.take_batch();
        let replies = batch.records().iter().map(|record| {
            self.sequence += 1;
            let key = record.explicit_hash_key();
            let shard = shards.iter().find(|shard| shard.start <= key && key <= shard.end).unwrap();
            RecordReply::stored(&*shard.id, self.sequence.to_string())
        });
        let reply = Reply::Records(replies.collect());
        self.handle_reply(batch, reply);
    }

    /// Answers all metadata requests: first lists, then descriptions, of which some may wait for the lists.
    pub fn answer_refreshes(&mut self, shards: &[ListedShard]) {
        self.answer_refreshes_with(shards, StreamSummary::default());
    }

    /// Returns the numbers of lists and of descriptions that were requested.
    pub fn answer_refreshes_with(&mut self, shards: &[ListedShard], summary: StreamSummary) -> [usize; 2] {
        let lists = std::mem::take(&mut self.lists);
        let listed = lists.len();
        for request in lists {
            let page = ShardPage { shards: shards.to_vec(), next_token: None };
            self.producer.handle_shards(self.now, &request, Ok(page));
        }
        self.drain();
        let describes = std::mem::take(&mut self.describes);
        let described = describes.len();
        for request in describes {
            self.producer.handle_stream_summary(self.now, &request, Ok(summary));
        }
        self.drain();
        [listed, described]
    }

    pub fn receipt(&self, ticket: u64) -> &Receipt {
        self.result(ticket).as_ref().unwrap_or_else(|failure| panic!("ticket {ticket} failed: {failure}"))
    }

    pub fn failure(&self, ticket: u64) -> &PutFailure {
        self.result(ticket).as_ref().expect_err("the record fails")
    }

    fn result(&self, ticket: u64) -> &RecordResult {
        self.results.get(&ticket).unwrap_or_else(|| panic!("ticket {ticket} is not resolved"))
    }

    /// Returns the number of user records in each Kinesis record of each request in flight.
    pub fn shape(&self) -> Vec<Vec<usize>> {
        let counts = |batch: &Batch<u64>| batch.records().iter().map(|record| record.user_records()).collect();
        self.batches.iter().map(counts).collect()
    }
}

pub fn shard(n: usize, start: u128, end: u128) -> ListedShard {
    ListedShard { id: shard_id(n).into(), start, end, closed: false, parents: [None, None] }
}

pub fn child(n: usize, parent: usize, start: u128, end: u128) -> ListedShard {
    ListedShard { parents: [Some(shard_id(parent).into()), None], ..shard(n, start, end) }
}

pub fn shard_id(n: usize) -> String {
    format!("shardId-{n:012}")
}

pub fn equal_shards(count: usize) -> Vec<ListedShard> {
    let width = u128::MAX / count as u128;
    (0..count)
        .map(|n| {
            let start = width * n as u128 + if n == 0 { 0 } else { 1 };
            let end = if n + 1 == count { u128::MAX } else { width * (n as u128 + 1) };
            shard(n, start, end)
        })
        .collect()
}

/// Returns the first hash key of the shard with this index, in a stream with `shards` shards of equal size.
pub fn start_of(shard: usize, shards: usize) -> u128 {
    equal_shards(shards)[shard].start
}

//! A runtime on tokio's clock, which tests pause, and a service that does as it is told.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kpl_core::{
    Batch, Config, ConfigBuilder, DescribeStreamRequest, Instant, ListShardsRequest, ListedShard, RecordReply, Reply,
    RequestError, ShardPage, StreamSummary,
};
use kpl_driver::{Runtime, Transport};
use tokio::task::AbortHandle;

pub(crate) type Producer = kpl_driver::Producer<Rig>;

/// What the runtime makes of a future that it is to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spawn {
    Run,
    Panic,
    /// It is dropped at once.
    Drop,
    /// It is never polled, until [`Rig::drop_kept`].
    Keep,
}

/// A runtime that counts what is asked of it.
#[derive(Clone)]
pub(crate) struct Rig {
    started: tokio::time::Instant,
    handle: tokio::runtime::Handle,
    spawn: Arc<dyn Fn(usize) -> Spawn + Send + Sync>,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    sleeps: AtomicUsize,
    polls: AtomicUsize,
    spawns: AtomicUsize,
    kept: Mutex<Vec<Box<dyn Send>>>,
    drive_loop: Mutex<Option<AbortHandle>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::spawning(|_| Spawn::Run)
    }

    /// Decides by the number of the spawn: 0 is the drive loop; then come, with the first record of a stream, the two
    /// questions about it, and then the requests.
    pub(crate) fn spawning(spawn: impl Fn(usize) -> Spawn + Send + Sync + 'static) -> Self {
        Self {
            started: tokio::time::Instant::now(),
            handle: tokio::runtime::Handle::current(),
            spawn: Arc::new(spawn),
            seen: Arc::default(),
        }
    }

    /// How often the drive loop went to sleep.
    pub(crate) fn sleeps(&self) -> usize {
        self.seen.sleeps.load(Ordering::Relaxed)
    }

    /// How often the drive loop was polled.
    pub(crate) fn polls(&self) -> usize {
        self.seen.polls.load(Ordering::Relaxed)
    }

    pub(crate) fn drop_drive_loop(&self) {
        self.seen.drive_loop.lock().unwrap().take().expect("it runs").abort();
    }

    pub(crate) fn drop_kept(&self) {
        let kept = std::mem::take(&mut *self.seen.kept.lock().unwrap());
        assert!(!kept.is_empty());
        drop(kept);
    }
}

impl Runtime for Rig {
    fn now(&self) -> Instant {
        Instant::from_nanos(0) + self.started.elapsed()
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.seen.sleeps.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(deadline.saturating_since(self.now())).await;
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let number = self.seen.spawns.fetch_add(1, Ordering::Relaxed);
        match (self.spawn)(number) {
            Spawn::Run if number == 0 => {
                let (mut future, seen) = (Box::pin(future), self.seen.clone());
                let counted = poll_fn(move |cx| {
                    seen.polls.fetch_add(1, Ordering::Relaxed);
                    future.as_mut().poll(cx)
                });
                *self.seen.drive_loop.lock().unwrap() = Some(self.handle.spawn(counted).abort_handle());
            }
            Spawn::Run => drop(self.handle.spawn(future)),
            Spawn::Panic => panic!("told to panic"),
            Spawn::Drop => {}
            Spawn::Keep => self.seen.kept.lock().unwrap().push(Box::new(future)),
        }
    }
}

/// What becomes of a PutRecords request.
#[derive(Clone)]
pub(crate) enum Fate {
    /// It is stored, and answered after this time.
    Store(Duration),
    /// It is never answered.
    Hang,
    Panic,
    Fail(RequestError),
    /// Each record is throttled.
    Throttle,
}

/// What becomes of a question about the stream.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    Give,
    Hang,
    Panic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Shards,
    Summary,
}

/// A stream of one shard, unless told otherwise.
#[derive(Clone)]
pub(crate) struct Service {
    fate: Arc<dyn Fn(usize) -> Fate + Send + Sync>,
    answer: Arc<dyn Fn(Question, usize) -> Answer + Send + Sync>,
    shards: u128,
    state: Arc<Mutex<State>>,
    under_way: Arc<()>,
}

#[derive(Default)]
struct State {
    requests: usize,
    /// The data of records that came alone, in the order in which they were stored.
    stored: Vec<String>,
    user_records: usize,
    questions: Vec<Question>,
}

impl Service {
    /// Decides by the request's number, from 0.
    pub(crate) fn new(fate: impl Fn(usize) -> Fate + Send + Sync + 'static) -> Self {
        Self {
            fate: Arc::new(fate),
            answer: Arc::new(|_, _| Answer::Give),
            shards: 1,
            state: Arc::default(),
            under_way: Arc::default(),
        }
    }

    /// Decides by what is asked, and how often it was asked before.
    pub(crate) fn answering(self, answer: impl Fn(Question, usize) -> Answer + Send + Sync + 'static) -> Self {
        Self { answer: Arc::new(answer), ..self }
    }

    pub(crate) fn of_shards(self, shards: u128) -> Self {
        Self { shards, ..self }
    }

    /// The first hash key of a shard.
    pub(crate) fn start_of(&self, shard: u128) -> u128 {
        u128::MAX / self.shards * shard
    }

    pub(crate) fn answering_after(time: Duration) -> Self {
        Self::new(move |_| Fate::Store(time))
    }

    pub(crate) fn requests(&self) -> usize {
        self.state.lock().unwrap().requests
    }

    pub(crate) fn stored(&self) -> Vec<String> {
        self.state.lock().unwrap().stored.clone()
    }

    pub(crate) fn user_records(&self) -> usize {
        self.state.lock().unwrap().user_records
    }

    /// How often a question was asked.
    pub(crate) fn asked(&self, question: Question) -> usize {
        self.state.lock().unwrap().questions.iter().filter(|asked| **asked == question).count()
    }

    /// Requests and questions whose futures are neither finished nor dropped.
    pub(crate) fn under_way(&self) -> usize {
        Arc::weak_count(&self.under_way)
    }

    async fn ask(&self, question: Question) {
        let _under_way = Arc::downgrade(&self.under_way);
        let before = self.asked(question);
        self.state.lock().unwrap().questions.push(question);
        match (self.answer)(question, before) {
            Answer::Give => {}
            Answer::Hang => pending().await,
            Answer::Panic => panic!("told to panic"),
        }
    }

    /// Whether a producer still has its transport.
    pub(crate) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.state) > 1
    }

    pub(crate) fn producer(&self, config: ConfigBuilder) -> Producer {
        self.producer_on(Rig::new(), config.build().unwrap())
    }

    pub(crate) fn producer_on(&self, rig: Rig, config: Config) -> Producer {
        Producer::with_transport(rig, self.clone(), config)
    }
}

impl Transport for Service {
    async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
        let _under_way = Arc::downgrade(&self.under_way);
        let fate = {
            let mut state = self.state.lock().unwrap();
            state.requests += 1;
            (self.fate)(state.requests - 1)
        };
        let delay = match fate {
            Fate::Store(delay) => delay,
            Fate::Hang => pending().await,
            Fate::Panic => panic!("told to panic"),
            Fate::Fail(error) => return Reply::Failed(error),
            Fate::Throttle => {
                let throttled = |_| RecordReply::failed("ProvisionedThroughputExceededException", "slow down");
                return Reply::Records(batch.records().iter().map(throttled).collect());
            }
        };
        let mut replies = vec![];
        {
            let mut state = self.state.lock().unwrap();
            for record in batch.records() {
                if !record.is_aggregated() {
                    state.stored.push(String::from_utf8(record.data().into()).unwrap());
                }
                state.user_records += record.user_records();
                let hash = record.explicit_hash_key();
                let shard = (hash / (u128::MAX / self.shards)).min(self.shards - 1);
                replies.push(RecordReply::stored(format!("shardId-{shard:012}"), state.user_records.to_string()));
            }
        }
        tokio::time::sleep(delay).await;
        Reply::Records(replies)
    }

    async fn list_shards(&self, _: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        self.ask(Question::Shards).await;
        let shards = (0..self.shards).map(|shard| ListedShard {
            id: format!("shardId-{shard:012}").into(),
            start: self.start_of(shard),
            end: if shard + 1 == self.shards { u128::MAX } else { self.start_of(shard + 1) - 1 },
            closed: false,
            parents: [None, None],
        });
        Ok(ShardPage { shards: shards.collect(), next_token: None })
    }

    async fn describe_stream(&self, _: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
        self.ask(Question::Summary).await;
        Ok(StreamSummary::default())
    }
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

//! A runtime on tokio's clock, which tests pause, and a service that does as it is told.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kpl_core::{
    Batch, Config, ConfigBuilder, DescribeRequest, Instant, ListShardsRequest, ListedShard, RecordReply, Reply,
    RequestError, ShardPage, StreamSummary,
};
use kpl_driver::{Runtime, Transport};

pub(crate) type Producer = kpl_driver::Producer<Rig>;

/// A runtime that counts what is asked of it.
#[derive(Clone)]
pub(crate) struct Rig {
    started: tokio::time::Instant,
    handle: tokio::runtime::Handle,
    sleeps: Arc<AtomicUsize>,
    spawns: Arc<AtomicUsize>,
    spawn_that_panics: usize,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self {
            started: tokio::time::Instant::now(),
            handle: tokio::runtime::Handle::current(),
            sleeps: Arc::default(),
            spawns: Arc::default(),
            spawn_that_panics: usize::MAX,
        }
    }

    /// Panics in the spawn of this number, from 0.
    pub(crate) fn panicking_at_spawn(self, number: usize) -> Self {
        Self { spawn_that_panics: number, ..self }
    }

    /// How often the drive loop went to sleep.
    pub(crate) fn sleeps(&self) -> usize {
        self.sleeps.load(Ordering::Relaxed)
    }
}

impl Runtime for Rig {
    fn now(&self) -> Instant {
        Instant::from_nanos(0) + self.started.elapsed()
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.sleeps.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(deadline.saturating_since(self.now())).await;
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let number = self.spawns.fetch_add(1, Ordering::Relaxed);
        assert_ne!(number, self.spawn_that_panics, "told to panic");
        self.handle.spawn(future);
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
}

/// A stream of one shard.
#[derive(Clone)]
pub(crate) struct Service {
    fate: Arc<dyn Fn(usize) -> Fate + Send + Sync>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    requests: usize,
    /// The data of records that came alone, in the order in which they were stored.
    stored: Vec<String>,
    user_records: usize,
}

impl Service {
    /// Decides by the request's number, from 0.
    pub(crate) fn new(fate: impl Fn(usize) -> Fate + Send + Sync + 'static) -> Self {
        Self { fate: Arc::new(fate), state: Arc::default() }
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
        };
        let mut replies = vec![];
        {
            let mut state = self.state.lock().unwrap();
            for record in batch.records() {
                if !record.is_aggregated() {
                    state.stored.push(String::from_utf8(record.data().into()).unwrap());
                }
                state.user_records += record.user_records();
                replies.push(RecordReply::stored("shardId-000000000000", state.user_records.to_string()));
            }
        }
        tokio::time::sleep(delay).await;
        Reply::Records(replies)
    }

    async fn list_shards(&self, _: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        let shard = ListedShard {
            id: "shardId-000000000000".into(),
            start: 0,
            end: u128::MAX,
            closed: false,
            parents: [None, None],
        };
        Ok(ShardPage { shards: vec![shard], next_token: None })
    }

    async fn describe_stream(&self, _: &DescribeRequest) -> Result<StreamSummary, RequestError> {
        Ok(StreamSummary::default())
    }
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

//! A runtime on Tokio's clock, which tests pause, and a scripted service.

#![allow(dead_code, reason = "each test program uses a part of this module")]

use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kpl_core::{
    Batch, Config, ConfigBuilder, DescribeStreamRequest, Instant, ListShardsRequest, RecordReply, Reply, RequestError,
    ShardPage, StreamSummary,
};
use kpl_driver::{Runtime, Transport};
use kpl_testing::{ConsumedRecord, Kinesis, Options, wire};
use tokio::task::AbortHandle;

pub(crate) type Producer = kpl_driver::Producer<Rig>;

/// What the runtime does with a future.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spawn {
    Run,
    Panic,
    /// It drops the future at once.
    Drop,
    /// It keeps the future without polling it, until [`Rig::drop_kept`].
    Keep,
}

/// A runtime that counts its calls.
#[derive(Clone)]
pub(crate) struct Rig {
    started: tokio::time::Instant,
    handle: tokio::runtime::Handle,
    spawn: Arc<dyn Fn(usize) -> Spawn + Send + Sync>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Counters {
    sleeps: AtomicUsize,
    polls: AtomicUsize,
    spawns: AtomicUsize,
    kept: Mutex<Vec<Box<dyn Send>>>,
    drive_loop: Mutex<Option<AbortHandle>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with_spawn(|_| Spawn::Run)
    }

    /// Creates a runtime whose `spawn` function decides by the number of the future: 0 is the drive loop, 1 and 2 are
    /// the two metadata requests of the first stream, and requests follow.
    pub(crate) fn with_spawn(spawn: impl Fn(usize) -> Spawn + Send + Sync + 'static) -> Self {
        Self {
            started: tokio::time::Instant::now(),
            handle: tokio::runtime::Handle::current(),
            spawn: Arc::new(spawn),
            counters: Arc::default(),
        }
    }

    /// The number of sleeps of the drive loop.
    pub(crate) fn sleeps(&self) -> usize {
        self.counters.sleeps.load(Ordering::Relaxed)
    }

    /// The number of polls of the drive loop.
    pub(crate) fn polls(&self) -> usize {
        self.counters.polls.load(Ordering::Relaxed)
    }

    pub(crate) fn drop_drive_loop(&self) {
        self.counters.drive_loop.lock().unwrap().take().expect("the drive loop was spawned").abort();
    }

    pub(crate) fn drop_kept(&self) {
        let kept = std::mem::take(&mut *self.counters.kept.lock().unwrap());
        assert!(!kept.is_empty());
        drop(kept);
    }
}

impl Runtime for Rig {
    fn now(&self) -> Instant {
        Instant::from_nanos(0) + self.started.elapsed()
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.counters.sleeps.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(deadline.saturating_since(self.now())).await;
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let number = self.counters.spawns.fetch_add(1, Ordering::Relaxed);
        match (self.spawn)(number) {
            Spawn::Run if number == 0 => {
                let (mut future, counters) = (Box::pin(future), self.counters.clone());
                let counted = poll_fn(move |cx| {
                    counters.polls.fetch_add(1, Ordering::Relaxed);
                    future.as_mut().poll(cx)
                });
                *self.counters.drive_loop.lock().unwrap() = Some(self.handle.spawn(counted).abort_handle());
            }
            Spawn::Run => drop(self.handle.spawn(future)),
            Spawn::Panic => panic!("this panic is part of the test"),
            Spawn::Drop => {}
            Spawn::Keep => self.counters.kept.lock().unwrap().push(Box::new(future)),
        }
    }
}

/// What the service does with a PutRecords request.
#[derive(Clone)]
pub(crate) enum Behavior {
    /// It stores the records, and replies after this delay.
    Store(Duration),
    /// It never replies.
    Hang,
    Panic,
    Fail(RequestError),
    /// It throttles each record.
    Throttle,
}

/// What the service does with a metadata request.
#[derive(Clone, Copy)]
pub(crate) enum MetadataBehavior {
    Reply,
    Hang,
    Panic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetadataRequest {
    ListShards,
    DescribeStream,
}

/// A service whose streams exist, with one shard by default.
#[derive(Clone)]
pub(crate) struct Service {
    kinesis: Kinesis,
    behavior: Arc<dyn Fn(usize) -> Behavior + Send + Sync>,
    metadata_behavior: Arc<dyn Fn(MetadataRequest, usize) -> MetadataBehavior + Send + Sync>,
    shards: u32,
    state: Arc<Mutex<State>>,
    in_flight: Arc<()>,
}

#[derive(Default)]
struct State {
    requests: usize,
    metadata_requests: Vec<MetadataRequest>,
}

impl Service {
    /// Creates a service whose behavior depends on the number of the request, from 0.
    pub(crate) fn new(behavior: impl Fn(usize) -> Behavior + Send + Sync + 'static) -> Self {
        Self {
            kinesis: Kinesis::with_options(Options::unlimited()),
            behavior: Arc::new(behavior),
            metadata_behavior: Arc::new(|_, _| MetadataBehavior::Reply),
            shards: 1,
            state: Arc::default(),
            in_flight: Arc::default(),
        }
    }

    /// Sets the behavior for a metadata request. It depends on the number of such requests before, too.
    pub(crate) fn with_metadata(
        self,
        behavior: impl Fn(MetadataRequest, usize) -> MetadataBehavior + Send + Sync + 'static,
    ) -> Self {
        Self { metadata_behavior: Arc::new(behavior), ..self }
    }

    pub(crate) fn with_shards(self, shards: u32) -> Self {
        Self { shards, ..self }
    }

    /// Returns the first hash key of a shard.
    pub(crate) fn start_of(&self, shard: u32) -> u128 {
        self.create("events");
        let start = self.kinesis.with(|kinesis, _| {
            let shard = kinesis.open_shards("events").nth(shard as usize);
            shard.map(|(_, (start, _))| start)
        });
        start.expect("the stream has this shard")
    }

    pub(crate) fn replying_after(delay: Duration) -> Self {
        Self::new(move |_| Behavior::Store(delay))
    }

    pub(crate) fn requests(&self) -> usize {
        self.state.lock().unwrap().requests
    }

    /// The data of records that were not aggregated, by shard, in the order in which they were stored.
    pub(crate) fn stored(&self) -> Vec<String> {
        let records = self.records().into_iter().filter(|record| !record.aggregated);
        records.map(|record| String::from_utf8(record.data.into()).unwrap()).collect()
    }

    pub(crate) fn user_records(&self) -> usize {
        self.records().len()
    }

    pub(crate) fn records(&self) -> Vec<ConsumedRecord> {
        self.kinesis.records("events")
    }

    /// The number of metadata requests of one kind.
    pub(crate) fn metadata_requests(&self, request: MetadataRequest) -> usize {
        self.state.lock().unwrap().metadata_requests.iter().filter(|received| **received == request).count()
    }

    /// The number of requests, including metadata requests, whose futures are neither finished nor dropped.
    pub(crate) fn in_flight(&self) -> usize {
        Arc::weak_count(&self.in_flight)
    }

    fn create(&self, stream: &str) {
        // An error means that it exists.
        let _ = self.kinesis.create_stream(stream, self.shards);
    }

    async fn receive_metadata_request(&self, request: MetadataRequest) {
        let _in_flight = Arc::downgrade(&self.in_flight);
        let before = self.metadata_requests(request);
        self.state.lock().unwrap().metadata_requests.push(request);
        match (self.metadata_behavior)(request, before) {
            MetadataBehavior::Reply => {}
            MetadataBehavior::Hang => pending().await,
            MetadataBehavior::Panic => panic!("this panic is part of the test"),
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
        let _in_flight = Arc::downgrade(&self.in_flight);
        let behavior = {
            let mut state = self.state.lock().unwrap();
            state.requests += 1;
            (self.behavior)(state.requests - 1)
        };
        let delay = match behavior {
            Behavior::Store(delay) => delay,
            Behavior::Hang => pending().await,
            Behavior::Panic => panic!("this panic is part of the test"),
            Behavior::Fail(error) => return Reply::Failed(error),
            Behavior::Throttle => {
                let throttled = |_| RecordReply::failed("ProvisionedThroughputExceededException", "slow down");
                return Reply::Records(batch.records().iter().map(throttled).collect());
            }
        };
        self.create(batch.stream());
        let reply =
            self.kinesis.with(|kinesis, now| wire::put_records(kinesis, now, batch.stream(), wire::entries(batch)));
        tokio::time::sleep(delay).await;
        reply
    }

    async fn list_shards(&self, request: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        self.receive_metadata_request(MetadataRequest::ListShards).await;
        self.create(&request.stream);
        self.kinesis.with(|kinesis, now| wire::list_shards(kinesis, now, request, None))
    }

    async fn describe_stream(&self, request: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
        self.receive_metadata_request(MetadataRequest::DescribeStream).await;
        self.create(&request.stream);
        self.kinesis.with(|kinesis, now| wire::describe_stream(kinesis, now, &request.stream))
    }
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

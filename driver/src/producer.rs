//! The handle that an application holds.

use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_kinesis::Client;
use bytes::Bytes;
use kpl_core::metrics::{MetricsReport, MetricsWindow};
use kpl_core::{CheckedRecord, Config, Full, Instant, ShardName, Stats, UserRecord};

use crate::aws::{self, AwsTransport};
use crate::drive::DriveLoop;
use crate::error::{FromEnvError, PutError};
use crate::metrics::MetricsSink;
use crate::outcome::Outcome;
use crate::runtime::{AwsRuntime, Runtime};
use crate::shared::Shared;
use crate::submission::LaneId;
use crate::transport::Transport;
use crate::wait_queue::WaitQueue;

/// Puts records into Kinesis Data Streams: aggregated, paced, batched and retried as the Kinesis Producer Library does.
///
/// One producer serves any number of streams and tasks: clone it, it is a handle. Each `put` gives an [`Outcome`] at
/// once, which tells later what became of the record. [`close`](Self::close) it before the program ends; when the last
/// handle is dropped, what is outstanding still goes out as long as the runtime lives.
///
/// ```no_run
/// # async fn example<R: kpl_driver::AwsRuntime>() -> Result<(), Box<dyn std::error::Error>> {
/// let producer = kpl_driver::Producer::<R>::from_env().await?; // a driver says what R is: `kpl_tokio::Producer`
/// let outcome = producer.put("events", "user-123", "hello").await?; // waits for room, then hands back at once
/// let receipt = outcome.await?;
/// println!("{} at {}", receipt.shard_id(), receipt.sequence_number());
/// producer.close().await;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Producer<R> {
    handle: Arc<Handle>,
    lane: LaneId,
    runtime: PhantomData<fn() -> R>,
}

impl<R> Clone for Producer<R> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone(), lane: self.handle.shared.submission.assign_lane(), runtime: PhantomData }
    }
}

/// The handles' part of the producer: when it goes, nobody can put any more.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close(|_| Instant::NEVER);
    }
}

impl<R: AwsRuntime> Producer<R> {
    /// A producer by the environment: region, credentials, endpoint, retries of the credentials and all else that
    /// the AWS SDK's default chain finds; with [`Config::default`]. `AWS_CA_BUNDLE` is honoured.
    ///
    /// # Errors
    ///
    /// [`FromEnvError`] if there is no region, or `AWS_CA_BUNDLE` is not a file of certificates.
    pub async fn from_env() -> Result<Self, FromEnvError> {
        Self::from_env_with(Config::default()).await
    }

    /// As [`from_env`](Self::from_env), with settings.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub async fn from_env_with(config: Config) -> Result<Self, FromEnvError> {
        Ok(Self::from_sdk_config(&Self::sdk_config_from_env().await?, config))
    }

    /// What [`from_env`](Self::from_env) goes by: for other clients of the AWS SDK beside the producer, such as that of a sink
    /// for metrics.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub async fn sdk_config_from_env() -> Result<SdkConfig, FromEnvError> {
        let ca_pem = match std::env::var("AWS_CA_BUNDLE") {
            Ok(path) if !path.is_empty() => {
                let pem = std::fs::read(&path);
                Some(pem.map_err(|error| FromEnvError::CaBundle { path, reason: error.to_string() })?)
            }
            _ => None,
        };
        let http_client = R::http_client(ca_pem.as_deref()).map_err(|error| match std::env::var("AWS_CA_BUNDLE") {
            Ok(path) if ca_pem.is_some() => FromEnvError::CaBundle { path, reason: error.to_string() },
            _ => FromEnvError::HttpClient(error.to_string()),
        })?;
        let sdk_config = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .http_client(http_client)
            .sleep_impl(R::sleep_impl())
            .load()
            .await;
        // An empty one comes from a variable that is set to nothing; no request could be made with it.
        if sdk_config.region().is_none_or(|region| region.as_ref().is_empty()) {
            return Err(FromEnvError::NoRegion);
        }
        Ok(aws::with_containers_by_name(sdk_config))
    }

    /// A producer by an SDK config that the application has loaded itself. Where it has no sleep, or no HTTP client,
    /// the runtime's is taken.
    pub fn from_sdk_config(sdk_config: &SdkConfig, config: Config) -> Self {
        Self::new(aws::client::<R>(sdk_config), config)
    }

    /// A producer over a client of the AWS SDK, whose region, endpoint, credentials and HTTP client count. Its retries
    /// and time-outs do not: the producer retries by itself, knowing more, and `request_timeout` is the time-out.
    ///
    /// To be called where the runtime is, since the drive loop is started here; on tokio, it panics elsewhere.
    pub fn new(client: Client, config: Config) -> Self {
        let transport = AwsTransport::new::<R>(&client, config.request_timeout());
        Self::with_transport(R::default(), transport, config)
    }
}

impl<R: Runtime> Producer<R> {
    /// A producer on any runtime over any transport.
    ///
    /// If the config's seed is 0, a random one is taken, so that no two producers draw the same jitter.
    pub fn with_transport(runtime: R, transport: impl Transport, config: Config) -> Self {
        let config = match config.seed() {
            // Only ranges are checked, and a seed has none.
            0 => config.to_builder().seed(RandomState::new().hash_one(0)).build().unwrap_or(config),
            _ => config,
        };
        let clock = Box::new({
            let runtime = runtime.clone();
            move || runtime.now()
        });
        let core = kpl_core::Producer::new(config, clock());
        let shared = Arc::new(Shared::new(core, clock));
        runtime.spawn(DriveLoop::new(shared.clone()).run(runtime.clone(), Arc::new(transport)));
        let lane = shared.submission.assign_lane();
        Self { handle: Arc::new(Handle { shared }), lane, runtime: PhantomData }
    }

    /// Puts a record: waits until there is room for it, and gives the promise of its outcome.
    ///
    /// It waits while the producer is full (`max_outstanding_records`, `max_outstanding_bytes`), or while the record's shard has
    /// a backlog of `max_shard_backlog`; waiting for one shard holds up no put to another. Puts that wait for the same are
    /// accepted in the order in which they came; while more than half of all room is free, they do not queue. A put that is
    /// dropped while it waits puts nothing.
    ///
    /// `stream` is a name or an ARN. A shared `Arc<str>` for it, and `Bytes` for the data, are not copied.
    ///
    /// # Errors
    ///
    /// [`PutError::Invalid`] names field, value and limit; [`PutError::Closed`]; both give the record back.
    pub async fn put(
        &self,
        stream: impl Into<Arc<str>>,
        partition_key: impl Into<String>,
        data: impl Into<Bytes>,
    ) -> Result<Outcome, PutError> {
        self.put_record(UserRecord::new(stream, partition_key, data)).await
    }

    /// Puts a record, with an explicit hash key if it has one: waits until there is room for it.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub async fn put_record(&self, record: UserRecord) -> Result<Outcome, PutError> {
        self.put_waiting(&mut WaitingPut::new(record)?).await
    }

    /// Puts the record in `waiting`, which stays there as long as there is no room for it: also when this is dropped.
    pub(crate) async fn put_waiting(&self, waiting: &mut WaitingPut) -> Result<Outcome, PutError> {
        let shared = self.shared();
        if (shared.wait_queue.is_empty() || shared.has_ample_room())
            && let Some(done) = self.put_if_room(waiting, None)
        {
            return done;
        }
        loop {
            let done = match waiting.full_shard() {
                None => self.put_in_turn(&shared.wait_queue, waiting).await,
                Some(shard) => self.put_in_turn(&shared.shard_queues.queue(&shard), waiting).await,
            };
            if let Some(done) = done {
                return done;
            }
        }
    }

    /// Waits in a queue, and at its front until the record is put. Returns `None` if the record has to wait in another queue.
    async fn put_in_turn(&self, queue: &WaitQueue, waiting: &mut WaitingPut) -> Option<Result<Outcome, PutError>> {
        let full = waiting.full_shard();
        let _front = queue.reach_front().await;
        loop {
            let room_freed = queue.listen(); // before the try, so that no wake-up is lost
            if let Some(done) = self.put_if_room(waiting, full.as_ref()) {
                return Some(done);
            }
            if waiting.full_shard() != full {
                return None;
            }
            room_freed.await;
        }
    }

    /// Puts a record if there is room for it.
    ///
    /// # Errors
    ///
    /// [`PutError::Full`] if there is none, and those of [`put`](Self::put); all give the record back.
    pub fn try_put(
        &self,
        stream: impl Into<Arc<str>>,
        partition_key: impl Into<String>,
        data: impl Into<Bytes>,
    ) -> Result<Outcome, PutError> {
        self.try_put_record(UserRecord::new(stream, partition_key, data))
    }

    /// Puts a record, with an explicit hash key if it has one, if there is room for it.
    ///
    /// # Errors
    ///
    /// As [`try_put`](Self::try_put).
    pub fn try_put_record(&self, record: UserRecord) -> Result<Outcome, PutError> {
        Ok(self.try_put_checked(check(record)?, None)?)
    }

    /// Sends without waiting for company what has been put so far, and ends when each of those records is resolved,
    /// whatever is put in the meantime. Dropped early, the flush goes on.
    pub async fn flush(&self) {
        // An error means that the producer has ended, and with it every record.
        let _ = self.shared().flush().await;
    }

    /// Takes no more records, and ends when all are resolved and the sinks of metrics have had time for a last report (up to
    /// 10 s). Each record ends by its time-to-live at the latest.
    ///
    /// Any handle can close; the others' puts are refused from then on. Dropped early, the close goes on.
    pub async fn close(&self) {
        self.shared().close(|_| Instant::NEVER);
        self.shared().finished.wait().await;
    }

    /// As [`close`](Self::close), but what is not resolved after `timeout` fails as `Closed`, with the record.
    pub async fn close_or_fail(&self, timeout: Duration) {
        self.shared().close(|now| now + timeout);
        self.shared().finished.wait().await;
    }

    /// User records accepted and not yet resolved.
    pub fn outstanding_records(&self) -> usize {
        self.shared().outstanding().records
    }

    /// Bytes (data and partition keys) accepted and not yet resolved.
    pub fn outstanding_bytes(&self) -> usize {
        self.shared().outstanding().bytes
    }

    /// How long ago the oldest outstanding record was put, within 10 ms; `None` if none is outstanding.
    pub fn oldest_record_age(&self) -> Option<Duration> {
        let now = self.shared().now();
        self.shared().outstanding().oldest_put.map(|oldest| now.saturating_since(oldest))
    }

    /// Counts since the producer was made.
    pub fn stats(&self) -> Stats {
        self.shared().stats()
    }

    /// What has been measured since the producer was made: metrics by name, by stream and by shard, and latencies. Empty
    /// with `metrics_level` none, the default.
    pub fn metrics(&self) -> MetricsReport {
        self.shared().metrics(MetricsWindow::Total).roll_up()
    }

    /// What has been measured in the last `seconds`, the current one included; at most 60 are kept. Without latencies.
    pub fn metrics_of_last(&self, seconds: u64) -> MetricsReport {
        self.shared().metrics(MetricsWindow::Seconds(seconds)).roll_up()
    }

    /// Gives this sink a report every `metrics_upload_interval` in which something was measured, and a last one when the
    /// producer is closed. Any number of sinks can be added, best before the first put. See [`crate::metrics`].
    pub fn export_metrics_to(&self, sink: impl MetricsSink) {
        self.shared().exporter.add(Arc::new(sink));
    }

    /// The settings.
    pub fn config(&self) -> Config {
        self.shared().lock().core.config().clone()
    }

    /// What is outstanding, as the reason for which a record waits.
    pub(crate) fn full(&self) -> Full {
        let outstanding = self.shared().outstanding();
        Full::Producer { records: outstanding.records, bytes: outstanding.bytes }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// `None`, and the record stays where it is, if there is no room for it.
    fn put_if_room(
        &self,
        waiting: &mut WaitingPut,
        in_turn_for: Option<&ShardName>,
    ) -> Option<Result<Outcome, PutError>> {
        let record = waiting.record.take().unwrap_or_else(|| unreachable!("the record waits until it is put"));
        match self.try_put_checked(record, in_turn_for) {
            Err(Refused::Full { full, record }) => {
                *waiting = WaitingPut { record: Some(record), full: Some(full) };
                None
            }
            done => Some(done.map_err(PutError::from)),
        }
    }

    #[expect(clippy::result_large_err, reason = "the record comes back as it was, without an allocation")]
    fn try_put_checked(&self, record: CheckedRecord, in_turn_for: Option<&ShardName>) -> Result<Outcome, Refused> {
        use kpl_core::PutError as Core;
        self.shared().try_put(self.lane, record, in_turn_for).map_err(|refused| match refused {
            Core::Full { full, record, .. } => Refused::Full { full, record: record.into() },
            Core::Invalid { reason, record, .. } => {
                Refused::Ended(PutError::Invalid { reason, record: Box::new(record.into()) })
            }
            Core::Closed { record, .. } => Refused::Ended(PutError::Closed { record: Box::new(record.into()) }),
            _ => unreachable!("the core has no other refusals"),
        })
    }
}

/// A record that waits for room.
pub(crate) struct WaitingPut {
    /// `None` once it is put.
    record: Option<CheckedRecord>,
    /// What was full at the last try.
    full: Option<Full>,
}

impl WaitingPut {
    pub(crate) fn new(record: UserRecord) -> Result<Self, PutError> {
        Ok(Self { record: Some(check(record)?), full: None })
    }

    /// Gives up waiting. `producer` is what is full if the record never got so far as to try.
    pub(crate) fn into_error(self, producer: impl FnOnce() -> Full) -> PutError {
        let record = self.record.unwrap_or_else(|| unreachable!("a record that is not put waits"));
        PutError::Full { full: self.full.unwrap_or_else(producer), record: Box::new(record.into()) }
    }

    /// The shard that the record waits for; `None` if it waits for the producer.
    fn full_shard(&self) -> Option<ShardName> {
        match &self.full {
            Some(Full::Shard { shard, .. }) => Some(shard.clone()),
            _ => None,
        }
    }
}

/// A refused record, still checked and hashed if it may be put again.
enum Refused {
    Full { full: Full, record: CheckedRecord },
    Ended(PutError),
}

impl From<Refused> for PutError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full { full, record } => Self::Full { full, record: Box::new(record.into()) },
            Refused::Ended(error) => error,
        }
    }
}

fn check(record: UserRecord) -> Result<CheckedRecord, PutError> {
    record.check().map_err(|error| PutError::Invalid { reason: error.reason, record: error.record })
}

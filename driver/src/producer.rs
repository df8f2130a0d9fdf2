//! The application's handle of a producer.

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
use crate::batch::{BatchOutcome, BatchRecord, PutBatchError, WaitingBatch};
use crate::drive::DriveLoop;
use crate::error::{FromEnvError, PutError};
use crate::metrics::MetricsSink;
use crate::outcome::{Outcome, Ticket};
use crate::runtime::{AwsRuntime, Runtime};
use crate::shared::Shared;
use crate::submission::LaneId;
use crate::transport::Transport;
use crate::wait_queue::WaitQueue;
use crate::wakers;

/// Puts records into Kinesis Data Streams. Aggregates, rate-limits, batches and retries as the Kinesis Producer Library
/// does.
///
/// One producer serves any number of streams and tasks. It is a handle: clone it to share it. Each put returns an
/// [`Outcome`], the future result of the record. Call [`close`](Self::close) before the program ends. After the last
/// handle is dropped, outstanding records are still sent while the runtime exists.
///
/// ```no_run
/// # async fn example<R: kpl_driver::AwsRuntime>() -> Result<(), Box<dyn std::error::Error>> {
/// let producer = kpl_driver::Producer::<R>::from_env().await?; // a driver sets R: `kpl_tokio::Producer`
/// let outcome = producer.put("events", "user-123", "hello").await?; // waits for room only
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

/// The part that all handles share. It is dropped with the last handle, and closes the producer.
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
    /// Creates a producer from the environment, with [`Config::default`]. The AWS SDK's default chain sets the region,
    /// the credentials and their retries, the endpoint, and so on. `AWS_CA_BUNDLE` is supported. Keys that are replaced
    /// in the profile's files are used after the service has refused the old ones.
    ///
    /// # Errors
    ///
    /// - [`FromEnvError::NoRegion`] if the environment, the profile and the machine's metadata have no region.
    /// - [`FromEnvError::CaBundle`] if the file named by `AWS_CA_BUNDLE` cannot be read, or has no valid certificate.
    /// - [`FromEnvError::HttpClient`] if the HTTP client cannot be created for another reason.
    ///
    /// # Panics
    ///
    /// With tokio, panics outside a tokio runtime.
    pub async fn from_env() -> Result<Self, FromEnvError> {
        Self::from_env_with(Config::default()).await
    }

    /// Creates a producer as [`from_env`](Self::from_env) does, with `config`.
    ///
    /// # Errors
    ///
    /// The errors of [`from_env`](Self::from_env).
    ///
    /// # Panics
    ///
    /// With tokio, panics outside a tokio runtime.
    pub async fn from_env_with(config: Config) -> Result<Self, FromEnvError> {
        Ok(Self::from_sdk_config(&Self::sdk_config_from_env().await?, config))
    }

    /// Returns the SDK config that [`from_env`](Self::from_env) uses, for other clients of the AWS SDK, such as that of
    /// a metrics sink.
    ///
    /// # Errors
    ///
    /// The errors of [`from_env`](Self::from_env).
    pub async fn sdk_config_from_env() -> Result<SdkConfig, FromEnvError> {
        let ca_path = std::env::var("AWS_CA_BUNDLE").ok().filter(|path| !path.is_empty());
        let ca_error = |path: &str, reason: String| FromEnvError::CaBundle { path: path.to_owned(), reason };
        let ca_pem =
            ca_path.as_deref().map(|path| std::fs::read(path).map_err(|error| ca_error(path, error.to_string())));
        let http_client = R::http_client(ca_pem.transpose()?.as_deref()).map_err(|error| match &ca_path {
            Some(path) => ca_error(path, error.to_string()),
            None => FromEnvError::HttpClient(error.to_string()),
        })?;
        let sdk_config = aws_config::defaults(aws_config::BehaviorVersion::latest())
            .http_client(http_client)
            .sleep_impl(R::sleep_impl())
            .load()
            .await;
        // A variable that is set to an empty string sets an empty region, with which every request fails.
        if sdk_config.region().is_none_or(|region| region.as_ref().is_empty()) {
            return Err(FromEnvError::NoRegion);
        }
        Ok(aws::with_current_profile(aws::with_containers_by_name(sdk_config), None))
    }

    /// Creates a producer from an SDK config that the application has loaded. If it has no sleep or no HTTP client, the
    /// runtime's is used. The SDK does not notice keys that are replaced in a profile:
    /// [`with_current_profile`](crate::with_current_profile) does. Call this inside the runtime, since it starts the drive loop.
    ///
    /// # Panics
    ///
    /// If `sdk_config` has no behavior version; the loaders of `aws_config` set one. With tokio, also panics outside a
    /// tokio runtime.
    pub fn from_sdk_config(sdk_config: &SdkConfig, config: Config) -> Self {
        Self::new(aws::client::<R>(sdk_config), config)
    }

    /// Creates a producer with the region, endpoint, credentials and HTTP client of a client of the AWS SDK. The
    /// client's retries and timeouts are ignored: the producer retries records itself, and `request_timeout` is the
    /// timeout. Its identity cache is not used either: see [`AwsTransport::new`].
    ///
    /// Call this inside the runtime, since it starts the drive loop.
    ///
    /// # Panics
    ///
    /// With tokio, panics outside a tokio runtime.
    pub fn new(client: Client, config: Config) -> Self {
        let runtime = R::default();
        let transport = AwsTransport::new(&runtime, &client, config.request_timeout());
        Self::with_transport(runtime, transport, config)
    }
}

impl<R: Runtime> Producer<R> {
    /// Creates a producer with any runtime and any transport.
    ///
    /// If the config's seed is 0, a random one is used, so that no two producers have the same jitter.
    pub fn with_transport(runtime: R, transport: impl Transport, config: Config) -> Self {
        let config = match config.seed() {
            // This does not fail: every seed is valid.
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

    /// Puts a record. Waits until there is room for it, and returns its outcome.
    ///
    /// It waits while the producer is full (`max_outstanding_records`, `max_outstanding_bytes`), or while the record's
    /// shard has a backlog of `max_shard_backlog`. Waiting for one shard does not delay puts to other shards. Puts that
    /// wait for the same room are accepted in the order of their calls; while more than half of all room is free, they
    /// do not queue.
    ///
    /// `stream` is a name or an ARN. A shared `Arc<str>` for it, and `Bytes` for the data, are not copied.
    ///
    /// # Errors
    ///
    /// [`PutError::Invalid`], which names field, value and limit; [`PutError::Closed`]; both contain the record.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, as in a `select!` in which another branch completes first, the
    /// record was not put, and it is dropped, too. To keep the record, use [`put_record`](Self::put_record) with a
    /// clone: the clone shares the data.
    pub async fn put(
        &self,
        stream: impl Into<Arc<str>>,
        partition_key: impl Into<String>,
        data: impl Into<Bytes>,
    ) -> Result<Outcome, PutError> {
        self.put_record(UserRecord::new(stream, partition_key, data)).await
    }

    /// Puts a record, which may have an explicit hash key. Waits until there is room for it.
    ///
    /// ```no_run
    /// # use kpl_driver::{Producer, PutError, Runtime};
    /// # async fn example<R: Runtime>(producer: Producer<R>) -> Result<(), PutError> {
    /// use kpl_driver::core::UserRecord;
    ///
    /// // The record goes to the shard whose range contains 42.
    /// let record = UserRecord::new("events", "user-123", "hello").explicit_hash_key("42");
    /// let outcome = producer.put_record(record).await?;
    /// # drop(outcome);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`put`](Self::put).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the record was not put, and it is dropped, too.
    pub async fn put_record(&self, record: UserRecord) -> Result<Outcome, PutError> {
        let (ticket, outcome) = Outcome::new();
        self.put_waiting(&mut WaitingPut::new(check(record)?, ticket)).await?;
        Ok(outcome)
    }

    /// Puts the records of a batch, in order. Waits until there is room for all of them, and returns one outcome for
    /// the batch, which has the result of each record.
    ///
    /// A batch costs less CPU than single puts: the clock is read once, locks are taken once, and the results are awaited
    /// together. The records are independent: they may be stored in different requests, and each has its own result. While
    /// there is no room for all of them, they are accepted one by one, as by [`put`](Self::put).
    ///
    /// ```no_run
    /// # async fn example<R: kpl_driver::Runtime>(producer: kpl_driver::Producer<R>) -> Result<(), Box<dyn std::error::Error>> {
    /// let lines = ["10.0.0.1 GET /", "10.0.0.2 GET /favicon.ico"];
    /// let outcome = producer.put_batch("access", lines.map(|line| (&line[..8], line))).await?;
    /// for result in outcome.await {
    ///     println!("{}", result?.sequence_number());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`PutBatchError`], if a record is invalid or the producer is closed. It has the outcome of the records before
    /// that one, and returns all others. All records are checked before the first one is put; only a record that is
    /// larger than the stream allows may be found later.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped before it completes, the records that were accepted are sent, and the others are dropped.
    pub async fn put_batch<B: Into<BatchRecord>>(
        &self,
        stream: impl Into<Arc<str>>,
        records: impl IntoIterator<Item = B>,
    ) -> Result<BatchOutcome, PutBatchError> {
        let mut batch = WaitingBatch::new(stream, records)?;
        match self.put_waiting_batch(&mut batch).await {
            Ok(()) => Ok(batch.into_outcome()),
            Err(error) => Err(batch.into_error(error)),
        }
    }

    /// Puts the records of a batch. Those that are not accepted yet stay there, even if the future is dropped.
    pub(crate) async fn put_waiting_batch(&self, batch: &mut WaitingBatch) -> Result<(), PutError> {
        loop {
            if self.may_skip_queue() {
                self.shared().put_fitting(&mut batch.rest);
            }
            let Some((record, ticket)) = batch.rest.pop_front() else { return Ok(()) };
            self.put_waiting(batch.first.insert(WaitingPut::new(record, ticket))).await?;
            batch.first = None;
        }
    }

    /// Puts the records of a batch, in order, if there is room for them.
    ///
    /// # Errors
    ///
    /// [`PutBatchError`], if there is no room for one of the records, and for the reasons of
    /// [`put_batch`](Self::put_batch). It has the outcome of the records before that one, and returns all others.
    pub fn try_put_batch<B: Into<BatchRecord>>(
        &self,
        stream: impl Into<Arc<str>>,
        records: impl IntoIterator<Item = B>,
    ) -> Result<BatchOutcome, PutBatchError> {
        let mut batch = WaitingBatch::new(stream, records)?;
        self.shared().put_fitting(&mut batch.rest);
        while let Some((record, ticket)) = batch.rest.pop_front() {
            if let Err(refused) = self.try_put_checked(record, ticket, None) {
                return Err(batch.into_error(refused.into()));
            }
        }
        Ok(batch.into_outcome())
    }

    /// Puts the record in `waiting`. The record stays there until there is room for it, even if the future is dropped.
    pub(crate) async fn put_waiting(&self, waiting: &mut WaitingPut) -> Result<(), PutError> {
        let shared = self.shared();
        if self.may_skip_queue()
            && let Some(result) = self.put_if_room(waiting, None)
        {
            return result;
        }
        wakers::guarded(async {
            loop {
                let result = match waiting.full_shard() {
                    None => self.put_in_turn(&shared.wait_queue, waiting).await,
                    Some(shard) => self.put_in_turn(&shared.shard_queues.queue(&shard), waiting).await,
                };
                if let Some(result) = result {
                    return result;
                }
            }
        })
        .await
    }

    /// Whether a put may be tried at once: no other waits, or most of the room is free.
    fn may_skip_queue(&self) -> bool {
        let shared = self.shared();
        shared.wait_queue.is_empty() || shared.has_ample_room()
    }

    /// Waits in a queue, and at its front until the record is put. Returns `None` if the record has to wait in another
    /// queue.
    async fn put_in_turn(&self, queue: &WaitQueue, waiting: &mut WaitingPut) -> Option<Result<(), PutError>> {
        let full = waiting.full_shard();
        let _front = queue.reach_front().await;
        loop {
            let room_freed = queue.listen(); // before the try, so that no wake-up is lost
            if let Some(result) = self.put_if_room(waiting, full.as_ref()) {
                return Some(result);
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
    /// [`PutError::Full`] if there is none, and the errors of [`put`](Self::put); all contain the record.
    pub fn try_put(
        &self,
        stream: impl Into<Arc<str>>,
        partition_key: impl Into<String>,
        data: impl Into<Bytes>,
    ) -> Result<Outcome, PutError> {
        self.try_put_record(UserRecord::new(stream, partition_key, data))
    }

    /// Puts a record, which may have an explicit hash key, if there is room for it.
    ///
    /// # Errors
    ///
    /// The errors of [`try_put`](Self::try_put).
    pub fn try_put_record(&self, record: UserRecord) -> Result<Outcome, PutError> {
        let (ticket, outcome) = Outcome::new();
        self.try_put_checked(check(record)?, ticket, None)?;
        Ok(outcome)
    }

    /// Sends all records put so far, without waiting for more, and waits until they are resolved. Later puts do not
    /// delay it.
    ///
    /// A record is resolved when its `record_ttl` has passed, or when the request that is in flight at that time has
    /// ended, at the latest. If `record_ttl` is [`Duration::MAX`], this may never return; then
    /// [`close_or_fail`](Self::close_or_fail) resolves the records.
    ///
    /// On a closed producer, this waits until the remaining records are resolved, at most until the close has ended.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the flush continues.
    pub async fn flush(&self) {
        // An error means that the producer has ended and every record is resolved.
        let _ = wakers::guarded(self.shared().flush()).await;
    }

    /// Accepts no more records, and waits until all are resolved and the metrics sinks have had up to 10 s for a last
    /// report. A close through one handle closes all of them.
    ///
    /// A record is resolved when its `record_ttl` has passed, or when the request that is in flight at that time has
    /// ended, at the latest. If `record_ttl` is [`Duration::MAX`], this may never return: use
    /// [`close_or_fail`](Self::close_or_fail), also while this waits.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the close continues.
    pub async fn close(&self) {
        self.shared().close(|_| Instant::NEVER);
        wakers::guarded(self.shared().finished.wait()).await;
    }

    /// Closes the producer as [`close`](Self::close) does. Records that are not resolved after `timeout` fail as
    /// `Closed`; the failure contains the record.
    ///
    /// Without metrics sinks, this takes up to `timeout`. With them, it takes up to 1 s more: a sink has the rest of
    /// `timeout` for its last report, but at least 1 s and at most 10 s.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped after its first poll, the close continues.
    pub async fn close_or_fail(&self, timeout: Duration) {
        self.shared().close(|now| now + timeout);
        wakers::guarded(self.shared().finished.wait()).await;
    }

    /// Returns the number of user records accepted and not yet resolved.
    pub fn outstanding_records(&self) -> usize {
        self.shared().outstanding().records
    }

    /// Returns the number of bytes (data and partition keys) accepted and not yet resolved.
    pub fn outstanding_bytes(&self) -> usize {
        self.shared().outstanding().bytes
    }

    /// Returns the time since the oldest outstanding record was put, within 10 ms; `None` if none is outstanding.
    pub fn oldest_record_age(&self) -> Option<Duration> {
        let now = self.shared().now();
        self.shared().outstanding().oldest_put.map(|oldest| now.saturating_since(oldest))
    }

    /// Returns the counters since the creation of the producer.
    pub fn stats(&self) -> Stats {
        self.shared().stats()
    }

    /// Returns the metrics since the creation of the producer: per name, per stream and per shard, and latencies. Empty
    /// with `metrics_level` none, the default.
    pub fn metrics(&self) -> MetricsReport {
        self.shared().metrics(MetricsWindow::Total).roll_up()
    }

    /// Returns the metrics of the last `seconds`, including the current one, without latencies. `seconds` is from 1 to
    /// 60: a larger number counts as 60, and with 0 the report is empty. Empty with `metrics_level` none, the default.
    pub fn metrics_of_last(&self, seconds: u64) -> MetricsReport {
        self.shared().metrics(MetricsWindow::Seconds(seconds)).roll_up()
    }

    /// Adds a sink. It receives a report after each `metrics_upload_interval` with observations, and a last one when
    /// the producer is closed. With `metrics_level` none, the default, it receives none. Any number of sinks can be
    /// added, preferably before the first put. See [`crate::metrics`].
    pub fn export_metrics_to(&self, sink: impl MetricsSink) {
        self.shared().exporter.add(Arc::new(sink));
    }

    /// Returns the settings.
    pub fn config(&self) -> Config {
        self.shared().lock().core.config().clone()
    }

    /// Returns the outstanding records and bytes, as the reason why a record waits.
    pub(crate) fn full(&self) -> Full {
        let outstanding = self.shared().outstanding();
        Full::Producer { records: outstanding.records, bytes: outstanding.bytes }
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    /// Puts a record if there is room for it. Returns `None` if there is none, and the record stays in `waiting`.
    fn put_if_room(&self, waiting: &mut WaitingPut, in_turn_for: Option<&ShardName>) -> Option<Result<(), PutError>> {
        let (record, ticket) =
            waiting.record.take().unwrap_or_else(|| unreachable!("the record waits until it is put"));
        match self.try_put_checked(record, ticket, in_turn_for) {
            Err(Refused::Full { full, record, ticket }) => {
                *waiting = WaitingPut { record: Some((record, ticket)), full: Some(full) };
                None
            }
            result => Some(result.map_err(PutError::from)),
        }
    }

    #[expect(clippy::result_large_err, reason = "the record is returned without an allocation")]
    fn try_put_checked(
        &self,
        record: CheckedRecord,
        ticket: Ticket,
        in_turn_for: Option<&ShardName>,
    ) -> Result<(), Refused> {
        use kpl_core::PutError as Core;
        self.shared().try_put(self.lane, record, ticket, in_turn_for).map_err(|refused| match refused {
            Core::Full { full, record, ticket } => Refused::Full { full, record: record.into(), ticket },
            Core::Invalid { reason, record, .. } => {
                Refused::Ended(PutError::Invalid { reason, record: Box::new(record.into()) })
            }
            Core::Closed { record, .. } => Refused::Ended(PutError::Closed { record: Box::new(record.into()) }),
            _ => unreachable!("the core returns no other errors"),
        })
    }
}

/// A record that waits for room, with its ticket.
pub(crate) struct WaitingPut {
    /// `None` once it is put.
    record: Option<(CheckedRecord, Ticket)>,
    /// The reason why the last try failed.
    full: Option<Full>,
}

impl WaitingPut {
    pub(crate) fn new(record: CheckedRecord, ticket: Ticket) -> Self {
        Self { record: Some((record, ticket)), full: None }
    }

    /// Stops waiting. `producer` returns the reason if there was no try yet.
    pub(crate) fn into_error(self, producer: impl FnOnce() -> Full) -> PutError {
        let (record, _) = self.record.unwrap_or_else(|| unreachable!("a record that is not put waits"));
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

/// A refused record. It stays checked and hashed if it may be put again.
enum Refused {
    Full { full: Full, record: CheckedRecord, ticket: Ticket },
    Ended(PutError),
}

impl From<Refused> for PutError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full { full, record, .. } => Self::Full { full, record: Box::new(record.into()) },
            Refused::Ended(error) => error,
        }
    }
}

pub(crate) fn check(record: UserRecord) -> Result<CheckedRecord, PutError> {
    record.check().map_err(|error| PutError::Invalid { reason: error.reason, record: error.record })
}

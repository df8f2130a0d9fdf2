//! A producer without Kinesis, whose records a test resolves.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kpl_core::{
    Batch, Config, Delivery, DescribeStreamRequest, ListShardsRequest, ListedShard, RecordReply, Reply, RequestError,
    ShardPage, StreamSummary,
};
use kpl_driver::{Producer, Runtime, Transport};
use tokio::sync::{mpsc, oneshot};

#[cfg(feature = "tokio")]
use crate::START;
use crate::kinesis::seeded;

/// The answer to an attempt to put a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The record is stored.
    Stored,
    /// The record is not stored: the code of the error, such as `InternalFailure`.
    Failed(String),
    /// There is no reply, so that the attempt is ambiguous.
    Lost,
}

impl Answer {
    /// Creates the answer that the record is not stored, with the code of the error.
    ///
    /// The producer treats it as that of Kinesis: after `AccessDeniedException` the record fails at once; after
    /// `InternalFailure` and `ProvisionedThroughputExceededException` it tries again, until `record_ttl` ends.
    pub fn failed(code: impl Into<String>) -> Self {
        Self::Failed(code.into())
    }
}

/// A record that a producer has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentRecord {
    /// The stream's name or ARN.
    pub stream: String,
    /// The partition key.
    pub partition_key: String,
    /// The explicit hash key, or the hash of the partition key.
    pub hash_key: u128,
    /// The data.
    pub data: Bytes,
}

/// A stand-in for Kinesis in unit tests: it keeps the records that a producer sends, and answers as the test says. It does
/// what `MockProducer` does for Kafka.
///
/// The producer is the real one, so its checks, errors and results are the same as in production. Each record is sent
/// alone, and at once.
///
/// ```
/// # #[cfg(feature = "tokio")]
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use kpl_testing::{Answer, Script};
/// use kpl_tokio::Config;
///
/// let script = Script::new([Answer::Stored, Answer::failed("AccessDeniedException")]);
/// let producer = script.producer(Config::default()); // a kpl_tokio::Producer
/// assert!(producer.put("events", "user-1", "one").await?.await.is_ok());
/// let failure = producer.put("events", "user-2", "two").await?.await.unwrap_err();
/// assert_eq!(&*failure.error.code, "AccessDeniedException");
/// assert_eq!(failure.record.data, "two"); // the record is given back
/// assert!(producer.put("events", "user-3", "three").await?.await.is_ok()); // after the script: stored
/// assert_eq!(script.sent()[2].partition_key, "user-3");
/// # Ok(()) }
/// # #[cfg(not(feature = "tokio"))] fn main() {}
/// ```
#[derive(Clone)]
pub struct Script(Arc<Mutex<State>>);

struct State {
    answers: Answers,
    sent: Vec<SentRecord>,
    stored: u64,
}

/// Where the answers come from.
enum Answers {
    Function(Box<dyn FnMut(&SentRecord) -> Answer + Send>),
    Test(mpsc::UnboundedSender<PendingRecord>),
}

impl Script {
    /// Creates a script with the answers to the first records. All later ones are stored. A record that is sent again
    /// takes the next answer.
    pub fn new(answers: impl IntoIterator<Item = Answer, IntoIter: Send + 'static>) -> Self {
        let mut answers = answers.into_iter().fuse();
        Self::answering(move |_| answers.next().unwrap_or(Answer::Stored))
    }

    /// Creates a script with a function that answers each record.
    ///
    /// ```
    /// use kpl_testing::{Answer, Script};
    ///
    /// let script = Script::answering(|record| match &*record.partition_key {
    ///     "bob" => Answer::failed("InternalFailure"), // always: the record expires
    ///     _ => Answer::Stored,
    /// });
    /// ```
    pub fn answering(answer: impl FnMut(&SentRecord) -> Answer + Send + 'static) -> Self {
        Self::with_answers(Answers::Function(Box::new(answer)))
    }

    /// Creates a script whose records wait until the test answers them. The producer sends at most 1,024 records that are
    /// not answered.
    ///
    /// ```
    /// # #[cfg(feature = "tokio")]
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use kpl_testing::{Answer, Script};
    /// use kpl_tokio::Config;
    ///
    /// let (script, mut records) = Script::manual();
    /// let producer = script.producer(Config::default());
    /// let mut outcome = producer.put("events", "user-1", "one").await?;
    /// let pending = records.next().await;
    /// assert_eq!(pending.record().data, "one");
    /// assert!(outcome.try_result().is_none(), "nothing is resolved before the answer");
    /// pending.answer(Answer::Stored);
    /// assert!(outcome.await.is_ok());
    /// # Ok(()) }
    /// # #[cfg(not(feature = "tokio"))] fn main() {}
    /// ```
    pub fn manual() -> (Self, PendingRecords) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self::with_answers(Answers::Test(sender)), PendingRecords(receiver))
    }

    fn with_answers(answers: Answers) -> Self {
        Self(Arc::new(Mutex::new(State { answers, sent: Vec::new(), stored: 0 })))
    }

    /// Returns the records in the order in which they were sent. A record that was sent again is there again. On a runtime
    /// with several threads, requests run in any order.
    pub fn sent(&self) -> Vec<SentRecord> {
        self.lock().sent.clone()
    }

    /// Creates a producer on any runtime. The settings of aggregation, batches, requests and rates are replaced.
    pub fn producer_on<R: Runtime>(&self, runtime: &R, config: Config) -> Producer<R> {
        let alone = config
            .to_builder()
            .aggregation_enabled(false)
            .collection_max_count(1)
            .record_max_buffered_time(Duration::ZERO)
            .max_in_flight_requests(1_024)
            .rate_limit_records_per_shard(1_000_000)
            .rate_limit_bytes_per_shard(1 << 30);
        let config = alone.build().unwrap_or_else(|error| panic!("the config cannot be used with a script: {error}"));
        Producer::with_transport(runtime.clone(), self.clone(), seeded(config, 1))
    }

    /// Creates a producer of kpl-tokio on the current runtime. The settings of aggregation, batches, requests and rates
    /// are replaced.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    #[cfg(feature = "tokio")]
    pub fn producer(&self, config: Config) -> kpl_tokio::Producer {
        self.producer_on(&kpl_tokio::Tokio::starting_at(kpl_core::Instant::from_nanos(0) + START), config)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a record, and returns its answer.
    async fn answer(&self, record: SentRecord) -> Answer {
        let answered = {
            let State { answers, sent, .. } = &mut *self.lock();
            sent.push(record.clone());
            match answers {
                Answers::Function(answer) => return answer(&record),
                Answers::Test(pending) => {
                    let (answer, answered) = oneshot::channel();
                    // Without a receiver, the record is dropped, and so is the sender of its answer.
                    let _ = pending.send(PendingRecord { record, answer });
                    answered
                }
            }
        };
        answered.await.unwrap_or(Answer::Lost)
    }
}

impl Default for Script {
    /// A script that stores all records.
    fn default() -> Self {
        Self::new([])
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Script").field("sent", &state.sent).finish_non_exhaustive()
    }
}

/// The records of a [`Script::manual`] that wait for their answers.
#[derive(Debug)]
pub struct PendingRecords(mpsc::UnboundedReceiver<PendingRecord>);

impl PendingRecords {
    /// Waits for the next record that is sent. Waits for ever if there is none: `tokio::time::timeout` limits that.
    ///
    /// # Panics
    ///
    /// If the script and its producers are dropped, since there will be none.
    pub async fn next(&mut self) -> PendingRecord {
        let Some(record) = self.0.recv().await else { panic!("the script and its producers are dropped") };
        record
    }

    /// Returns the next record, if it was sent already.
    pub fn try_next(&mut self) -> Option<PendingRecord> {
        self.0.try_recv().ok()
    }
}

/// A record that waits for its answer. Dropped without one, its reply is lost.
#[derive(Debug)]
pub struct PendingRecord {
    record: SentRecord,
    answer: oneshot::Sender<Answer>,
}

impl PendingRecord {
    /// The record.
    pub fn record(&self) -> &SentRecord {
        &self.record
    }

    /// Answers it.
    pub fn answer(self, answer: Answer) {
        // The producer may have been dropped.
        let _ = self.answer.send(answer);
    }
}

const SHARD: &str = "shardId-000000000000";

impl Transport for Script {
    async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
        let mut replies = Vec::with_capacity(batch.records().len());
        for record in batch.records() {
            let sent = SentRecord {
                stream: batch.stream().to_string(),
                partition_key: record.partition_key().to_owned(),
                hash_key: record.explicit_hash_key(),
                data: record.data(),
            };
            replies.push(match self.answer(sent).await {
                Answer::Stored => {
                    let mut state = self.lock();
                    state.stored += 1;
                    RecordReply::stored(SHARD, state.stored.to_string())
                }
                Answer::Failed(code) => RecordReply::failed(code, "scripted"),
                Answer::Lost => {
                    let error = RequestError::new(Delivery::Unanswered, "Connection Lost", "scripted");
                    return Reply::Failed(error);
                }
            });
        }
        Reply::Records(replies)
    }

    async fn list_shards(&self, _: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        let shard = ListedShard { id: SHARD.into(), start: 0, end: u128::MAX, closed: false, parents: [None, None] };
        Ok(ShardPage { shards: vec![shard], next_token: None })
    }

    async fn describe_stream(&self, _: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
        Ok(StreamSummary { open_shards: Some(1), ..StreamSummary::default() })
    }
}

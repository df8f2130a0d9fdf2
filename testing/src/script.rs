//! A producer without Kinesis, whose records a test resolves.

use std::collections::VecDeque;
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

/// A record that the producer tried to put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempted {
    /// The stream's name or ARN.
    pub stream: String,
    /// The partition key.
    pub partition_key: String,
    /// The explicit hash key, or the hash of the partition key.
    pub hash_key: u128,
    /// The data.
    pub data: Bytes,
}

/// A stand-in for Kinesis in unit tests: it keeps the records that a producer puts, and answers as it is told. As
/// `MockProducer` is for Kafka.
///
/// The producer is the real one, so that its checks, errors and results are, too. Only waiting is left out: each record
/// is sent alone, and at once.
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
/// assert_eq!(script.attempts()[2].partition_key, "user-3");
/// # Ok(()) }
/// # #[cfg(not(feature = "tokio"))] fn main() {}
/// ```
#[derive(Clone)]
pub struct Script(Arc<Mutex<State>>);

struct State {
    answers: VecDeque<Answer>,
    attempts: Vec<Attempted>,
    stored: u64,
    /// Set if a test answers each attempt itself.
    asked: Option<mpsc::UnboundedSender<Attempt>>,
}

impl Script {
    /// Creates a script with the answers to the first attempts. All later ones are stored.
    pub fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers = answers.into_iter().collect();
        Self(Arc::new(Mutex::new(State { answers, attempts: Vec::new(), stored: 0, asked: None })))
    }

    /// Creates a script whose attempts wait until the test answers them. The producer sends at most 1,024 unanswered
    /// ones.
    ///
    /// ```
    /// # #[cfg(feature = "tokio")]
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use kpl_testing::{Answer, Script};
    /// use kpl_tokio::Config;
    ///
    /// let (script, mut attempts) = Script::by_hand();
    /// let producer = script.producer(Config::default());
    /// let mut outcome = producer.put("events", "user-1", "one").await?;
    /// let attempt = attempts.next().await;
    /// assert_eq!(attempt.record().data, "one");
    /// assert!(outcome.try_result().is_none(), "nothing is resolved before the answer");
    /// attempt.answer(Answer::Stored);
    /// assert!(outcome.await.is_ok());
    /// # Ok(()) }
    /// # #[cfg(not(feature = "tokio"))] fn main() {}
    /// ```
    pub fn by_hand() -> (Self, Attempts) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let script = Self::new([]);
        script.lock().asked = Some(sender);
        (script, Attempts(receiver))
    }

    /// Adds an answer to the script.
    pub fn then(&self, answer: Answer) {
        self.lock().answers.push_back(answer);
    }

    /// Returns the records that were sent, in their order: one for each attempt.
    pub fn attempts(&self) -> Vec<Attempted> {
        self.lock().attempts.clone()
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
        // This does not fail: the values are in their ranges.
        Producer::with_transport(runtime.clone(), self.clone(), alone.build().unwrap_or(config))
    }

    /// Creates a producer of kpl-tokio on the current runtime. The settings of aggregation, batches, requests and rates
    /// are replaced.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime.
    #[cfg(feature = "tokio")]
    pub fn producer(&self, config: Config) -> kpl_tokio::Producer {
        self.producer_on(&kpl_tokio::Tokio::default(), config)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an attempt, and returns its answer.
    async fn answer(&self, record: Attempted) -> Answer {
        let reply = {
            let mut state = self.lock();
            state.attempts.push(record.clone());
            match &state.asked {
                None => return state.answers.pop_front().unwrap_or(Answer::Stored),
                Some(asked) => {
                    let (answer, reply) = oneshot::channel();
                    // Without a receiver, the attempt is dropped, and so is the sender of its answer.
                    let _ = asked.send(Attempt { record, answer });
                    reply
                }
            }
        };
        reply.await.unwrap_or(Answer::Lost)
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
        f.debug_struct("Script").field("answers", &state.answers).field("attempts", &state.attempts).finish()
    }
}

/// The attempts of a [`Script::by_hand`].
#[derive(Debug)]
pub struct Attempts(mpsc::UnboundedReceiver<Attempt>);

impl Attempts {
    /// Waits for the next attempt.
    ///
    /// # Panics
    ///
    /// If the script and its producers are dropped, since there will be none.
    pub async fn next(&mut self) -> Attempt {
        let Some(attempt) = self.0.recv().await else { panic!("the script and its producers are dropped") };
        attempt
    }

    /// Returns the next attempt, if it was sent already.
    pub fn try_next(&mut self) -> Option<Attempt> {
        self.0.try_recv().ok()
    }
}

/// An attempt that waits for its answer. Dropped without one, its reply is lost.
#[derive(Debug)]
pub struct Attempt {
    record: Attempted,
    answer: oneshot::Sender<Answer>,
}

impl Attempt {
    /// The record.
    pub fn record(&self) -> &Attempted {
        &self.record
    }

    /// Answers the attempt.
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
            let attempted = Attempted {
                stream: batch.stream().to_string(),
                partition_key: record.partition_key().to_owned(),
                hash_key: record.explicit_hash_key(),
                data: record.data(),
            };
            replies.push(match self.answer(attempted).await {
                Answer::Stored => {
                    let mut state = self.lock();
                    state.stored += 1;
                    RecordReply::stored(SHARD, state.stored.to_string())
                }
                Answer::Failed(code) => RecordReply::failed(code, "scripted"),
                Answer::Lost => {
                    let error = RequestError::new(Delivery::Unanswered, "Reply Lost", "scripted");
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

//! Level (b): what ships, the handle and the drive loop of kpl-driver, on a simulated runtime and transport.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use fastrand::Rng;
use kpl_core::{
    Batch, Config, Delivery, DescribeStreamRequest, Full, Instant, ListShardsRequest, Reply, RequestError, ShardPage,
    StreamSummary, UserRecord,
};
use kpl_driver::{Outcome, Producer, PutError, Runtime, Transport};
use tokio::sync::oneshot;

use super::executor::{Executor, lock};
use super::{Answer, Counts, Effect, End, Refusal, Subject, wire};
use crate::options::Callers;

/// The producer with its drive loop, and tasks of callers that put, wait, flush and close.
pub(super) struct DriverSubject {
    executor: Executor,
    mail: Mail,
    /// Until the handle is dropped.
    producer: Option<Producer<Executor>>,
    /// How long puts wait for room; `None`: they do not.
    put_patience: Option<Duration>,
    /// The handle was dropped, and the drive loop has not ended yet.
    fades: bool,
}

/// What comes out, and whom answers go to.
#[derive(Clone, Default)]
struct Mail(Arc<Mutex<Letters>>);

#[derive(Default)]
struct Letters {
    effects: VecDeque<Effect>,
    questions: BTreeMap<u64, oneshot::Sender<Answer>>,
    asked: u64,
    waiting_puts: usize,
}

impl Subject for DriverSubject {
    fn advance(&mut self, now: Instant) {
        self.executor.advance(now);
    }

    fn put(&mut self, ticket: u64, record: UserRecord) {
        let mail = self.mail.clone();
        let Some(producer) = self.producer.clone() else {
            return mail.write(Effect::Refused(ticket, Refusal::Closed, record));
        };
        match self.put_patience {
            None => {
                if let Some(outcome) = mail.tell(ticket, producer.try_put_record(record)) {
                    self.executor.spawn_caller(async move { mail.follow(ticket, outcome).await });
                }
            }
            Some(patience) => {
                let sleep = self.executor.sleep_exactly_until(self.executor.now() + patience);
                self.executor.spawn_caller(async move {
                    lock(&mail.0).waiting_puts += 1;
                    let put = before(producer.put_record(record), sleep).await;
                    lock(&mail.0).waiting_puts -= 1;
                    drop(producer);
                    let Some(put) = put else { return mail.write(Effect::GivenUp(ticket)) };
                    if let Some(outcome) = mail.tell(ticket, put) {
                        mail.follow(ticket, outcome).await;
                    }
                });
            }
        }
    }

    fn flush(&mut self, number: u64) {
        let (producer, mail) = (self.producer.clone(), self.mail.clone());
        self.executor.spawn_caller(async move {
            if let Some(producer) = producer {
                producer.flush().await;
            }
            mail.write(Effect::Flushed(number));
        });
    }

    fn end(&mut self, end: End) {
        let within = match end {
            End::Close(within) => within,
            End::Drop => {
                self.producer = None;
                self.fades = true;
                return;
            }
            End::Runtime => {
                self.executor.end();
                Duration::MAX
            }
        };
        let (producer, mail) = (self.producer.clone(), self.mail.clone());
        self.executor.spawn_caller(async move {
            match producer {
                Some(producer) if within == Duration::MAX => producer.close().await,
                Some(producer) => producer.close_or_fail(within).await,
                None => {}
            }
            mail.write(Effect::Closed);
        });
    }

    fn answer(&mut self, id: u64, answer: Answer) {
        if let Some(question) = lock(&self.mail.0).questions.remove(&id) {
            // Whoever asked may have gone.
            let _ = question.send(answer);
        }
    }

    fn settle(&mut self) {
        if let Err(how) = self.executor.run() {
            self.mail.write(Effect::Broken(how));
        }
        if self.fades && !self.executor.is_busy() {
            self.fades = false;
            self.mail.write(Effect::Closed);
        }
        // At one and the same time, tasks learn in any order what has become of their records: ends come last.
        let mut letters = lock(&self.mail.0);
        let is_end = |effect: &Effect| matches!(effect, Effect::Flushed(_) | Effect::Closed);
        letters.effects.make_contiguous().sort_by_key(is_end);
    }

    fn effect(&mut self) -> Option<Effect> {
        lock(&self.mail.0).effects.pop_front()
    }

    fn next_wake(&self) -> Instant {
        self.executor.next_wake()
    }

    fn counts(&self) -> Option<Counts> {
        let producer = self.producer.as_ref()?;
        let before = |age: Duration| self.executor.now().as_nanos() - age.as_nanos() as u64;
        Some(Counts {
            records: producer.outstanding_records(),
            bytes: producer.outstanding_bytes(),
            in_flight: None,
            oldest: producer.oldest_record_age().map(|age| Instant::from_nanos(before(age))),
            waiting: lock(&self.mail.0).waiting_puts,
            streams: None,
            stats: producer.stats(),
        })
    }
}

impl DriverSubject {
    pub(super) fn new(config: Config, now: Instant, callers: &Callers, dice: Rng) -> Self {
        let executor = Executor::new(now, callers.any_order, callers.oversleep, dice);
        let mail = Mail::default();
        let producer = Producer::with_transport(executor.clone(), mail.clone(), config);
        Self { executor, mail, producer: Some(producer), put_patience: callers.put_patience, fades: false }
    }
}

impl Mail {
    fn write(&self, effect: Effect) {
        lock(&self.0).effects.push_back(effect);
    }

    /// Tells what a put gave.
    fn tell(&self, ticket: u64, put: Result<Outcome, PutError>) -> Option<Outcome> {
        match put {
            Ok(outcome) => {
                self.write(Effect::Taken(ticket));
                Some(outcome)
            }
            Err(error) => {
                let refusal = match &error {
                    PutError::Full { full: Full::Shard { .. }, .. } => Refusal::ShardFull,
                    PutError::Full { .. } => Refusal::Full,
                    PutError::Closed { .. } => Refusal::Closed,
                    PutError::Invalid { .. } => Refusal::TooLarge,
                    _ => Refusal::Invalid,
                };
                self.write(Effect::Refused(ticket, refusal, error.into_record()));
                None
            }
        }
    }

    /// Tells what becomes of a record.
    async fn follow(&self, ticket: u64, outcome: Outcome) {
        let result = outcome.await;
        self.write(Effect::Resolved(ticket, result));
    }

    /// Asks the world a question, by the effect that `question` makes of its number.
    async fn ask(&self, question: impl FnOnce(u64) -> Effect) -> Answer {
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut letters = lock(&self.0);
            letters.asked += 1;
            let id = letters.asked;
            letters.questions.insert(id, sender);
            letters.effects.push_back(question(id));
            id
        };
        let _asking = Asking { mail: self, id };
        match answer.await {
            Ok(Answer::Panic) => Executor::panic(),
            Ok(answer) => answer,
            // The world is gone.
            Err(_) => Answer::Put(Reply::Failed(lost())),
        }
    }
}

/// A question under way; dropped before its answer came, it tells so.
struct Asking<'a> {
    mail: &'a Mail,
    id: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut letters = lock(&self.mail.0);
        if letters.questions.remove(&self.id).is_some() {
            letters.effects.push_back(Effect::Dropped(self.id));
        }
    }
}

impl Transport for Mail {
    async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
        let (stream, records) = (batch.stream().clone(), wire(batch));
        match self.ask(|id| Effect::PutRecords { id, stream, records }).await {
            Answer::Put(reply) => reply,
            _ => Reply::Failed(lost()),
        }
    }

    async fn list_shards(&self, request: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        let request = request.clone();
        match self.ask(|id| Effect::ListShards { id, request }).await {
            Answer::List(reply) => reply,
            _ => Err(lost()),
        }
    }

    async fn describe_stream(&self, request: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
        let stream = request.stream.clone();
        match self.ask(|id| Effect::DescribeStream { id, stream }).await {
            Answer::Describe(reply) => reply,
            _ => Err(lost()),
        }
    }
}

fn lost() -> RequestError {
    RequestError::new(Delivery::Unanswered, "No World", "the world is gone")
}

/// A future's value, if it comes before another one ends.
async fn before<V>(future: impl Future<Output = V>, end: impl Future<Output = ()>) -> Option<V> {
    let (mut future, mut end) = (pin!(future), pin!(end));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => end.as_mut().poll(cx).map(|()| None),
    })
    .await
}

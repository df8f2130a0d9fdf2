//! The level `driver`: the handle and the drive loop of kpl-driver, on a simulated runtime and transport.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use fastrand::Rng;
use kpl_core::{
    Config, Delivery, DescribeStreamRequest, Full, Instant, InvalidRecord, ListShardsRequest, Reply, RequestError,
    ShardPage, StreamSummary, UserRecord, limits,
};
use kpl_driver::{
    BatchOutcome, BatchRecord, Outcome, Producer, PutBatchError, PutError, Refusal as Refused, Runtime, Transport,
};
use kpl_testing::simulation::{self, Host, Simulation};
use kpl_testing::wire;
use tokio::sync::oneshot;

use super::{Counts, Effect, End, Refusal, Response, Subject};
use crate::options::Callers;

/// The producer with its drive loop, and callers' tasks that put, flush and close.
pub(super) struct DriverSubject {
    simulation: Simulation,
    /// The runtime of the producer.
    host: Host,
    /// The runtime of its callers, which does not end.
    callers: Host,
    transport: WorldTransport,
    /// `None` after the handle is dropped.
    producer: Option<Producer<Host>>,
    /// The time that a put waits for room; `None` if puts do not wait.
    put_timeout: Option<Duration>,
    /// Whether the handle is dropped and the drive loop has not ended yet.
    is_ending: bool,
    /// The batches of which not all results are reported.
    batches: Vec<Batch>,
}

/// A batch that was put.
struct Batch {
    outcome: BatchOutcome,
    /// The index and ticket of each record whose result is not reported.
    unresolved: Vec<(usize, u64)>,
}

/// The connection to the world: the effects of the subject, and its requests.
#[derive(Clone, Default)]
struct WorldTransport(Arc<Mutex<TransportState>>);

#[derive(Default)]
struct TransportState {
    effects: VecDeque<Effect>,
    /// The tasks that wait for a response, by request id.
    requests: BTreeMap<u64, oneshot::Sender<Response>>,
    requests_sent: u64,
    waiting_puts: usize,
}

impl Subject for DriverSubject {
    fn advance(&mut self, now: Instant) {
        self.simulation.advance(now);
    }

    fn put(&mut self, ticket: u64, record: UserRecord) {
        let transport = self.transport.clone();
        let Some(producer) = self.producer.clone() else {
            return transport.push(Effect::Refused(ticket, Refusal::Closed, record));
        };
        match self.put_timeout {
            None => {
                if let Some(outcome) = transport.report_put(ticket, producer.try_put_record(record)) {
                    self.callers.spawn(async move { transport.report_result(ticket, outcome).await });
                }
            }
            Some(timeout) => {
                let sleep = self.callers.sleep_exactly_until(self.callers.now() + timeout);
                self.callers.spawn(async move {
                    lock(&transport.0).waiting_puts += 1;
                    let put = with_timeout(producer.put_record(record), sleep).await;
                    lock(&transport.0).waiting_puts -= 1;
                    drop(producer);
                    let Some(put) = put else { return transport.push(Effect::PutTimedOut(ticket)) };
                    if let Some(outcome) = transport.report_put(ticket, put) {
                        transport.report_result(ticket, outcome).await;
                    }
                });
            }
        }
    }

    fn put_batch(&mut self, records: Vec<(u64, UserRecord)>) {
        // A put that waits reports only at its end which records were accepted. So batches are put only without waiting.
        let producer = match (&self.producer, records.first()) {
            (Some(producer), Some(_)) if self.put_timeout.is_none() => producer.clone(),
            _ => return records.into_iter().for_each(|(ticket, record)| self.put(ticket, record)),
        };
        let stream = records[0].1.stream.clone();
        let (mut tickets, mut rest): (VecDeque<u64>, Vec<BatchRecord>) =
            records.into_iter().map(|(ticket, record)| (ticket, record.into())).unzip();
        while !rest.is_empty() {
            let (accepted, refused) = match producer.try_put_batch(stream.clone(), rest) {
                Ok(outcome) => (outcome, None),
                Err(PutBatchError { accepted, refusal, rest, index, .. }) => (accepted, Some((refusal, rest, index))),
            };
            // If a record is invalid by itself, no record is accepted.
            let transport = self.transport.clone();
            let accepted_tickets: Vec<u64> = tickets.drain(..accepted.len()).collect();
            accepted_tickets.iter().for_each(|ticket| transport.push(Effect::Accepted(*ticket)));
            let accepted_count = accepted_tickets.len();
            if accepted_count > 0 {
                let unresolved = accepted_tickets.into_iter().enumerate().collect();
                self.batches.push(Batch { outcome: accepted, unresolved });
            }
            let Some((refusal, mut records, index)) = refused else { return };
            let position = index - accepted_count;
            let BatchRecord { partition_key, explicit_hash_key, data } = records.remove(position);
            let record = UserRecord { stream: stream.clone(), partition_key, explicit_hash_key, data };
            let ticket = tickets.remove(position).unwrap_or_default();
            let refusal = match refusal {
                Refused::Full(Full::Shard { .. }) => Refusal::ShardFull,
                Refused::Full(_) => Refusal::Full,
                Refused::Closed => Refusal::Closed,
                Refused::Invalid(InvalidRecord::TooLarge { limit, .. }) if limit < limits::RECORD_SIZE_MAX => {
                    Refusal::TooLarge
                }
                _ => Refusal::Invalid,
            };
            transport.push(Effect::Refused(ticket, refusal, record));
            rest = records;
        }
    }

    fn flush(&mut self, number: u64) {
        let (producer, transport) = (self.producer.clone(), self.transport.clone());
        self.callers.spawn(async move {
            if let Some(producer) = producer {
                producer.flush().await;
            }
            transport.push(Effect::Flushed(number));
        });
    }

    fn end(&mut self, end: End) {
        let within = match end {
            End::Close(within) => within,
            End::Drop => {
                self.producer = None;
                self.is_ending = true;
                return;
            }
            End::Runtime => {
                self.host.crash();
                Duration::MAX
            }
        };
        let (producer, transport) = (self.producer.clone(), self.transport.clone());
        self.callers.spawn(async move {
            match producer {
                Some(producer) if within == Duration::MAX => producer.close().await,
                Some(producer) => producer.close_or_fail(within).await,
                None => {}
            }
            transport.push(Effect::Closed);
        });
    }

    fn respond(&mut self, id: u64, response: Response) {
        if let Some(sender) = lock(&self.transport.0).requests.remove(&id) {
            // The receiver may be dropped.
            let _ = sender.send(response);
        }
    }

    fn settle(&mut self) {
        if let Err(how) = self.simulation.run_ready() {
            self.transport.push(Effect::Broken(how));
        }
        self.report_batches();
        if self.is_ending && !self.host.is_busy() {
            self.is_ending = false;
            self.transport.push(Effect::Closed);
        }
        // Tasks that are woken at the same time report in any order. The oracle expects the results of records first.
        let mut state = lock(&self.transport.0);
        let is_end = |effect: &Effect| matches!(effect, Effect::Flushed(_) | Effect::Closed);
        state.effects.make_contiguous().sort_by_key(is_end);
    }

    fn effect(&mut self) -> Option<Effect> {
        lock(&self.transport.0).effects.pop_front()
    }

    fn next_wake(&self) -> Instant {
        self.simulation.next_wake()
    }

    fn counts(&self) -> Option<Counts> {
        let producer = self.producer.as_ref()?;
        let before = |age: Duration| self.simulation.now().as_nanos() - age.as_nanos() as u64;
        Some(Counts {
            records: producer.outstanding_records(),
            bytes: producer.outstanding_bytes(),
            in_flight: None,
            oldest: producer.oldest_record_age().map(|age| Instant::from_nanos(before(age))),
            waiting: lock(&self.transport.0).waiting_puts,
            streams: None,
            stats: producer.stats(),
        })
    }
}

impl DriverSubject {
    /// Reports the new results of batches. A batch wakes a task only when it has all of them.
    fn report_batches(&mut self) {
        let transport = &self.transport;
        self.batches.retain_mut(|batch| {
            let outcome = &batch.outcome;
            batch.unresolved.retain(|(index, ticket)| match outcome.result(*index) {
                Some(result) => {
                    transport.push(Effect::Resolved(*ticket, result));
                    false
                }
                None => true,
            });
            if batch.unresolved.is_empty() && batch.outcome.try_results().is_none() {
                transport.push(Effect::Broken("a batch has no results, but each of its records has".into()));
            }
            !batch.unresolved.is_empty()
        });
    }

    pub(super) fn new(config: Config, now: Instant, callers: &Callers, rng: Rng) -> Self {
        let mut settings = simulation::Settings::new(rng.get_seed());
        (settings.start, settings.any_order, settings.oversleep) = (now, callers.any_order, callers.oversleep);
        let simulation = Simulation::with_settings(settings);
        let host = simulation.host();
        let transport = WorldTransport::default();
        let producer = Producer::with_transport(host.clone(), transport.clone(), config);
        Self {
            callers: simulation.host(),
            simulation,
            host,
            transport,
            producer: Some(producer),
            put_timeout: callers.put_timeout,
            is_ending: false,
            batches: Vec::new(),
        }
    }
}

impl WorldTransport {
    fn push(&self, effect: Effect) {
        lock(&self.0).effects.push_back(effect);
    }

    /// Reports whether a put was accepted. Returns its outcome if it was.
    fn report_put(&self, ticket: u64, put: Result<Outcome, PutError>) -> Option<Outcome> {
        match put {
            Ok(outcome) => {
                self.push(Effect::Accepted(ticket));
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
                self.push(Effect::Refused(ticket, refusal, error.into_record()));
                None
            }
        }
    }

    /// Waits for the result of a record and reports it.
    async fn report_result(&self, ticket: u64, outcome: Outcome) {
        let result = outcome.await;
        self.push(Effect::Resolved(ticket, result));
    }

    /// Sends a request to the world and waits for the response. `effect` creates the effect from the request's id.
    async fn request(&self, effect: impl FnOnce(u64) -> Effect) -> Response {
        let (sender, response) = oneshot::channel();
        let id = {
            let mut state = lock(&self.0);
            state.requests_sent += 1;
            let id = state.requests_sent;
            state.requests.insert(id, sender);
            state.effects.push_back(effect(id));
            id
        };
        let _guard = RequestGuard { transport: self, id };
        match response.await {
            Ok(Response::Panic) => simulation::end_task(),
            Ok(response) => response,
            // The world is dropped.
            Err(_) => Response::Put(Reply::Failed(world_dropped())),
        }
    }
}

/// Reports a request that is dropped before its response.
struct RequestGuard<'a> {
    transport: &'a WorldTransport,
    id: u64,
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.transport.0);
        if state.requests.remove(&self.id).is_some() {
            state.effects.push_back(Effect::RequestDropped(self.id));
        }
    }
}

impl Transport for WorldTransport {
    async fn put_records<T: Send + Sync>(&self, batch: &kpl_core::Batch<T>) -> Reply {
        let (stream, records) = (batch.stream().clone(), wire::entries(batch));
        match self.request(|id| Effect::PutRecords { id, stream, records }).await {
            Response::Put(reply) => reply,
            _ => Reply::Failed(world_dropped()),
        }
    }

    async fn list_shards(&self, request: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        let request = request.clone();
        match self.request(|id| Effect::ListShards { id, request }).await {
            Response::List(reply) => reply,
            _ => Err(world_dropped()),
        }
    }

    async fn describe_stream(&self, request: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
        let stream = request.stream.clone();
        match self.request(|id| Effect::DescribeStream { id, stream }).await {
            Response::Describe(reply) => reply,
            _ => Err(world_dropped()),
        }
    }
}

fn world_dropped() -> RequestError {
    RequestError::new(Delivery::Unanswered, "No World", "the world is dropped")
}

/// Returns the value of `future`; `None` if `timeout` ends first.
async fn with_timeout<V>(future: impl Future<Output = V>, timeout: impl Future<Output = ()>) -> Option<V> {
    let (mut future, mut timeout) = (pin!(future), pin!(timeout));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => timeout.as_mut().poll(cx).map(|()| None),
    })
    .await
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    // There is one thread, and injected panics may poison the mutex.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

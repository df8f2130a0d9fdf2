//! The producer as a [`Sink`] of records, with the feature `sink`.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_sink::Sink;
use kpl_core::{PutFailure, UserRecord};

use crate::error::PutError;
use crate::outcome::Outcome;
use crate::producer::Producer;
use crate::runtime::Runtime;

/// The number of results that each new record takes from the sink: more than one, so that their number does not grow.
const RESULTS_PER_RECORD: usize = 2;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A [`Sink`] of [`UserRecord`]s: see [`Producer::sink`].
pub struct RecordSink<R: Runtime> {
    producer: Producer<R>,
    /// A put that waits for room.
    waiting: Option<BoxFuture<Result<Outcome, PutError>>>,
    /// A flush that is not complete.
    flushing: Option<BoxFuture<()>>,
    /// The outcomes whose results have not been taken.
    outcomes: VecDeque<Outcome>,
}

/// The error of a [`RecordSink`], with the record. The sink can still be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The record was not accepted: it is invalid, or the producer is closed.
    #[error(transparent)]
    Refused(#[from] PutError),
    /// The record was accepted, and then failed.
    #[error(transparent)]
    Failed(#[from] Box<PutFailure>),
}

impl<R: Runtime> Producer<R> {
    /// Returns a [`Sink`] of records, for instance to forward a stream of records to it.
    ///
    /// It is ready while the producer and the shard of the last record have room. A flush completes when each record of the
    /// sink is stored. The first record that was refused or has failed is the error of the next call, whichever that is; the
    /// following calls return the next errors. So a flush that returns `Ok` after no error means that all records are stored.
    /// Closing the sink flushes it; the producer stays open, since others may use it. Flush or close it before it is dropped:
    /// a record that still waits for room is dropped with it. Those that were accepted are sent anyway.
    ///
    /// ```
    /// # use kpl_driver::{Producer, Runtime, SinkError, core::UserRecord};
    /// use futures_util::{SinkExt, StreamExt, stream};
    ///
    /// # async fn example<R: Runtime>(producer: Producer<R>) -> Result<(), SinkError> {
    /// let records = stream::iter(0..1_000).map(|n| UserRecord::new("events", format!("user-{n}"), "hello"));
    /// records.map(Ok).forward(producer.sink()).await?; // all of them are stored
    /// # Ok(()) }
    /// ```
    pub fn sink(&self) -> RecordSink<R> {
        let (waiting, flushing, outcomes) = <_>::default();
        RecordSink { producer: self.clone(), waiting, flushing, outcomes }
    }
}

impl<R: Runtime> RecordSink<R> {
    /// Takes the results of some of the oldest records, without waiting.
    fn take_results(&mut self) -> Result<(), SinkError> {
        for _ in 0..RESULTS_PER_RECORD {
            let Some(mut outcome) = self.outcomes.pop_front() else { break };
            match outcome.try_result() {
                Some(result) => drop(result?),
                None => self.outcomes.push_back(outcome),
            }
        }
        Ok(())
    }

    /// Waits for the result of the put that waits for room, if there is one.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        if let Some(put) = &mut self.waiting {
            let outcome = ready!(put.as_mut().poll(cx));
            self.waiting = None;
            self.outcomes.push_back(outcome?);
        }
        Poll::Ready(Ok(()))
    }

    /// Flushes the producer, and then takes all results.
    fn poll_results(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        ready!(self.poll_waiting(cx))?;
        if !self.outcomes.is_empty() {
            let producer = &self.producer;
            let flush = || future(producer, |producer| async move { producer.flush().await });
            ready!(self.flushing.get_or_insert_with(flush).as_mut().poll(cx));
            self.flushing = None;
        }
        while let Some(outcome) = self.outcomes.front_mut() {
            let result = ready!(Pin::new(outcome).poll(cx));
            self.outcomes.pop_front();
            result?;
        }
        Poll::Ready(Ok(()))
    }
}

fn future<R: Runtime, F: Future + Send + 'static>(
    producer: &Producer<R>,
    call: impl FnOnce(Producer<R>) -> F,
) -> BoxFuture<F::Output> {
    Box::pin(call(producer.clone()))
}

impl<R: Runtime> Sink<UserRecord> for RecordSink<R> {
    type Error = SinkError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        let this = self.get_mut();
        this.take_results()?;
        this.poll_waiting(cx)
    }

    fn start_send(self: Pin<&mut Self>, record: UserRecord) -> Result<(), SinkError> {
        let this = self.get_mut();
        match this.producer.try_put_record(record) {
            Ok(outcome) => this.outcomes.push_back(outcome),
            // Another record waits already only if the caller did not ask whether the sink is ready.
            Err(PutError::Full { record, .. }) if this.waiting.is_none() => {
                let put = |producer: Producer<R>| async move { producer.put_record(*record).await };
                this.waiting = Some(future(&this.producer, put));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        self.get_mut().poll_results(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SinkError>> {
        self.poll_flush(cx)
    }
}

impl<R: Runtime> fmt::Debug for RecordSink<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordSink")
            .field("is_waiting", &self.waiting.is_some())
            .field("outcomes", &self.outcomes.len())
            .finish_non_exhaustive()
    }
}

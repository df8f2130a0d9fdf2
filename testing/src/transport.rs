//! Requests to a [`Kinesis`] in the same process, on any runtime.

use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use kpl_core::{
    Batch, Config, Delivery, DescribeStreamRequest, ListShardsRequest, Reply, RequestError, ShardPage, StreamSummary,
};
use kpl_driver::{Producer, Runtime, Transport};
use kpl_emulator::{Emulator, Kinesis as Model, ServiceError};

use crate::{Kinesis, wire};

impl Kinesis {
    /// Creates a producer on any runtime.
    ///
    /// A config without a seed gets one that follows from this service's, so that each run has the same jitter.
    pub fn producer_on<R: Runtime>(&self, runtime: &R, config: Config) -> Producer<R> {
        let transport = self.transport(runtime, config.request_timeout());
        Producer::with_transport(runtime.clone(), transport, self.seeded(config))
    }

    /// Creates the transport of a producer on any runtime, for [`Producer::with_transport`]. A request without a reply
    /// ends after `request_timeout`.
    pub fn transport<R: Runtime>(&self, runtime: &R, request_timeout: Duration) -> InProcess<R> {
        let (clock, start) = (runtime.clone(), runtime.now());
        self.set_clock(move || clock.now().saturating_since(start));
        InProcess { emulator: (**self).clone(), runtime: runtime.clone(), request_timeout }
    }
}

/// Sends requests to a [`Kinesis`] in the same process.
///
/// A request arrives after half of its latency, also if the producer no longer waits for the reply: because of its
/// timeout, or because its host has crashed.
#[derive(Clone, Debug)]
pub struct InProcess<R> {
    emulator: Emulator,
    runtime: R,
    request_timeout: Duration,
}

impl<R: Runtime> InProcess<R> {
    /// Executes a request, with the faults of the service.
    async fn request<T: Send + 'static>(
        &self,
        operation: &'static str,
        execute: impl FnOnce(&mut Model, Duration) -> T + Send + 'static,
    ) -> Result<T, RequestError> {
        let sent = self.runtime.now();
        let reply = async {
            let fate = self.emulator.with(|kinesis, _| kinesis.admit(operation));
            let arrival = fate.delay / 2;
            let internal = || ServiceError { code: "InternalFailure", message: "Internal service failure.".into() };
            let result = match fate.http_500.then(internal).or(fate.error) {
                Some(error) => {
                    self.sleep(fate.delay).await;
                    return Err(wire::failed(error));
                }
                None if arrival.is_zero() => self.emulator.with(execute),
                None => {
                    let arriving = Arriving::new(execute);
                    self.emulator.after(arrival, {
                        let arriving = arriving.clone();
                        move |emulator| emulator.with(|kinesis, now| arriving.execute(kinesis, now))
                    });
                    self.sleep(arrival).await;
                    self.emulator.with(|kinesis, now| arriving.result(kinesis, now))
                }
            };
            self.sleep(fate.delay - arrival).await;
            if fate.drop_reply {
                let message = "the connection was closed before the reply";
                return Err(RequestError::new(Delivery::Unanswered, "Connection Lost", message));
            }
            Ok(result)
        };
        let (mut reply, mut timeout) = (pin!(reply), pin!(self.runtime.sleep_until(sent + self.request_timeout)));
        poll_fn(|cx| match reply.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => timeout.as_mut().poll(cx).map(|()| {
                let message = format!("no reply within {:?}", self.request_timeout);
                Err(RequestError::new(Delivery::Unanswered, "Request Timeout", message))
            }),
        })
        .await
    }

    async fn sleep(&self, time: Duration) {
        if !time.is_zero() {
            self.runtime.sleep_until(self.runtime.now() + time).await;
        }
    }
}

/// A request on its way. It is executed once: by the emulator when it is due, or by the task that waits for it. Its lock is
/// taken only under that of the emulator.
struct Arriving<F, T>(Arc<Mutex<Request<F, T>>>);

enum Request<F, T> {
    Sent(F),
    Executed(T),
    Replied,
}

impl<F, T> Clone for Arriving<F, T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<F: FnOnce(&mut Model, Duration) -> T, T> Arriving<F, T> {
    fn new(execute: F) -> Self {
        Self(Arc::new(Mutex::new(Request::Sent(execute))))
    }

    fn take(&self) -> Request<F, T> {
        mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), Request::Replied)
    }

    fn execute(&self, kinesis: &mut Model, now: Duration) {
        if let Request::Sent(execute) = self.take() {
            let executed = Request::Executed(execute(kinesis, now));
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = executed;
        }
    }

    fn result(self, kinesis: &mut Model, now: Duration) -> T {
        match self.take() {
            Request::Executed(result) => result,
            Request::Sent(execute) => execute(kinesis, now),
            Request::Replied => unreachable!("only this takes the result, once"),
        }
    }
}

impl<R: Runtime> Transport for InProcess<R> {
    async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
        let (stream, entries) = (batch.stream().clone(), wire::entries(batch));
        let put = move |kinesis: &mut Model, now| wire::put_records(kinesis, now, &stream, entries);
        self.request("PutRecords", put).await.unwrap_or_else(Reply::Failed)
    }

    async fn list_shards(&self, request: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        let request = request.clone();
        let list = move |kinesis: &mut Model, now| wire::list_shards(kinesis, now, &request, None);
        self.request("ListShards", list).await?
    }

    async fn describe_stream(&self, request: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
        let stream = request.stream.clone();
        let describe = move |kinesis: &mut Model, now| wire::describe_stream(kinesis, now, &stream);
        self.request("DescribeStreamSummary", describe).await?
    }
}

//! Requests to a [`Kinesis`] in the same process, on any runtime.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use kpl_core::{
    Batch, Config, Delivery, DescribeStreamRequest, ListShardsRequest, Reply, RequestError, ShardPage, StreamSummary,
};
use kpl_driver::{Producer, Runtime, Transport};
use kpl_emulator::{Emulator, ServiceError};

use crate::{Kinesis, wire};

impl Kinesis {
    /// Creates a producer on any runtime.
    ///
    /// A config without a seed gets that of this service, so that each run has the same jitter.
    pub fn producer_on<R: Runtime>(&self, runtime: &R, config: Config) -> Producer<R> {
        let transport = self.transport(runtime, config.request_timeout());
        Producer::with_transport(runtime.clone(), transport, self.seeded(config))
    }

    /// Creates the transport of a producer on any runtime, for [`Producer::with_transport`]. A request without a reply
    /// ends after `request_timeout`.
    pub fn transport<R: Runtime>(&self, runtime: &R, request_timeout: Duration) -> InProcess<R> {
        self.set_clock({
            let runtime = runtime.clone();
            move || runtime.now()
        });
        InProcess { emulator: (**self).clone(), runtime: runtime.clone(), request_timeout }
    }

    fn seeded(&self, config: Config) -> Config {
        if config.seed() != 0 {
            return config;
        }
        // 0 means a random seed. This does not fail: every seed is valid.
        config.to_builder().seed(self.seed.max(1)).build().unwrap_or(config)
    }
}

/// Sends requests to a [`Kinesis`] in the same process. Its faults delay, refuse or lose them: a request is executed
/// after half of its latency.
#[derive(Clone, Debug)]
pub struct InProcess<R> {
    emulator: Emulator,
    runtime: R,
    request_timeout: Duration,
}

impl<R: Runtime> InProcess<R> {
    /// Executes a request, with the faults of the service.
    async fn request<T>(
        &self,
        operation: &'static str,
        execute: impl FnOnce(&Emulator) -> T + Send,
    ) -> Result<T, RequestError> {
        let sent = self.runtime.now();
        let reply = async {
            let fate = self.emulator.with(|kinesis, _| kinesis.admit(operation));
            self.sleep(fate.delay / 2).await;
            let error = fate.http_500.then(|| ServiceError::internal("Internal service failure.")).or(fate.error);
            let result = match error {
                Some(error) if error.http_status() == 500 => {
                    Err(RequestError::new(Delivery::Unanswered, error.code, error.message))
                }
                Some(error) => Err(wire::refused(error)),
                None => Ok(execute(&self.emulator)),
            };
            self.sleep(fate.delay - fate.delay / 2).await;
            if fate.drop_reply {
                let message = "the connection was closed before the reply";
                return Err(RequestError::new(Delivery::Unanswered, "Connection Closed", message));
            }
            result
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

impl<R: Runtime> Transport for InProcess<R> {
    async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
        let entries = wire::entries(batch);
        let put = |emulator: &Emulator| {
            emulator.with(|kinesis, now| wire::put_records(kinesis, now, batch.stream(), entries))
        };
        self.request("PutRecords", put).await.unwrap_or_else(Reply::Failed)
    }

    async fn list_shards(&self, request: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        let list = |emulator: &Emulator| emulator.with(|kinesis, now| wire::list_shards(kinesis, now, request, None));
        self.request("ListShards", list).await?
    }

    async fn describe_stream(&self, request: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
        let describe =
            |emulator: &Emulator| emulator.with(|kinesis, now| wire::describe_stream(kinesis, now, &request.stream));
        self.request("DescribeStreamSummary", describe).await?
    }
}

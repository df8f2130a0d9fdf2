//! Tests that the conformance suite finds faults of drivers: each of these drivers breaks one promise.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kpl_driver::core::Instant;
use kpl_driver::{AwsRuntime, Runtime, SharedAsyncSleep, conformance};
use kpl_tokio::Tokio;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    ClockPerThread,
    ClockAtHalfSpeed,
    SleepEndsEarly,
    SleepEndsLate,
    SleepPanicsInThePast,
    SleepOverflows,
    SleepIsCapped,
    SleepKeepsItsFirstWaker,
    SpawnRunsInline,
    SpawnNeedsARuntime,
    SpawnPollsOnce,
    SpawnIsSequential,
    SpawnIsLimitedTo100,
    SpawnNeverYields,
    SpawnEndsAfterAPanic,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The runtime of the faulty executors.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());

/// kpl-tokio with a fault.
#[derive(Clone)]
struct Broken {
    fault: Fault,
    tokio: Tokio,
    handle: Handle,
    sequential: mpsc::Sender<Task>,
    concurrent: UnboundedSender<Task>,
    slots: Arc<Semaphore>,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        let (sequential, queue) = mpsc::channel::<Task>();
        std::thread::spawn(move || queue.iter().for_each(|future| RUNTIME.block_on(future)));
        let (concurrent, mut queue) = unbounded_channel::<Task>();
        std::thread::spawn(move || {
            let mut tasks = FuturesUnordered::new();
            RUNTIME.block_on(poll_fn(|cx| {
                while let Poll::Ready(Some(task)) = queue.poll_recv(cx) {
                    tasks.push(task);
                }
                while let Poll::Ready(Some(())) = tasks.poll_next_unpin(cx) {}
                Poll::<()>::Pending
            }));
        });
        let tokio = RUNTIME.block_on(async { Tokio::default() });
        let slots = Arc::new(Semaphore::new(100));
        Self { fault, tokio, handle: RUNTIME.handle().clone(), sequential, concurrent, slots }
    }
}

thread_local! {
    static OFFSET: u64 = {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        THREADS.fetch_add(1_000_000, Ordering::Relaxed)
    };
}

impl Runtime for Broken {
    fn now(&self) -> Instant {
        let now = self.tokio.now();
        match self.fault {
            Fault::ClockPerThread => Instant::from_nanos(now.as_nanos() - OFFSET.with(|offset| *offset)),
            Fault::ClockAtHalfSpeed => Instant::from_nanos(now.as_nanos() / 2),
            _ => now,
        }
    }

    async fn sleep_until(&self, deadline: Instant) {
        let wait = deadline.saturating_since(self.now());
        match self.fault {
            Fault::SleepEndsEarly => tokio::time::sleep(wait.saturating_sub(Duration::from_millis(3))).await,
            Fault::SleepEndsLate => tokio::time::sleep(wait + Duration::from_millis(500)).await,
            Fault::SleepPanicsInThePast => assert!(!wait.is_zero(), "the deadline has passed"),
            Fault::SleepOverflows => {
                let year = Duration::from_secs(365 * 86_400);
                assert!(wait < year * 200, "overflow when adding duration to instant");
                tokio::time::sleep(wait).await;
            }
            Fault::SleepIsCapped => tokio::time::sleep(wait.min(Duration::from_millis(40))).await,
            Fault::SleepKeepsItsFirstWaker => {
                let mut woken: Option<tokio::sync::oneshot::Receiver<()>> = None;
                let mut first: Option<Waker> = None;
                let handle = &self.handle;
                poll_fn(|cx| {
                    let waker = first.get_or_insert_with(|| cx.waker().clone()).clone();
                    let woken = woken.get_or_insert_with(|| {
                        let (wake, woken) = tokio::sync::oneshot::channel();
                        handle.spawn(async move {
                            tokio::time::sleep(wait).await;
                            let _ = wake.send(());
                        });
                        woken
                    });
                    Pin::new(woken).poll(&mut Context::from_waker(&waker)).map(|_| ())
                })
                .await;
            }
            _ => self.tokio.sleep_until(deadline).await,
        }
        if self.fault == Fault::SleepPanicsInThePast {
            tokio::time::sleep(wait).await;
        }
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let mut future: Task = Box::pin(future);
        match self.fault {
            Fault::SpawnRunsInline => drop(std::thread::scope(|scope| {
                let run = || catch_unwind(AssertUnwindSafe(|| self.handle.block_on(future)));
                scope.spawn(run).join()
            })),
            Fault::SpawnNeedsARuntime => drop(tokio::spawn(future)),
            Fault::SpawnPollsOnce => drop(self.handle.spawn(poll_fn(move |cx| {
                let _ = future.as_mut().poll(cx);
                Poll::Ready(())
            }))),
            Fault::SpawnIsSequential => drop(self.sequential.send(future)),
            Fault::SpawnIsLimitedTo100 => {
                let slots = self.slots.clone();
                self.handle.spawn(async move {
                    let _slot = slots.acquire().await;
                    future.await;
                });
            }
            // Polls the future as long as it wakes itself, without a turn for other tasks.
            Fault::SpawnNeverYields => drop(self.handle.spawn(poll_fn(move |cx| {
                loop {
                    let counter = Arc::new(WakeCounter::default());
                    let waker = Waker::from(counter.clone());
                    *counter.outer.lock().unwrap() = Some(cx.waker().clone());
                    let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                    let woken = counter.wakes.load(Ordering::SeqCst) > 0;
                    if polled.is_ready() || !woken {
                        return polled;
                    }
                }
            }))),
            Fault::SpawnEndsAfterAPanic => drop(self.concurrent.send(future)),
            _ => self.tokio.spawn(future),
        }
    }
}

/// Counts wake-ups and forwards them to another waker.
#[derive(Default)]
struct WakeCounter {
    wakes: AtomicU64,
    outer: Mutex<Option<Waker>>,
}

impl std::task::Wake for WakeCounter {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        if let Some(outer) = &*self.outer.lock().unwrap() {
            outer.wake_by_ref();
        }
    }
}

/// kpl-tokio with the fault of this number in its HTTP client.
#[derive(Clone)]
struct BrokenClient<const FAULT: usize>(Tokio);

const IGNORES_THE_CA_BUNDLE: usize = 0;
const NO_ERROR_IS_AMBIGUOUS: usize = 1;
const MIXES_UP_REPLIES: usize = 2;
const KEEPS_DEAD_CONNECTIONS: usize = 3;

impl<const FAULT: usize> Default for BrokenClient<FAULT> {
    fn default() -> Self {
        Self(RUNTIME.block_on(async { Tokio::default() }))
    }
}

impl<const FAULT: usize> Runtime for BrokenClient<FAULT> {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        self.0.sleep_until(deadline)
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(future);
    }
}

impl<const FAULT: usize> AwsRuntime for BrokenClient<FAULT> {
    fn http_client(ca_pem: Option<&[u8]>) -> Result<SharedHttpClient, Box<dyn Error + Send + Sync>> {
        match FAULT {
            IGNORES_THE_CA_BUNDLE => Tokio::http_client(None),
            MIXES_UP_REPLIES => {
                Ok(SharedHttpClient::new(MixedClient { client: Tokio::http_client(ca_pem)?, late: Arc::default() }))
            }
            KEEPS_DEAD_CONNECTIONS => Ok(aws_smithy_http_client::Builder::new().build_http()),
            _ => Tokio::http_client(ca_pem),
        }
    }

    fn sleep_impl() -> SharedAsyncSleep {
        Tokio::sleep_impl()
    }

    fn never_connected(error: &(dyn Error + 'static)) -> bool {
        FAULT == NO_ERROR_IS_AMBIGUOUS || Tokio::never_connected(error)
    }
}

/// A client that returns the reply to a dropped request to the next request, as old HTTP clients did.
#[derive(Clone, Debug)]
struct MixedClient {
    client: SharedHttpClient,
    late: Arc<Mutex<Vec<tokio::task::JoinHandle<Reply>>>>,
}

type Reply = Result<
    aws_smithy_runtime_api::client::orchestrator::HttpResponse,
    aws_smithy_runtime_api::client::result::ConnectorError,
>;

#[derive(Clone, Debug)]
struct MixedConnector(SharedHttpConnector, MixedClient);

impl HttpClient for MixedClient {
    fn http_connector(&self, _: &HttpConnectorSettings, parts: &RuntimeComponents) -> SharedHttpConnector {
        let no_timeouts = HttpConnectorSettings::builder().build();
        SharedHttpConnector::new(MixedConnector(self.client.http_connector(&no_timeouts, parts), self.clone()))
    }
}

impl HttpConnector for MixedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self(connector, mixed) = self.clone();
        let late = mixed.late.clone();
        HttpConnectorFuture::new(async move {
            let call = tokio::spawn(async move { connector.call(request).await });
            let finished = late.lock().unwrap().iter().position(tokio::task::JoinHandle::is_finished);
            if let Some(position) = finished {
                let reply = late.lock().unwrap().swap_remove(position);
                return reply.await.unwrap();
            }
            let mut pending = Pending { call: Some(call), late };
            let reply = pending.call.as_mut().unwrap().await.unwrap();
            pending.call = None;
            reply
        })
    }
}

struct Pending {
    call: Option<tokio::task::JoinHandle<Reply>>,
    late: Arc<Mutex<Vec<tokio::task::JoinHandle<Reply>>>>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            self.late.lock().unwrap().push(call);
        }
    }
}

/// Returns the panic message of a check, or "no fault found".
fn verdict(check: impl FnOnce() + Send + 'static) -> String {
    let Err(panic) = std::thread::spawn(check).join() else { return "no fault found".into() };
    let message = panic.downcast_ref::<String>().cloned();
    message.unwrap_or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string).unwrap_or_default())
}

macro_rules! tests {
    ($($name:ident $fault:ident => $promise:literal;)*) => {$(
        #[test]
        fn $name() {
            let verdict = verdict(|| conformance::runtime(&Broken::new(Fault::$fault)));
            assert!(verdict.contains($promise), "{verdict}");
        }
    )*};
}

tests! {
    without_a_fault_none_is_found None => "no fault found";
    a_clock_per_thread_is_found ClockPerThread => "`now` never goes backwards";
    a_clock_at_half_speed_is_found ClockAtHalfSpeed => "`now` goes as fast";
    a_sleep_that_ends_early_is_found SleepEndsEarly => "`sleep_until` never ends before its deadline";
    a_sleep_that_ends_late_is_found SleepEndsLate => "ends soon after its deadline";
    a_sleep_that_panics_in_the_past_is_found SleepPanicsInThePast => "`sleep_until` a time that has passed";
    a_sleep_that_overflows_is_found SleepOverflows => "the end of time";
    a_sleep_with_a_cap_is_found SleepIsCapped => "never ends before its deadline";
    a_sleep_that_keeps_its_first_waker_is_found SleepKeepsItsFirstWaker => "wakes the task that polled it last";
    a_spawn_that_runs_inline_is_found SpawnRunsInline => "returns at once";
    a_spawn_that_needs_a_runtime_is_found SpawnNeedsARuntime => "`spawn` works from any thread";
    a_spawn_that_polls_once_is_found SpawnPollsOnce => "runs to its end";
    a_sequential_spawn_is_found SpawnIsSequential => "side by side";
    a_spawn_limited_to_100_is_found SpawnIsLimitedTo100 => "thousands of futures";
    a_spawn_that_never_yields_is_found SpawnNeverYields => "a future that yields lets others run";
    a_spawn_that_ends_after_a_panic_is_found SpawnEndsAfterAPanic => "a future that panics is dropped";
}

#[test]
fn a_client_that_ignores_the_ca_bundle_is_found() {
    let verdict = verdict(|| conformance::http_client(&BrokenClient::<IGNORES_THE_CA_BUNDLE>::default()));
    assert!(verdict.contains("refuses a CA bundle"), "{verdict}");
}

#[test]
fn a_client_whose_errors_are_never_ambiguous_is_found() {
    let verdict = verdict(|| conformance::http_client(&BrokenClient::<NO_ERROR_IS_AMBIGUOUS>::default()));
    assert!(verdict.contains("a timeout and a lost reply"), "{verdict}");
}

#[test]
fn a_client_that_mixes_up_replies_is_found() {
    let verdict = verdict(|| conformance::http_client(&BrokenClient::<MIXES_UP_REPLIES>::default()));
    assert!(verdict.contains("reaches no other request"), "{verdict}");
}

#[test]
fn a_client_that_keeps_dead_connections_is_found() {
    let verdict = verdict(|| conformance::http_client(&BrokenClient::<KEEPS_DEAD_CONNECTIONS>::default()));
    assert!(verdict.contains("connections that were idle are not used again"), "{verdict}");
}

//! The conformance suite finds what implementers get wrong: each of these drivers breaks one promise.

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
    ClockOfItsOwnInEachThread,
    ClockAtHalfSpeed,
    SleepEndsEarly,
    SleepEndsLate,
    SleepNeedsAFuture,
    SleepOverflows,
    SleepIsCapped,
    SleepKeepsItsFirstWaker,
    SpawnRunsInline,
    SpawnNeedsARuntime,
    SpawnDropsWhatWaits,
    SpawnRunsOneByOne,
    SpawnRunsAHundred,
    SpawnHogs,
    SpawnDiesOfPanics,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A pool for the executors that are broken.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());

/// kpl-tokio with a fault.
#[derive(Clone)]
struct Broken {
    fault: Fault,
    tokio: Tokio,
    handle: Handle,
    one_by_one: mpsc::Sender<Task>,
    together: UnboundedSender<Task>,
    slots: Arc<Semaphore>,
}

impl Broken {
    fn new(fault: Fault) -> Self {
        let (one_by_one, queue) = mpsc::channel::<Task>();
        std::thread::spawn(move || queue.iter().for_each(|future| RUNTIME.block_on(future)));
        let (together, mut queue) = unbounded_channel::<Task>();
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
        Self { fault, tokio, handle: RUNTIME.handle().clone(), one_by_one, together, slots }
    }
}

thread_local! {
    static BEHIND: u64 = {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        THREADS.fetch_add(1_000_000, Ordering::Relaxed)
    };
}

impl Runtime for Broken {
    fn now(&self) -> Instant {
        let now = self.tokio.now();
        match self.fault {
            Fault::ClockOfItsOwnInEachThread => Instant::from_nanos(now.as_nanos() - BEHIND.with(|behind| *behind)),
            Fault::ClockAtHalfSpeed => Instant::from_nanos(now.as_nanos() / 2),
            _ => now,
        }
    }

    async fn sleep_until(&self, deadline: Instant) {
        let wait = deadline.saturating_since(self.now());
        match self.fault {
            // It begins at once, and forgets what it has waited already.
            Fault::SleepEndsEarly => tokio::time::sleep(wait.saturating_sub(Duration::from_millis(3))).await,
            Fault::SleepEndsLate => tokio::time::sleep(wait + Duration::from_millis(500)).await,
            Fault::SleepNeedsAFuture => assert!(!wait.is_zero(), "the deadline has passed"),
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
        if self.fault == Fault::SleepNeedsAFuture {
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
            Fault::SpawnDropsWhatWaits => drop(self.handle.spawn(poll_fn(move |cx| {
                let _ = future.as_mut().poll(cx);
                Poll::Ready(())
            }))),
            Fault::SpawnRunsOneByOne => drop(self.one_by_one.send(future)),
            Fault::SpawnRunsAHundred => {
                let slots = self.slots.clone();
                self.handle.spawn(async move {
                    let _slot = slots.acquire().await;
                    future.await;
                });
            }
            // As often as it says that it wants to, without a turn for anybody else.
            Fault::SpawnHogs => drop(self.handle.spawn(poll_fn(move |cx| {
                loop {
                    let again = Arc::new(Again::default());
                    let waker = Waker::from(again.clone());
                    *again.outer.lock().unwrap() = Some(cx.waker().clone());
                    let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                    let woken = again.woken.load(Ordering::SeqCst) > 0;
                    if polled.is_ready() || !woken {
                        return polled;
                    }
                }
            }))),
            Fault::SpawnDiesOfPanics => drop(self.together.send(future)),
            _ => self.tokio.spawn(future),
        }
    }
}

/// Tells that it was woken, and wakes another.
#[derive(Default)]
struct Again {
    woken: AtomicU64,
    outer: Mutex<Option<Waker>>,
}

impl std::task::Wake for Again {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::SeqCst);
        if let Some(outer) = &*self.outer.lock().unwrap() {
            outer.wake_by_ref();
        }
    }
}

/// kpl-tokio with a fault in its HTTP client, by its number.
#[derive(Clone)]
struct BrokenClient<const FAULT: usize>(Tokio);

const BELIEVES_ANY_CERTIFICATE_AUTHORITY: usize = 0;
const TAKES_ALL_ERRORS_FOR_REFUSALS: usize = 1;
const MIXES_UP_ANSWERS: usize = 2;

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
            BELIEVES_ANY_CERTIFICATE_AUTHORITY => Tokio::http_client(None),
            MIXES_UP_ANSWERS => {
                Ok(SharedHttpClient::new(Mixed { client: Tokio::http_client(ca_pem)?, late: Arc::default() }))
            }
            _ => Tokio::http_client(ca_pem),
        }
    }

    fn sleep_impl() -> SharedAsyncSleep {
        Tokio::sleep_impl()
    }

    fn never_connected(error: &(dyn Error + 'static)) -> bool {
        FAULT == TAKES_ALL_ERRORS_FOR_REFUSALS || Tokio::never_connected(error)
    }
}

/// A client that, as old ones did, leaves an answer that nobody waited for to the next request.
#[derive(Clone, Debug)]
struct Mixed {
    client: SharedHttpClient,
    late: Arc<Mutex<Vec<tokio::task::JoinHandle<Answer>>>>,
}

type Answer = Result<
    aws_smithy_runtime_api::client::orchestrator::HttpResponse,
    aws_smithy_runtime_api::client::result::ConnectorError,
>;

#[derive(Clone, Debug)]
struct MixedConnector(SharedHttpConnector, Mixed);

impl HttpClient for Mixed {
    fn http_connector(&self, _: &HttpConnectorSettings, parts: &RuntimeComponents) -> SharedHttpConnector {
        let no_time_outs = HttpConnectorSettings::builder().build();
        SharedHttpConnector::new(MixedConnector(self.client.http_connector(&no_time_outs, parts), self.clone()))
    }
}

impl HttpConnector for MixedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self(connector, mixed) = self.clone();
        let late = mixed.late.clone();
        HttpConnectorFuture::new(async move {
            let call = tokio::spawn(async move { connector.call(request).await });
            let answered = late.lock().unwrap().iter().position(tokio::task::JoinHandle::is_finished);
            if let Some(position) = answered {
                let answer = late.lock().unwrap().swap_remove(position);
                return answer.await.unwrap();
            }
            let mut pending = Pending { call: Some(call), late };
            let answer = pending.call.as_mut().unwrap().await.unwrap();
            pending.call = None;
            answer
        })
    }
}

struct Pending {
    call: Option<tokio::task::JoinHandle<Answer>>,
    late: Arc<Mutex<Vec<tokio::task::JoinHandle<Answer>>>>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            self.late.lock().unwrap().push(call);
        }
    }
}

/// What the suite says.
fn said(check: impl FnOnce() + Send + 'static) -> String {
    let Err(panic) = std::thread::spawn(check).join() else { return "all is well".into() };
    let said = panic.downcast_ref::<String>().cloned();
    said.unwrap_or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string).unwrap_or_default())
}

macro_rules! found {
    ($($name:ident $fault:ident says $promise:literal;)*) => {$(
        #[test]
        fn $name() {
            let said = said(|| conformance::runtime(&Broken::new(Fault::$fault)));
            assert!(said.contains($promise), "{said}");
        }
    )*};
}

found! {
    without_a_fault_all_is_well None says "all is well";
    a_clock_of_its_own_in_each_thread_is_found ClockOfItsOwnInEachThread says "`now` never goes backwards";
    a_clock_at_half_speed_is_found ClockAtHalfSpeed says "`now` goes as fast";
    a_sleep_that_ends_early_is_found SleepEndsEarly says "`sleep_until` never ends before its deadline";
    a_sleep_that_ends_late_is_found SleepEndsLate says "ends soon after its deadline";
    a_sleep_that_cannot_take_the_past_is_found SleepNeedsAFuture says "`sleep_until` a time that has passed";
    a_sleep_that_overflows_is_found SleepOverflows says "the end of time";
    a_sleep_with_a_cap_is_found SleepIsCapped says "never ends before its deadline";
    a_sleep_that_keeps_its_first_waker_is_found SleepKeepsItsFirstWaker says "wakes the task that polled it last";
    a_spawn_that_runs_inline_is_found SpawnRunsInline says "returns at once";
    a_spawn_that_needs_a_runtime_is_found SpawnNeedsARuntime says "`spawn` works from any thread";
    a_spawn_that_drops_what_waits_is_found SpawnDropsWhatWaits says "runs to its end";
    a_spawn_that_runs_one_by_one_is_found SpawnRunsOneByOne says "side by side";
    a_spawn_that_runs_a_hundred_is_found SpawnRunsAHundred says "thousands of futures";
    a_spawn_that_hogs_is_found SpawnHogs says "a future that yields lets others run";
    a_spawn_that_dies_of_panics_is_found SpawnDiesOfPanics says "a future that panics is dropped";
}

#[test]
fn a_client_that_believes_any_authority_is_found() {
    let said = said(|| conformance::http_client(&BrokenClient::<BELIEVES_ANY_CERTIFICATE_AUTHORITY>::default()));
    assert!(said.contains("refuses a CA bundle"), "{said}");
}

#[test]
fn a_client_that_takes_all_errors_for_refusals_is_found() {
    let said = said(|| conformance::http_client(&BrokenClient::<TAKES_ALL_ERRORS_FOR_REFUSALS>::default()));
    assert!(said.contains("a timeout and a lost reply"), "{said}");
}

#[test]
fn a_client_that_mixes_up_answers_is_found() {
    let said = said(|| conformance::http_client(&BrokenClient::<MIXES_UP_ANSWERS>::default()));
    assert!(said.contains("reaches no other request"), "{said}");
}

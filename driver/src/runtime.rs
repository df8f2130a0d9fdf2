//! The traits that a driver implements: an async runtime and an HTTP client.

use std::error::Error;
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use kpl_core::Instant;

pub use aws_sdk_kinesis::config::SharedAsyncSleep;

/// An async runtime: a clock, a sleep, and a way to spawn tasks.
///
/// An implementation has about ten lines. [`Clock`] is a clock for it. The module `conformance` (feature `conformance`)
/// checks the requirements of each method.
///
/// ```
/// use kpl_driver::core::Instant;
/// use kpl_driver::{Clock, Runtime};
///
/// #[derive(Clone)]
/// struct Threads(Clock);
///
/// impl Runtime for Threads {
///     fn now(&self) -> Instant {
///         self.0.now()
///     }
///
///     async fn sleep_until(&self, deadline: Instant) {
///         let (wake, woken) = tokio::sync::oneshot::channel();
///         let wait = self.0.until(deadline);
///         std::thread::spawn(move || {
///             std::thread::sleep(wait);
///             wake.send(())
///         });
///         let _ = woken.await;
///     }
///
///     fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
///         std::thread::spawn(|| block_on(future));
///     }
/// }
/// # fn block_on(_: impl Future<Output = ()>) {}
/// ```
pub trait Runtime: Clone + Send + Sync + 'static {
    /// Returns the current time. It must never go backwards, across all threads, and must be as fast as the machine's
    /// monotonic clock.
    fn now(&self) -> Instant;

    /// Waits until `deadline` or a little longer, never shorter.
    ///
    /// The future must
    ///
    /// - end soon after `deadline`, since the latency of every record depends on it, and at once if `deadline` has
    ///   passed;
    /// - accept every deadline up to [`Instant::NEVER`], as a long sleep and without a panic;
    /// - wake the task that polled it last;
    /// - have no effect on other sleeps when it is dropped: the drive loop drops one each time it is woken early.
    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send;

    /// Runs a future in a new task until it ends. A future that cannot be run, or that panics, must be dropped: this
    /// returns its records to the producer.
    ///
    /// An implementation must
    ///
    /// - return at once and run the future concurrently with the caller, to its end, without a handle that holds it;
    /// - work from any thread, inside the runtime and outside, and in spawned futures;
    /// - run thousands of futures at once: a future that waits blocks no other, and one that yields lets others run;
    /// - poll a future again when it is woken from any thread;
    /// - continue with the other futures when one panics.
    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static);
}

/// A runtime for the AWS SDK. [`Producer::from_env`](crate::Producer::from_env) needs it.
pub trait AwsRuntime: Runtime + Default {
    /// Returns an HTTP client that trusts the machine's certificate authorities. If `ca_pem` is given, it trusts those
    /// in `ca_pem`, with or without the machine's.
    ///
    /// The client must
    ///
    /// - give each request its own reply: a reply that arrives after the timeout of its request reaches no other
    ///   request;
    /// - send bodies of several megabytes, with the correct `Content-Length`, which is signed, and without chunked
    ///   encoding;
    /// - reassemble a reply in pieces, and return an error for a reply that is cut off;
    /// - follow no redirects: the signature is valid for one host only;
    /// - reuse connections, and release the resources of requests that time out;
    /// - after a timeout, not reuse connections that were idle: one dead connection is a sign that all are dead.
    ///   [`fresh_pool_after_timeout`](crate::fresh_pool_after_timeout) does this for any client;
    /// - distinguish a refused connection from a timeout and from a lost reply: see
    ///   [`never_connected`](Self::never_connected).
    ///
    /// # Errors
    ///
    /// If `ca_pem` has no valid certificate.
    fn http_client(ca_pem: Option<&[u8]>) -> Result<SharedHttpClient, Box<dyn Error + Send + Sync>>;

    /// Returns the runtime's sleep, for the SDK.
    fn sleep_impl() -> SharedAsyncSleep;

    /// Whether an error of this HTTP client means that no connection was established, so that nothing was sent. If that
    /// is not certain, return false. Called for each error of the chain.
    ///
    /// Two kinds of errors need no code here: a failed DNS lookup (`ResolveDnsError` of the SDK), and an
    /// [`io::Error`](std::io::Error) of the kind `AddrNotAvailable` or `ConnectionRefused`.
    fn never_connected(error: &(dyn Error + 'static)) -> bool {
        let _ = error;
        false
    }
}

/// A clock for runtimes. It reads the wall clock once, and then the monotonic clock.
///
/// Its instants are nanoseconds since the Unix epoch, so that the times of an attempt are readable. They never go
/// backwards, even if the wall clock is changed.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Duration,
    started: std::time::Instant,
}

impl Clock {
    /// Creates a clock with the current time of the wall clock.
    pub fn new() -> Self {
        let origin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { origin, started: std::time::Instant::now() }
    }

    /// Returns the current time.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(0) + (self.origin + self.started.elapsed())
    }

    /// Returns the time until `deadline`; zero if it has passed.
    pub fn until(&self, deadline: Instant) -> Duration {
        deadline.saturating_since(self.now())
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

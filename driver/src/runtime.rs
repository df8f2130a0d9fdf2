//! What a driver needs of an async runtime, and of an HTTP client.

use std::error::Error;
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use kpl_core::Instant;

pub use aws_sdk_kinesis::config::SharedAsyncSleep;

/// An async runtime: a clock, a sleep, and a way to run something beside.
///
/// Implementing it takes about ten lines; [`Clock`] has the clock.
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
    /// The time: it never goes backwards, from whatever threads it is asked.
    fn now(&self) -> Instant;

    /// Ends at `deadline` or a little later, never before.
    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send;

    /// Runs a future beside the caller, to its end, whether or not anybody looks. A future that can not be run, or that
    /// panics, must be dropped: that is how its records get back.
    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static);
}

/// A runtime with what the AWS SDK needs of it: [`Producer::from_env`](crate::Producer::from_env) works with it.
pub trait AwsRuntime: Runtime + Default {
    /// An HTTP client that trusts the machine's certificate authorities, or those of `ca_pem` if it is given.
    ///
    /// # Errors
    ///
    /// If `ca_pem` is no certificate.
    fn http_client(ca_pem: Option<&[u8]>) -> Result<SharedHttpClient, Box<dyn Error + Send + Sync>>;

    /// The runtime's sleep, as the SDK wants it.
    fn sleep_impl() -> SharedAsyncSleep;

    /// Whether an error of this HTTP client says that no connection came about, so that nothing was sent. It is asked
    /// for each error of the chain; what every client has in common is known already. Unsure means no.
    fn never_connected(error: &(dyn Error + 'static)) -> bool {
        let _ = error;
        false
    }
}

/// A clock for runtimes: the wall clock read once, then the monotonic one.
///
/// Its instants are nanoseconds since the Unix epoch, so that those of an attempt mean something to a reader, and never
/// go backwards, whatever somebody does to the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Duration,
    started: std::time::Instant,
}

impl Clock {
    /// A clock that shows the wall clock's time now.
    pub fn new() -> Self {
        let origin = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { origin, started: std::time::Instant::now() }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(0) + (self.origin + self.started.elapsed())
    }

    /// How long it is until `deadline`; zero if it has passed.
    pub fn until(&self, deadline: Instant) -> Duration {
        deadline.saturating_since(self.now())
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

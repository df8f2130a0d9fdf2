//! A [kinesis-mock](https://github.com/etspaceman/kinesis-mock) process for each test.
//!
//! It comes from npm (`kinesis-local`, pinned with its checksum in `tests/suite/kinesis-mock`) and is installed once
//! below cargo's build folder. Each test starts its own process, which takes a second. Keep volumes small: it answers
//! five requests a second of 10 x 50 KB, and it slows down as data accumulates.

mod install;
mod process;

use std::io::Write as _;
use std::time::Duration;

use aws_sdk_kinesis::Client;

use crate::certs::Certificates;
use crate::client;
use process::Process;

/// The options of a kinesis-mock process.
///
/// ```
/// use kpl_suite::kinesis_mock::Options;
///
/// let options = Options { streams: &[("events", 4), ("logs", 1)], ..Options::default() };
/// assert!(options.shards_max > 1000);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The streams that exist when [`KinesisMock::start`] returns: their names and numbers of shards.
    pub streams: &'a [(&'a str, u32)],
    /// The time that a stream stays in `CREATING`, `UPDATING` or `DELETING`. The default is 50 ms; Kinesis takes many
    /// seconds.
    pub transition: Duration,
    /// The maximum number of shards of all streams together. The default is 10,000.
    pub shards_max: u32,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { streams: &[], transition: Duration::from_millis(50), shards_max: 10_000 }
    }
}

/// A running kinesis-mock process. Drop kills it.
#[derive(Debug)]
pub struct KinesisMock {
    process: Process,
    certificates: Certificates,
}

impl KinesisMock {
    /// Starts a process and waits until its streams are active.
    ///
    /// Returns `None` if kinesis-mock is not available: no `node`, no `npm`, or no registry. A line on standard error
    /// names the reason. Works on any runtime, or none.
    ///
    /// # Panics
    ///
    /// If kinesis-mock is not available and the environment variable `CI` is set, because skipped tests go unnoticed in
    /// a green run. If the process is not ready within a minute.
    pub async fn start(options: Options<'_>) -> Option<Self> {
        let options = OwnedOptions::from(options);
        let (done, started) = tokio::sync::oneshot::channel();
        // An installation takes seconds, and must not block the caller's runtime. The thread has the test's name,
        // because the message about a skipped test contains it.
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                // This fails if the caller no longer waits. The process then ends here.
                let _ = done.send(options.start());
            })
            .expect("a thread");
        match started.await {
            Ok(started) => started,
            Err(_) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(_) => unreachable!("the thread sends its result or panics"),
            },
        }
    }

    /// Does the same as [`start`](Self::start), for tests without async.
    #[must_use]
    pub fn start_blocking(options: Options<'_>) -> Option<Self> {
        OwnedOptions::from(options).start()
    }

    /// Returns the URL of its HTTP port, `http://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.process.http_port())
    }

    /// Returns the URL of its HTTPS port (HTTP/1.1 or HTTP/2), `https://localhost:port`.
    #[must_use]
    pub fn https_url(&self) -> String {
        format!("https://localhost:{}", self.process.https_port())
    }

    /// Returns the certificate of the authority that signed its certificate. Each process has a different authority.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.certificates.ca_pem()
    }

    /// Creates a client of its HTTP port.
    #[must_use]
    pub fn client(&self) -> Client {
        client::new(&self.url(), None)
    }

    /// Creates a client of its HTTPS port.
    #[must_use]
    pub fn https_client(&self) -> Client {
        client::new(&self.https_url(), Some(self.ca_pem()))
    }
}

/// [`Options`] that can be sent to another thread.
struct OwnedOptions {
    streams: Vec<(String, u32)>,
    transition: Duration,
    shards_max: u32,
}

impl From<Options<'_>> for OwnedOptions {
    fn from(options: Options<'_>) -> Self {
        let streams = options.streams.iter().map(|&(name, shards)| (name.to_owned(), shards)).collect();
        Self { streams, transition: options.transition, shards_max: options.shards_max }
    }
}

impl OwnedOptions {
    fn start(self) -> Option<KinesisMock> {
        let script = match install::main_js() {
            Ok(script) => script,
            Err(reason) => {
                skip(&reason);
                return None;
            }
        };
        let certificates = Certificates::generate();
        let process = Process::spawn(&script, &certificates, &self.environment());
        process.wait_until_ready(self.streams.iter().map(|(name, _)| name.as_str()));
        Some(KinesisMock { process, certificates })
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![("SHARD_LIMIT", self.shards_max.to_string())];
        if !self.streams.is_empty() {
            let streams = self.streams.iter().map(|(name, shards)| format!("{name}:{shards}"));
            environment.push(("INITIALIZE_STREAMS", streams.collect::<Vec<_>>().join(",")));
        }
        let transition = format!("{}ms", self.transition.as_millis());
        for name in [
            "CREATE_STREAM_DURATION",
            "DELETE_STREAM_DURATION",
            "SPLIT_SHARD_DURATION",
            "MERGE_SHARDS_DURATION",
            "UPDATE_SHARD_COUNT_DURATION",
            "UPDATE_STREAM_MODE_DURATION",
        ] {
            environment.push((name, transition.clone()));
        }
        environment
    }
}

/// Reports that a test is skipped. In CI, fails it.
fn skip(reason: &str) {
    let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    assert!(!in_ci, "kinesis-mock is not available, and CI must not skip tests: {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not `eprintln`: the test harness hides its lines unless the test fails.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: kinesis-mock is not available: {reason}");
}

//! [kinesis-mock](https://github.com/etspaceman/kinesis-mock), started for one test.
//!
//! It comes from npm (`kinesis-local`, pinned with its checksum in `tests/suite/kinesis-mock`), is installed once below
//! cargo's build folder, and each test starts a process of its own: that takes a second. Keep volumes small. It answers
//! five requests a second of 10 x 50 KB, and gets slower as data piles up.

mod install;
mod process;

use std::io::Write as _;
use std::time::Duration;

use aws_sdk_kinesis::Client;

use crate::certs::Certificates;
use crate::client;
use process::Process;

/// What a kinesis-mock starts with.
///
/// ```
/// use kpl_suite::kinesis_mock::Options;
///
/// let options = Options { streams: &[("events", 4), ("logs", 1)], ..Options::default() };
/// assert!(options.shards_max > 1000);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The streams that exist when [`KinesisMock::start`] comes back: names, and numbers of shards.
    pub streams: &'a [(&'a str, u32)],
    /// How long a stream stays in `CREATING`, `UPDATING` or `DELETING`. Kinesis takes many seconds; the default is
    /// 50 ms.
    pub transition: Duration,
    /// How many shards there can be in all; the default is 10,000.
    pub shards_max: u32,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self { streams: &[], transition: Duration::from_millis(50), shards_max: 10_000 }
    }
}

/// A running kinesis-mock, killed when it is dropped.
#[derive(Debug)]
pub struct KinesisMock {
    process: Process,
    certificates: Certificates,
}

impl KinesisMock {
    /// Starts one and waits until its streams are active.
    ///
    /// Gives `None`, and one line on standard error that says why, where kinesis-mock cannot be had: no `node`, no
    /// `npm`, no registry. Works on any runtime, or none.
    ///
    /// # Panics
    ///
    /// Where it cannot be had and the environment variable `CI` is set: nobody reads what a green run has skipped.
    /// And everywhere if it does not get ready within a minute.
    pub async fn start(options: Options<'_>) -> Option<Self> {
        let options = OwnedOptions::from(options);
        let (done, started) = tokio::sync::oneshot::channel();
        // An install takes seconds; whatever else runs on the caller's runtime goes on. The thread borrows the test's
        // name, which a message that it is skipped has to tell.
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                // Nobody waits any more if this fails; what was started ends here.
                let _ = done.send(options.start());
            })
            .expect("a thread");
        match started.await {
            Ok(started) => started,
            Err(_) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(_) => unreachable!("the thread answers or panics"),
            },
        }
    }

    /// [`start`](Self::start) for a test without async.
    #[must_use]
    pub fn start_blocking(options: Options<'_>) -> Option<Self> {
        OwnedOptions::from(options).start()
    }

    /// Where it speaks HTTP, as `http://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.process.http_port())
    }

    /// Where it speaks HTTPS (with HTTP/1.1 or HTTP/2), as `https://localhost:port`.
    #[must_use]
    pub fn https_url(&self) -> String {
        format!("https://localhost:{}", self.process.https_port())
    }

    /// The authority behind its certificate, made for this process alone.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.certificates.ca_pem()
    }

    /// A client that speaks HTTP with it.
    #[must_use]
    pub fn client(&self) -> Client {
        client::new(&self.url(), None)
    }

    /// A client that speaks HTTPS with it.
    #[must_use]
    pub fn https_client(&self) -> Client {
        client::new(&self.https_url(), Some(self.ca_pem()))
    }
}

/// [`Options`] that can go to another thread.
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

/// Says that a test did not run; in CI, fails it.
fn skip(reason: &str) {
    let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    assert!(!in_ci, "kinesis-mock cannot be had, and CI skips no test: {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Past `eprintln`, whose lines the test harness hides unless the test fails.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: kinesis-mock cannot be had: {reason}");
}

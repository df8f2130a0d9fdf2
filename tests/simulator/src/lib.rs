//! A deterministic simulation of kpl: a producer, a model of Kinesis, a network with faults, and an oracle that checks
//! the results.
//!
//! The entry point is [`World::run`]. It takes all its choices from bytes, a seed's or a fuzzer's. The virtual clock
//! jumps to the next event. Faults are sampled; each is off in many runs. At the end all faults stop, and the producer
//! must drain. Then the oracle compares the results that callers got with what a consumer reads. `oracle/` has one file
//! per promise.
//!
//! A world runs at one of two levels: the state machine alone ([`Level::Core`], the fastest), or the drive loop on a
//! simulated runtime and transport ([`Level::Driver`]). The world and the oracle are the same.
//!
//! The same bytes give the same run, event by event; compare [`Report::trace_hash`].
//!
//! ```
//! use kpl_simulator::{Level, run_seed};
//!
//! let report = run_seed(Level::Core, 42).unwrap_or_else(|finding| panic!("{finding}"));
//! assert_eq!(report.trace_hash, run_seed(Level::Core, 42).unwrap().trace_hash);
//! ```

mod calendar;
mod choices;
mod companion;
mod network;
mod options;
mod oracle;
mod service;
mod subject;
mod trace;
mod workload;
mod world;

use std::fmt;
use std::time::Duration;

use arbitrary::Unstructured;

pub use options::Options;
pub use world::World;

/// The part of kpl that a world runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// The state machine of kpl-core.
    Core,
    /// The handle and the drive loop of kpl-driver, on a simulated runtime.
    #[cfg(feature = "driver")]
    Driver,
}

impl Level {
    /// All levels.
    pub const ALL: &[Self] = &[
        Self::Core,
        #[cfg(feature = "driver")]
        Self::Driver,
    ];
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Core => "core",
            #[cfg(feature = "driver")]
            Self::Driver => "driver",
        })
    }
}

/// The summary of a run without a broken promise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The number of user records that the producer accepted.
    pub records: u64,
    /// The number of user records that succeeded.
    pub succeeded: u64,
    /// The duration of the run on its virtual clock.
    pub virtual_time: Duration,
    /// The hash of all events.
    pub trace_hash: u64,
}

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The level of the world.
    pub level: Level,
    /// The promise.
    pub promise: &'static str,
    /// A description of the violation.
    pub how: String,
    /// The options of the world.
    pub options: Options,
    /// The last events, one per line.
    pub trace: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "\n{:#?}", self.options)?;
        writeln!(f, "\nPROMISE  {}", self.promise)?;
        write!(f, "BROKEN   {}", self.how)
    }
}

impl std::error::Error for Finding {}

/// Runs the world of a seed.
///
/// # Errors
///
/// Returns the first [`Finding`].
pub fn run_seed(level: Level, seed: u64) -> Result<Report, Box<Finding>> {
    run_seed_with(level, None, seed)
}

/// Runs the world of a seed, with or without [`Ordering::PerKey`](kpl_core::Ordering::PerKey); `None` to choose it as
/// everything else.
///
/// # Errors
///
/// Returns the first [`Finding`].
pub fn run_seed_with(level: Level, ordering: Option<bool>, seed: u64) -> Result<Report, Box<Finding>> {
    World::run(level, ordering, &mut Unstructured::new(&bytes_of(seed)))
}

/// Returns the worlds in `regressions.txt`, which broke a promise in the past.
pub fn regressions() -> Vec<(Level, u64)> {
    let lines = include_str!("../regressions.txt").lines().filter(|line| !line.starts_with('#'));
    let worlds = lines.map(|line| {
        let mut words = line.split(' ');
        let level = words.next().and_then(|word| Level::ALL.iter().find(|level| level.to_string() == word));
        // A build without the feature `driver` skips the worlds of that level.
        Some((*level?, words.next()?.parse().unwrap_or_else(|_| panic!("no seed: {line}"))))
    });
    worlds.flatten().collect()
}

/// Returns random bytes for the choices of a run.
fn bytes_of(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; 128 << 10];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

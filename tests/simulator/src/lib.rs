//! A seeded world for kpl: producers that put, a model of Kinesis that stores, a network that loses, and an oracle that
//! sees it all.
//!
//! One entry, [`World::run`], takes its choices from bytes: a seed's, or a fuzzer's. A run has a virtual clock that jumps
//! to the next event. Its faults are sampled, each of them off in many runs. At the end everything heals and all must
//! drain; then the oracle judges what callers were told by what a consumer reads. What it judges by is in `oracle/`, one
//! file for each promise.
//!
//! A world runs at one of two levels: around the state machine alone ([`Level::Core`], the fastest), or around the
//! drive loop that ships, on a simulated runtime and transport ([`Level::Driver`]). World and oracle are the same.
//!
//! The same bytes give the same run, to the last event: [`Report::trace_hash`].
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

/// What is put into a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// The state machine of kpl-core alone.
    Core,
    /// The handle and the drive loop of kpl-driver, on a simulated runtime.
    #[cfg(feature = "driver")]
    Driver,
}

impl Level {
    /// All of them.
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

/// A run in which every promise was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// User records that the producer took.
    pub records: u64,
    /// Of those, how many got a receipt.
    pub succeeded: u64,
    /// How long it took, by its own clock.
    pub virtual_time: Duration,
    /// Tells one run from another: the hash of all its events.
    pub trace_hash: u64,
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The level of the world.
    pub level: Level,
    /// The promise.
    pub promise: &'static str,
    /// How it was broken.
    pub how: String,
    /// What the world was like.
    pub options: Options,
    /// The last events, a line each.
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
/// The first [`Finding`].
pub fn run_seed(level: Level, seed: u64) -> Result<Report, Box<Finding>> {
    World::run(level, &mut Unstructured::new(&bytes_of(seed)))
}

/// Worlds that found something once: `regressions.txt`.
pub fn regressions() -> Vec<(Level, u64)> {
    let lines = include_str!("../regressions.txt").lines().filter(|line| !line.starts_with('#'));
    let worlds = lines.map(|line| {
        let mut words = line.split(' ');
        let level = words.next().and_then(|word| Level::ALL.iter().find(|level| level.to_string() == word));
        // A level that this build does not have is left out.
        Some((*level?, words.next()?.parse().unwrap_or_else(|_| panic!("no seed: {line}"))))
    });
    worlds.flatten().collect()
}

/// As many bytes as a run may want, from a seed.
fn bytes_of(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; 128 << 10];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

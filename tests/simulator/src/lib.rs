//! A seeded world for kpl's state machine: producers that put, a model of Kinesis that stores, a network that loses, and
//! an oracle that sees it all.
//!
//! One entry, [`World::run`], takes its choices from bytes: a seed's, or a fuzzer's. A run has a virtual clock that jumps
//! to the next event. Its faults are sampled, each of them off in many runs. At the end everything heals, the producer
//! is closed, and all must drain; then the oracle judges what callers were told by what a consumer reads.
//!
//! The same bytes give the same run, to the last event: [`Report::trace_hash`].
//!
//! ```
//! let report = kpl_simulator::run_seed(42).unwrap_or_else(|finding| panic!("{finding}"));
//! assert_eq!(report.trace_hash, kpl_simulator::run_seed(42).unwrap().trace_hash);
//! ```

mod network;
mod options;
mod oracle;
mod world;

use std::fmt;

use arbitrary::Unstructured;

pub use options::Options;
pub use world::World;

/// A run in which every promise was kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// User records that the producer took.
    pub records: u64,
    /// Of those, how many got a receipt.
    pub succeeded: u64,
    /// Whether the run came to its end and was judged as a whole. Else its bytes were used up before, and only what is
    /// checked on the way was.
    pub complete: bool,
    /// Tells one run from another: the hash of all its events.
    pub trace_hash: u64,
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Which, and how.
    pub what: String,
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
        write!(f, "\nFINDING: {}", self.what)
    }
}

impl std::error::Error for Finding {}

/// Runs the world of a seed.
///
/// # Errors
///
/// The first [`Finding`].
pub fn run_seed(seed: u64) -> Result<Report, Box<Finding>> {
    World::run(&mut Unstructured::new(&bytes_of(seed)))
}

/// As many bytes as a run may want, from a seed (SplitMix64).
fn bytes_of(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    });
    words.take(64 << 10).flat_map(u64::to_le_bytes).collect()
}

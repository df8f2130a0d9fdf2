//! Tests of services that put records into Kinesis with kpl. Nothing of it belongs in production builds: it is a
//! dev-dependency.
//!
//! | question | answer |
//! |---|---|
//! | What does my code put, and what does it do when a record fails? | [`Script`]: a producer without Kinesis, whose records a test resolves |
//! | Does my service lose records under throttling, timeouts, reshards? | [`Kinesis`]: Kinesis in the process of the test, with faults; with tokio's paused clock, an hour takes milliseconds |
//! | Does it lose records when anything goes wrong at any time? | [`Simulation`]: the service, its callers and Kinesis on one thread, from a seed; or [turmoil](https://docs.rs/turmoil)'s hosts (feature `turmoil`), with crashes and partitions |
//!
//! `docs/testing.md` in the repository has code for each.

#[cfg(feature = "driver")]
mod comparison;
#[cfg(feature = "turmoil")]
pub mod hosts;
#[cfg(feature = "driver")]
mod kinesis;
#[cfg(feature = "driver")]
mod script;
#[cfg(feature = "driver")]
pub mod simulation;
#[cfg(feature = "driver")]
mod transport;
#[doc(hidden)]
pub mod wire;

#[cfg(feature = "driver")]
pub use comparison::Comparison;
#[cfg(feature = "driver")]
pub use kinesis::{Kinesis, START};
pub use kpl_core as core;
#[cfg(feature = "driver")]
pub use kpl_driver as driver;
pub use kpl_emulator::consumer::ConsumedRecord;
pub use kpl_emulator::{Emulator, Faults, OperationFault, Options, ServiceError};
#[cfg(feature = "driver")]
pub use script::{Answer, PendingRecord, PendingRecords, Script, SentRecord};
#[cfg(feature = "driver")]
pub use simulation::Simulation;
#[cfg(feature = "driver")]
pub use transport::InProcess;

/// Calls `test` for each seed. If it panics, prints the seed, and panics.
///
/// ```
/// kpl_testing::for_seeds(0..100, |seed| {
///     let simulation = kpl_testing::Simulation::new(seed);
///     // …
/// #   drop(simulation);
/// });
/// ```
pub fn for_seeds(seeds: impl IntoIterator<Item = u64>, mut test: impl FnMut(u64)) {
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(seed))) {
            eprintln!("seed {seed} fails");
            std::panic::resume_unwind(panic);
        }
    }
}

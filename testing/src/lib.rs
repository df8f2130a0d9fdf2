//! Tests of services that put records into Kinesis with kpl. Nothing of it belongs in production builds: it is a
//! dev-dependency.
//!
//! | question | answer |
//! |---|---|
//! | What does my code put, and what does it do when a record fails? | [`Script`]: a producer without Kinesis, whose records a test resolves |
//! | Does my service lose records under throttling, timeouts, reshards? | [`Kinesis`]: Kinesis in the process of the test, with faults; with tokio's paused clock, an hour takes milliseconds |
//! | Does it lose records when anything goes wrong at any time? | [`Simulation`]: the service, its callers and Kinesis on one thread, from a seed; or hosts of turmoil (feature `turmoil`), with crashes and partitions |
//!
//! docs/testing.md leads from the first to the last.

#[cfg(feature = "driver")]
mod comparison;
#[cfg(feature = "driver")]
mod kinesis;
#[cfg(feature = "driver")]
mod script;
#[cfg(feature = "driver")]
pub mod simulation;
#[cfg(feature = "driver")]
mod transport;
#[cfg(feature = "turmoil")]
pub mod turmoil;
pub mod wire;

#[cfg(feature = "driver")]
pub use comparison::Comparison;
#[cfg(feature = "driver")]
pub use kinesis::{Kinesis, START};
pub use kpl_core as core;
pub use kpl_emulator::consumer::ConsumedRecord;
pub use kpl_emulator::{Emulator, Faults, OperationFault, Options, ServiceError};
#[cfg(feature = "driver")]
pub use script::{Answer, Attempt, Attempted, Attempts, Script};
#[cfg(feature = "driver")]
pub use simulation::Simulation;
#[cfg(feature = "driver")]
pub use transport::InProcess;

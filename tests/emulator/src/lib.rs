//! Kinesis Data Streams as a state machine, with an HTTP server. kpl's tests, simulations and benchmarks put records
//! into it.
//!
//! [`Kinesis`] is the model. Time is an argument and randomness comes from a seed, so the same calls return the same
//! results. It enforces the service's limits and can inject faults ([`Faults`]). [`consumer`] reads stored records by
//! the KCL's rules, independently of kpl's own code. [`Emulator`] shares it, and `Server` (feature `http`) serves it to
//! any AWS SDK.
//!
//! ```
//! use std::time::Duration;
//! use kpl_emulator::api::{CreateStream, PutRecord};
//! use kpl_emulator::{Kinesis, Options};
//!
//! let mut kinesis = Kinesis::new(Options::default());
//! let now = Duration::from_secs(1);
//! kinesis.create_stream(now, &CreateStream::new("events", 2))?;
//! let put = kinesis.put_record(now, PutRecord::new("events", "user-123", "hello"))?;
//! assert_eq!(put.shard_id, "shardId-000000000001");
//! let read = kpl_emulator::consumer::read_stream(&kinesis, "events");
//! assert_eq!(read.records[0].data, "hello");
//! # Ok::<(), kpl_emulator::ServiceError>(())
//! ```

pub mod api;
pub mod consumer;
mod emulator;
mod error;
mod faults;
#[cfg(feature = "http")]
mod http;
mod model;

pub use emulator::Emulator;
pub use error::ServiceError;
pub use faults::{Fate, Faults, OperationFault};
#[cfg(feature = "http")]
pub use http::{Server, serve_connection};
pub use model::{Counters, Kinesis, Options, StoredRecord};

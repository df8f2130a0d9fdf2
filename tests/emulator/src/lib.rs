//! Kinesis Data Streams as a state machine, with an HTTP face: what kpl's tests, simulations and benchmarks put records
//! into.
//!
//! [`Kinesis`] is the model. Time comes in as an argument, randomness from a seed: the same calls give the same answers.
//! It enforces what the service enforces and can be told to misbehave ([`Faults`]). [`consumer`] reads what is stored
//! as the KCL would, independently of kpl's own code. [`Emulator`] and [`Server`] (feature `http`) let any AWS SDK talk
//! to it.
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
mod error;
mod faults;
#[cfg(feature = "http")]
mod http;
mod model;

pub use error::ServiceError;
pub use faults::{Fate, Faults, OperationFault};
#[cfg(feature = "http")]
pub use http::{Emulator, Server};
pub use model::{Counters, Kinesis, Options, StoredRecord};

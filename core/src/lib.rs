//! A Kinesis producer as a pure state machine: the logic of the Amazon Kinesis Producer Library, without its I/O.
//!
//! Records and replies are the input, requests and results the output. The state machine predicts the shard of each
//! record, aggregates records, limits the rate of each shard, collects requests by deadline, and retries records.
//!
//! This crate has no clock, sockets, threads or source of randomness; the compiler checks this (`no_std`). A driver
//! provides them. To send records, use a driver such as `kpl-tokio`. Use this crate to write a driver, a simulator or a
//! fuzzer.
//!
//! # A run loop
//!
//! This is a complete example, with a service that accepts every record. See [`Producer`] for the rules.
//!
//! ```
//! use core::time::Duration;
//! use kpl_core::{Action, Config, Instant, ListedShard, Producer, RecordReply, Reply, ShardPage, StreamSummary};
//! use kpl_core::UserRecord;
//!
//! let mut now = Instant::from_nanos(0); // a driver reads its clock
//! let mut producer = Producer::new(Config::default(), now);
//! for n in 0..1_000_u32 {
//!     let record = UserRecord::new("events", format!("user-{n}"), "hello").prepare()?; // outside any lock
//!     producer.put(now, record, n)?; // `n` is the ticket
//! }
//! producer.close(now, now + Duration::from_secs(60));
//!
//! let mut receipts = 0;
//! while !producer.is_drained() {
//!     producer.tick(now);
//!     while let Some(action) = producer.poll_action() {
//!         match action {
//!             Action::SendBatch(batch) => {
//!                 // A driver sends these with PutRecords, outside the loop, and handles the reply later.
//!                 let stored = batch.records().iter().map(|record| {
//!                     let _wire = (record.partition_key(), record.explicit_hash_key(), record.data());
//!                     RecordReply::stored("shardId-000000000000", "49590338271490256608559692538361571095")
//!                 });
//!                 let reply = Reply::Records(stored.collect());
//!                 producer.handle_reply(now, batch, reply);
//!             }
//!             Action::ListShards(request) => {
//!                 let shard = ListedShard {
//!                     id: "shardId-000000000000".into(),
//!                     start: 0,
//!                     end: u128::MAX,
//!                     closed: false,
//!                     parents: [None, None],
//!                 };
//!                 let page = ShardPage { shards: vec![shard], next_token: None };
//!                 producer.handle_shards(now, &request, Ok(page));
//!             }
//!             Action::DescribeStream(request) => {
//!                 producer.handle_stream_summary(now, &request, Ok(StreamSummary::default()));
//!             }
//!             Action::Resolve(records) => receipts += records.filter(|(_ticket, result)| result.is_ok()).count(),
//!             Action::Log(event) => println!("{event:?}"),
//!             // No put waits for room here.
//!             Action::RoomFreed(_) => {}
//!             // No flush, no close with a deadline, no metrics: see `Action`.
//!             Action::FlushDone(_) | Action::CancelRequests | Action::ExportMetrics(_) => {}
//!         }
//!     }
//!     // A driver sleeps until then, or until a put, a reply or a close wakes it.
//!     now = producer.next_tick().unwrap_or(now);
//! }
//! assert_eq!(receipts, 1_000);
//! assert_eq!(producer.stats().kinesis_records, 1); // all in one aggregate
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The stages of a record
//!
//! | stage | what it does |
//! |---|---|
//! | [`UserRecord::prepare`] | checks the record and hashes its key, without a lock ([`HashKeyCache`]: several keys) |
//! | [`Producer::put`] | applies backpressure, predicts the shard |
//! | aggregator | packs user records of one shard into one Kinesis record, until it is full or due |
//! | limiter | keeps Kinesis records until their shard's rate limit allows them, oldest first |
//! | collector | collects Kinesis records of a stream into a request, until it is full or due |
//! | [`Action::SendBatch`] | the driver encodes ([`KinesisRecord::data`]), signs and sends, outside its lock |
//! | [`Producer::handle_reply`] | the retrier resolves each record, or passes it to the aggregator again |
//! | [`Action::Resolve`] | the driver returns the results to the callers |

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod action;
pub mod codec;
mod config;
mod context;
mod full;
pub mod limits;
pub mod metrics;
mod outstanding;
mod producer;
mod put_buffer;
mod record;
mod reply;
mod request_slots;
mod stats;
mod stream;
mod streams;
#[cfg(test)]
mod testing;
mod time;

pub use action::{Action, DescribeStreamRequest, ListShardsRequest, LogEvent};
pub use config::{Config, ConfigBuilder, ConfigError, Consumers, Ordering, RecordDistribution};
pub use full::{Full, ShardName};
pub use outstanding::FlushId;
pub use producer::{Producer, PutError};
pub use put_buffer::{BufferDrain, Buffered, PutBuffer, Room};
pub use record::attempt::{Attempt, AttemptError, Attempts, FailedAttempts, code};
pub use record::hash_key::{HashKeyCache, hash_key};
pub use record::kinesis_record::{Batch, KinesisRecord};
pub use record::result::{PutFailure, Receipt, RecordResult, Resolution};
pub use record::user_record::{CheckedRecord, InvalidRecord, PrepareError, PreparedRecord, UserRecord};
pub use reply::{Delivery, ListedShard, RecordReply, Reply, RequestError, ShardPage, StreamSummary};
pub use stats::Stats;
pub use time::Instant;

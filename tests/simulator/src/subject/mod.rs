//! The code under test: the state machine alone, or the drive loop around it.

mod core;
#[cfg(feature = "driver")]
mod driver;

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use kpl_core::{
    Config, Instant, ListShardsRequest, RecordResult, Reply, RequestError, ShardPage, Stats, StreamSummary, UserRecord,
};
use kpl_emulator::api::PutRecordsEntry;

use self::core::CoreSubject;
pub(crate) use self::core::METRICS_INTERVAL;
use crate::Level;
use crate::options::Callers;

/// A producer at one of the two levels. After [`settle`](Self::settle), its outputs are available as [`Effect`]s.
pub(crate) trait Subject {
    /// Sets the time to `now` and runs what is due.
    fn advance(&mut self, now: Instant);

    fn put(&mut self, ticket: u64, record: UserRecord);

    /// Puts records of one stream together.
    fn put_batch(&mut self, records: Vec<(u64, UserRecord)>);

    fn flush(&mut self, number: u64);

    fn end(&mut self, end: End);

    /// Passes in the response to a request. Ignores it if the subject has dropped the request.
    fn respond(&mut self, id: u64, response: Response);

    /// Runs until nothing is due at this time.
    fn settle(&mut self);

    fn effect(&mut self) -> Option<Effect>;

    /// Returns the time of the next `advance`.
    fn next_wake(&self) -> Instant;

    /// Returns the producer's own counts; `None` after the handle is dropped.
    fn counts(&self) -> Option<Counts>;
}

/// Creates a subject. `callers` and `rng` apply to the level `driver` only.
pub(crate) fn make(level: Level, config: Config, now: Instant, callers: &Callers, rng: Rng) -> Box<dyn Subject> {
    #[cfg(not(feature = "driver"))]
    let _ = (callers, rng);
    match level {
        Level::Core => Box::new(CoreSubject::new(config, now)),
        #[cfg(feature = "driver")]
        Level::Driver => Box::new(driver::DriverSubject::new(config, now, callers, rng)),
    }
}

/// An output of the subject.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The record is accepted.
    Accepted(u64),
    /// The record is refused and returned.
    Refused(u64, Refusal, UserRecord),
    /// The put has waited for room until the caller's timeout.
    #[cfg_attr(not(feature = "driver"), allow(dead_code, reason = "there are no callers without it"))]
    PutTimedOut(u64),
    Resolved(u64, RecordResult),
    Flushed(u64),
    /// The close is complete.
    Closed,
    PutRecords {
        id: u64,
        stream: Arc<str>,
        records: Vec<PutRecordsEntry>,
    },
    ListShards {
        id: u64,
        request: ListShardsRequest,
    },
    DescribeStream {
        id: u64,
        stream: Arc<str>,
    },
    /// The subject has dropped this request.
    RequestDropped(u64),
    /// The subject has broken a rule of its contract.
    Broken(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// The limit on outstanding records or bytes is reached.
    Full,
    /// The limit on the shard's backlog is reached.
    ShardFull,
    Closed,
    TooLarge,
    Invalid,
}

#[derive(Debug)]
pub(crate) enum Response {
    Put(Reply),
    List(Result<ShardPage, RequestError>),
    Describe(Result<StreamSummary, RequestError>),
    /// The request's task panics.
    Panic,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// The producer is closed, with a time limit.
    Close(Duration),
    /// The last handle is dropped.
    Drop,
    /// The runtime ends.
    Runtime,
}

/// The producer's own counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    /// The number of requests in flight; `None` at the level `driver`.
    pub(crate) in_flight: Option<usize>,
    /// The time of the oldest outstanding put.
    pub(crate) oldest: Option<Instant>,
    /// The number of puts that wait for room.
    pub(crate) waiting: usize,
    /// The number of streams that take memory; `None` at a level that does not tell.
    pub(crate) streams: Option<usize>,
    pub(crate) stats: Stats,
}

//! What is tested, as the world sees it: the state machine alone, or the drive loop around it.

mod core;
#[cfg(feature = "driver")]
mod driver;
#[cfg(feature = "driver")]
mod executor;

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use kpl_core::{
    Batch, Config, Instant, ListShardsRequest, RecordResult, Reply, RequestError, ShardPage, Stats, StreamSummary,
    UserRecord,
};
use kpl_emulator::api::PutRecordsEntry;

use self::core::CoreSubject;
use crate::Level;
use crate::options::Callers;

/// A producer at one of the two levels. Everything that it does shows as an [`Effect`], after [`settle`](Self::settle).
pub(crate) trait Subject {
    /// The time is now `now`: does what is due.
    fn advance(&mut self, now: Instant);

    fn put(&mut self, ticket: u64, record: UserRecord);

    fn flush(&mut self, number: u64);

    fn end(&mut self, end: End);

    /// The answer to a question; it may come too late for anybody to be interested.
    fn answer(&mut self, id: u64, answer: Answer);

    /// Does everything that is to be done at this time.
    fn settle(&mut self);

    fn effect(&mut self) -> Option<Effect>;

    /// When it wants to be advanced.
    fn next_wake(&self) -> Instant;

    /// What it says of itself; `None` when there is nobody left to ask.
    fn counts(&self) -> Option<Counts>;
}

/// A subject at `level`; what callers do, and the order in which tasks run, counts where there are any.
pub(crate) fn make(level: Level, config: Config, now: Instant, callers: &Callers, dice: Rng) -> Box<dyn Subject> {
    #[cfg(not(feature = "driver"))]
    let _ = (callers, dice);
    match level {
        Level::Core => Box::new(CoreSubject::new(config, now)),
        #[cfg(feature = "driver")]
        Level::Driver => Box::new(driver::DriverSubject::new(config, now, callers, dice)),
    }
}

/// What the subject does to its surroundings.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The record is accepted.
    Taken(u64),
    /// The record is not accepted, and comes back.
    Refused(u64, Refusal, UserRecord),
    /// The caller lost patience.
    #[cfg_attr(not(feature = "driver"), allow(dead_code, reason = "there are no callers without it"))]
    GivenUp(u64),
    Resolved(u64, RecordResult),
    Flushed(u64),
    /// The close has come to its end.
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
    /// Nobody waits for the answer to this question any more.
    Dropped(u64),
    /// What no subject may do.
    Broken(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// The producer has no room.
    Full,
    /// The record's shard has none.
    ShardFull,
    Closed,
    TooLarge,
    Invalid,
}

#[derive(Debug)]
pub(crate) enum Answer {
    Put(Reply),
    List(Result<ShardPage, RequestError>),
    Describe(Result<StreamSummary, RequestError>),
    /// The task that asked ends by a panic.
    Panic,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// A close, with so much time.
    Close(Duration),
    /// The last handle goes.
    Drop,
    /// The runtime goes.
    Runtime,
}

/// What a subject says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    /// `None` at a level that does not tell.
    pub(crate) in_flight: Option<usize>,
    pub(crate) oldest: Option<Instant>,
    /// Puts that wait for room.
    pub(crate) waiting: usize,
    /// The number of streams that take memory; `None` at a level that does not tell.
    pub(crate) streams: Option<usize>,
    pub(crate) stats: Stats,
}

/// A batch as it goes over the wire. The batch itself stays with whoever sends it.
fn wire<T>(batch: &Batch<T>) -> Vec<PutRecordsEntry> {
    let entry = |record: &kpl_core::KinesisRecord<T>| PutRecordsEntry {
        partition_key: record.partition_key().to_owned(),
        explicit_hash_key: Some(record.explicit_hash_key().to_string()),
        data: record.data(),
    };
    batch.records().iter().map(entry).collect()
}

//! Reading a stream from where it ended before the run.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use anyhow::{anyhow, bail};
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::operation::get_records::{GetRecordsError, GetRecordsOutput};
use aws_sdk_kinesis::operation::get_shard_iterator::builders::GetShardIteratorFluentBuilder;
use aws_sdk_kinesis::primitives::DateTime;
use aws_sdk_kinesis::types::ShardIteratorType;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use kpl_emulator::consumer::{OutOfRange, Reading};
use tokio::time::{Instant, sleep};

use super::tally::{Tally, Verification, fingerprint};
use crate::connection::{explain, target};
use crate::stream_shards::{self, ShardRange, Which};

/// Shards read at once.
const SHARDS_AT_ONCE: usize = 8;

/// How long a line that succeeded may take to show up for readers.
const GRACE: Duration = Duration::from_secs(10);

/// A shard can be read 5 times a second.
const PAUSE: Duration = Duration::from_millis(200);

/// What clocks may differ by, where the service's and ours must be compared.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// Reads what comes into a stream from a moment on.
pub(crate) struct Verifier {
    client: Client,
    stream: String,
    started: SystemTime,
    /// Where to start in the shards that there were. The others are new: from their beginning.
    iterators: HashMap<String, String>,
}

/// A shard, and how far it has been read.
struct Position {
    shard: ShardRange,
    /// `None` at the end of a closed shard.
    iterator: Option<String>,
    /// The last one read.
    sequence_number: Option<String>,
    existed: bool,
}

impl Verifier {
    /// For a stream that has nothing in it.
    pub(crate) fn of_new_stream(client: Client, stream: &str) -> Self {
        Self { client, stream: stream.to_owned(), started: SystemTime::now(), iterators: HashMap::new() }
    }

    /// For a stream in which there may be something, which does not count.
    pub(crate) async fn from_now(client: Client, stream: &str) -> anyhow::Result<Self> {
        let mut verifier = Self::of_new_stream(client, stream);
        let shards = stream_shards::list(&verifier.client, stream, Which::All).await?;
        let iterators = stream::iter(shards.into_iter().map(|shard| {
            let call = verifier.get_shard_iterator(&shard.id).shard_iterator_type(ShardIteratorType::Latest);
            async move { Ok::<_, anyhow::Error>((shard.id, send(call).await?)) }
        }));
        let iterators = iterators.buffer_unordered(SHARDS_AT_ONCE).try_collect().await?;
        verifier.iterators = iterators;
        Ok(verifier)
    }

    /// Reads until everything that succeeded has been seen and the end is reached, or it has had time enough.
    pub(crate) async fn verify(mut self, mut tally: Tally) -> anyhow::Result<Verification> {
        let shards = stream_shards::list(&self.client, &self.stream, Which::All).await?;
        let mut positions = Vec::with_capacity(shards.len());
        for shard in shards {
            let iterator = self.iterators.remove(&shard.id);
            let existed = iterator.is_some();
            let iterator = match iterator {
                Some(iterator) => iterator,
                None => {
                    send(self.get_shard_iterator(&shard.id).shard_iterator_type(ShardIteratorType::TrimHorizon)).await?
                }
            };
            positions.push(Position { shard, iterator: Some(iterator), sequence_number: None, existed });
        }
        let deadline = Instant::now() + GRACE;
        loop {
            positions = self.read_to_the_end(positions, &mut tally).await?;
            if !tally.is_waiting() || Instant::now() > deadline {
                return Ok(tally.verification());
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads every shard until nothing more comes.
    async fn read_to_the_end(&self, positions: Vec<Position>, tally: &mut Tally) -> anyhow::Result<Vec<Position>> {
        let mut done = Vec::with_capacity(positions.len());
        let mut waiting = positions.into_iter();
        let mut reading = stream::FuturesUnordered::new();
        loop {
            while reading.len() < SHARDS_AT_ONCE
                && let Some(position) = waiting.next()
            {
                reading.push(self.read(position));
            }
            let Some(read) = reading.next().await else { return Ok(done) };
            let (position, end) = read?.take(tally);
            if end { done.push(position) } else { reading.push(self.read(position)) }
        }
    }

    /// One read of one shard.
    async fn read(&self, mut position: Position) -> anyhow::Result<Read> {
        let mut read_at = Instant::now();
        loop {
            let Some(iterator) = position.iterator.clone() else {
                return Ok(Read { position, output: None });
            };
            match self.client.get_records().shard_iterator(iterator).send().await {
                Ok(output) if output.records.is_empty() && output.millis_behind_latest != Some(0) => {
                    // Not at the end: a hole in the shard's storage.
                    position.iterator = output.next_shard_iterator;
                }
                Ok(output) => return Ok(Read { position, output: Some(output) }),
                Err(error) => match error.as_service_error() {
                    Some(GetRecordsError::ExpiredIteratorException(_)) => {
                        position.iterator = Some(self.iterator_again(&position).await?);
                    }
                    Some(GetRecordsError::ProvisionedThroughputExceededException(_)) => {}
                    Some(GetRecordsError::ResourceNotFoundException(_)) if position.existed => {
                        // The stream that was there before the run is gone. If there is one of its name, all that is
                        // in it came after.
                        (position.existed, position.sequence_number) = (false, None);
                        position.iterator = Some(self.iterator_again(&position).await?);
                    }
                    _ => bail!("cannot read shard {:?} of {:?}: {}", position.shard.id, self.stream, explain(&error)),
                },
            }
            sleep(PAUSE.saturating_sub(read_at.elapsed())).await;
            read_at = Instant::now();
        }
    }

    /// An iterator lives for five minutes; the run may have taken longer.
    async fn iterator_again(&self, position: &Position) -> anyhow::Result<String> {
        let call = self.get_shard_iterator(&position.shard.id);
        send(match &position.sequence_number {
            Some(last) => {
                call.shard_iterator_type(ShardIteratorType::AfterSequenceNumber).starting_sequence_number(last)
            }
            None if position.existed => {
                let start = DateTime::from(self.started - CLOCKS_DIFFER);
                call.shard_iterator_type(ShardIteratorType::AtTimestamp).timestamp(start)
            }
            None => call.shard_iterator_type(ShardIteratorType::TrimHorizon),
        })
        .await
    }

    fn get_shard_iterator(&self, shard_id: &str) -> GetShardIteratorFluentBuilder {
        let (name, arn) = target(&self.stream);
        self.client.get_shard_iterator().set_stream_name(name).set_stream_arn(arn).shard_id(shard_id)
    }
}

async fn send(call: GetShardIteratorFluentBuilder) -> anyhow::Result<String> {
    let shard_id = call.get_shard_id().clone().unwrap_or_default();
    let output = call.send().await.map_err(|error| anyhow!("cannot read shard {shard_id:?}: {}", explain(&error)))?;
    output.shard_iterator.ok_or_else(|| anyhow!("cannot read shard {shard_id:?}: the service gave no iterator"))
}

/// What one read gave.
struct Read {
    position: Position,
    output: Option<GetRecordsOutput>,
}

impl Read {
    /// Counts the user records by the KCL's rules. Gives whether that was the shard's end.
    fn take(self, tally: &mut Tally) -> (Position, bool) {
        let Self { mut position, output } = self;
        let Some(output) = output else { return (position, true) };
        let end = output.records.is_empty();
        let range = (position.shard.start, position.shard.end);
        // As the KCL's code reads: one user record outside the range costs its whole aggregate.
        let mut reading = Reading::new(OutOfRange::DropsAggregate);
        for record in output.records {
            let data = Bytes::from(record.data.into_inner());
            // The service leaves the key out where it was put without one; no line of ours was.
            let key = record.partition_key.unwrap_or_default();
            reading.take(&position.shard.id, range, &record.sequence_number, &key, &data);
            for user in reading.records.drain(..) {
                tally.arrived(fingerprint(&user.partition_key, &user.data));
            }
            position.sequence_number = Some(record.sequence_number);
        }
        tally.dropped(reading.dropped);
        position.iterator = output.next_shard_iterator;
        (position, end)
    }
}

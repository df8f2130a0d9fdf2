//! Reads a stream from its end before the run.

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

use super::comparison::{Comparison, Verification};
use crate::connection::{explain, target};
use crate::list_shards::{self, ShardRange, Which};

/// The number of shards that are read concurrently.
const SHARDS_CONCURRENT_MAX: usize = 8;

/// The maximum time until a stored line can be read.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// The time between two reads of a shard. Kinesis allows 5 per second.
const READ_INTERVAL: Duration = Duration::from_millis(200);

/// The maximum difference between the service's clock and the local clock.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// Reads the records that are put into a stream after the verifier was created.
pub(crate) struct Verifier {
    client: Client,
    stream: String,
    started: SystemTime,
    /// The start iterators of the shards that existed. Other shards are read from their beginning.
    iterators: HashMap<String, String>,
}

/// The position of the reader in a shard.
struct Position {
    shard: ShardRange,
    /// `None` at the end of a closed shard.
    iterator: Option<String>,
    /// The sequence number of the last record read.
    sequence_number: Option<String>,
    /// Whether the shard existed before the run.
    existed: bool,
}

impl Verifier {
    /// Returns a verifier of an empty stream.
    pub(crate) fn for_empty_stream(client: Client, stream: &str) -> Self {
        Self { client, stream: stream.to_owned(), started: SystemTime::now(), iterators: HashMap::new() }
    }

    /// Returns a verifier that ignores the records that are already in the stream.
    pub(crate) async fn from_latest(client: Client, stream: &str) -> anyhow::Result<Self> {
        let mut verifier = Self::for_empty_stream(client, stream);
        let shards = list_shards::list(&verifier.client, stream, Which::All).await?;
        let iterators = stream::iter(shards.into_iter().map(|shard| {
            let call = verifier.get_shard_iterator(&shard.id).shard_iterator_type(ShardIteratorType::Latest);
            async move { Ok::<_, anyhow::Error>((shard.id, send(call).await?)) }
        }));
        let iterators = iterators.buffer_unordered(SHARDS_CONCURRENT_MAX).try_collect().await?;
        verifier.iterators = iterators;
        Ok(verifier)
    }

    /// Reads until all lines that succeeded have arrived and the end of each shard is reached, or until a time limit.
    pub(crate) async fn verify(mut self, mut comparison: Comparison) -> anyhow::Result<Verification> {
        let shards = list_shards::list(&self.client, &self.stream, Which::All).await?;
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
        let deadline = Instant::now() + ARRIVAL_TIMEOUT;
        loop {
            positions = self.read_to_end(positions, &mut comparison).await?;
            if !comparison.is_waiting() || Instant::now() > deadline {
                return Ok(comparison.verification());
            }
            sleep(READ_INTERVAL).await;
        }
    }

    /// Reads every shard to its end.
    async fn read_to_end(
        &self,
        positions: Vec<Position>,
        comparison: &mut Comparison,
    ) -> anyhow::Result<Vec<Position>> {
        let mut done = Vec::with_capacity(positions.len());
        let mut waiting = positions.into_iter();
        let mut reading = stream::FuturesUnordered::new();
        loop {
            while reading.len() < SHARDS_CONCURRENT_MAX
                && let Some(position) = waiting.next()
            {
                reading.push(self.read(position));
            }
            let Some(read) = reading.next().await else { return Ok(done) };
            let (position, end) = read?.take(comparison);
            if end { done.push(position) } else { reading.push(self.read(position)) }
        }
    }

    /// Reads one shard once.
    async fn read(&self, mut position: Position) -> anyhow::Result<Read> {
        let mut read_at = Instant::now();
        loop {
            let Some(iterator) = position.iterator.clone() else {
                return Ok(Read { position, output: None });
            };
            match self.client.get_records().shard_iterator(iterator).send().await {
                Ok(output) if output.records.is_empty() && output.millis_behind_latest != Some(0) => {
                    // An empty reply before the end of the shard.
                    position.iterator = output.next_shard_iterator;
                }
                Ok(output) => return Ok(Read { position, output: Some(output) }),
                Err(error) => match error.as_service_error() {
                    Some(GetRecordsError::ExpiredIteratorException(_)) => {
                        position.iterator = Some(self.new_iterator(&position).await?);
                    }
                    Some(GetRecordsError::ProvisionedThroughputExceededException(_)) => {}
                    Some(GetRecordsError::ResourceNotFoundException(_)) if position.existed => {
                        // The stream was deleted. If one with the same name exists, all its records were put after the
                        // start of the run.
                        (position.existed, position.sequence_number) = (false, None);
                        position.iterator = Some(self.new_iterator(&position).await?);
                    }
                    _ => bail!("cannot read shard {:?} of {:?}: {}", position.shard.id, self.stream, explain(&error)),
                },
            }
            sleep(READ_INTERVAL.saturating_sub(read_at.elapsed())).await;
            read_at = Instant::now();
        }
    }

    /// Returns a new iterator. An iterator expires after five minutes, and the run may take longer.
    async fn new_iterator(&self, position: &Position) -> anyhow::Result<String> {
        let call = self.get_shard_iterator(&position.shard.id);
        send(match &position.sequence_number {
            Some(last) => {
                call.shard_iterator_type(ShardIteratorType::AfterSequenceNumber).starting_sequence_number(last)
            }
            None if position.existed => {
                let start = DateTime::from(self.started - CLOCK_SKEW_MAX);
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
    output.shard_iterator.ok_or_else(|| anyhow!("cannot read shard {shard_id:?}: the service returned no iterator"))
}

/// The result of one read.
struct Read {
    position: Position,
    output: Option<GetRecordsOutput>,
}

impl Read {
    /// Counts the user records as the KCL does. Returns whether the end of the shard is reached.
    fn take(self, comparison: &mut Comparison) -> (Position, bool) {
        let Self { mut position, output } = self;
        let Some(output) = output else { return (position, true) };
        let end = output.records.is_empty();
        let range = (position.shard.start, position.shard.end);
        // As in the KCL's code: one user record outside the range drops its whole aggregate.
        let mut reading = Reading::new(OutOfRange::DropsAggregate);
        for record in output.records {
            let data = Bytes::from(record.data.into_inner());
            // Kinesis omits the key of records that were put without one. Lines always have one.
            let key = record.partition_key.unwrap_or_default();
            reading.take(&position.shard.id, range, &record.sequence_number, &key, &data);
            for user in reading.records.drain(..) {
                comparison.arrived(&position.shard.id, &user.partition_key, &user.data);
            }
            position.sequence_number = Some(record.sequence_number);
        }
        comparison.dropped(reading.dropped);
        position.iterator = output.next_shard_iterator;
        (position, end)
    }
}

//! GetShardIterator and GetRecords.

use std::time::Duration;

use super::describe::in_range;
use super::reshard::check_shard_id;
use super::{Kinesis, Shard, Stream};
use crate::ServiceError;
use crate::api::{ChildShard, GetRecords, GetRecordsOutput, GetShardIterator, GetShardIteratorOutput, Record};

/// "A shard iterator expires 5 minutes after it is returned to the requester" (GetShardIterator).
const ITERATOR_LIFE: Duration = Duration::from_secs(300);

/// "The maximum size of data that GetRecords can return is 10 MiB" (GetRecords).
const READ_BYTES_MAX: usize = 10 << 20;

impl Kinesis {
    /// Executes GetShardIterator, for all types of iterators.
    ///
    /// # Errors
    ///
    /// `InvalidArgumentException`, `ValidationException`, `ResourceNotFoundException`.
    pub fn get_shard_iterator(
        &self,
        now: Duration,
        request: &GetShardIterator,
    ) -> Result<GetShardIteratorOutput, ServiceError> {
        check_shard_id(&request.shard_id)?;
        let stream = self.stream(request)?;
        let shard = self.find_shard(stream, &request.shard_id)?;
        let number = || {
            let given = request.starting_sequence_number.as_deref();
            given.and_then(|given| shard.number_of(given)).ok_or_else(|| {
                ServiceError::invalid_argument(format!("StartingSequenceNumber {given:?} is not of shard {}", shard.id))
            })
        };
        let next = match request.shard_iterator_type.as_str() {
            "TRIM_HORIZON" => 0,
            "LATEST" => stream.next_number,
            "AT_SEQUENCE_NUMBER" => number()?,
            "AFTER_SEQUENCE_NUMBER" => number()?.saturating_add(1),
            "AT_TIMESTAMP" => {
                let seconds = request
                    .timestamp
                    .ok_or_else(|| ServiceError::invalid_argument("AT_TIMESTAMP requires a Timestamp"))?;
                let time = Duration::try_from_secs_f64(seconds)
                    .ok()
                    .filter(|time| *time <= now)
                    .ok_or_else(|| ServiceError::invalid_argument("Timestamp must not be in the future"))?;
                let first = shard.records.iter().find(|record| record.arrived_at >= time);
                first.map_or(stream.next_number, |record| record.number)
            }
            other => return Err(ServiceError::validation(format!("{other:?} is not a ShardIteratorType"))),
        };
        Ok(GetShardIteratorOutput { shard_iterator: Position::new(stream, shard, next, now).token() })
    }

    /// Executes GetRecords. At the end of a closed shard, it returns the child shards instead of a next iterator.
    ///
    /// # Errors
    ///
    /// `InvalidArgumentException`, `ExpiredIteratorException`, `ResourceNotFoundException`.
    pub fn get_records(&self, now: Duration, request: &GetRecords) -> Result<GetRecordsOutput, ServiceError> {
        let limit = match request.limit {
            Some(limit) if limit > 10_000 => {
                return Err(ServiceError::invalid_argument(format!("Limit must be at most 10000, not {limit}")));
            }
            limit => in_range("Limit", limit, 10_000, 10_000)?,
        };
        let position = Position::parse(&request.shard_iterator)
            .ok_or_else(|| ServiceError::invalid_argument("ShardIterator is not valid"))?;
        if now.saturating_sub(position.issued_at) > ITERATOR_LIFE {
            return Err(ServiceError::expired_iterator("ShardIterator is older than 5 minutes"));
        }
        let stream = self.streams.get(&position.stream).filter(|stream| stream.incarnation == position.incarnation);
        let stream = stream.ok_or_else(|| super::not_found(&position.stream, &self.options.account_id))?;
        let shard = self.find_shard(stream, &position.shard)?;

        let first = shard.records.partition_point(|record| record.number < position.next);
        let mut bytes = 0;
        let mut next = position.next;
        let mut records = Vec::new();
        for record in shard.records.range(first..).take(limit) {
            bytes += record.data.len();
            if bytes > READ_BYTES_MAX && !records.is_empty() {
                break;
            }
            next = record.number + 1;
            records.push(Record {
                sequence_number: record.sequence_number.clone(),
                approximate_arrival_timestamp: record.arrived_at,
                data: record.data.clone(),
                partition_key: record.partition_key.clone(),
            });
        }
        let following = shard.records.get(first + records.len());
        let at_end = following.is_none() && shard.closed_at.is_some();
        Ok(GetRecordsOutput {
            records,
            next_shard_iterator: (!at_end).then(|| Position::new(stream, shard, next, now).token()),
            millis_behind_latest: following.map_or(0, |following| {
                u64::try_from(now.saturating_sub(following.arrived_at).as_millis()).unwrap_or(u64::MAX).max(1)
            }),
            child_shards: at_end.then(|| children(stream, shard)),
        })
    }

    fn find_shard<'a>(&self, stream: &'a Stream, id: &str) -> Result<&'a Shard, ServiceError> {
        stream.shard(id).ok_or_else(|| {
            let message = format!(
                "Shard {id} in stream {} under account {} does not exist",
                stream.name, self.options.account_id
            );
            ServiceError::resource_not_found(message)
        })
    }
}

fn children(stream: &Stream, shard: &Shard) -> Vec<ChildShard> {
    let is_child = |other: &&Shard| other.parents.iter().flatten().any(|parent| *parent == shard.id);
    let children = stream.shards.iter().filter(is_child);
    children
        .map(|child| ChildShard {
            shard_id: child.id.clone(),
            parent_shards: child.parents.iter().flatten().cloned().collect(),
            hash_key_range: child.hash_key_range(),
        })
        .collect()
}

/// The position of a shard iterator. Its token is plain text, so that tests can read it.
struct Position {
    stream: String,
    incarnation: u64,
    shard: String,
    next: u64,
    issued_at: Duration,
}

impl Position {
    fn new(stream: &Stream, shard: &Shard, next: u64, now: Duration) -> Self {
        Self {
            stream: stream.name.clone(),
            incarnation: stream.incarnation,
            shard: shard.id.clone(),
            next,
            issued_at: now,
        }
    }

    fn token(&self) -> String {
        let Self { stream, incarnation, shard, next, issued_at } = self;
        format!("records/{stream}/{incarnation}/{shard}/{next}/{}", issued_at.as_nanos())
    }

    fn parse(token: &str) -> Option<Self> {
        let mut parts = token.split('/');
        let mut next = || parts.next();
        (next()? == "records").then_some(())?;
        Some(Self {
            stream: next()?.into(),
            incarnation: next()?.parse().ok()?,
            shard: next()?.into(),
            next: next()?.parse().ok()?,
            issued_at: Duration::from_nanos(next()?.parse().ok()?),
        })
    }
}

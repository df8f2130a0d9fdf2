//! SplitShard, MergeShards and UpdateShardCount.

use std::collections::BTreeSet;
use std::time::Duration;

use super::stream::even_starts;
use super::{Kinesis, Shard, Stream};
use crate::ServiceError;
use crate::api::{Done, MergeShards, SplitShard, UpdateShardCount, UpdateShardCountOutput};

impl Kinesis {
    /// Executes SplitShard. Both children have more than one hash key.
    ///
    /// # Errors
    ///
    /// `ValidationException`, `InvalidArgumentException`, `ResourceNotFoundException`, `ResourceInUseException`.
    pub fn split_shard(&mut self, now: Duration, request: &SplitShard) -> Result<Done, ServiceError> {
        let at = parse_hash_key(&request.new_starting_hash_key)?;
        check_shard_id(&request.shard_to_split)?;
        let transition = self.options.transition;
        let stream = self.reshardable_stream(now, request)?;
        let shard = open_shard(stream, &request.shard_to_split)?;
        let (start, end) = shard.range;
        // The rule of Kinesis, according to kinesalite's tests.
        if at <= start.saturating_add(1) || at >= end {
            let message = format!("NewStartingHashKey must be above {start} + 1 and below {end}, not {at}");
            return Err(ServiceError::invalid_argument(message));
        }
        let id = shard.id.clone();
        stream.split(now, &id, at);
        stream.active_at = now.saturating_add(transition);
        Ok(Done {})
    }

    /// Executes MergeShards. The shards have to be adjacent, the lower one first.
    ///
    /// # Errors
    ///
    /// Those of [`split_shard`](Self::split_shard).
    pub fn merge_shards(&mut self, now: Duration, request: &MergeShards) -> Result<Done, ServiceError> {
        check_shard_id(&request.shard_to_merge)?;
        check_shard_id(&request.adjacent_shard_to_merge)?;
        let transition = self.options.transition;
        let stream = self.reshardable_stream(now, request)?;
        let lower = open_shard(stream, &request.shard_to_merge)?;
        let upper = open_shard(stream, &request.adjacent_shard_to_merge)?;
        if lower.range.1.checked_add(1) != Some(upper.range.0) {
            let message = format!("{} does not start where {} ends", upper.id, lower.id);
            return Err(ServiceError::invalid_argument(message));
        }
        let (lower, upper) = (lower.id.clone(), upper.id.clone());
        stream.merge(now, &lower, &upper);
        stream.active_at = now.saturating_add(transition);
        Ok(Done {})
    }

    /// Executes UpdateShardCount. As Kinesis does, it splits and merges until there are `target_shard_count` shards of
    /// equal size. Intermediate shards stay in the stream as closed shards.
    ///
    /// # Errors
    ///
    /// `InvalidArgumentException`, `LimitExceededException`, and the errors of an invalid or missing stream.
    pub fn update_shard_count(
        &mut self,
        now: Duration,
        request: &UpdateShardCount,
    ) -> Result<UpdateShardCountOutput, ServiceError> {
        let transition = self.options.transition;
        let arn = self.arn(self.name(request)?);
        let stream = self.reshardable_stream(now, request)?;
        let current = stream.open_shards().len();
        let target = usize::try_from(request.target_shard_count).unwrap_or(0);
        if target == 0 || target > current * 2 || target * 2 < current {
            let message = format!("TargetShardCount must be from half to double of {current}, not {target}");
            return Err(ServiceError::invalid_argument(message));
        }
        if target > 10_000 {
            return Err(ServiceError::limit_exceeded(format!("TargetShardCount {target} exceeds 10000")));
        }
        let starts: BTreeSet<u128> = even_starts(target).collect();
        for at in &starts {
            let shard = &stream.shards[stream.route(*at)];
            if shard.range.0 != *at {
                let id = shard.id.clone();
                stream.split(now, &id, *at);
            }
        }
        let surplus = |stream: &Stream| {
            let upper = stream.open_shards().find(|shard| !starts.contains(&shard.range.0))?;
            let lower = &stream.shards[stream.route(upper.range.0 - 1)];
            Some((lower.id.clone(), upper.id.clone()))
        };
        while let Some((lower, upper)) = surplus(stream) {
            stream.merge(now, &lower, &upper);
        }
        stream.active_at = now.saturating_add(transition);
        Ok(UpdateShardCountOutput {
            stream_name: stream.name.clone(),
            stream_arn: arn,
            current_shard_count: current,
            target_shard_count: target,
        })
    }

    fn reshardable_stream(
        &mut self,
        now: Duration,
        target: &impl crate::api::Target,
    ) -> Result<&mut Stream, ServiceError> {
        let stream = self.stream_mut(target)?;
        if stream.on_demand {
            // "This API is only supported for data streams with the provisioned capacity mode" (SplitShard and others).
            let message = format!("Stream {} is ON_DEMAND. Only PROVISIONED streams can be resharded.", stream.name);
            return Err(ServiceError::validation(message));
        }
        match stream.status(now) {
            "ACTIVE" => Ok(stream),
            status => Err(ServiceError::resource_in_use(format!("Stream {} is {status}, not ACTIVE.", stream.name))),
        }
    }
}

impl Stream {
    fn split(&mut self, now: Duration, id: &str, at: u128) {
        let Some((start, end)) = self.shard(id).map(|shard| shard.range) else { return };
        self.close_shard(now, id);
        for range in [(start, at - 1), (at, end)] {
            self.open_shard(now, range, [Some(id.to_owned()), None]);
        }
    }

    fn merge(&mut self, now: Duration, lower: &str, upper: &str) {
        let (Some(first), Some(last)) = (self.shard(lower), self.shard(upper)) else { return };
        let range = (first.range.0, last.range.1);
        self.close_shard(now, lower);
        self.close_shard(now, upper);
        self.open_shard(now, range, [Some(lower.to_owned()), Some(upper.to_owned())]);
    }
}

fn open_shard<'a>(stream: &'a Stream, id: &str) -> Result<&'a Shard, ServiceError> {
    let shard = stream
        .shard(id)
        .ok_or_else(|| ServiceError::resource_not_found(format!("Shard {id} in stream {} not found.", stream.name)))?;
    if shard.closed_at.is_some() {
        return Err(ServiceError::resource_in_use(format!("Shard {id} in stream {} is closed.", stream.name)));
    }
    Ok(shard)
}

pub(super) fn check_shard_id(id: &str) -> Result<(), ServiceError> {
    let valid = (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if valid {
        Ok(())
    } else {
        Err(ServiceError::validation(format!("ShardId must match [a-zA-Z0-9_.-]{{1,128}}, not {id:?}")))
    }
}

/// Parses a hash key, which has to match the API's pattern `0|([1-9]\d{0,38})` and to be below 2^128.
pub(super) fn parse_hash_key(text: &str) -> Result<u128, ServiceError> {
    let pattern = text == "0"
        || ((1..=39).contains(&text.len()) && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    if !pattern {
        return Err(ServiceError::validation(format!("a hash key must match 0|([1-9]\\d{{0,38}}), not {text:?}")));
    }
    text.parse().map_err(|_| ServiceError::invalid_argument(format!("a hash key must be below 2^128, not {text}")))
}

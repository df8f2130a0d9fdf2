//! ListStreams, DescribeStreamSummary, DescribeStream and ListShards.

use std::time::Duration;

use super::reshard::check_shard_id;
use super::{Kinesis, Shard, Stream};
use crate::ServiceError;
use crate::api::{
    DescribeStream, DescribeStreamOutput, DescribeStreamSummary, DescribeStreamSummaryOutput, ListShards,
    ListShardsOutput, ListStreams, ListStreamsOutput, ShardFilter, StreamDescription, StreamModeDetails, StreamSummary,
};

/// "Tokens expire after 300 seconds" (ListShards, NextToken).
const TOKEN_LIFE: Duration = Duration::from_secs(300);

impl Kinesis {
    /// Executes ListStreams.
    ///
    /// # Errors
    ///
    /// `ValidationException` for an invalid limit.
    pub fn list_streams(&self, request: &ListStreams) -> Result<ListStreamsOutput, ServiceError> {
        let limit = in_range("Limit", request.limit, 100, 10_000)?;
        let after = request.next_token.as_ref().or(request.exclusive_start_stream_name.as_ref());
        let mut names = self.streams.keys().filter(|name| after.is_none_or(|after| *name > after));
        let stream_names: Vec<String> = names.by_ref().take(limit).cloned().collect();
        let has_more_streams = names.next().is_some();
        let next_token = stream_names.last().filter(|_| has_more_streams).cloned();
        Ok(ListStreamsOutput { has_more_streams, stream_names, next_token })
    }

    /// Executes DescribeStreamSummary.
    ///
    /// # Errors
    ///
    /// The errors of an invalid or missing stream.
    pub fn describe_stream_summary(
        &self,
        now: Duration,
        request: &DescribeStreamSummary,
    ) -> Result<DescribeStreamSummaryOutput, ServiceError> {
        let stream = self.stream(request)?;
        Ok(DescribeStreamSummaryOutput { stream_description_summary: self.summary(now, stream) })
    }

    /// Executes DescribeStream.
    ///
    /// # Errors
    ///
    /// The errors of an invalid or missing stream, and `ValidationException` for an invalid limit.
    pub fn describe_stream(
        &self,
        now: Duration,
        request: &DescribeStream,
    ) -> Result<DescribeStreamOutput, ServiceError> {
        let stream = self.stream(request)?;
        let limit = in_range("Limit", request.limit, 100, 10_000)?;
        let after = request.exclusive_start_shard_id.as_ref();
        let mut shards = stream.shards.iter().filter(|shard| after.is_none_or(|after| shard.id > *after));
        Ok(DescribeStreamOutput {
            stream_description: StreamDescription {
                summary: self.summary(now, stream),
                shards: shards.by_ref().take(limit).map(Shard::describe).collect(),
                has_more_shards: shards.next().is_some(),
            },
        })
    }

    /// Executes ListShards, which returns one page.
    ///
    /// # Errors
    ///
    /// `InvalidArgumentException` if a token is combined with a stream, a start or a filter,
    /// `ExpiredNextTokenException`, `ValidationException`, and the errors of an invalid or missing stream.
    pub fn list_shards(&self, now: Duration, request: &ListShards) -> Result<ListShardsOutput, ServiceError> {
        let limit = in_range("MaxResults", request.max_results, 1_000, 10_000)?;
        let page = match &request.next_token {
            Some(token) => {
                let token_only = request.stream_name.is_none()
                    && request.stream_arn.is_none()
                    && request.exclusive_start_shard_id.is_none()
                    && request.shard_filter.is_none();
                if !token_only {
                    return Err(ServiceError::invalid_argument(
                        "NextToken excludes StreamName, StreamARN, ExclusiveStartShardId and ShardFilter",
                    ));
                }
                Page::parse(token).ok_or_else(|| ServiceError::invalid_argument("NextToken is not valid"))?
            }
            None => {
                request.exclusive_start_shard_id.as_deref().map_or(Ok(()), check_shard_id)?;
                Page {
                    stream: self.name(request)?.to_owned(),
                    incarnation: self.stream(request)?.incarnation,
                    after: request.exclusive_start_shard_id.clone().unwrap_or_default(),
                    filter: Filter::new(request.shard_filter.as_ref())?,
                    issued_at: now,
                }
            }
        };
        if now.saturating_sub(page.issued_at) > TOKEN_LIFE {
            return Err(ServiceError::expired_next_token("NextToken is older than 300 s"));
        }
        let stream = self.streams.get(&page.stream).filter(|stream| stream.incarnation == page.incarnation);
        let stream = stream.ok_or_else(|| super::not_found(&page.stream, &self.options.account_id))?;
        let horizon = now.saturating_sub(Duration::from_secs(24 * 3_600)).max(stream.created_at);
        let mut shards =
            stream.shards.iter().filter(|shard| shard.id > page.after && page.filter.matches(shard, horizon));
        let listed: Vec<_> = shards.by_ref().take(limit).map(Shard::describe).collect();
        let more = shards.next().is_some();
        let next_token = listed
            .last()
            .filter(|_| more)
            .map(|last| Page { after: last.shard_id.clone(), issued_at: now, ..page.clone() }.token());
        Ok(ListShardsOutput { shards: listed, next_token })
    }

    fn summary(&self, now: Duration, stream: &Stream) -> StreamSummary {
        StreamSummary {
            stream_name: stream.name.clone(),
            stream_arn: self.arn(&stream.name),
            stream_status: stream.status(now),
            stream_mode_details: StreamModeDetails {
                stream_mode: if stream.on_demand { "ON_DEMAND" } else { "PROVISIONED" }.into(),
            },
            retention_period_hours: 24,
            stream_creation_timestamp: stream.created_at,
            enhanced_monitoring: Default::default(),
            encryption_type: "NONE",
            open_shard_count: stream.open_shards().len(),
            consumer_count: 0,
            max_record_size_in_kib: stream.max_record_size / 1_024,
            record_distribution_strategy: if stream.auto_distribution { "AUTO" } else { "USER_PARTITION_KEY" },
        }
    }
}

pub(super) fn in_range(name: &str, value: Option<i64>, default: usize, max: i64) -> Result<usize, ServiceError> {
    match value {
        None => Ok(default),
        Some(value) if (1..=max).contains(&value) => Ok(value as usize),
        Some(value) => Err(ServiceError::validation(format!("{name} must be from 1 to {max}, not {value}"))),
    }
}

/// A filter of ListShards.
#[derive(Clone, Debug, PartialEq)]
enum Filter {
    All,
    Open,
    OpenAtHorizon,
    OpenAt(Duration),
    FromHorizon,
    From(Duration),
    After(String),
}

impl Filter {
    fn new(filter: Option<&ShardFilter>) -> Result<Self, ServiceError> {
        let Some(ShardFilter { r#type, shard_id, timestamp }) = filter else { return Ok(Self::All) };
        let time = || {
            let seconds = timestamp.filter(|seconds| *seconds >= 0.0);
            seconds
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .ok_or_else(|| ServiceError::invalid_argument(format!("ShardFilter {type} requires a Timestamp")))
        };
        match r#type.as_str() {
            "AT_LATEST" => Ok(Self::Open),
            "AT_TRIM_HORIZON" => Ok(Self::OpenAtHorizon),
            "FROM_TRIM_HORIZON" => Ok(Self::FromHorizon),
            "AT_TIMESTAMP" => time().map(Self::OpenAt),
            "FROM_TIMESTAMP" => time().map(Self::From),
            "AFTER_SHARD_ID" => {
                let id = shard_id
                    .as_deref()
                    .ok_or_else(|| ServiceError::invalid_argument("ShardFilter AFTER_SHARD_ID requires a ShardId"))?;
                // Because the token contains it without escaping.
                check_shard_id(id)?;
                Ok(Self::After(id.to_owned()))
            }
            other => Err(ServiceError::validation(format!("{other:?} is not a ShardFilterType"))),
        }
    }

    fn matches(&self, shard: &Shard, horizon: Duration) -> bool {
        let open_at = |time: Duration| shard.created_at <= time && shard.closed_at.is_none_or(|closed| closed > time);
        let open_since = |time: Duration| shard.closed_at.is_none_or(|closed| closed >= time);
        match self {
            Self::All => true,
            Self::Open => shard.closed_at.is_none(),
            Self::OpenAtHorizon => open_at(horizon),
            Self::OpenAt(time) => open_at((*time).max(horizon)),
            Self::FromHorizon => open_since(horizon),
            Self::From(time) => open_since(*time),
            Self::After(id) => shard.id > *id,
        }
    }

    fn token(&self) -> String {
        match self {
            Self::All => "all".into(),
            Self::Open => "open".into(),
            Self::OpenAtHorizon => "open-at-horizon".into(),
            Self::OpenAt(time) => format!("open-at={}", time.as_nanos()),
            Self::FromHorizon => "from-horizon".into(),
            Self::From(time) => format!("from={}", time.as_nanos()),
            Self::After(id) => format!("after={id}"),
        }
    }

    fn parse(token: &str) -> Option<Self> {
        let (name, value) = token.split_once('=').unwrap_or((token, ""));
        let time = || value.parse().ok().map(Duration::from_nanos);
        match name {
            "all" => Some(Self::All),
            "open" => Some(Self::Open),
            "open-at-horizon" => Some(Self::OpenAtHorizon),
            "open-at" => time().map(Self::OpenAt),
            "from-horizon" => Some(Self::FromHorizon),
            "from" => time().map(Self::From),
            "after" => Some(Self::After(value.into())),
            _ => None,
        }
    }
}

/// The position at which the next page of ListShards starts. Its token is plain text, so that tests can read it.
#[derive(Clone, Debug)]
struct Page {
    stream: String,
    incarnation: u64,
    after: String,
    filter: Filter,
    issued_at: Duration,
}

impl Page {
    fn token(&self) -> String {
        let Self { stream, incarnation, after, filter, issued_at } = self;
        format!("shards/{stream}/{incarnation}/{after}/{}/{}", filter.token(), issued_at.as_nanos())
    }

    fn parse(token: &str) -> Option<Self> {
        let mut parts = token.split('/');
        let mut next = || parts.next();
        (next()? == "shards").then_some(())?;
        Some(Self {
            stream: next()?.into(),
            incarnation: next()?.parse().ok()?,
            after: next()?.into(),
            filter: Filter::parse(next()?)?,
            issued_at: Duration::from_nanos(next()?.parse().ok()?),
        })
    }
}

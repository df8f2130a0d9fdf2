//! The shards of a stream, as returned by ListShards.

use anyhow::anyhow;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{Shard, ShardFilter, ShardFilterType};

use crate::connection::{explain, target};

/// A shard and its hash key range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardRange {
    pub(crate) id: String,
    pub(crate) start: u128,
    pub(crate) end: u128,
}

impl ShardRange {
    /// Returns its share of all hash keys, from 0 to 1.
    pub(crate) fn share(&self) -> f64 {
        ((self.end - self.start) as f64 + 1.0) / (u128::MAX as f64 + 1.0)
    }

    fn from_sdk(shard: Shard) -> Option<Self> {
        let range = shard.hash_key_range?;
        let (start, end) = (range.starting_hash_key.parse().ok()?, range.ending_hash_key.parse().ok()?);
        (start <= end).then_some(Self { id: shard.shard_id, start, end })
    }
}

/// Which shards to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Shards that accept records.
    Open,
    /// All shards that can be read.
    All,
}

/// Lists shards, sorted by their first hash key.
pub(crate) async fn list(client: &Client, stream: &str, which: Which) -> anyhow::Result<Vec<ShardRange>> {
    let mut shards = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let call = client.list_shards();
        let call = match token.take() {
            // Kinesis refuses a token together with any other parameter.
            Some(token) => call.next_token(token),
            None => {
                let (name, arn) = target(stream);
                let open = ShardFilter::builder().r#type(ShardFilterType::AtLatest).build().ok();
                let filter = if which == Which::Open { open } else { None };
                call.set_stream_name(name).set_stream_arn(arn).set_shard_filter(filter)
            }
        };
        let page =
            call.send().await.map_err(|error| anyhow!("cannot list the shards of {stream:?}: {}", explain(&error)))?;
        for shard in page.shards.unwrap_or_default() {
            let id = shard.shard_id.clone();
            let range = ShardRange::from_sdk(shard);
            shards.push(range.ok_or_else(|| anyhow!("shard {id:?} of {stream:?} has an invalid hash key range"))?);
        }
        token = page.next_token;
        if token.is_none() {
            shards.sort_by(|a: &ShardRange, b| (a.start, &a.id).cmp(&(b.start, &b.id)));
            return Ok(shards);
        }
    }
}

//! The stream of a dry run: its shards and its description.

use anyhow::Context;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::RecordDistributionStrategy;
use kpl_core::StreamSummary;

use crate::connection::{Connection, explain, target};
use crate::exit;
use crate::list_shards::{self, ShardRange, Which};

/// The maximum number of shards of a stream without AWS. No quota of Kinesis is higher by default.
const SHARDS_MAX: u32 = 20_000;

/// The open shards of a stream, sorted by their first hash key, and its description.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) shards: Vec<ShardRange>,
    pub(super) summary: StreamSummary,
}

impl Target {
    /// Reads the shards and the description of a stream.
    pub(super) async fn of_stream(connection: &Connection, stream: &str) -> anyhow::Result<Self> {
        let read = async {
            let client = connection.client().await?;
            let shards = list_shards::list(&client, stream, Which::Open).await?;
            anyhow::Ok(Self { summary: describe(&client, stream).await, shards })
        };
        read.await.context("a dry run reads the stream's shards, unless --shards N is given")
    }

    /// Returns a new stream with this number of shards, which have equal ranges.
    pub(super) fn with_equal_shards(shards: u32) -> anyhow::Result<Self> {
        anyhow::ensure!(
            (1..=SHARDS_MAX).contains(&shards),
            "--shards is {shards}, but must be from 1 to {SHARDS_MAX} with --dry-run"
        );
        let size = u128::MAX / u128::from(shards);
        let shard = |number: u32| ShardRange {
            id: format!("shardId-{number:012}"),
            start: u128::from(number) * size,
            end: if number + 1 == shards { u128::MAX } else { u128::from(number + 1) * size - 1 },
        };
        let summary = StreamSummary { open_shards: Some(shards as usize), ..StreamSummary::default() };
        Ok(Self { shards: (0..shards).map(shard).collect(), summary })
    }

    /// Returns the index of the shard that stores a record with this hash key.
    pub(super) fn shard(&self, hash_key: u128) -> usize {
        if self.summary.auto_distribution {
            return fastrand::usize(..self.shards.len());
        }
        self.shards.partition_point(|shard| shard.start <= hash_key).saturating_sub(1)
    }
}

/// Requests the description of a stream. Without it, the stream has the default limit, and distributes records by key: so
/// the producer assumes, too.
async fn describe(client: &Client, stream: &str) -> StreamSummary {
    let (name, arn) = target(stream);
    let output = match client.describe_stream_summary().set_stream_name(name).set_stream_arn(arn).send().await {
        Ok(output) => output,
        Err(error) => {
            exit::print_warning(&format!(
                "cannot describe {stream:?}, so a limit of 1 MiB per record is assumed: {}",
                explain(&error)
            ));
            return StreamSummary::default();
        }
    };
    let Some(summary) = output.stream_description_summary else { return StreamSummary::default() };
    StreamSummary {
        max_record_size: summary.max_record_size_in_kib.and_then(|kib| usize::try_from(kib).ok()).map(|kib| kib << 10),
        auto_distribution: summary.record_distribution_strategy == Some(RecordDistributionStrategy::Auto),
        open_shards: usize::try_from(summary.open_shard_count).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shards_cover_all_hash_keys_without_overlap() {
        for count in [1, 2, 3, 7, 1_000] {
            let target = Target::with_equal_shards(count).unwrap();
            let (first, last) = (&target.shards[0], &target.shards[count as usize - 1]);
            assert_eq!((first.start, last.end), (0, u128::MAX));
            for (index, shard) in target.shards.iter().enumerate() {
                assert_eq!((target.shard(shard.start), target.shard(shard.end)), (index, index), "{count} shards");
                assert!((shard.share() * f64::from(count) - 1.0).abs() < 1e-9, "{shard:?} of {count}");
                assert!(index == 0 || target.shards[index - 1].end + 1 == shard.start);
            }
        }
    }

    #[test]
    fn number_of_shards_is_checked() {
        let error = Target::with_equal_shards(0).unwrap_err().to_string();
        assert_eq!(error, "--shards is 0, but must be from 1 to 20000 with --dry-run");
        assert!(Target::with_equal_shards(20_001).is_err());
    }
}

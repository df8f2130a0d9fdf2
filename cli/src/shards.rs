//! `kpl shards`: shows the shard map of a stream, and the shard of a key.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Args;
use kpl_core::UserRecord;
use serde_json::json;

use crate::connection::Connection;
use crate::exit;
use crate::list_shards::{self, ShardRange, Which};
use crate::style::{HEADING, styled};

/// Shows the open shards of a stream, and the shard of a key.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kpl shards --stream events --key user-123")]
pub(crate) struct ShardsArgs {
    /// The stream's name or ARN
    #[arg(long)]
    stream: String,
    /// Show the shard for records with this partition key
    #[arg(long)]
    key: Option<String>,
    /// Show the shard for records with this explicit hash key, a decimal number below 2^128
    #[arg(long, value_name = "HASH", conflicts_with = "key")]
    explicit_hash_key: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// The hash key and the shard of the given key.
struct Place<'a> {
    hash_key: u128,
    shard: Option<&'a ShardRange>,
}

pub(crate) async fn run(args: ShardsArgs) -> anyhow::Result<ExitCode> {
    // Checks as the producer does, before any request.
    let record = UserRecord::new(args.stream.as_str(), args.key.as_deref().unwrap_or("any"), "");
    let record = UserRecord { explicit_hash_key: args.explicit_hash_key.clone(), ..record };
    let hash_key = record.prepare()?.hash_key();
    let has_key = args.key.is_some() || args.explicit_hash_key.is_some();

    let client = args.connection.client().await?;
    let shards = list_shards::list(&client, &args.stream, Which::Open).await?;
    let contains = |shard: &&ShardRange| (shard.start..=shard.end).contains(&hash_key);
    let place = has_key.then(|| Place { hash_key, shard: shards.iter().find(contains) });
    if args.json {
        exit::print(as_json(&args, &shards, place.as_ref()).as_bytes())?;
    } else {
        exit::print_styled(as_text(&args, &shards, place.as_ref()))?;
    }
    // During a reshard, a key may have no open shard.
    let has_no_shard = place.is_some_and(|place| place.shard.is_none());
    Ok(if has_no_shard { ExitCode::from(exit::FAILED) } else { ExitCode::SUCCESS })
}

fn as_text(args: &ShardsArgs, shards: &[ShardRange], place: Option<&Place<'_>>) -> String {
    let mut out = String::new();
    let width = shards.iter().map(|shard| shard.id.len()).max().unwrap_or_default().max(5);
    // Writing to a `String` cannot fail.
    let heading = format!("{:width$}  {:>39}  {:>39}  {:>7}", "SHARD", "FIRST HASH KEY", "LAST HASH KEY", "SHARE");
    let _ = writeln!(out, "{}", styled(HEADING, heading));
    for shard in shards {
        let ShardRange { id, start, end } = shard;
        let _ = writeln!(out, "{id:width$}  {start:>39}  {end:>39}  {:>6.2}%", shard.share() * 100.0);
    }
    if let Some(Place { hash_key, shard }) = place {
        let key = match &args.key {
            Some(key) => format!("partition key {key:?} has the hash key {hash_key}"),
            None => format!("hash key {hash_key}"),
        };
        let _ = match shard {
            Some(shard) => writeln!(out, "\n{key}: {}", shard.id),
            None => writeln!(out, "\n{key}: no open shard has it in its range (is a reshard in progress?)"),
        };
    }
    out
}

fn as_json(args: &ShardsArgs, shards: &[ShardRange], place: Option<&Place<'_>>) -> String {
    let list = shards.iter().map(|shard| {
        // Numbers of 128 bits are strings, as in the Kinesis API.
        json!({
            "shard_id": shard.id,
            "starting_hash_key": shard.start.to_string(),
            "ending_hash_key": shard.end.to_string(),
            "share": shard.share(),
        })
    });
    let mut object = json!({ "stream": args.stream, "shards": list.collect::<Vec<_>>() });
    if let Some(Place { hash_key, shard }) = place {
        object["key"] = json!({
            "partition_key": args.key,
            "hash_key": hash_key.to_string(),
            "shard_id": shard.map(|shard| &shard.id),
        });
    }
    format!("{object}\n")
}

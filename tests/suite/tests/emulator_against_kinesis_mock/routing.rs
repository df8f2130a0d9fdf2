//! The shards that records are stored on.

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{HashKeyRange, PutRecordsRequestEntry, Shard};

use crate::transcript::{Transcript, create_stream, describe};

const SHARDS: i32 = 7;
const KEYS: usize = 1000;

/// Puts records with a thousand keys into seven shards, whose borders are not powers of two.
pub(crate) async fn keys_and_hash_keys(client: &Client, transcript: &mut Transcript) {
    create_stream(client, "routing", SHARDS).await;
    let shards = client.list_shards().stream_name("routing").send().await.expect("shards");
    let mut borders = Vec::new();
    for (index, shard) in shards.shards().iter().enumerate() {
        transcript.note(format!("shard {index} of a new stream"), describe(shard));
        let range = shard.hash_key_range().expect("a range");
        borders.extend([range.starting_hash_key().to_owned(), range.ending_hash_key().to_owned()]);
    }
    for (index, batch) in entries(&borders).chunks(500).enumerate() {
        let request = client.put_records().stream_name("routing").set_records(Some(batch.to_vec()));
        let answer = request.send().await.expect("records are accepted");
        transcript.note(format!("failures of batch {index}"), answer.failed_record_count().unwrap_or_default());
        for (entry, result) in batch.iter().zip(answer.records()) {
            let key = entry.partition_key().unwrap_or_default();
            let hash_key = entry.explicit_hash_key().map(|text| text.parse().expect("a hash key"));
            let predicted = predict(shards.shards(), hash_key.unwrap_or_else(|| kpl_core::hash_key(key)));
            assert_eq!(result.shard_id(), predicted, "the shard of key {key:?}, hash key {hash_key:?}");
            transcript.note(format!("key {key:?}, hash key {hash_key:?}"), result.shard_id().unwrap_or_default());
        }
    }
}

/// Returns the shard whose range contains the hash key.
fn predict(shards: &[Shard], hash_key: u128) -> Option<&str> {
    let number = |text: &str| text.parse::<u128>().expect("a hash key");
    let contains = |range: &HashKeyRange| {
        (number(range.starting_hash_key())..=number(range.ending_hash_key())).contains(&hash_key)
    };
    shards.iter().find(|shard| shard.hash_key_range().is_some_and(contains)).map(Shard::shard_id)
}

/// Creates entries with keys of several scripts, blank keys, control characters and long keys, and with explicit hash
/// keys around every border.
fn entries(borders: &[String]) -> Vec<PutRecordsRequestEntry> {
    let entry = |key: String| PutRecordsRequestEntry::builder().data(Blob::new("x")).partition_key(key);
    let scripts = ["user", "用户", "käyttäjä", "пользователь", "👤", "e\u{301}", " ", "\u{0}\t\n", "a\"b\\c"];
    let explicit = borders.iter().flat_map(|border| {
        let border: u128 = border.parse().expect("a hash key");
        [border.saturating_sub(1), border, border.saturating_add(1)]
    });
    let long = ["k".repeat(256), "é".repeat(256), "👤".repeat(128)].map(entry);
    let explicit = explicit.map(|hash_key| entry("same".to_owned()).explicit_hash_key(hash_key.to_string()));
    let mut entries: Vec<_> = long.into_iter().chain(explicit).collect();
    let plain = (entries.len()..KEYS).map(|n| entry(format!("{}-{n}", scripts[n % scripts.len()])));
    entries.extend(plain);
    entries.into_iter().map(|entry| entry.build().expect("an entry")).collect()
}

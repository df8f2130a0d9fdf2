//! `kpl shards`.

use crate::rig::{Kinesis, kpl};

#[test]
fn shards_shows_the_shard_map_and_the_shard_of_a_key() {
    let kinesis = Kinesis::start(3);
    let run = kpl(&format!("shards {} --key user-123", kinesis.args()), b"");
    assert_eq!(run.code(), 0, "{run:#?}");
    let lines: Vec<_> = run.stdout.lines().collect();
    assert_eq!(lines.len(), 6, "{}", run.stdout);
    assert!(lines[1].starts_with("shardId-000000000000  "), "{}", run.stdout);
    assert!(lines[1].contains(" 0 ") && lines[1].ends_with(" 33.33%"), "{}", run.stdout);
    assert!(lines[3].contains(&u128::MAX.to_string()), "{}", run.stdout);

    // The service stores the key in the same shard.
    let put = kpl(&format!("put {} --key user-123", kinesis.args()), b"x");
    assert_eq!(put.code(), 0, "{put:#?}");
    let shard_id = kinesis.read().remove(0).shard_id;
    let hash_key = kpl_core::hash_key("user-123");
    assert_eq!(lines[5], format!("partition key \"user-123\" has the hash key {hash_key}: {shard_id}"));
}

#[test]
fn shards_prints_json() {
    let kinesis = Kinesis::start(2);
    let explicit = u128::MAX.to_string();
    let json = kpl(&format!("shards --json {} --explicit-hash-key {explicit}", kinesis.args()), b"").json();
    assert_eq!(json["stream"], "s");
    assert_eq!(json["shards"][0]["starting_hash_key"], "0");
    assert_eq!(json["shards"][1]["ending_hash_key"], explicit);
    assert_eq!(json["shards"][1]["share"], 0.5);
    assert_eq!(
        (&json["key"]["hash_key"], &json["key"]["shard_id"]),
        (&explicit.into(), &"shardId-000000000001".into())
    );
}

#[test]
fn shards_of_a_missing_stream_is_an_error() {
    let kinesis = Kinesis::start(1);
    let run = kpl(&format!("shards {}", kinesis.args().replace("--stream s", "--stream nowhere")), b"");
    assert_eq!(run.code(), 2, "{run:#?}");
    let expected = "kpl: cannot list the shards of \"nowhere\": ResourceNotFoundException: Stream nowhere";
    assert!(run.stderr.starts_with(expected), "{}", run.stderr);
}

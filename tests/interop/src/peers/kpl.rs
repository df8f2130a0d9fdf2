//! The KPL (Maven), the model of kpl: a C++ daemon with a Java API.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, ensure};
use bytes::Bytes;
use kpl_core::codec;
use serde::{Deserialize, Serialize};

use crate::Args;
use crate::corpus::{self, Case};
use crate::line::{self, Record};
use crate::report::{Comparison, Report};
use crate::service::{Service, Stored};
use crate::tools::{Java, Tools, run as run_tool};

pub(crate) async fn run(args: &Args, tools: &Tools, service: &Service, report: &mut Report) -> anyhow::Result<()> {
    let java = tools.java("kpl")?;
    let version = java.version("amazon-kinesis-producer")?;
    let cases = corpus::cases();
    // One shard results in the largest aggregates. With four, hash keys choose the aggregate.
    let mut written = Vec::new();
    for (stream, shards) in [("one-shard", 1), ("four-shards", 4)] {
        service.create_stream(stream, shards);
        written.push(Written { outcomes: put(&java, service, stream, &cases)?, stored: service.stored(stream) });
    }
    let users = corpus::records();
    report.add(&version, "stores all records at the reported positions", stores(&written, &users));
    report.add(&version, "its aggregates, decoded and encoded again by kpl", Ok(aggregates(&written)));
    report.add(&version, "sends the same Kinesis records as kpl-tokio", sends(&written, &users, service).await);
    report.add(&version, "closes aggregates at the same size as kpl-tokio", fills(&java, service).await);
    if args.capture {
        report.add(&version, "Kinesis records captured as vectors", capture(&version, &written));
    }
    Ok(())
}

/// The result of a put.
#[derive(Debug, Deserialize)]
struct Outcome {
    shard_id: Option<String>,
    sequence_number: Option<String>,
    /// The reason why the KPL refused the put.
    refused: Option<String>,
    /// The failed attempts.
    failed: Option<String>,
}

/// The results of putting all cases into a stream, and its Kinesis records.
struct Written {
    outcomes: Vec<Outcome>,
    stored: Vec<Stored>,
}

/// Puts all cases with the KPL, and flushes after each.
fn put(java: &Java, service: &Service, stream: &str, cases: &[Case]) -> anyhow::Result<Vec<Outcome>> {
    let mut command = java.program("PutWithKpl.java");
    command.args([&*service.https().url(), stream]).arg(java.folder());
    let records = cases.iter().map(|case| &case.records);
    let outcomes: Vec<Outcome> = line::read(&run_tool(service.configure(&mut command), &line::write(records))?)?;
    let put: usize = cases.iter().map(|case| case.records.len()).sum();
    ensure!(outcomes.len() == put, "{} results for {put} records", outcomes.len());
    Ok(outcomes)
}

/// Returns the user records in a Kinesis record. If it is not an aggregate, the user record gets the explicit hash key
/// only if that is not the hash of its partition key, because the KPL always sends one.
fn user_records(sent: &Record) -> anyhow::Result<Vec<Record>> {
    if codec::is_aggregated(&sent.data)
        && sent.partition_key == codec::AGGREGATE_PARTITION_KEY
        && let Ok(users) = codec::decode(sent.data.clone())
    {
        return Ok(users.into_iter().map(Record::from).collect());
    }
    let mut user =
        Record { partition_key: sent.partition_key.clone(), explicit_hash_key: None, data: sent.data.clone() };
    let sent = sent.explicit_hash_key.clone().context("a record of the KPL without an explicit hash key")?;
    if sent != hash_key(&user) {
        user.explicit_hash_key = Some(sent);
    }
    Ok(vec![user])
}

/// Returns the explicit hash key, or the hash of the partition key.
fn hash_key(user: &Record) -> String {
    let by_key = || kpl_core::hash_key(&user.partition_key).to_string();
    user.explicit_hash_key.clone().unwrap_or_else(by_key)
}

fn stores(written: &[Written], users: &[Record]) -> anyhow::Result<Comparison> {
    let mut comparison = Comparison::default();
    for Written { outcomes, stored } in written {
        let (mut reported, mut found) = (Vec::new(), Vec::new());
        for (user, outcome) in users.iter().zip(outcomes) {
            let Outcome { shard_id, sequence_number, refused, failed } = outcome;
            // The KPL counts UTF-16 units. Kinesis counts characters.
            let too_long = user.partition_key.encode_utf16().count() > 256;
            if too_long {
                comparison.check(refused.is_some(), || format!("{user:?} was accepted"));
            } else {
                let why = refused.iter().chain(failed).next();
                ensure!(why.is_none(), "{:.50}: {why:?}", user.partition_key);
                reported.push((shard_id.clone(), sequence_number.clone(), user.clone()));
            }
        }
        for Stored { shard_id, sequence_number, sent } in stored {
            let place = (Some(shard_id.clone()), Some(sequence_number.clone()));
            found.extend(user_records(sent)?.into_iter().map(|user| (place.0.clone(), place.1.clone(), user)));
        }
        comparison.multisets(reported, found);
    }
    Ok(comparison)
}

fn aggregates(written: &[Written]) -> Comparison {
    let mut comparison = Comparison::default();
    for Stored { sent, .. } in written.iter().flat_map(|written| &written.stored) {
        // Not `is_aggregated`, because the data of some plain records are similar to an aggregate.
        if sent.partition_key == codec::AGGREGATE_PARTITION_KEY {
            let same = codec::decode(sent.data.clone()).is_ok_and(|users| codec::encode(&users) == sent.data);
            comparison.check(same, || format!("{sent:?}"));
        }
    }
    comparison
}

/// Puts the user records of each of the KPL's Kinesis records with kpl-tokio, and compares the Kinesis records.
async fn sends(written: &[Written], users: &[Record], service: &Service) -> anyhow::Result<Comparison> {
    const STREAM: &str = "sent-again";
    service.create_stream(STREAM, 1);
    // A single Kinesis record does not show whether its user record was put with an explicit hash key.
    let as_put: BTreeMap<_, _> = users.iter().map(|u| ((&*u.partition_key, &u.data, hash_key(u)), u)).collect();
    let theirs: Vec<&Record> = written.iter().flat_map(|written| &written.stored).map(|stored| &stored.sent).collect();
    let mut cases = Vec::new();
    for sent in &theirs {
        let mut records = user_records(sent)?;
        if let [single] = &mut records[..] {
            let key = (&*single.partition_key, &single.data, hash_key(single));
            *single = Record::clone(as_put.get(&key).context("a record that was not put")?);
        }
        cases.push(Case { name: "a Kinesis record of the KPL", records });
    }
    service.put_with_kpl_tokio(STREAM, &cases).await?;
    let ours = service.stored(STREAM);
    let mut comparison = Comparison::default();
    comparison.multisets(theirs.into_iter().cloned(), ours.into_iter().map(|stored| stored.sent));
    Ok(comparison)
}

/// Puts pairs of records around the maximum size of an aggregate, and larger records, with both producers.
async fn fills(java: &Java, service: &Service) -> anyhow::Result<Comparison> {
    const THEIRS: &str = "limits";
    const OURS: &str = "limits-ours";
    let cases = corpus::cases_at_the_size_limit(51_200);
    service.create_stream(THEIRS, 1);
    service.create_stream(OURS, 1);
    put(java, service, THEIRS, &cases)?;
    service.put_with_kpl_tokio(OURS, &cases).await?;
    // In any order: the KPL's threads can reorder records before it aggregates them.
    let shapes = |stream| -> anyhow::Result<Vec<(usize, Vec<Record>)>> {
        let shape = |stored: Stored| {
            let mut users = user_records(&stored.sent)?;
            users.sort_unstable();
            Ok((stored.sent.data.len(), users))
        };
        service.stored(stream).into_iter().map(shape).collect()
    };
    let mut comparison = Comparison::default();
    comparison.multisets(shapes(THEIRS)?, shapes(OURS)?);
    Ok(comparison)
}

/// A Kinesis record of the vectors of kpl-core's unit tests.
#[derive(Serialize)]
struct Vector {
    partition_key: String,
    explicit_hash_key: Option<String>,
    records: Vec<VectorRecord>,
    aggregate_hex: String,
}

#[derive(Serialize)]
struct VectorRecord {
    partition_key: String,
    explicit_hash_key: Option<String>,
    data_hex: String,
}

/// Writes the KPL's Kinesis records of up to 2,000 bytes to a file that the tests of kpl-core read.
fn capture(version: &str, written: &[Written]) -> anyhow::Result<Comparison> {
    const SIZE_MAX: usize = 2_000;
    let hex = |data: &Bytes| data.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let all = written.iter().flat_map(|written| &written.stored).map(|stored| &stored.sent);
    let mut comparison = Comparison::default();
    let mut lines = Vec::new();
    // A set, because some are in both streams.
    for sent in all.filter(|sent| sent.data.len() <= SIZE_MAX).collect::<BTreeSet<_>>() {
        let record = |user: Record| VectorRecord {
            partition_key: user.partition_key,
            explicit_hash_key: user.explicit_hash_key,
            data_hex: hex(&user.data),
        };
        let vector = Vector {
            partition_key: sent.partition_key.clone(),
            explicit_hash_key: sent.explicit_hash_key.clone(),
            records: user_records(sent)?.into_iter().map(record).collect(),
            aggregate_hex: hex(&sent.data),
        };
        lines.push(serde_json::to_string(&vector)?);
        comparison.same();
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../core/tests/data/kpl.json");
    let text = format!("{{\n\"source\": \"{version}\",\n\"cases\": [\n{}\n]\n}}\n", lines.join(",\n"));
    std::fs::write(&file, text).with_context(|| file.display().to_string())?;
    Ok(comparison)
}

//! aiokpl (PyPI): a producer in Python, modeled on the KPL's C++ code.

use anyhow::{Context, ensure};
use bytes::Bytes;
use kpl_core::codec::{self, AggregatedUserRecord};
use kpl_core::hash_key;
use serde::Deserialize;

use crate::Args;
use crate::corpus;
use crate::line::{self, Read, Record};
use crate::report::{Comparison, Report};
use crate::service::Service;
use crate::tools::{Python, Tools, run as run_tool};

pub(crate) async fn run(args: &Args, tools: &Tools, service: &Service, report: &mut Report) -> anyhow::Result<()> {
    let python = tools.python("aiokpl")?;
    let version = python.version("aiokpl")?;
    report.add(&version, "encodes random batches to the same bytes as kpl", encodes(args, &python));
    report.add(&version, "stores all records at the reported positions", puts(&python, service));
    report.add(&version, "stores the same Kinesis records as kpl, including keys", stores(service));
    report.add(&version, "reads what kpl-tokio stored", reads(&python, service).await);
    Ok(())
}

/// Encodes the same batches with its encoder and with kpl's.
fn encodes(args: &Args, python: &Python) -> anyhow::Result<Comparison> {
    #[derive(Deserialize)]
    struct Encoded {
        #[serde(with = "line::blob")]
        data: Bytes,
    }
    let batches: Vec<Vec<Record>> = corpus::random_batches(args.seed, args.batches).collect();
    let output = run_tool(&mut python.script("aggregate_with_aiokpl.py"), &line::write(&batches))?;
    let theirs: Vec<Encoded> = line::read(&output)?;
    ensure!(theirs.len() == batches.len(), "{} results for {} batches", theirs.len(), batches.len());
    let mut comparison = Comparison::default();
    for (n, (batch, theirs)) in batches.iter().zip(theirs).enumerate() {
        let same = match &**batch {
            // It does not encode a single record, as producers do not.
            [alone] => alone.data == theirs.data,
            _ => encode(batch)? == theirs.data,
        };
        comparison.check(same, || format!("batch {n} of seed {}", args.seed));
    }
    Ok(comparison)
}

fn encode(users: &[Record]) -> anyhow::Result<Vec<u8>> {
    let records: Vec<AggregatedUserRecord> = users.iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
    Ok(codec::encode(&records))
}

const STREAM: &str = "theirs";

/// Puts all cases with its producer, and compares the stored records with its results.
fn puts(python: &Python, service: &Service) -> anyhow::Result<Comparison> {
    service.create_stream(STREAM, 4);
    let cases = corpus::cases();
    let input = line::write(cases.iter().map(|case| &case.records));
    let output = run_tool(service.configure(&mut python.script("put_with_aiokpl.py")).arg(STREAM), &input)?;
    let receipts: Vec<Read> = line::read(&output)?;
    let mut comparison = Comparison::default();
    let users = receipts.iter().map(|receipt| Record {
        partition_key: receipt.partition_key.clone(),
        explicit_hash_key: receipt.explicit_hash_key.clone(),
        data: receipt.data.clone(),
    });
    ensure!(users.eq(corpus::records()), "the receipts are not those of the put records");
    let mut read = Vec::new();
    for stored in stored(service)? {
        read.extend(stored.users.into_iter().map(|user| Read {
            shard_id: stored.shard_id.clone(),
            sequence_number: stored.sequence_number.clone(),
            // It does not report sub-sequence numbers.
            sub_sequence_number: 0,
            partition_key: user.partition_key,
            explicit_hash_key: user.explicit_hash_key,
            data: user.data,
        }));
    }
    comparison.multisets(receipts, read);
    Ok(comparison)
}

/// Compares each Kinesis record that it stored with kpl's encoding of the same user records.
fn stores(service: &Service) -> anyhow::Result<Comparison> {
    let mut comparison = Comparison::default();
    for Stored { shard_id, sequence_number, range, partition_key, explicit_hash_key, data, users } in stored(service)? {
        let keys: Vec<u128> = users.iter().map(user_hash_key).collect::<Result<_, _>>()?;
        let same = if codec::is_aggregated(&data) {
            encode(&users)? == data
                && partition_key == codec::AGGREGATE_PARTITION_KEY
                && explicit_hash_key.as_ref() == keys.first()
        } else {
            // Not an aggregate. kpl and the KPL would add the partition key's hash, which means the same shard.
            partition_key == users[0].partition_key
                && explicit_hash_key.map(|key| key.to_string()) == users[0].explicit_hash_key
        };
        // Otherwise the KCL drops it.
        let in_range = keys.iter().all(|key| (range.0..=range.1).contains(key));
        comparison.check(same && in_range, || {
            format!(
                "{sequence_number} on {shard_id}, of {} user records: {partition_key:?}, {explicit_hash_key:?}",
                users.len()
            )
        });
    }
    Ok(comparison)
}

fn user_hash_key(user: &Record) -> anyhow::Result<u128> {
    let explicit = user.explicit_hash_key.as_ref().map(|key| key.parse().context("a hash key")).transpose()?;
    Ok(explicit.unwrap_or_else(|| hash_key(&user.partition_key)))
}

/// A stored Kinesis record and its user records, as kpl decodes them.
struct Stored {
    shard_id: String,
    sequence_number: String,
    range: (u128, u128),
    partition_key: String,
    explicit_hash_key: Option<u128>,
    data: Bytes,
    users: Vec<Record>,
}

fn stored(service: &Service) -> anyhow::Result<Vec<Stored>> {
    service.emulator.with(|kinesis, _| {
        let records = kinesis.records(STREAM).map(|(shard_id, range, record)| {
            let users = if codec::is_aggregated(&record.data) {
                codec::decode(record.data.clone())?.into_iter().map(Into::into).collect()
            } else {
                vec![Record::new(&*record.partition_key, record.explicit_hash_key, &record.data)]
            };
            Ok(Stored {
                shard_id: shard_id.to_owned(),
                sequence_number: record.sequence_number.clone(),
                range,
                partition_key: record.partition_key.clone(),
                explicit_hash_key: record.explicit_hash_key,
                data: record.data.clone(),
                users,
            })
        });
        records.collect()
    })
}

async fn reads(python: &Python, service: &Service) -> anyhow::Result<Comparison> {
    const STREAM: &str = "ours";
    service.create_stream(STREAM, 4);
    let expected = service.put_with_kpl_tokio(STREAM, &corpus::cases()).await?;
    let output = run_tool(service.configure(&mut python.script("read_with_aiokpl.py")).arg(STREAM), "")?;
    let mut comparison = Comparison::default();
    comparison.multisets(expected, line::read::<Read>(&output)?);
    Ok(comparison)
}

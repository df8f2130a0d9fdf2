//! aiokpl (PyPI): a producer in Python, after the C++ KPL.

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
    report.add(&version, "encodes random batches as we do", encodes(args, &python));
    report.add(&version, "puts the corpus, and we read it where it says", puts(&python, service));
    report.add(&version, "stores what we would store of these user records, keys as well", stores(service));
    report.add(&version, "reads what kpl-tokio stored", reads(&python, service).await);
    Ok(())
}

/// The same batches through its encoder and ours.
fn encodes(args: &Args, python: &Python) -> anyhow::Result<Comparison> {
    #[derive(Deserialize)]
    struct Encoded {
        #[serde(with = "line::blob")]
        data: Bytes,
    }
    let batches: Vec<Vec<Record>> = corpus::random_batches(args.seed, args.batches).collect();
    let output = run_tool(&mut python.script("aggregate_with_aiokpl.py"), &line::write(&batches))?;
    let theirs: Vec<Encoded> = line::read(&output)?;
    ensure!(theirs.len() == batches.len(), "{} batches came back, and {} went", theirs.len(), batches.len());
    let mut comparison = Comparison::default();
    for (n, (batch, theirs)) in batches.iter().zip(theirs).enumerate() {
        let same = match &**batch {
            // It leaves one record as it is, as producers do.
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

/// Its producer puts all cases, and says where each record went.
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
    ensure!(users.eq(corpus::records()), "the receipts are for what was put");
    let mut read = Vec::new();
    for stored in stored(service)? {
        read.extend(stored.users.into_iter().map(|user| Read {
            shard_id: stored.shard_id.clone(),
            sequence_number: stored.sequence_number.clone(),
            // It tells no sub-sequence numbers.
            sub_sequence_number: 0,
            partition_key: user.partition_key,
            explicit_hash_key: user.explicit_hash_key,
            data: user.data,
        }));
    }
    comparison.multisets(receipts, read);
    Ok(comparison)
}

/// Each Kinesis record that it stored.
fn stores(service: &Service) -> anyhow::Result<Comparison> {
    let mut comparison = Comparison::default();
    for Stored { shard_id, sequence_number, range, partition_key, explicit_hash_key, data, users } in stored(service)? {
        let keys: Vec<u128> = users.iter().map(user_hash_key).collect::<Result<_, _>>()?;
        let ours = if codec::is_aggregated(&data) {
            encode(&users)? == data
                && partition_key == codec::AGGREGATE_PARTITION_KEY
                && explicit_hash_key.as_ref() == keys.first()
        } else {
            // The user record as it is. We, as the KPL, send its hash key even if it was put without one: the same place.
            partition_key == users[0].partition_key
                && explicit_hash_key.map(|key| key.to_string()) == users[0].explicit_hash_key
        };
        // Or a KCL consumer drops it.
        let in_place = keys.iter().all(|key| (range.0..=range.1).contains(key));
        comparison.check(ours && in_place, || {
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

/// A Kinesis record, and what we read in it.
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
    let expected = service.put_by_ours(STREAM, &corpus::cases()).await?;
    let output = run_tool(service.configure(&mut python.script("read_with_aiokpl.py")).arg(STREAM), "")?;
    let mut comparison = Comparison::default();
    comparison.multisets(expected, line::read::<Read>(&output)?);
    Ok(comparison)
}

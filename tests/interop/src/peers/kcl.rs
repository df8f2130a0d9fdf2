//! The KCL (Maven): AWS's consumer library, which deaggregates records itself.

use anyhow::ensure;
use kpl_core::codec::{self, AggregatedUserRecord};
use kpl_emulator::api::PutRecord;
use kpl_emulator::consumer::{ConsumedRecord, OutOfRange, read_stream_with};

use crate::corpus;
use crate::line::{self, Read};
use crate::report::{Comparison, Report};
use crate::service::Service;
use crate::tools::{Java, Tools, run as run_tool};

pub(crate) async fn run(tools: &Tools, service: &Service, report: &mut Report) -> anyhow::Result<()> {
    let java = tools.java("kcl")?;
    let version = java.version("amazon-kinesis-client")?;
    report.add(&version, "reads what kpl-tokio stored, in CBOR over HTTP/2", reads(&java, service).await);
    let direction = "drops an aggregate with a user record outside the shard's range";
    report.add(&version, direction, drops(&java, service));
    Ok(())
}

fn read(java: &Java, service: &Service, stream: &str) -> anyhow::Result<Vec<Read>> {
    line::read(&run_tool(service.configure(&mut java.program("ReadWithKcl.java")).arg(stream), "")?)
}

async fn reads(java: &Java, service: &Service) -> anyhow::Result<Comparison> {
    const STREAM: &str = "events";
    service.create_stream(STREAM, 4);
    let expected = service.put_with_kpl_tokio(STREAM, &corpus::cases()).await?;
    let mut comparison = Comparison::default();
    comparison.multisets(expected, read(java, service, STREAM)?);
    Ok(comparison)
}

/// Stores aggregates with a user record outside the shard's range at the beginning, in the middle and at the end,
/// between other aggregates. Compares the KCL with the emulator's model of it.
fn drops(java: &Java, service: &Service) -> anyhow::Result<Comparison> {
    const STREAM: &str = "outside";
    service.create_stream(STREAM, 2);
    let (inside, outside) = (1_u128, u128::MAX);
    let aggregates: [&[u128]; 5] = [
        &[inside; 3],
        &[outside, inside, inside],
        &[inside, outside, inside],
        &[inside, inside, outside],
        &[inside; 2],
    ];
    service.emulator.with(|kinesis, now| {
        aggregates.iter().enumerate().try_for_each(|(n, hash_keys)| {
            let user = |hash_key: &u128| AggregatedUserRecord {
                partition_key: "key".into(),
                explicit_hash_key: Some(*hash_key),
                data: format!("aggregate {n}").into(),
            };
            let data = codec::encode(&hash_keys.iter().map(user).collect::<Vec<_>>());
            let put = PutRecord { explicit_hash_key: Some("0".into()), ..PutRecord::new(STREAM, "a", data) };
            kinesis.put_record(now, put).map(drop)
        })
    })?;
    let model =
        |out_of_range| service.emulator.with(|kinesis, _| read_stream_with(kinesis, STREAM, out_of_range).records);
    let (drops_aggregate, drops_itself) = (model(OutOfRange::DropsAggregate), model(OutOfRange::DropsItself));
    ensure!(drops_aggregate.len() == 5 && drops_itself.len() == 11, "the cases do not distinguish the two models");
    let mut comparison = Comparison::default();
    comparison.multisets(drops_aggregate.into_iter().map(Read::from), read(java, service, STREAM)?);
    Ok(comparison)
}

impl From<ConsumedRecord> for Read {
    fn from(record: ConsumedRecord) -> Self {
        Self {
            shard_id: record.shard_id,
            sequence_number: record.sequence_number,
            sub_sequence_number: record.sub_sequence_number,
            partition_key: record.partition_key,
            explicit_hash_key: record.explicit_hash_key.map(|key| key.to_string()),
            data: record.data,
        }
    }
}

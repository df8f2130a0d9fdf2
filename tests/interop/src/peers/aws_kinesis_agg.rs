//! aws-kinesis-agg (PyPI): AWS's aggregation and deaggregation for Python.

use anyhow::ensure;
use kpl_core::codec::{self, AggregatedUserRecord};

use crate::Args;
use crate::corpus::{self, Case};
use crate::line::{self, Read, Record};
use crate::report::{Comparison, Report};
use crate::service::Service;
use crate::tools::{Python, Tools, run as run_tool};

const STREAM: &str = "events";

pub(crate) async fn run(args: &Args, tools: &Tools, service: &Service, report: &mut Report) -> anyhow::Result<()> {
    let python = tools.python("aws-kinesis-agg")?;
    let version = python.version("aws-kinesis-agg")?;
    report.add(&version, "encodes random batches to the same bytes as kpl, which decodes them", encodes(args, &python));
    report.add(&version, "reads what kpl-tokio stored, with boto3", reads(&python, service).await);
    Ok(())
}

/// Encodes the same batches with its encoder and with kpl's.
fn encodes(args: &Args, python: &Python) -> anyhow::Result<Comparison> {
    let batches: Vec<Vec<Record>> = corpus::random_batches(args.seed, args.batches).collect();
    let output = run_tool(&mut python.script("aggregate.py"), &line::write(&batches))?;
    compare(&batches, &output, |n| format!("batch {n} of seed {}", args.seed))
}

/// Compares its encoder's output with kpl's encoding of the same batches.
pub(super) fn compare(
    batches: &[Vec<Record>],
    output: &str,
    reproduce: impl Fn(usize) -> String,
) -> anyhow::Result<Comparison> {
    let theirs: Vec<Record> = line::read(output)?;
    ensure!(theirs.len() == batches.len(), "{} results for {} batches", theirs.len(), batches.len());
    let mut comparison = Comparison::default();
    for (n, (batch, theirs)) in batches.iter().zip(theirs).enumerate() {
        let ours: Vec<AggregatedUserRecord> = batch.iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        let same =
            codec::encode(&ours) == theirs.data && codec::decode(theirs.data).is_ok_and(|decoded| decoded == ours);
        comparison.check(same, || reproduce(n));
    }
    Ok(comparison)
}

async fn reads(python: &Python, service: &Service) -> anyhow::Result<Comparison> {
    service.create_stream(STREAM, 4);
    let cases: Vec<Case> = corpus::cases();
    let expected = service.put_with_kpl_tokio(STREAM, &cases).await?;
    let output = run_tool(service.configure(&mut python.script("read_with_aws_kinesis_agg.py")).arg(STREAM), "")?;
    let mut comparison = Comparison::default();
    // It does not report explicit hash keys reliably: see peers/python/read_with_aws_kinesis_agg.py.
    let expected = expected.into_iter().map(|read| Read { explicit_hash_key: None, ..read });
    comparison.multisets(expected, line::read::<Read>(&output)?);
    Ok(comparison)
}

//! aws-kinesis-agg (npm): AWS's own aggregation and deaggregation for Node.

use std::collections::HashSet;

use super::aws_kinesis_agg::compare;
use crate::Args;
use crate::corpus;
use crate::line::{self, Read, Record};
use crate::report::{Comparison, Report};
use crate::service::Service;
use crate::tools::{Node, Tools, run as run_tool};

const STREAM: &str = "events";

pub(crate) async fn run(args: &Args, tools: &Tools, service: &Service, report: &mut Report) -> anyhow::Result<()> {
    const NAME: &str = "aws-kinesis-agg";
    let node = tools.node()?;
    let (version, sdk) = (node.version(NAME)?, node.version("@aws-sdk/client-kinesis")?);
    let peer = version.replace(NAME, "aws-kinesis-agg for Node");
    report.add(&peer, "encodes random batches as we do, and we decode them", encodes(args, &node));
    report.add(&peer, &format!("reads what kpl-tokio stored, with {sdk}"), reads(&node, service).await);
    Ok(())
}

/// The same batches through its encoder and ours.
fn encodes(args: &Args, node: &Node) -> anyhow::Result<Comparison> {
    // It keeps its tables of keys in objects, which JavaScript puts in an order of its own: small numbers come first. So
    // a table may not have the order that the records refer to, and their keys are mixed up. Nobody can read such an
    // aggregate, hence these batches are left out.
    let batches: Vec<Vec<Record>> =
        corpus::random_batches(args.seed, args.batches).filter(|batch| keeps_order(batch)).collect();
    let output = run_tool(&mut node.script("aggregate.mjs"), &line::write(&batches))?;
    compare(&batches, &output, |n| format!("batch {n} of seed {}, less those that JavaScript reorders", args.seed))
}

/// Whether the properties of JavaScript's objects come in the order in which the batch uses its keys.
fn keeps_order(batch: &[Record]) -> bool {
    let partition_keys = batch.iter().map(|user| &*user.partition_key);
    let hash_keys = batch.iter().filter_map(|user| user.explicit_hash_key.as_deref());
    in_order(partition_keys) && in_order(hash_keys)
}

/// First what it takes for indexes of an array, by number; then the others, as they came.
fn in_order<'a>(keys: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = HashSet::new();
    let places = keys.filter(|key| seen.insert(*key)).map(|key| {
        let index = key.parse::<u32>().ok().filter(|n| *n < u32::MAX && n.to_string() == key);
        index.map_or(u64::from(u32::MAX), u64::from)
    });
    places.is_sorted()
}

async fn reads(node: &Node, service: &Service) -> anyhow::Result<Comparison> {
    service.create_stream(STREAM, 4);
    let expected = service.put_by_ours(STREAM, &corpus::cases()).await?;
    let output = run_tool(service.configure(&mut node.script("read_with_aws_kinesis_agg.mjs")).arg(STREAM), "")?;
    let mut comparison = Comparison::default();
    // It does not tell explicit hash keys reliably: peers/node/read_with_aws_kinesis_agg.mjs.
    let expected = expected.into_iter().map(|read| Read { explicit_hash_key: None, ..read });
    comparison.multisets(expected, line::read::<Read>(&output)?);
    Ok(comparison)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn javascript_puts_small_numbers_first() {
        for (keys, kept) in [
            (&["b", "a", "b"] as &[_], true),
            (&["1", "20", "a", "20"], true),
            (&["20", "1"], false),
            (&["a", "1"], false),
            (&["a", "01", "-1", "4294967295"], true),
            (&["a", "4294967294"], false),
        ] {
            assert_eq!(in_order(keys.iter().copied()), kept, "{keys:?}");
        }
    }
}

//! aws-kinesis-agg (npm): AWS's aggregation and deaggregation for Node.

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
    report.add(&peer, "encodes random batches to the same bytes as kpl, which decodes them", encodes(args, &node));
    report.add(&peer, &format!("reads what kpl-tokio stored, with {sdk}"), reads(&node, service).await);
    Ok(())
}

/// Encodes the same batches with its encoder and with kpl's.
fn encodes(args: &Args, node: &Node) -> anyhow::Result<Comparison> {
    // Its tables of keys are JavaScript objects, whose properties are in an order of their own: small integers come
    // first. If that is not the order in which the records use the keys, the records get wrong keys. Such an aggregate
    // cannot be decoded, so these batches are skipped.
    let batches: Vec<Vec<Record>> =
        corpus::random_batches(args.seed, args.batches).filter(|batch| batch_is_in_order(batch)).collect();
    let output = run_tool(&mut node.script("aggregate.mjs"), &line::write(&batches))?;
    compare(&batches, &output, |n| format!("batch {n} of seed {}, without those that JavaScript reorders", args.seed))
}

/// Returns whether JavaScript's order of properties is the order in which the batch uses its keys.
fn batch_is_in_order(batch: &[Record]) -> bool {
    let partition_keys = batch.iter().map(|user| &*user.partition_key);
    let hash_keys = batch.iter().filter_map(|user| user.explicit_hash_key.as_deref());
    is_in_order(partition_keys) && is_in_order(hash_keys)
}

/// Returns whether keys are in JavaScript's order: array indexes by number, then other keys by insertion.
fn is_in_order<'a>(keys: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = HashSet::new();
    let places = keys.filter(|key| seen.insert(*key)).map(|key| {
        let index = key.parse::<u32>().ok().filter(|n| *n < u32::MAX && n.to_string() == key);
        index.map_or(u64::from(u32::MAX), u64::from)
    });
    places.is_sorted()
}

async fn reads(node: &Node, service: &Service) -> anyhow::Result<Comparison> {
    service.create_stream(STREAM, 4);
    let expected = service.put_with_kpl_tokio(STREAM, &corpus::cases()).await?;
    let output = run_tool(service.configure(&mut node.script("read_with_aws_kinesis_agg.mjs")).arg(STREAM), "")?;
    let mut comparison = Comparison::default();
    // It does not report explicit hash keys reliably: see peers/node/read_with_aws_kinesis_agg.mjs.
    let expected = expected.into_iter().map(|read| Read { explicit_hash_key: None, ..read });
    comparison.multisets(expected, line::read::<Read>(&output)?);
    Ok(comparison)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn javascript_orders_array_indexes_first() {
        for (keys, in_js_order) in [
            (&["b", "a", "b"] as &[_], true),
            (&["1", "20", "a", "20"], true),
            (&["20", "1"], false),
            (&["a", "1"], false),
            (&["a", "01", "-1", "4294967295"], true),
            (&["a", "4294967294"], false),
        ] {
            assert_eq!(is_in_order(keys.iter().copied()), in_js_order, "{keys:?}");
        }
    }
}

//! The AWS SDK alone.

use anyhow::Context;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use tokio::task::JoinSet;

use crate::setup::{Endpoint, Measured, client};
use crate::usage::Start;
use crate::work::{STREAM, Work};

/// Measures the AWS SDK alone: requests of 500 records, 24 in flight.
pub(super) async fn run(endpoint: &Endpoint, work: &Work) -> anyhow::Result<Measured> {
    const RECORDS_MAX: u64 = 500;
    const REQUESTS_IN_FLIGHT: usize = 24;
    // The limit of a request is 10 MiB.
    let records_per_request = RECORDS_MAX.min((9 << 20) / work.record_size()).max(1);
    let client = client::<kpl_tokio::Tokio>(endpoint)?;
    let source = work.source();
    let warm = client.put_record().stream_name(STREAM).partition_key("warm").data(Blob::new("up"));
    warm.send().await?;

    let start = Start::now();
    let mut requests = JoinSet::new();
    let (mut stored, mut first, mut outstanding) = (0, 0, 0);
    while first < work.records || !requests.is_empty() {
        if first == work.records || requests.len() == REQUESTS_IN_FLIGHT {
            stored += requests.join_next().await.context("no request is in flight")???;
            continue;
        }
        let end = work.records.min(first + records_per_request);
        let entries = (first..end).map(|n| {
            let data = Blob::new(Vec::from(work.data(&source, n)));
            PutRecordsRequestEntry::builder().partition_key(work.key(n)).data(data).build()
        });
        let entries: Vec<_> = entries.collect::<Result<_, _>>()?;
        let call = client.put_records().stream_name(STREAM).set_records(Some(entries));
        requests.spawn(async move {
            let output = call.send().await?;
            anyhow::Ok(output.records.iter().filter(|record| record.sequence_number.is_some()).count() as u64)
        });
        outstanding = outstanding.max(requests.len() as u64 * records_per_request * work.record_size());
        first = end;
    }
    Ok(Measured { usage: start.usage(), stored, outstanding: Some(outstanding), ..Measured::default() })
}

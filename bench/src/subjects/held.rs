//! What memory holds of records that are outstanding: all are put, none is sent, and only then they go.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kpl_core::{Batch, DescribeStreamRequest, ListShardsRequest, Reply, RequestError, ShardPage, StreamSummary};
use kpl_driver::{AwsRuntime, AwsTransport, Outcome, Producer, Transport};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::setup::{Measured, STREAM, client, config};
use crate::usage::{Start, heap, resident};
use crate::work::Work;

/// Resident memory around two bursts. The first shows what a record takes; the second, whether memory grows: an allocator
/// keeps some of what it once had.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    bursts: [Burst; 2],
    /// Bytes of resident memory that an outstanding record of the first burst takes beyond its key, and its data where
    /// they are its own. The outcome that the application holds is in it.
    pub(crate) bytes_per_record: f64,
}

/// Memory around a burst.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Burst {
    /// Nothing is outstanding.
    before: Memory,
    /// Everything is.
    full: Memory,
    /// Everything is stored, and all receipts are dropped.
    after: Memory,
}

/// In KiB.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Memory {
    resident: u64,
    /// Of that, what is in use and not kept by the allocator: with the feature `count-allocations`.
    heap: Option<u64>,
}

/// The service behind a gate: a request waits there before it is encoded, as it were at the end of a long queue.
struct Gated {
    service: AwsTransport,
    open: watch::Receiver<bool>,
}

impl Transport for Gated {
    async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
        // An error means that nobody will open it any more: the run has ended.
        let _ = self.open.clone().wait_for(|open| *open).await;
        self.service.put_records(batch).await
    }

    async fn list_shards(&self, request: &ListShardsRequest) -> Result<ShardPage, RequestError> {
        self.service.list_shards(request).await
    }

    async fn describe_stream(&self, request: &DescribeStreamRequest) -> Result<StreamSummary, RequestError> {
        self.service.describe_stream(request).await
    }
}

pub(super) async fn run<R: AwsRuntime>(url: &str, work: &Work) -> anyhow::Result<Measured> {
    let room = usize::try_from(work.records)?;
    // What waits is not to expire.
    let config = config().max_outstanding_records(room).max_outstanding_bytes(1 << 40).record_ttl(Duration::MAX);
    let config = config.build()?;
    let (gate, open) = watch::channel(true);
    let service = AwsTransport::new::<R>(&client::<R>(url)?, config.request_timeout());
    let producer = Producer::<R>::with_transport(R::default(), Gated { service, open }, config);
    producer.put(STREAM, "warm", "up").await?.await?;
    let source = work.source();

    let start = Start::now();
    let (first, outstanding, stored) = burst(&producer, &gate, work, &source).await?;
    let (second, _, _) = burst(&producer, &gate, work, &source).await?;
    let usage = start.usage();
    producer.close().await;
    let given = if work.own_data { work.record_size() } else { work.record_size() - work.size };
    let grown = first.full.resident.saturating_sub(first.before.resident) * 1_024;
    let bytes_per_record = grown as f64 / work.records as f64 - given as f64;
    let held = Some(Held { bursts: [first, second], bytes_per_record });
    Ok(Measured { usage, stored, outstanding: Some(outstanding), held, ..Measured::default() })
}

/// Memory, the bytes that were outstanding, and the records that were stored.
async fn burst<R: AwsRuntime>(
    producer: &Producer<R>,
    gate: &watch::Sender<bool>,
    work: &Work,
    source: &bytes::Bytes,
) -> anyhow::Result<(Burst, u64, u64)> {
    let stream = Arc::<str>::from(STREAM);
    gate.send_replace(false);
    let before = at_rest::<R>().await?;
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(work.records as usize);
    for n in 0..work.records {
        outcomes.push(producer.put(stream.clone(), work.key(n), work.data(source, n)).await?);
    }
    let full = at_rest::<R>().await?;
    let outstanding = producer.outstanding_bytes() as u64;
    gate.send_replace(true);
    producer.flush().await;
    let mut stored = 0;
    for outcome in outcomes {
        stored += u64::from(outcome.await.is_ok());
    }
    let after = at_rest::<R>().await?;
    Ok((Burst { before, full, after }, outstanding, stored))
}

/// Memory, when tasks have come to their ends or to their gate.
async fn at_rest<R: AwsRuntime>() -> anyhow::Result<Memory> {
    let runtime = R::default();
    kpl_driver::Runtime::sleep_until(&runtime, kpl_driver::Runtime::now(&runtime) + Duration::from_millis(200)).await;
    let resident = resident().context("this system does not tell what memory a process has")?;
    Ok(Memory { resident, heap: heap() })
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / 1_024.0;
        for (name, Burst { before, full, after }) in ["first", "second"].iter().zip(self.bursts) {
            let resident = [before, full, after].map(|memory| mib(memory.resident));
            let ratio = resident[2] / resident[0];
            let [before_mib, full_mib, after_mib] = resident;
            write!(f, "  {name:>6} burst: {before_mib:.1} MiB before, {full_mib:.1} full, {after_mib:.1} after")?;
            writeln!(f, " ({ratio:.2} x before)")?;
            if let (Some(before), Some(full), Some(after)) = (before.heap, full.heap, after.heap) {
                let [before, full, after] = [before, full, after].map(mib);
                writeln!(f, "   in use: {before:.1} MiB before, {full:.1} full, {after:.1} after")?;
            }
        }
        Ok(())
    }
}

//! Measures the memory of outstanding records: requests start only after all records are put.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kpl_core::{Batch, DescribeStreamRequest, ListShardsRequest, Reply, RequestError, ShardPage, StreamSummary};
use kpl_driver::{AwsRuntime, AwsTransport, Outcome, Producer, Transport};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::setup::{Endpoint, Measured, client, config};
use crate::usage::{Start, heap, resident};
use crate::work::{STREAM, Work};

/// Resident memory before, during and after two bursts. The first burst shows the memory of a record. The second shows
/// whether memory grows, because the allocator keeps some freed memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    bursts: [Burst; 2],
    /// Bytes of resident memory per outstanding record of the first burst, without its key, and without its own data.
    /// Includes the outcome that the application keeps.
    pub(crate) bytes_per_record: f64,
}

/// Memory before, during and after a burst.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Burst {
    /// No record is outstanding.
    before: Memory,
    /// All records are outstanding.
    full: Memory,
    /// All records are stored, and all receipts are dropped.
    after: Memory,
}

/// Memory in KiB.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Memory {
    resident: u64,
    /// The part that is allocated and not freed, with the feature `count-allocations`.
    heap: Option<u64>,
}

/// A transport whose requests wait until a gate is open, before they are encoded, as at the end of a long queue.
struct Gated {
    service: AwsTransport,
    open: watch::Receiver<bool>,
}

impl Transport for Gated {
    async fn put_records<T: Send + Sync>(&self, batch: &Batch<T>) -> Reply {
        // An error means that the run has ended, and the gate stays closed.
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

pub(super) async fn run<R: AwsRuntime>(endpoint: &Endpoint, work: &Work) -> anyhow::Result<Measured> {
    let records = usize::try_from(work.records)?;
    // Records must not expire while they wait.
    let config = config(work).max_outstanding_records(records).max_outstanding_bytes(1 << 40).record_ttl(Duration::MAX);
    let config = config.build()?;
    let (gate, open) = watch::channel(true);
    let runtime = R::default();
    let service = AwsTransport::new(&runtime, &client::<R>(endpoint)?, config.request_timeout());
    let producer = Producer::with_transport(runtime, Gated { service, open }, config);
    producer.put(STREAM, "warm", "up").await?.await?;
    let source = work.source();

    let start = Start::now();
    let (first, outstanding, stored) = burst(&producer, &gate, work, &source).await?;
    let (second, _, _) = burst(&producer, &gate, work, &source).await?;
    let usage = start.usage();
    producer.close().await;
    let allocated_by_caller = if work.own_data { work.record_size() } else { work.record_size() - work.size };
    let growth = first.full.resident.saturating_sub(first.before.resident) * 1_024;
    let bytes_per_record = growth as f64 / work.records as f64 - allocated_by_caller as f64;
    let held = Some(Held { bursts: [first, second], bytes_per_record });
    Ok(Measured { usage, stored, outstanding: Some(outstanding), held, ..Measured::default() })
}

/// Puts a burst. Returns memory, the outstanding bytes, and the number of stored records.
async fn burst<R: AwsRuntime>(
    producer: &Producer<R>,
    gate: &watch::Sender<bool>,
    work: &Work,
    source: &bytes::Bytes,
) -> anyhow::Result<(Burst, u64, u64)> {
    let stream = Arc::<str>::from(STREAM);
    gate.send_replace(false);
    let before = idle_memory::<R>().await?;
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(work.records as usize);
    for n in 0..work.records {
        outcomes.push(producer.put(stream.clone(), work.key(n), work.data(source, n)).await?);
    }
    let full = idle_memory::<R>().await?;
    let outstanding = producer.outstanding_bytes() as u64;
    gate.send_replace(true);
    producer.flush().await;
    let mut stored = 0;
    for outcome in outcomes {
        stored += u64::from(outcome.await.is_ok());
    }
    let after = idle_memory::<R>().await?;
    Ok((Burst { before, full, after }, outstanding, stored))
}

/// Returns the memory after 200 ms, when all tasks have ended or wait at the gate.
async fn idle_memory<R: AwsRuntime>() -> anyhow::Result<Memory> {
    let runtime = R::default();
    kpl_driver::Runtime::sleep_until(&runtime, kpl_driver::Runtime::now(&runtime) + Duration::from_millis(200)).await;
    let resident = resident().context("this system does not report the memory of a process")?;
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

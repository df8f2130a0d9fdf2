//! Sinks for other backends: the backend receives the producer's metrics.

#![cfg(any(feature = "dogstatsd", feature = "metrics-facade", feature = "opentelemetry"))]

#[cfg(feature = "dogstatsd")]
mod dogstatsd;
#[cfg(feature = "metrics-facade")]
mod facade;
mod instruments;
#[cfg(feature = "opentelemetry")]
mod opentelemetry;
#[path = "../producer/rig.rs"]
mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kpl_core::{Config, Delivery, RequestError, UserRecord};
use kpl_driver::metrics::{MetricsLevel, MetricsReport, MetricsSink};
use tokio::time::sleep;

use rig::{Behavior, Service, ms};

const SHARDS: u32 = 3;

/// Runs a producer with this sink until every metric has observations, over several reports, and returns its metrics.
async fn run_producer(sink: impl MetricsSink) -> MetricsReport {
    let throttles = Arc::new(AtomicBool::new(true));
    let throttles_in_service = throttles.clone();
    let service = Service::new(move |request| match request {
        0 | 3 => Behavior::Throttle,
        1 => Behavior::Fail(RequestError::new(Delivery::NotSent, "ConnectFailure", "refused")),
        6 => Behavior::Fail(RequestError::new(Delivery::Refused, "AccessDeniedException", "denied")),
        // Records put from now on expire.
        12.. if throttles_in_service.load(Ordering::Relaxed) => Behavior::Throttle,
        n => Behavior::Store(ms(7 * n as u64)),
    })
    .with_shards(SHARDS);
    let producer = service.producer(
        Config::builder()
            .metrics_level(MetricsLevel::Detailed)
            .metrics_upload_interval(Duration::from_secs(1))
            .record_ttl(Duration::from_secs(10))
            .seed(7),
    );
    producer.export_metrics_to(sink);
    for round in 0_u64.. {
        let stream = if round % 3 == 0 { "orders" } else { "events" };
        for n in 0..20 + round as usize {
            let hash_key = service.start_of(n as u32 % SHARDS) + n as u128;
            let record = UserRecord::new(stream, format!("k{n}"), "x".repeat(n));
            let record = record.explicit_hash_key(hash_key.to_string());
            drop(producer.put_record(record).await.unwrap());
        }
        sleep(ms(333)).await;
        if service.requests() > 12 {
            break;
        }
    }
    producer.flush().await;
    throttles.store(false, Ordering::Relaxed);
    for stream in ["orders", "events"] {
        drop(producer.put(stream, "k", "last").await.unwrap());
    }
    producer.close().await;
    producer.metrics()
}

//! Tests of the sinks that send over HTTP, with a service on loopback.

mod cloudwatch;
#[cfg(feature = "datadog")]
mod datadog;
mod fake;
mod reports;

//! Sinks of metrics, each to a service on loopback that decodes what comes.

mod cloudwatch;
#[cfg(feature = "datadog")]
mod datadog;
mod fake;
mod reports;

//! The producer's promises, on Tokio with paused time, against a scripted service.

mod backlog;
mod batches;
mod callers;
mod ends;
mod metrics;
mod putting;
mod record_sink;
mod rig;
mod trouble;
mod wakes;

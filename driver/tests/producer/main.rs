//! The producer's promises, on tokio with paused time, against a service that does as it is told.

mod backlog;
mod ends;
mod metrics;
mod putting;
mod rig;
mod trouble;
mod wakes;

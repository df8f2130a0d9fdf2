//! Tests of the whole state machine, from `put` to `Resolve`, with a clock that the tests set.

#![allow(unreachable_pub, reason = "a test binary")]

mod backlog;
mod batching;
mod chaos;
mod classification;
mod findings;
mod lifecycle;
mod metadata;
mod metrics;
mod ordering;
mod rig;

//! The whole state machine, from `put` to `Resolve`, on a hand-cranked clock.

#![allow(unreachable_pub, reason = "a test binary")]

mod backlog;
mod batching;
mod chaos;
mod classification;
mod findings;
mod lifecycle;
mod metadata;
mod metrics;
mod rig;

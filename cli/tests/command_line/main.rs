//! `kpl` as a user runs it: the built program, its output, its exit status, and what is then in the stream.

#![cfg(unix)]

mod codec;
mod disturbances;
mod emulator_process;
mod failures;
mod lines;
mod metrics;
mod rig;
mod shards;
mod usage;

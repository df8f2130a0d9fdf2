//! Runs the `kpl` binary, and checks its output, its exit status, and the records in the stream.

#![cfg(unix)]

mod codec;
mod completions;
mod credentials;
mod disturbances;
mod dry_run;
mod emulator_process;
mod failures;
mod follow;
mod kills;
mod lines;
mod logs;
mod man;
mod metrics;
mod rig;
mod shards;
mod signals;
mod terminal;
mod usage;

//! Over real HTTP, to the emulator or to a socket that misbehaves.

mod answers;
mod connections;
mod from_env;
mod no_reactor;
mod records;
mod rig;
mod tls;

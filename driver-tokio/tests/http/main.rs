//! Over real HTTP, to the emulator or to a socket that misbehaves.

mod connections;
mod from_env;
mod records;
mod rig;
mod shutdown;
mod tls;

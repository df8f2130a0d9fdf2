//! Over real HTTP, to the emulator or to a socket that misbehaves.

mod answers;
mod no_reactor;
mod web;

#[path = "../../../tests/http/connections.rs"]
mod connections;
#[path = "../../../tests/http/from_env.rs"]
mod from_env;
#[path = "../../../tests/http/records.rs"]
mod records;
#[path = "../../../tests/http/rig.rs"]
mod rig;
#[path = "../../../tests/http/tls.rs"]
mod tls;

/// What the tests of all drivers need to know of this one.
mod driver {
    pub(crate) use async_std::task::{block_on, sleep};
    pub(crate) use kpl_async_std::{
        AsyncStd as Runtime, Config, ConfigBuilder, Producer, PutError, PutFailure, UserRecord, http_client,
    };

    /// What is said of a host that is not known.
    pub(crate) const UNKNOWN_HOST: &str = "failed to resolve host name";
}

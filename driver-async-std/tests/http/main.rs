//! Tests over HTTP, with the emulator or a faulty server.

mod answers;
mod no_reactor;
mod web;

#[path = "../../../tests/http/connections.rs"]
mod connections;
#[path = "../../../tests/http/credentials.rs"]
mod credentials;
#[path = "../../../tests/http/from_env.rs"]
mod from_env;
#[path = "../../../tests/http/records.rs"]
mod records;
#[path = "../../../tests/http/replies.rs"]
mod replies;
#[path = "../../../tests/http/rig.rs"]
mod rig;
#[path = "../../../tests/http/stalls.rs"]
mod stalls;
#[path = "../../../tests/http/start.rs"]
mod start;
#[path = "../../../tests/http/tls.rs"]
mod tls;

/// The items that differ between the drivers, for the tests that all drivers share.
mod driver {
    pub(crate) use async_std::task::{block_on, sleep};
    pub(crate) use kpl_async_std::{
        AsyncStd as Runtime, Config, ConfigBuilder, Producer, PutError, PutFailure, UserRecord, http_client,
    };

    /// The text in the error for an unknown host.
    pub(crate) const UNKNOWN_HOST: &str = "failed to resolve host name";
}

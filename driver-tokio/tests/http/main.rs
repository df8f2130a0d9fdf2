//! Over real HTTP, to the emulator or to a socket that misbehaves.

mod blocking;
mod metrics;
mod shutdown;
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
    pub(crate) use kpl_tokio::{
        Config, ConfigBuilder, Producer, PutError, PutFailure, Tokio as Runtime, UserRecord, http_client,
    };
    pub(crate) use tokio::time::sleep;

    /// What is said of a host that is not known.
    pub(crate) const UNKNOWN_HOST: &str = "dns";

    pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Runtime::new().unwrap().block_on(future)
    }
}

//! Tests over HTTP, with the emulator or a faulty server.

mod blocking;
mod credential_process;
mod metrics;
mod shutdown;
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
    pub(crate) use kpl_tokio::{
        Config, ConfigBuilder, Producer, PutError, PutFailure, Tokio as Runtime, UserRecord, http_client,
    };
    pub(crate) use tokio::time::sleep;

    /// The text in the error for an unknown host.
    pub(crate) const UNKNOWN_HOST: &str = "dns";

    pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Runtime::new().unwrap().block_on(future)
    }
}

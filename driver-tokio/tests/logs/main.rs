//! Log events, in a program of its own.

#[path = "../../../tests/http/logs.rs"]
mod logs;
#[path = "../../../tests/http/rig.rs"]
mod rig;

/// The items that differ between the drivers.
mod driver {
    pub(crate) use kpl_tokio::{BatchRecord, Config, ConfigBuilder, Producer, Tokio as Runtime, UserRecord};

    pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Runtime::new().unwrap().block_on(future)
    }
}

//! Log events, in a program of its own.

#[path = "../../../tests/http/logs.rs"]
mod logs;
#[path = "../../../tests/http/rig.rs"]
mod rig;

/// The items that differ between the drivers.
mod driver {
    pub(crate) use async_std::task::block_on;
    pub(crate) use kpl_async_std::{AsyncStd as Runtime, BatchRecord, Config, ConfigBuilder, Producer, UserRecord};
}

//! Parts for end-to-end tests: a real server, certificates that a client can check, and an AWS SDK client.
//!
//! Two services stand in for Kinesis. [`KinesisMock`] is software that others wrote and that other producers are
//! tested with, so it keeps our own emulator honest; it is slow and never fails. `kpl_emulator` is fast, and it can
//! throttle, fail and lose replies.
//!
//! ```no_run
//! # async fn test() {
//! use kpl_suite::kinesis_mock::{KinesisMock, Options};
//!
//! let Some(mock) = KinesisMock::start(Options { streams: &[("events", 4)], ..Options::default() }).await else {
//!     return; // No node here; the reason is printed. In CI that is a failure.
//! };
//! mock.client().put_record().stream_name("events").partition_key("user-123");
//! # }
//! ```

use std::path::{Path, PathBuf};

pub mod certs;
pub mod client;
pub mod end_to_end;
pub mod kinesis_mock;
mod proxy;
mod service;

pub use certs::Certificates;
pub use kinesis_mock::KinesisMock;
pub use proxy::Proxy;
pub use service::Service;

/// `<target>/name`: a place for what a test or a tool installs, in cargo's build folder.
#[must_use]
pub fn build_folder(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("a program knows its own path");
    // A test's path is `<target>/<profile>/deps/<name>`, with a triple between when cross-compiled; cargo puts this
    // tag in `<target>`. Documentation tests run from elsewhere.
    let target = exe.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    target.map_or_else(|| std::env::temp_dir().join("kpl-suite"), Path::to_path_buf).join(name)
}

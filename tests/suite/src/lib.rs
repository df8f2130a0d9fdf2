//! Parts for end-to-end tests: a real server, certificates that a client can check, and an AWS SDK client.
//!
//! Two services replace Kinesis. [`KinesisMock`] was written by others and is used to test other producers, so
//! `kpl_emulator` is compared with it. It is slow and never fails. `kpl_emulator` is fast, and it can throttle, fail
//! and lose replies.
//!
//! ```no_run
//! # async fn test() {
//! use kpl_suite::kinesis_mock::{KinesisMock, Options};
//!
//! let Some(mock) = KinesisMock::start(Options { streams: &[("events", 4)], ..Options::default() }).await else {
//!     return; // For example, node is not installed. The reason is printed. In CI, this is a failure.
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

/// Returns `<target>/name` in cargo's build folder, where tests and tools install what they need.
#[must_use]
pub fn build_folder(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("the path of this program");
    // A test's path is `<target>/<profile>/deps/<name>`, or `<target>/<triple>/<profile>/deps/<name>` if it is
    // cross-compiled. Cargo puts this tag in `<target>`. Documentation tests run from another folder.
    let target = exe.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    target.map_or_else(|| std::env::temp_dir().join("kpl-suite"), Path::to_path_buf).join(name)
}

//! The credentials that requests are signed with: where they come from, when they are loaded, how long they are used.

mod cache;
mod containers;
mod profile;

pub(super) use self::cache::{CredentialsCache, LoadError};
pub(crate) use self::containers::with_containers_by_name;
pub use self::profile::with_current_profile;

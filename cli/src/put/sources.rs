//! The names of all sources. Sources are added while the program runs, as files appear.

use std::sync::{Arc, PoisonError, RwLock};

/// The names of sources by index, as on the command line. Indices are not reused. Clones share the names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources(Arc<RwLock<Vec<Arc<str>>>>);

impl Sources {
    /// Adds a source. Returns its index.
    pub(crate) fn add(&self, name: &str) -> u32 {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // The sources of a path share its name.
        let shared = names.iter().rev().find(|known| &***known == name).cloned();
        names.push(shared.unwrap_or_else(|| name.into()));
        u32::try_from(names.len() - 1).unwrap_or(u32::MAX)
    }

    /// Returns the name of a source; `-` is standard input.
    pub(crate) fn name(&self, source: u32) -> Arc<str> {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        names.get(source as usize).cloned().unwrap_or_else(|| "-".into())
    }
}

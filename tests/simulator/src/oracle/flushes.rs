use std::collections::BTreeMap;

use super::{Kept, broken};

const PROMISE: &str = "a flush ends when all that was accepted before it is resolved: not earlier, and not later";

/// Flushes under way, by number.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    under_way: BTreeMap<u64, Flush>,
}

#[derive(Debug)]
struct Flush {
    /// By ticket, whether the record is one that the flush waits for.
    covers: Vec<bool>,
    left: usize,
}

impl Flushes {
    /// A flush of the records whose tickets are marked.
    pub(super) fn asked(&mut self, number: u64, covers: Vec<bool>) {
        let left = covers.iter().filter(|covered| **covered).count();
        self.under_way.insert(number, Flush { covers, left });
    }

    pub(super) fn resolved(&mut self, ticket: u64) {
        for flush in self.under_way.values_mut() {
            flush.left -= usize::from(flush.covers.get(ticket as usize).is_some_and(|covered| *covered));
        }
    }

    pub(super) fn done(&mut self, number: u64) -> Kept {
        match self.under_way.remove(&number) {
            None => broken!("flush {number} ends, which is not under way"),
            Some(Flush { left: 0, .. }) => Ok(()),
            Some(Flush { left, .. }) => broken!("flush {number} ends, and {left} records are not resolved"),
        }
    }

    pub(super) fn step(&self) -> Kept {
        match self.under_way.iter().find(|(_, flush)| flush.left == 0) {
            Some((number, _)) => broken!("flush {number} goes on though all its records are resolved"),
            None => Ok(()),
        }
    }

    pub(super) fn judge(&self) -> Kept {
        match self.under_way.keys().next() {
            Some(number) => broken!("flush {number} never ends"),
            None => Ok(()),
        }
    }
}

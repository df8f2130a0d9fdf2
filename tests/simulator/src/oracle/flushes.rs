use std::collections::BTreeMap;

use super::{Check, broken};

const PROMISE: &str = "a flush ends when all records accepted before it are resolved: not earlier and not later";

/// The flushes in progress.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    by_number: BTreeMap<u64, Flush>,
}

#[derive(Debug)]
struct Flush {
    /// Whether the flush waits for the record, per ticket.
    covers: Vec<bool>,
    outstanding: usize,
}

impl Flushes {
    /// Starts a flush of the records whose tickets are marked in `covers`.
    pub(super) fn started(&mut self, number: u64, covers: Vec<bool>) {
        let outstanding = covers.iter().filter(|covered| **covered).count();
        self.by_number.insert(number, Flush { covers, outstanding });
    }

    pub(super) fn resolved(&mut self, ticket: u64) {
        for flush in self.by_number.values_mut() {
            flush.outstanding -= usize::from(flush.covers.get(ticket as usize).is_some_and(|covered| *covered));
        }
    }

    pub(super) fn done(&mut self, number: u64) -> Check {
        match self.by_number.remove(&number) {
            None => broken!("flush {number} ends but is not in progress"),
            Some(Flush { outstanding: 0, .. }) => Ok(()),
            Some(Flush { outstanding, .. }) => {
                broken!("flush {number} ends, but {outstanding} of its records are not resolved")
            }
        }
    }

    pub(super) fn step(&self) -> Check {
        match self.by_number.iter().find(|(_, flush)| flush.outstanding == 0) {
            Some((number, _)) => broken!("flush {number} does not end although all its records are resolved"),
            None => Ok(()),
        }
    }

    pub(super) fn judge(&self) -> Check {
        match self.by_number.keys().next() {
            Some(number) => broken!("flush {number} never ends"),
            None => Ok(()),
        }
    }
}

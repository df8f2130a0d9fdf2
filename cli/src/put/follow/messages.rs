//! What is said about files while they are followed.

use std::collections::HashSet;

use crate::put::console::Console;

/// The maximum number of messages that are remembered.
const PRINTED_MAX: usize = 10_000;

/// Prints messages. What does not change is said once, not at every search for files.
pub(crate) struct Messages {
    console: Console,
    printed: HashSet<String>,
}

impl Messages {
    pub(crate) fn new(console: Console) -> Self {
        Self { console, printed: HashSet::new() }
    }

    pub(crate) fn print(&self, message: &str) {
        self.console.print_message(message);
    }

    pub(crate) fn print_once(&mut self, message: &str) {
        if self.printed.len() >= PRINTED_MAX {
            self.printed.clear();
        }
        if self.printed.insert(message.to_owned()) {
            self.print(message);
        }
    }
}

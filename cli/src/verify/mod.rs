//! `--verify`: reads the stream back as the KCL would, and compares.

mod reader;
mod tally;

pub(crate) use reader::Verifier;
pub(crate) use tally::{Fate, Tally, Verification, fingerprint};

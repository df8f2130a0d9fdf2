//! `--verify`: reads the stream back as the KCL does, and compares.

mod reader;
mod tally;

pub(crate) use reader::Verifier;
pub(crate) use tally::{LineResult, Tally, Verification, fingerprint};

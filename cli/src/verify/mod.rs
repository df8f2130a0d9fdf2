//! `--verify`: reads the stream back as the KCL does, and compares.

mod comparison;
mod order;
mod reader;

pub(crate) use comparison::{Comparison, LineResult, Verification, fingerprint};
pub(crate) use reader::Verifier;

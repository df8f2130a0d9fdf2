//! The types of a record, from the put to its result.

pub(crate) mod attempt;
pub(crate) mod hash_key;
pub(crate) mod kinesis_record;
pub(crate) mod result;
pub(crate) mod user_record;

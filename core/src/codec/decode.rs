//! An aggregated record to its user records: one pass, no copy of the data, the position of every error.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::Bytes;
use md5::{Digest, Md5};

use super::{AggregatedUserRecord, DIGEST_SIZE, FRAME_SIZE, MAGIC};
use crate::hash_key::parse_explicit_hash_key;

/// Why a blob is not an aggregated record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {kind}")]
pub struct DecodeError {
    /// The byte of the blob at which it shows, counted from 0.
    pub offset: usize,
    /// What is wrong there.
    pub kind: DecodeErrorKind,
}

/// What is wrong with an aggregated record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// It does not start with `F3 89 9A C2`: it is a plain record.
    #[error("the magic number F3 89 9A C2 of an aggregated record is missing")]
    NotAggregated,
    /// It has fewer bytes than the framing alone.
    #[error("the blob has {len} bytes, but an aggregated record has at least {FRAME_SIZE}")]
    TooShort {
        /// Its length.
        len: usize,
    },
    /// The MD5 at the end is not that of the message.
    #[error("the MD5 at the end is not that of the message before it")]
    DigestMismatch,
    /// The message ends in the middle of something.
    #[error("the message ends within {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// A varint of more than 64 bits.
    #[error("a varint has more than 64 bits")]
    LongVarint,
    /// A field of a type that the format does not give it.
    #[error("field {field} has wire type {wire_type}, which it cannot have")]
    WireType {
        /// The field's number.
        field: u64,
        /// The type found.
        wire_type: u8,
    },
    /// A key that is not UTF-8.
    #[error("a key is not UTF-8")]
    NotUtf8,
    /// A user record without a field that it must have.
    #[error("user record {record} has no {field}")]
    Missing {
        /// The record's position, counted from 0.
        record: usize,
        /// The field.
        field: &'static str,
    },
    /// An index that points outside its table.
    #[error("user record {record} has {field} {index}, but the table has {len} entries")]
    Index {
        /// The record's position, counted from 0.
        record: usize,
        /// The field.
        field: &'static str,
        /// The index.
        index: u64,
        /// The table's length.
        len: usize,
    },
    /// An explicit hash key that is not a decimal number below 2^128.
    #[error("the explicit hash key {value:?} is not a decimal number below 2^128")]
    ExplicitHashKey {
        /// The key, cut after 50 characters.
        value: String,
    },
}

/// Takes an aggregated record apart. The data of its records are slices of `blob`.
///
/// # Errors
///
/// [`DecodeError`] says what is wrong at which byte. A consumer that follows the KCL's rules takes such a blob as one
/// plain user record.
pub fn decode(blob: impl Into<Bytes>) -> Result<Vec<AggregatedUserRecord>, DecodeError> {
    let blob: Bytes = blob.into();
    let error = |offset, kind| Err(DecodeError { offset, kind });
    if !blob.starts_with(&MAGIC) {
        return error(0, DecodeErrorKind::NotAggregated);
    }
    if blob.len() < FRAME_SIZE {
        return error(blob.len(), DecodeErrorKind::TooShort { len: blob.len() });
    }
    let end = blob.len() - DIGEST_SIZE;
    if Md5::digest(&blob[MAGIC.len()..end])[..] != blob[end..] {
        return error(end, DecodeErrorKind::DigestMismatch);
    }
    Message::read(&mut Reader { blob: &blob, at: MAGIC.len(), end })?.resolve(&blob)
}

/// The message with its indexes not yet looked up: tables may follow the records that use them.
#[derive(Default)]
struct Message {
    partition_keys: Vec<Arc<str>>,
    explicit_hash_keys: Vec<u128>,
    records: Vec<RawRecord>,
}

struct RawRecord {
    /// Where it starts in the blob.
    at: usize,
    partition_key_index: u64,
    explicit_hash_key_index: Option<u64>,
    data: (usize, usize),
}

impl Message {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut message = Self::default();
        while let Some(field) = reader.field()? {
            match field.number {
                1 => {
                    let key = reader.string(field)?;
                    message.partition_keys.push(key.into());
                }
                2 => {
                    let key = reader.string(field)?;
                    let at = reader.at - key.len();
                    let kind = || DecodeErrorKind::ExplicitHashKey { value: key.chars().take(50).collect() };
                    let key = parse_explicit_hash_key(key).ok_or_else(|| DecodeError { offset: at, kind: kind() })?;
                    message.explicit_hash_keys.push(key);
                }
                3 => {
                    let (start, end) = reader.span(field)?;
                    let record =
                        RawRecord::read(&mut Reader { blob: reader.blob, at: start, end }, message.records.len())?;
                    message.records.push(record);
                }
                _ => reader.skip(field)?,
            }
        }
        Ok(message)
    }

    fn resolve(self, blob: &Bytes) -> Result<Vec<AggregatedUserRecord>, DecodeError> {
        let Self { partition_keys, explicit_hash_keys, records } = self;
        let records = records.into_iter().enumerate().map(|(position, raw)| {
            let outside = |field, index, len| DecodeError {
                offset: raw.at,
                kind: DecodeErrorKind::Index { record: position, field, index, len },
            };
            let partition_key = lookup(&partition_keys, raw.partition_key_index)
                .ok_or_else(|| outside("partition_key_index", raw.partition_key_index, partition_keys.len()))?;
            let explicit_hash_key = raw
                .explicit_hash_key_index
                .map(|index| {
                    lookup(&explicit_hash_keys, index)
                        .ok_or_else(|| outside("explicit_hash_key_index", index, explicit_hash_keys.len()))
                })
                .transpose()?;
            Ok(AggregatedUserRecord {
                partition_key: partition_key.clone(),
                explicit_hash_key: explicit_hash_key.copied(),
                data: blob.slice(raw.data.0..raw.data.1),
            })
        });
        records.collect()
    }
}

impl RawRecord {
    fn read(reader: &mut Reader<'_>, position: usize) -> Result<Self, DecodeError> {
        let at = reader.at;
        let (mut partition_key_index, mut explicit_hash_key_index, mut data) = (None, None, None);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => partition_key_index = Some(reader.number(field)?),
                2 => explicit_hash_key_index = Some(reader.number(field)?),
                3 => data = Some(reader.span(field)?),
                _ => reader.skip(field)?,
            }
        }
        let missing = |field| DecodeError { offset: at, kind: DecodeErrorKind::Missing { record: position, field } };
        Ok(Self {
            at,
            partition_key_index: partition_key_index.ok_or_else(|| missing("partition_key_index"))?,
            explicit_hash_key_index,
            data: data.ok_or_else(|| missing("data"))?,
        })
    }
}

fn lookup<V>(table: &[V], index: u64) -> Option<&V> {
    table.get(usize::try_from(index).ok()?)
}

/// A field's number and wire type, and where it starts.
#[derive(Clone, Copy)]
struct Field {
    number: u64,
    wire_type: u8,
    at: usize,
}

/// Reads protobuf between two positions of the blob.
struct Reader<'a> {
    blob: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    /// The next field, or `None` at the end.
    fn field(&mut self) -> Result<Option<Field>, DecodeError> {
        if self.at == self.end {
            return Ok(None);
        }
        let at = self.at;
        let key = self.varint("a field's key")?;
        Ok(Some(Field { number: key >> 3, wire_type: (key & 7) as u8, at }))
    }

    fn number(&mut self, field: Field) -> Result<u64, DecodeError> {
        self.expect(field, 0)?;
        self.varint("a number")
    }

    fn string(&mut self, field: Field) -> Result<&'a str, DecodeError> {
        let (start, end) = self.span(field)?;
        core::str::from_utf8(&self.blob[start..end])
            .map_err(|error| DecodeError { offset: start + error.valid_up_to(), kind: DecodeErrorKind::NotUtf8 })
    }

    /// Start and end of a length-delimited field, which is passed over.
    fn span(&mut self, field: Field) -> Result<(usize, usize), DecodeError> {
        self.expect(field, 2)?;
        let at = self.at;
        let len = self.varint("a length")?;
        let start = self.at;
        let len = usize::try_from(len).ok().filter(|len| *len <= self.end - start);
        let Some(len) = len else {
            return Err(DecodeError { offset: at, kind: DecodeErrorKind::Truncated { what: "a field" } });
        };
        self.at = start + len;
        Ok((start, self.at))
    }

    /// Passes over a field that the format does not know.
    fn skip(&mut self, field: Field) -> Result<(), DecodeError> {
        match field.wire_type {
            0 => self.varint("an unknown field").map(drop),
            1 => self.advance(8),
            2 => self.span(field).map(drop),
            5 => self.advance(4),
            _ => Err(wire_type_error(field)),
        }
    }

    fn expect(&self, field: Field, wire_type: u8) -> Result<(), DecodeError> {
        if field.wire_type == wire_type { Ok(()) } else { Err(wire_type_error(field)) }
    }

    fn advance(&mut self, len: usize) -> Result<(), DecodeError> {
        if self.end - self.at < len {
            return Err(self.truncated("an unknown field"));
        }
        self.at += len;
        Ok(())
    }

    fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let start = self.at;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            if self.at == self.end {
                return Err(self.truncated(what));
            }
            let byte = self.blob[self.at];
            self.at += 1;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError { offset: start, kind: DecodeErrorKind::LongVarint })
    }

    fn truncated(&self, what: &'static str) -> DecodeError {
        DecodeError { offset: self.end, kind: DecodeErrorKind::Truncated { what } }
    }
}

fn wire_type_error(field: Field) -> DecodeError {
    DecodeError {
        offset: field.at,
        kind: DecodeErrorKind::WireType { field: field.number, wire_type: field.wire_type },
    }
}

impl DecodeErrorKind {
    /// Whether the blob is simply not aggregated, as opposed to broken.
    pub fn is_plain_record(&self) -> bool {
        matches!(self, Self::NotAggregated)
    }
}

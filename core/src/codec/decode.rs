//! The decoder of aggregated records. It copies no data, allocates no more memory than needed, and reports the position
//! of every error.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use bytes::Bytes;
use md5::{Digest, Md5};

use super::{AggregatedUserRecord, DIGEST_SIZE, FRAME_SIZE, MAGIC};
use crate::record::hash_key::parse_explicit_hash_key;

/// The reason why a blob is not a valid aggregated record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {kind}")]
pub struct DecodeError {
    /// The position of the error: a byte of the blob, counted from 0.
    pub offset: usize,
    /// The kind of the error.
    pub kind: DecodeErrorKind,
}

/// The kind of a [`DecodeError`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The blob does not start with `F3 89 9A C2`: it is a plain record.
    #[error("the magic number F3 89 9A C2 of an aggregated record is missing")]
    NotAggregated,
    /// The blob has fewer bytes than the framing alone.
    #[error("the blob has {len} bytes, but an aggregated record has at least {FRAME_SIZE}")]
    TooShort {
        /// The length of the blob in bytes.
        len: usize,
    },
    /// The MD5 at the end does not match the message.
    #[error("the MD5 at the end does not match the message")]
    DigestMismatch,
    /// The message ends before the end of a field.
    #[error("the message ends within {what}")]
    Truncated {
        /// The incomplete part.
        what: &'static str,
    },
    /// A varint has more than 64 bits.
    #[error("a varint has more than 64 bits")]
    LongVarint,
    /// A field has an invalid wire type.
    #[error("field {field} has the invalid wire type {wire_type}")]
    WireType {
        /// The field's number.
        field: u64,
        /// The wire type in the message.
        wire_type: u8,
    },
    /// A field number is not valid in protobuf.
    #[error("field number {field} is not from 1 to 536870911")]
    FieldNumber {
        /// The field's number.
        field: u64,
    },
    /// A key, or a text in a tag, is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// A user record lacks a required field.
    #[error("user record {record} has no {field}")]
    Missing {
        /// The position of the user record, counted from 0.
        record: usize,
        /// The name of the field.
        field: &'static str,
    },
    /// An index is outside its table.
    #[error("user record {record} has {field} {index}, but the table has {len} entries")]
    Index {
        /// The position of the user record, counted from 0.
        record: usize,
        /// The name of the field.
        field: &'static str,
        /// The index.
        index: u64,
        /// The number of entries of the table.
        len: usize,
    },
    /// An explicit hash key is not a decimal number below 2^128.
    #[error("the explicit hash key {value:?} is not a decimal number below 2^128")]
    ExplicitHashKey {
        /// The key, truncated to 50 characters.
        value: String,
    },
}

/// Disaggregates an aggregated record. The data of its user records are slices of `blob`.
///
/// # Errors
///
/// [`DecodeError`] names the error and its byte. A consumer that follows the KCL's rules treats such a blob as one
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
    let message = Reader { blob: &blob, at: MAGIC.len(), end };
    Tables::read(message)?.records(&blob, message)
}

/// The bytes of the smallest user record: tag and index of the partition key, tag and length of empty data.
const RECORD_SIZE_MIN: usize = 4;

/// The key tables, and the decoded records. Tables may follow the records that use them, so they are read first.
struct Tables {
    partition_keys: Vec<Arc<str>>,
    explicit_hash_keys: Vec<u128>,
    records: Vec<AggregatedUserRecord>,
}

impl Tables {
    fn read(mut message: Reader<'_>) -> Result<Self, DecodeError> {
        let mut tables = Self::with_capacity_for(message)?;
        while let Some(field) = message.field()? {
            match field.number {
                1 => tables.partition_keys.push(message.string(field)?.into()),
                2 => {
                    let key = message.string(field)?;
                    let at = message.at - key.len();
                    let kind = || DecodeErrorKind::ExplicitHashKey { value: key.chars().take(50).collect() };
                    let key = parse_explicit_hash_key(key).ok_or_else(|| DecodeError { offset: at, kind: kind() })?;
                    tables.explicit_hash_keys.push(key);
                }
                _ => message.skip(field)?,
            }
        }
        Ok(tables)
    }

    /// Creates empty tables with capacity for the fields of the message. Vectors that grow would take several times the
    /// memory.
    fn with_capacity_for(mut message: Reader<'_>) -> Result<Self, DecodeError> {
        let (mut partition_keys, mut explicit_hash_keys, mut records) = (0, 0, 0);
        while let Some(field) = message.field()? {
            let start = message.at;
            message.skip(field)?;
            match field.number {
                1 => partition_keys += 1,
                2 => explicit_hash_keys += 1,
                // The length prefix takes at least one byte.
                3 if message.at - start > RECORD_SIZE_MIN => records += 1,
                _ => {}
            }
        }
        Ok(Self {
            partition_keys: Vec::with_capacity(partition_keys),
            explicit_hash_keys: Vec::with_capacity(explicit_hash_keys),
            records: Vec::with_capacity(records),
        })
    }

    fn records(mut self, blob: &Bytes, mut message: Reader<'_>) -> Result<Vec<AggregatedUserRecord>, DecodeError> {
        while let Some(field) = message.field()? {
            if field.number == 3 {
                let record = message.within(field)?;
                let at = record.at;
                let raw = RawRecord::read(record, self.records.len())?;
                self.records.push(self.resolve(blob, at, raw)?);
            } else {
                message.skip(field)?;
            }
        }
        Ok(self.records)
    }

    fn resolve(&self, blob: &Bytes, at: usize, raw: RawRecord) -> Result<AggregatedUserRecord, DecodeError> {
        let record = self.records.len();
        let outside =
            |field, index, len| DecodeError { offset: at, kind: DecodeErrorKind::Index { record, field, index, len } };
        let partition_key = lookup(&self.partition_keys, raw.partition_key_index)
            .ok_or_else(|| outside("partition_key_index", raw.partition_key_index, self.partition_keys.len()))?;
        let explicit_hash_key = raw
            .explicit_hash_key_index
            .map(|index| {
                lookup(&self.explicit_hash_keys, index)
                    .ok_or_else(|| outside("explicit_hash_key_index", index, self.explicit_hash_keys.len()))
            })
            .transpose()?;
        Ok(AggregatedUserRecord {
            partition_key: partition_key.clone(),
            explicit_hash_key: explicit_hash_key.copied(),
            data: blob.slice(raw.data.0..raw.data.1),
        })
    }
}

/// A user record whose keys are not looked up yet.
struct RawRecord {
    partition_key_index: u64,
    explicit_hash_key_index: Option<u64>,
    data: (usize, usize),
}

impl RawRecord {
    fn read(mut reader: Reader<'_>, position: usize) -> Result<Self, DecodeError> {
        let at = reader.at;
        let (mut partition_key_index, mut explicit_hash_key_index, mut data) = (None, None, None);
        while let Some(field) = reader.field()? {
            match field.number {
                1 => partition_key_index = Some(reader.number(field)?),
                2 => explicit_hash_key_index = Some(reader.number(field)?),
                3 => data = Some(reader.span(field)?),
                4 => check_tag(reader.within(field)?)?,
                _ => reader.skip(field)?,
            }
        }
        let missing = |field| DecodeError { offset: at, kind: DecodeErrorKind::Missing { record: position, field } };
        Ok(Self {
            partition_key_index: partition_key_index.ok_or_else(|| missing("partition_key_index"))?,
            explicit_hash_key_index,
            data: data.ok_or_else(|| missing("data"))?,
        })
    }
}

/// Checks a tag. Tags are not returned, but an invalid tag is an error.
fn check_tag(mut tag: Reader<'_>) -> Result<(), DecodeError> {
    while let Some(field) = tag.field()? {
        match field.number {
            1 | 2 => tag.string(field).map(drop)?,
            _ => tag.skip(field)?,
        }
    }
    Ok(())
}

fn lookup<V>(table: &[V], index: u64) -> Option<&V> {
    table.get(usize::try_from(index).ok()?)
}

/// A field's number and wire type, and its position in the blob.
#[derive(Clone, Copy)]
struct Field {
    number: u64,
    wire_type: u8,
    at: usize,
}

/// The maximum field number of protobuf; the minimum is 1.
const FIELD_NUMBER_MAX: u64 = (1 << 29) - 1;

/// A protobuf reader between two positions of the blob.
#[derive(Clone, Copy)]
struct Reader<'a> {
    blob: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    /// Reads the next field's number and wire type. Returns `None` at the end.
    fn field(&mut self) -> Result<Option<Field>, DecodeError> {
        if self.at == self.end {
            return Ok(None);
        }
        let at = self.at;
        let key = self.varint("a field's key")?;
        let number = key >> 3;
        if !(1..=FIELD_NUMBER_MAX).contains(&number) {
            return Err(DecodeError { offset: at, kind: DecodeErrorKind::FieldNumber { field: number } });
        }
        Ok(Some(Field { number, wire_type: (key & 7) as u8, at }))
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

    /// Returns a reader of the message in a field, and moves past the field.
    fn within(&mut self, field: Field) -> Result<Self, DecodeError> {
        let (at, end) = self.span(field)?;
        Ok(Self { blob: self.blob, at, end })
    }

    /// Returns start and end of a length-delimited field, and moves past the field.
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

    /// Skips a field that is unknown or not needed now.
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
    /// Whether the blob is a plain record, not an invalid aggregated record.
    pub fn is_plain_record(&self) -> bool {
        matches!(self, Self::NotAggregated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{AggregatedUserRecord, encode};

    fn tables(blob: &[u8]) -> Tables {
        Tables::read(Reader { blob, at: MAGIC.len(), end: blob.len() - DIGEST_SIZE }).unwrap()
    }

    #[test]
    fn decode_allocates_for_the_exact_number_of_keys_and_records() {
        let records: Vec<AggregatedUserRecord> = (0..1_000_u128)
            .map(|n| AggregatedUserRecord {
                partition_key: alloc::format!("{}", n % 700).into(),
                explicit_hash_key: Some(n % 300),
                data: Bytes::new(),
            })
            .collect();
        let blob = encode(&records);
        let tables = tables(&blob);
        assert_eq!((tables.partition_keys.len(), tables.partition_keys.capacity()), (700, 700));
        assert_eq!((tables.explicit_hash_keys.len(), tables.explicit_hash_keys.capacity()), (300, 300));
        assert_eq!(decode(blob).unwrap().capacity(), 1_000);
    }

    #[test]
    fn fields_too_short_for_a_record_get_no_capacity() {
        let (short, smallest) = ([0x1A, 3, 0x08, 0, 0x1A], [0x1A, 4, 0x08, 0, 0x1A, 0]);
        let blob = [&MAGIC[..], &short.repeat(600), &smallest.repeat(2), &[0; DIGEST_SIZE]].concat();
        assert_eq!(tables(&blob).records.capacity(), 2);
    }
}

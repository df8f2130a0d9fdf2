//! User records, and the checks that they pass before they enter the state machine.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::{fmt, mem};

use bytes::Bytes;
use compact_str::CompactString;

use crate::limits;
use crate::record::hash_key::{HashKeyCache, hash_key, parse_explicit_hash_key};

/// A user record: what an application puts.
///
/// ```
/// use kpl_core::UserRecord;
///
/// let record = UserRecord::new("events", "user-123", "hello").explicit_hash_key("42");
/// assert_eq!(record.partition_key, "user-123");
/// ```
///
/// Its `Debug` output has the number of bytes of the data, not the data. So no log has it, and neither has that of the errors
/// that contain a record.
#[derive(Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// The stream's name or ARN. A shared `Arc<str>` saves an allocation per record.
    pub stream: Arc<str>,
    /// The partition key, 1 to 256 characters. It chooses the shard, unless there is an explicit hash key.
    pub partition_key: String,
    /// The explicit hash key, a decimal number below 2^128. It chooses the shard instead of the partition key.
    pub explicit_hash_key: Option<String>,
    /// The payload. It may be empty.
    pub data: Bytes,
}

impl fmt::Debug for UserRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, partition_key, explicit_hash_key, data } = self;
        f.debug_struct("UserRecord")
            .field("stream", stream)
            .field("partition_key", partition_key)
            .field("explicit_hash_key", explicit_hash_key)
            .field("data", &format_args!("{} bytes", data.len()))
            .finish()
    }
}

impl UserRecord {
    /// Creates a record for `stream` (a name or an ARN).
    pub fn new(stream: impl Into<Arc<str>>, partition_key: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self { stream: stream.into(), partition_key: partition_key.into(), explicit_hash_key: None, data: data.into() }
    }

    /// Sets the explicit hash key, a decimal number below 2^128, which chooses the shard instead of the partition key.
    #[must_use]
    pub fn explicit_hash_key(mut self, explicit_hash_key: impl Into<String>) -> Self {
        self.explicit_hash_key = Some(explicit_hash_key.into());
        self
    }

    /// Checks the record and hashes its key.
    ///
    /// # Errors
    ///
    /// [`PrepareError`] has the reason and the record.
    ///
    /// ```
    /// use kpl_core::UserRecord;
    ///
    /// let error = UserRecord::new("events", "", "hello").prepare().unwrap_err();
    /// assert_eq!(error.to_string(), "partition_key is empty, but must have 1 to 256 characters");
    /// assert_eq!(error.record.data, "hello");
    /// ```
    pub fn prepare(self) -> Result<PreparedRecord, PrepareError> {
        Ok(self.check()?.prepare_by(hash_key))
    }

    /// Checks the record without hashing its key. [`CheckedRecord::hash_keys`] hashes the keys of several records
    /// together, at a fraction of the cost.
    ///
    /// # Errors
    ///
    /// The same as [`prepare`](Self::prepare).
    pub fn check(self) -> Result<CheckedRecord, PrepareError> {
        match self.validate() {
            Ok(explicit) => {
                let (key, hash_key) = (CompactString::from(self.partition_key), explicit.unwrap_or(0));
                let entry = Entry::new(key, hash_key, explicit.is_some(), self.data);
                let prepared = PreparedRecord { entry, stream: self.stream };
                Ok(CheckedRecord { prepared, hashed: explicit.is_some() })
            }
            Err(reason) => Err(PrepareError { reason, record: Box::new(self) }),
        }
    }

    /// Checks all fields. Returns the explicit hash key, if there is one.
    fn validate(&self) -> Result<Option<u128>, InvalidRecord> {
        check_stream(&self.stream)?;
        if self.partition_key.is_empty() {
            return Err(InvalidRecord::EmptyPartitionKey);
        }
        // A string has at most as many characters as bytes, so characters are counted only in long keys.
        if self.partition_key.len() > limits::PARTITION_KEY_CHARS_MAX {
            let chars = self.partition_key.chars().count();
            if chars > limits::PARTITION_KEY_CHARS_MAX {
                return Err(InvalidRecord::LongPartitionKey { chars });
            }
        }
        let size = self.data.len() + self.partition_key.len();
        if size > limits::RECORD_SIZE_MAX {
            return Err(InvalidRecord::TooLarge { size, limit: limits::RECORD_SIZE_MAX });
        }
        self.explicit_hash_key
            .as_ref()
            .map(|text| {
                parse_explicit_hash_key(text).ok_or_else(|| InvalidRecord::ExplicitHashKey { value: text.clone() })
            })
            .transpose()
    }
}

/// The reason why a record can never be put.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRecord {
    /// The stream is neither a stream name nor a stream ARN.
    #[error(
        "stream is {value:?}, but must be a name of 1 to 128 characters from a-z A-Z 0-9 _ . - or an ARN such as \
         arn:aws:kinesis:us-east-1:123456789012:stream/name"
    )]
    Stream {
        /// The stream as given, truncated to 200 characters.
        value: String,
    },
    /// The partition key is empty.
    #[error("partition_key is empty, but must have 1 to 256 characters")]
    EmptyPartitionKey,
    /// The partition key has more than 256 characters.
    #[error("partition_key has {chars} characters, but must have 1 to 256")]
    LongPartitionKey {
        /// The length of the key in characters.
        chars: usize,
    },
    /// The explicit hash key is not a decimal number below 2^128.
    #[error(
        "explicit_hash_key is {value:?}, but must be a decimal number from 0 to \
         340282366920938463463374607431768211455 without leading zeros"
    )]
    ExplicitHashKey {
        /// The key, as given.
        value: String,
    },
    /// Data and partition key are larger than the stream allows, or than any stream can allow.
    #[error("data and partition_key have {size} bytes, but the limit is {limit}")]
    TooLarge {
        /// The bytes of data and partition key.
        size: usize,
        /// The stream's limit in bytes, or the largest limit that a stream can be set to.
        limit: usize,
    },
}

/// The refusal of an invalid record, with the record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PrepareError {
    /// The reason for the refusal.
    pub reason: InvalidRecord,
    /// The record, as it was given.
    pub record: Box<UserRecord>,
}

/// A checked record with its hash key, for [`Producer::put`](crate::Producer::put).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedRecord {
    pub(crate) stream: Arc<str>,
    pub(crate) entry: Entry,
}

impl PreparedRecord {
    /// Returns the hash key, which chooses the shard.
    pub fn hash_key(&self) -> u128 {
        self.entry.hash_key()
    }

    /// Returns the number of bytes that count against the limits: data and partition key.
    pub fn size(&self) -> usize {
        self.entry.size()
    }
}

/// A checked record whose key may not be hashed yet.
///
/// ```
/// use kpl_core::{CheckedRecord, HashKeyCache, UserRecord, hash_key};
///
/// let mut records = vec![];
/// for key in ["user-1", "user-2", "user-3"] {
///     records.push(UserRecord::new("events", key, "hello").check()?);
/// }
/// let mut keys = HashKeyCache::default();
/// CheckedRecord::hash_keys(&mut records, &mut keys); // all together
/// let prepared = records.remove(0).prepare(&mut keys);
/// assert_eq!(prepared.hash_key(), hash_key("user-1"));
/// # Ok::<(), kpl_core::PrepareError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedRecord {
    prepared: PreparedRecord,
    /// Whether the hash key has been computed or given.
    hashed: bool,
}

impl CheckedRecord {
    /// Returns the stream's name or ARN.
    pub fn stream(&self) -> &Arc<str> {
        &self.prepared.stream
    }

    /// Returns the number of bytes that count against the limits: data and partition key.
    pub fn size(&self) -> usize {
        self.prepared.size()
    }

    /// Hashes the partition keys of those records that have no hash key yet.
    ///
    /// On a CPU with AVX2 or AVX-512 this takes a fraction of the time of hashing the keys one by one; 16 records fill
    /// the registers of any CPU. On other CPUs it looks up each key in `cache`.
    pub fn hash_keys<'a>(records: impl IntoIterator<Item = &'a mut Self>, cache: &mut HashKeyCache) {
        cache.hash_each(records.into_iter().filter_map(Self::take_unhashed));
    }

    /// Hashes the partition key, if the record has no hash key yet. `keys` caches the hash keys of repeated partition
    /// keys.
    pub fn prepare(self, keys: &mut HashKeyCache) -> PreparedRecord {
        self.prepare_by(|partition_key| keys.hash_key(partition_key))
    }

    fn prepare_by(self, hash_key: impl FnOnce(&str) -> u128) -> PreparedRecord {
        let Self { mut prepared, hashed } = self;
        if !hashed {
            prepared.entry.hash_key = hash_key(&prepared.entry.partition_key).to_be_bytes();
        }
        prepared
    }

    /// Returns the partition key and the field of its hash key, if there is no hash key yet. The caller must write the
    /// hash key to the field.
    pub(crate) fn take_unhashed(&mut self) -> Option<(&str, &mut [u8; 16])> {
        let Entry { partition_key, hash_key, .. } = &mut self.prepared.entry;
        (!mem::replace(&mut self.hashed, true)).then_some((partition_key, hash_key))
    }
}

impl From<PreparedRecord> for CheckedRecord {
    fn from(prepared: PreparedRecord) -> Self {
        Self { prepared, hashed: true }
    }
}

impl From<CheckedRecord> for UserRecord {
    fn from(checked: CheckedRecord) -> Self {
        checked.prepared.into()
    }
}

impl From<PreparedRecord> for UserRecord {
    fn from(prepared: PreparedRecord) -> Self {
        prepared.entry.into_user_record(prepared.stream)
    }
}

/// A user record without its stream, as the stream's pipeline has it. `K` is the partition key, or its position.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Entry<K = CompactString> {
    pub(crate) data: Bytes,
    pub(crate) partition_key: K,
    /// The hash key, big-endian. A byte array needs no alignment, so the struct has no padding for it.
    hash_key: [u8; 16],
    /// Whether the hash key is an explicit one, not that of the partition key.
    explicit: bool,
}

/// Without the data, which no log must have.
impl<K: fmt::Debug> fmt::Debug for Entry<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { data, partition_key, hash_key, explicit } = self;
        f.debug_struct("Entry")
            .field("data", &format_args!("{} bytes", data.len()))
            .field("partition_key", partition_key)
            .field("hash_key", &u128::from_be_bytes(*hash_key))
            .field("explicit", explicit)
            .finish()
    }
}

/// A partition key, or its position.
pub(crate) trait PartitionKey {
    /// Returns the size of the key in bytes.
    fn size(&self) -> usize;
}

impl PartitionKey for CompactString {
    fn size(&self) -> usize {
        self.len()
    }
}

impl<K: PartitionKey> Entry<K> {
    pub(crate) fn hash_key(&self) -> u128 {
        u128::from_be_bytes(self.hash_key)
    }

    pub(crate) fn size(&self) -> usize {
        self.data.len() + self.partition_key.size()
    }

    pub(crate) fn explicit_hash_key(&self) -> Option<u128> {
        self.explicit.then(|| self.hash_key())
    }

    /// Converts the partition key to another representation.
    pub(crate) fn with_key<L>(self, partition_key: impl FnOnce(K) -> L) -> Entry<L> {
        let Self { data, partition_key: key, hash_key, explicit } = self;
        Entry { data, partition_key: partition_key(key), hash_key, explicit }
    }
}

impl Entry {
    pub(crate) fn new(partition_key: CompactString, hash_key: u128, explicit: bool, data: Bytes) -> Self {
        Self { data, partition_key, hash_key: hash_key.to_be_bytes(), explicit }
    }

    pub(crate) fn into_user_record(self, stream: Arc<str>) -> UserRecord {
        UserRecord {
            stream,
            explicit_hash_key: self.explicit_hash_key().map(|key| key.to_string()),
            partition_key: self.partition_key.into_string(),
            data: self.data,
        }
    }
}

fn check_stream(stream: &str) -> Result<(), InvalidRecord> {
    let name = if stream.starts_with("arn:") { name_in_arn(stream) } else { Some(stream) };
    let valid = name.is_some_and(|name| {
        (1..=limits::STREAM_NAME_CHARS_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    });
    if valid { Ok(()) } else { Err(InvalidRecord::Stream { value: stream.chars().take(200).collect() }) }
}

/// Returns the name in `arn:PARTITION:kinesis:REGION:ACCOUNT:stream/NAME`.
fn name_in_arn(arn: &str) -> Option<&str> {
    let mut parts = arn.splitn(6, ':').skip(1);
    let (partition, service, region, account, resource) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let valid = partition.starts_with("aws")
        && service == "kinesis"
        && !region.is_empty()
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit());
    if valid { resource.strip_prefix("stream/") } else { None }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_that_are_hashed_together_have_the_same_hash_keys(
            batches in proptest::collection::vec(
                proptest::collection::vec(("[a-d]{1,3}|.{1,12}|k{40,200}", proptest::option::of(any::<u128>())), 0..40),
                1..10,
            ),
        ) {
            let mut cache = HashKeyCache::default();
            for batch in batches {
                let user_record = |(key, explicit): &(String, Option<u128>)| {
                    let record = UserRecord::new("events", key.clone(), "");
                    explicit.map_or(record.clone(), |explicit| record.explicit_hash_key(explicit.to_string()))
                };
                let mut records: Vec<_> = batch.iter().map(|keys| user_record(keys).check().unwrap()).collect();
                CheckedRecord::hash_keys(&mut records, &mut cache);
                for (record, keys) in records.into_iter().zip(&batch) {
                    prop_assert!(record.clone().take_unhashed().is_none());
                    let prepared = record.prepare(&mut cache);
                    prop_assert_eq!(prepared.hash_key(), keys.1.unwrap_or_else(|| hash_key(&keys.0)));
                    prop_assert_eq!(UserRecord::from(prepared), user_record(keys), "the record is unchanged");
                }
            }
        }
    }

    fn refusal(record: UserRecord) -> String {
        let error = record.clone().prepare().unwrap_err();
        assert_eq!(*error.record, record, "the error has the unchanged record");
        error.to_string()
    }

    #[test]
    fn errors_name_field_value_and_limit() {
        assert_eq!(
            refusal(UserRecord::new("s", "k".repeat(257), "")),
            "partition_key has 257 characters, but must have 1 to 256"
        );
        assert!(
            refusal(UserRecord::new("s", "k", "").explicit_hash_key("-1")).starts_with("explicit_hash_key is \"-1\"")
        );
        assert_eq!(
            refusal(UserRecord::new("s", "k", alloc::vec![0; 10 << 20])),
            "data and partition_key have 10485761 bytes, but the limit is 10485760"
        );
        for stream in ["", "a b", "arn:aws:kinesis:us-east-1:123:stream/s", "arn:aws:s3:::b", "ä"] {
            assert!(refusal(UserRecord::new(stream, "k", "")).starts_with("stream is "), "{stream:?}");
        }
        assert!(refusal(UserRecord::new("s".repeat(129), "k", "")).starts_with("stream is "));
    }

    #[test]
    fn explicit_hash_key_overrides_the_partition_key() {
        let record = UserRecord::new("s", "key", "data");
        assert_eq!(record.clone().prepare().unwrap().hash_key(), hash_key("key"));
        let prepared = record.explicit_hash_key("42").prepare().unwrap();
        assert_eq!((prepared.hash_key(), prepared.size()), (42, 7));
    }

    #[test]
    fn records_at_the_limits_are_accepted() {
        for record in [
            UserRecord::new("s".repeat(128), "あ".repeat(256), ""),
            UserRecord::new("s", "k", alloc::vec![0; (10 << 20) - 1]),
            UserRecord::new("arn:aws-cn:kinesis:cn-north-1:123456789012:stream/s", "k", ""),
            UserRecord::new("s", "k", "").explicit_hash_key(u128::MAX.to_string()),
        ] {
            let back = UserRecord::from(record.clone().prepare().unwrap());
            assert_eq!(back, record);
        }
    }
}

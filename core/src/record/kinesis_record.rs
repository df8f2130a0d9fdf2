//! Kinesis records with their user records, and the batches that are sent to the service.

use alloc::sync::Arc;
use alloc::vec::{self, Vec};
use core::ops::{Deref, DerefMut};
use core::{iter, option, slice};

use bytes::Bytes;
use compact_str::CompactString;

use crate::codec::{self, AGGREGATE_PARTITION_KEY, EncodeItem, Encoder, FRAME_SIZE, Placement};
use crate::record::attempt::FailedAttempts;
use crate::record::user_record::{Entry, PartitionKey};
use crate::time::Instant;

/// A user record that is not resolved yet, with its caller's ticket.
#[derive(Debug)]
pub(crate) struct Pending<T, K = CompactString> {
    pub(crate) entry: Entry<K>,
    pub(crate) ticket: T,
    pub(crate) put_at: Instant,
    /// The generation. It decides which flushes cover the record: see [`Outstanding`](crate::outstanding::Outstanding).
    pub(crate) generation: u64,
    /// The failed attempts.
    pub(crate) failed: FailedAttempts,
}

impl<T, K: PartitionKey> Pending<T, K> {
    fn with_key<L>(self, partition_key: impl FnOnce(K) -> L) -> Pending<T, L> {
        let Self { entry, ticket, put_at, generation, failed } = self;
        Pending { entry: entry.with_key(partition_key), ticket, put_at, generation, failed }
    }
}

/// The position of a partition key in the [`Keys`] of its Kinesis record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeySpan {
    start: u32,
    len: u32,
}

impl PartitionKey for KeySpan {
    fn size(&self) -> usize {
        self.len as usize
    }
}

/// The partition keys of a Kinesis record's user records, concatenated. Each key is copied when it is added, so the
/// caller's string is freed soon after its creation. Strings that are freed much later, by another thread, cost many
/// times as much.
#[derive(Debug, Default)]
pub(crate) struct Keys(CompactString);

impl Keys {
    pub(crate) fn with_capacity(size: usize) -> Self {
        Self(CompactString::with_capacity(size))
    }

    pub(crate) fn size(&self) -> usize {
        self.0.len()
    }

    fn push(&mut self, partition_key: CompactString) -> KeySpan {
        let span = KeySpan { start: self.0.len() as u32, len: partition_key.len() as u32 };
        if self.0.is_empty() && self.0.capacity() <= partition_key.len() {
            // No capacity was reserved: there will be only this key, or an unknown number of keys. So its string is
            // reused.
            self.0 = partition_key;
        } else {
            self.0.push_str(&partition_key);
        }
        span
    }

    fn get(&self, span: KeySpan) -> &str {
        let start = span.start as usize;
        self.0.get(start..start + span.len as usize).unwrap_or_default()
    }
}

/// A user record in a Kinesis record, with the indexes of its keys in the key tables.
#[derive(Debug)]
pub(crate) struct Packed<T> {
    pub(crate) user: Pending<T, KeySpan>,
    /// A hash of the partition key, until the aggregate is closed; then the key's index.
    partition_key_index: u32,
    /// The index of the explicit hash key, if the record has one; valid after the aggregate is closed.
    explicit_hash_key_index: u32,
}

impl<T> Packed<T> {
    /// Creates a packed record without indexes. They are set later; a Kinesis record of one user record needs none.
    pub(crate) fn new(user: Pending<T>, hash: u32, keys: &mut Keys) -> Self {
        let user = user.with_key(|partition_key| keys.push(partition_key));
        Self { user, partition_key_index: hash, explicit_hash_key_index: 0 }
    }

    /// Returns the user record with its partition key.
    pub(crate) fn unpack(self, keys: &Keys) -> Pending<T> {
        self.user.with_key(|span| keys.get(span).into())
    }

    /// Returns the hash that was passed to [`new`](Self::new).
    pub(crate) fn hash(&self) -> u32 {
        self.partition_key_index
    }

    pub(crate) fn placed(mut self, placement: Placement) -> Self {
        self.set_place(placement);
        self
    }

    pub(crate) fn set_place(&mut self, placement: Placement) {
        self.partition_key_index = placement.partition_key_index;
        self.explicit_hash_key_index = placement.explicit_hash_key_index.unwrap_or(0);
    }

    /// Returns the partition key and the explicit hash key, as the codec's key tables look them up.
    pub(crate) fn keys<'a>(&self, keys: &'a Keys) -> (&'a str, Option<u128>) {
        (keys.get(self.user.entry.partition_key), self.user.entry.explicit_hash_key())
    }

    fn encode_item<'a>(&'a self, keys: &'a Keys) -> EncodeItem<'a> {
        let entry = &self.user.entry;
        EncodeItem {
            partition_key: keys.get(entry.partition_key),
            partition_key_index: self.partition_key_index,
            explicit_hash_key: entry.explicit_hash_key().map(|key| (key, self.explicit_hash_key_index)),
            data: &entry.data,
        }
    }
}

/// The predicted shard of a Kinesis record: its slot in the stream's tables, and its ID, since slots are reused.
#[derive(Clone, Debug)]
pub(crate) struct ShardRef {
    pub(crate) slot: u32,
    pub(crate) id: Arc<str>,
}

/// A Kinesis record of a [`Batch`]: one user record as it is, or an aggregate of several.
///
/// It has what the driver needs to send it. [`data`](Self::data) is expensive: drivers call it outside their lock.
#[derive(Debug)]
pub struct KinesisRecord<T> {
    pub(crate) users: Users<T>,
    pub(crate) keys: Keys,
    /// The bytes of the protobuf message, if there is more than one user record.
    message_size: usize,
    pub(crate) shard: Option<ShardRef>,
    pub(crate) deadline: Instant,
    /// The earliest expiry of its user records.
    pub(crate) expiry: Instant,
    /// The earliest put time of its user records.
    pub(crate) oldest: Instant,
}

/// The user records of a Kinesis record: never none. A single one needs no allocation of its own.
#[derive(Debug)]
pub(crate) enum Users<T> {
    Single(Packed<T>),
    Several(Vec<Packed<T>>),
}

impl<T> Users<T> {
    /// Returns `None` if there are none.
    pub(crate) fn new(mut users: Vec<Packed<T>>) -> Option<Self> {
        match users.len() {
            0 | 1 => users.pop().map(Self::Single),
            _ => Some(Self::Several(users)),
        }
    }
}

impl<T> Deref for Users<T> {
    type Target = [Packed<T>];

    fn deref(&self) -> &[Packed<T>] {
        match self {
            Self::Single(user) => slice::from_ref(user),
            Self::Several(users) => users,
        }
    }
}

impl<T> DerefMut for Users<T> {
    fn deref_mut(&mut self) -> &mut [Packed<T>] {
        match self {
            Self::Single(user) => slice::from_mut(user),
            Self::Several(users) => users,
        }
    }
}

impl<T> IntoIterator for Users<T> {
    type Item = Packed<T>;
    type IntoIter = iter::Chain<option::IntoIter<Packed<T>>, vec::IntoIter<Packed<T>>>;

    fn into_iter(self) -> Self::IntoIter {
        let (single, several) = match self {
            Self::Single(user) => (Some(user), Vec::new()),
            Self::Several(users) => (None, users),
        };
        single.into_iter().chain(several)
    }
}

impl<T> KinesisRecord<T> {
    pub(crate) fn new(
        users: Users<T>,
        keys: Keys,
        message_size: usize,
        shard: Option<ShardRef>,
        deadline: Instant,
        expiry: Instant,
        oldest: Instant,
    ) -> Self {
        Self { users, keys, message_size, shard, deadline, expiry, oldest }
    }

    /// Creates a Kinesis record of one user record, as it is.
    pub(crate) fn single(user: Pending<T>, shard: Option<ShardRef>, deadline: Instant, expiry: Instant) -> Self {
        let (mut keys, oldest) = (Keys::default(), user.put_at);
        let users = Users::Single(Packed::new(user, 0, &mut keys));
        Self::new(users, keys, 0, shard, deadline, expiry, oldest)
    }

    /// Converts it into its user records.
    pub(crate) fn into_users(self) -> impl Iterator<Item = Pending<T>> {
        let Self { users, keys, .. } = self;
        users.into_iter().map(move |packed| packed.unpack(&keys))
    }

    fn encode_items(&self) -> impl Iterator<Item = EncodeItem<'_>> + Clone {
        self.users.iter().map(|packed| packed.encode_item(&self.keys))
    }

    /// Returns the hash key of its first user record.
    pub(crate) fn hash_key(&self) -> u128 {
        self.first().hash_key()
    }

    /// Whether it is an aggregate of several user records.
    pub fn is_aggregated(&self) -> bool {
        self.users.len() > 1
    }

    /// Returns the number of its user records: 1 or more.
    pub fn user_records(&self) -> usize {
        self.users.len()
    }

    /// Returns the partition key to send it with.
    pub fn partition_key(&self) -> &str {
        if self.is_aggregated() { AGGREGATE_PARTITION_KEY } else { self.users[0].keys(&self.keys).0 }
    }

    /// Returns the explicit hash key to send it with: that of its first user record, given or hashed, as the KPL does.
    /// On the wire it is decimal.
    pub fn explicit_hash_key(&self) -> u128 {
        self.hash_key()
    }

    /// Returns the data to send: that of the one user record, without a copy, or the aggregate, which this call
    /// encodes.
    pub fn data(&self) -> Bytes {
        if self.is_aggregated() {
            codec::encode_message(self.encode_items(), self.message_size).into()
        } else {
            self.first().data.clone()
        }
    }

    /// Returns the number of bytes that count against the service's limits: data and partition key.
    pub fn size(&self) -> usize {
        if self.is_aggregated() {
            FRAME_SIZE + self.message_size + AGGREGATE_PARTITION_KEY.len()
        } else {
            self.first().size()
        }
    }

    /// Returns the number of bytes of its user records: data and partition keys.
    pub(crate) fn user_bytes(&self) -> usize {
        self.users.iter().map(|packed| packed.user.entry.size()).sum()
    }

    /// Returns the number of bytes of [`data`](Self::data).
    pub(crate) fn data_size(&self) -> usize {
        if self.is_aggregated() { FRAME_SIZE + self.message_size } else { self.first().data.len() }
    }

    fn first(&self) -> &Entry<KeySpan> {
        &self.users[0].user.entry
    }
}

/// The records of one PutRecords request, with their callers' tickets. The batch owns them while the request is in
/// flight.
///
/// The driver sends the [`records`](Self::records) in their order, and passes the batch back with the reply to
/// [`Producer::handle_reply`](crate::Producer::handle_reply).
#[derive(Debug)]
#[must_use = "the records of a batch that is not passed back are never resolved"]
pub struct Batch<T> {
    pub(crate) stream: Arc<str>,
    pub(crate) stream_index: u32,
    pub(crate) records: Vec<KinesisRecord<T>>,
    pub(crate) started: Instant,
}

impl<T> Batch<T> {
    /// Returns the stream's name or ARN, as it was put.
    pub fn stream(&self) -> &Arc<str> {
        &self.stream
    }

    /// Returns the records, in the order in which the reply must have their results.
    pub fn records(&self) -> &[KinesisRecord<T>] {
        &self.records
    }

    /// Calls `visit` for each record with its [`KinesisRecord::data`], in order. This costs less than a call of `data`
    /// for each record: several aggregates at a time are encoded into one buffer, and their MD5 sums are computed in
    /// parallel.
    pub fn encode_each(&self, mut visit: impl FnMut(&KinesisRecord<T>, &[u8])) {
        let mut encoder = Encoder::default();
        let mut rest = &self.records[..];
        while !rest.is_empty() {
            encoder.clear();
            let fits = rest.iter().take_while(|record| {
                let has_room = encoder.has_room();
                if has_room && record.is_aggregated() {
                    encoder.push(record.encode_items(), record.message_size);
                }
                has_room
            });
            let (group, others) = rest.split_at(fits.count());
            let mut aggregates = encoder.finish();
            for record in group {
                let aggregate = if record.is_aggregated() { aggregates.next() } else { None };
                visit(record, aggregate.unwrap_or(&record.first().data));
            }
            rest = others;
        }
    }
}

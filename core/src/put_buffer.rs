//! Buffers in front of the state machine. They collect puts, which the state machine then processes together.
//!
//! A driver that puts from several threads has a few [`PutBuffer`]s, each with its own lock. A buffered put takes only
//! that lock. A [`BufferDrain`] then moves the records to the [`Producer`](crate::Producer), in the order of the puts:
//! it hashes the keys of 16 records at once, and the driver locks the state machine once for many records.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core::time::Duration;

use hashbrown::HashSet;

use crate::config::Config;
use crate::record::hash_key::HashKeyCache;
use crate::record::user_record::{CheckedRecord, PreparedRecord};
use crate::time::Instant;

/// A buffer with this many records is due to be drained: the number of MD5 lanes in the widest SIMD registers.
const DRAIN_RECORDS: usize = 16;

/// A buffer with this many bytes is due to be drained: they may fill an aggregate.
const DRAIN_BYTES: usize = 16 << 10;

/// The maximum number of records in a buffer, while another thread is draining.
const BUFFER_RECORDS_MAX: usize = 128;

/// The maximum number of streams that a buffer knows. Beyond that, it clears the set.
const KNOWN_STREAMS_MAX: usize = 1_024;

/// Records above this size are not buffered: hashing their key is a negligible part of their cost. No stream on AWS has
/// a lower record limit.
const RECORD_SIZE_MAX: usize = 4_096;

/// A queue of accepted puts that the state machine has not processed yet.
///
/// A record may be buffered if this has no visible effect: the producer has room for it, knows its stream and its size
/// limit, and the buffer is drained before the record is due. [`push`](Self::push) refuses all others: drain the
/// buffers, and pass them to [`Producer::put`](crate::Producer::put).
///
/// ```
/// use core::time::Duration;
/// use kpl_core::{BufferDrain, Config, HashKeyCache, Instant, Producer, PutBuffer, UserRecord};
///
/// let (config, now) = (Config::default(), Instant::from_nanos(0));
/// let mut producer = Producer::new(config.clone(), now);
/// let mut buffer = PutBuffer::new(&config);
/// let (mut drain, mut keys) = (BufferDrain::new(1), HashKeyCache::default());
///
/// drain.start(producer.buffer_room()); // allows the buffer to accept records
/// drain.take(0, &mut buffer, now);
/// buffer.expect_drain(now + Duration::from_millis(50)); // the latest time of the next drain
///
/// let first = UserRecord::new("events", "a", "hello").check()?;
/// let (first, ticket) = buffer.push(now, first, 1).unwrap_err(); // the producer does not know the stream yet
/// producer.put(now, first.prepare(&mut keys), ticket)?;
/// assert!(buffer.push(now, UserRecord::new("events", "b", "hello").check()?, 2).is_ok());
///
/// drain.start(producer.buffer_room());
/// drain.take(0, &mut buffer, now);
/// drain.hash_keys(&mut keys);
/// while producer.put_drained(now, &mut drain, &mut keys) {}
/// assert_eq!(producer.outstanding_records(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PutBuffer<T> {
    /// The puts, ordered by time.
    puts: VecDeque<Put<T>>,
    bytes: usize,
    /// The streams whose first record went to the producer directly: it makes the producer request the stream's
    /// metadata.
    known_streams: HashSet<Arc<str>>,
    /// Whether the producer has room for the capacity of all buffers.
    has_room: bool,
    /// The latest time of the next drain.
    drained_by: Instant,
    is_closed: bool,
    /// The maximum time that a record stays in the buffer.
    max_wait: Duration,
    max_record_size: usize,
}

/// An accepted put that the state machine has not processed yet.
#[derive(Debug)]
struct Put<T> {
    at: Instant,
    record: CheckedRecord,
    ticket: T,
}

/// The result of a buffered put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffered {
    /// The record waits for more.
    Waiting,
    /// The buffer is due to be drained: it has enough records or bytes. If another thread is already draining, the next
    /// put returns this again.
    DrainDue,
}

impl<T> PutBuffer<T> {
    /// Creates a buffer. It accepts no records before the first [`BufferDrain::take`].
    pub fn new(config: &Config) -> Self {
        // If a few records fill an aggregate or a request, they have to be sent at once.
        let (count, size) = match config.aggregation_enabled() {
            true => (config.aggregation_max_count(), config.aggregation_max_size()),
            false => (usize::MAX, usize::MAX),
        };
        let few_records_fill = count.min(config.collection_max_count()) <= DRAIN_RECORDS
            || size.min(config.collection_max_size_per_shard()) <= DRAIN_BYTES;
        Self {
            puts: VecDeque::new(),
            bytes: 0,
            known_streams: HashSet::new(),
            has_room: false,
            drained_by: Instant::NEVER,
            is_closed: few_records_fill,
            // Until a record is due. With a short time-to-live, it has to be sent after half of it.
            max_wait: config.record_max_buffered_time().min(config.record_ttl() / 2),
            max_record_size: config.max_record_size().map_or(RECORD_SIZE_MAX, |size| size.min(RECORD_SIZE_MAX)),
        }
    }

    /// Accepts a record that is put at `now`.
    ///
    /// # Errors
    ///
    /// Returns the record and its ticket if it may not be buffered: drain the buffers, and put it directly.
    pub fn push(&mut self, now: Instant, record: CheckedRecord, ticket: T) -> Result<Buffered, (CheckedRecord, T)> {
        let size = record.size();
        let can_buffer = self.has_room
            && (now..=now + self.max_wait).contains(&self.drained_by)
            && size <= self.max_record_size
            && self.puts.len() < BUFFER_RECORDS_MAX
            && !self.is_closed;
        if !can_buffer || self.add_stream(record.stream()) {
            return Err((record, ticket));
        }
        self.bytes += size;
        self.puts.push_back(Put { at: now, record, ticket });
        let is_drain_due = self.puts.len() >= DRAIN_RECORDS || self.bytes >= DRAIN_BYTES;
        Ok(if is_drain_due { Buffered::DrainDue } else { Buffered::Waiting })
    }

    /// Sets the latest time of the next drain to `next`, or to when the first record is due if that is earlier. Returns
    /// that time.
    pub fn expect_drain(&mut self, next: Instant) -> Instant {
        let due = self.puts.front().map_or(Instant::NEVER, |put| put.at + self.max_wait);
        self.drained_by = next.min(due);
        self.drained_by
    }

    /// Refuses further records. The records in the buffer stay until they are drained.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// Returns the number of records in the buffer.
    pub fn records(&self) -> usize {
        self.puts.len()
    }

    /// Returns the number of bytes in the buffer, data and partition keys.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns when the oldest record in the buffer was put.
    pub fn oldest_put(&self) -> Option<Instant> {
        self.puts.front().map(|put| put.at)
    }

    /// Adds a stream to the known ones. Returns whether it was unknown.
    fn add_stream(&mut self, stream: &Arc<str>) -> bool {
        // Most puts are for the same stream as the put before.
        let is_last = self.puts.back().is_some_and(|last| Arc::ptr_eq(last.record.stream(), stream));
        if is_last || self.known_streams.contains(stream) {
            return false;
        }
        // The number of different stream names has no limit.
        if self.known_streams.len() >= KNOWN_STREAMS_MAX {
            self.known_streams.clear();
        }
        self.known_streams.insert(stream.clone())
    }
}

/// The free room for records: see [`Producer::room`](crate::Producer::room) and
/// [`Producer::buffer_room`](crate::Producer::buffer_room).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// The number of records that the producer accepts before it is full.
    pub records: usize,
    /// The number of bytes that the producer accepts before it is full.
    pub bytes: usize,
}

impl Room {
    /// Returns the room that is left after `records` with `bytes` in total.
    #[must_use]
    pub fn without(self, records: usize, bytes: usize) -> Self {
        Self { records: self.records.saturating_sub(records), bytes: self.bytes.saturating_sub(bytes) }
    }
}

/// Moves puts from buffers to the state machine, in the order in which they were put.
///
/// There is one drain at a time, so a driver protects it by a lock. The steps are [`start`](Self::start),
/// [`take`](Self::take) for each buffer, [`hash_keys`](Self::hash_keys), and
/// [`Producer::put_drained`](crate::Producer::put_drained) until it returns false.
#[derive(Debug)]
pub struct BufferDrain<T> {
    /// The puts taken from each buffer, ordered by time.
    taken: Vec<VecDeque<Put<T>>>,
    /// The buffers with puts left in `taken`.
    nonempty: Vec<usize>,
    /// The records that were added directly, and their time. They are put behind all that were taken.
    added: VecDeque<(CheckedRecord, T)>,
    added_at: Instant,
    /// Whether buffers may accept records.
    has_room: bool,
}

impl<T> BufferDrain<T> {
    /// Creates a drain for `buffers` buffers.
    pub fn new(buffers: usize) -> Self {
        let taken = (0..buffers).map(|_| VecDeque::new()).collect();
        Self {
            taken,
            nonempty: Vec::with_capacity(buffers),
            added: VecDeque::new(),
            added_at: Instant::NEVER,
            has_room: false,
        }
    }

    /// Starts a drain. `room` is [`Producer::buffer_room`](crate::Producer::buffer_room) at the end of the previous drain,
    /// or less. It does not count the records in the buffers.
    ///
    /// Returns true if the buffers may no longer accept records. Then call [`stop`](Self::stop) for each of them before
    /// reading the clock for [`take`](Self::take). So they are empty after it, and the producer checks every further
    /// put.
    pub fn start(&mut self, room: Room) -> bool {
        // For the records in the buffers now, and for as many again until the next drain.
        let records = 2 * self.taken.len() * BUFFER_RECORDS_MAX;
        let had_room = self.has_room;
        self.has_room = room.records > records && room.bytes > records * RECORD_SIZE_MAX;
        had_room && !self.has_room
    }

    /// Makes a buffer refuse records: see [`start`](Self::start).
    pub fn stop(&self, buffer: &mut PutBuffer<T>) {
        buffer.has_room = self.has_room;
    }

    /// Takes the records that were put into the buffer until `now`.
    ///
    /// Use the same `now` for all buffers of a drain, and read the clock before locking the first of them. For each
    /// put, read the clock while its buffer is locked. Then a later put is never taken without an earlier one, even
    /// from different buffers: if the time of the later put is not after `now`, the earlier one was in its buffer
    /// before `now`.
    pub fn take(&mut self, number: usize, buffer: &mut PutBuffer<T>, now: Instant) {
        let taken = &mut self.taken[number];
        // After a panic in the state machine, the rest of an earlier drain is left here.
        let was_empty = taken.is_empty();
        if was_empty && buffer.puts.back().is_some_and(|last| last.at <= now) {
            // Swapping the lists avoids an allocation.
            mem::swap(&mut buffer.puts, taken);
            buffer.bytes = 0;
        } else {
            while let Some(put) = buffer.puts.pop_front_if(|put| put.at <= now) {
                buffer.bytes -= put.record.size();
                taken.push_back(put);
            }
        }
        buffer.has_room = self.has_room;
        if was_empty && !taken.is_empty() {
            self.nonempty.push(number);
        }
    }

    /// Takes the first `count` records of `batch`, which are put at `now`, the time of the last [`take`](Self::take).
    /// They are put behind all others. `count` is at most [`Producer::fitting`](crate::Producer::fitting), since the
    /// producer does not refuse them. When a few are put, check [`Producer::buffer_room`](crate::Producer::buffer_room): the
    /// batch may have made the backlog of a shard long. Then [`take_back`](Self::take_back) the others.
    pub fn add(&mut self, now: Instant, batch: &mut VecDeque<(CheckedRecord, T)>, count: usize) {
        self.added_at = now;
        // After a panic in the state machine, the rest of an earlier batch is left here.
        if self.added.is_empty() && count == batch.len() {
            mem::swap(&mut self.added, batch);
        } else {
            self.added.extend(batch.drain(..count));
        }
    }

    /// Puts the added records that are not put yet back in front of `batch`.
    pub fn take_back(&mut self, batch: &mut VecDeque<(CheckedRecord, T)>) {
        while let Some(record) = self.added.pop_back() {
            batch.push_front(record);
        }
    }

    /// Hashes the partition keys of all records, several at once.
    pub fn hash_keys(&mut self, keys: &mut HashKeyCache) {
        CheckedRecord::hash_keys(self.taken.iter_mut().flatten().map(|put| &mut put.record), keys);
        CheckedRecord::hash_keys(self.added.iter_mut().map(|(record, _)| record), keys);
    }

    /// Whether all records have been put.
    pub fn is_empty(&self) -> bool {
        self.nonempty.is_empty() && self.added.is_empty()
    }

    /// Removes and returns the earliest put of all buffers, or the first record that was added.
    pub(crate) fn pop(&mut self, keys: &mut HashKeyCache) -> Option<(Instant, PreparedRecord, T)> {
        let Some((at, record, ticket)) = self.pop_taken() else {
            let (record, ticket) = self.added.pop_front()?;
            return Some((self.added_at, record.prepare(keys), ticket));
        };
        Some((at, record.prepare(keys), ticket))
    }

    fn pop_taken(&mut self) -> Option<(Instant, CheckedRecord, T)> {
        let at = |buffer: &usize| self.taken[*buffer].front().map(|put| put.at);
        // Often only one task puts, so only one buffer has records.
        let next = match self.nonempty.len() {
            0 => return None,
            1 => 0,
            _ => (0..self.nonempty.len()).min_by_key(|next| at(&self.nonempty[*next]))?,
        };
        let taken = &mut self.taken[self.nonempty[next]];
        let put = taken.pop_front();
        if taken.is_empty() {
            self.nonempty.swap_remove(next);
        }
        put.map(|Put { at, record, ticket }| (at, record, ticket))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::config::ConfigBuilder;
    use crate::record::user_record::UserRecord;
    use crate::testing::ms;

    const AMPLE: Room = Room { records: 10_000, bytes: 10 << 20 };
    const BUFFERS: usize = 8;

    struct Rig {
        buffers: Vec<PutBuffer<()>>,
        drain: BufferDrain<()>,
    }

    impl Rig {
        /// Creates buffers that accept records which are put from 0 to 50 ms.
        fn new(config: ConfigBuilder) -> Self {
            let config = config.record_max_buffered_time(Duration::from_millis(100)).build().unwrap();
            let buffers = (0..BUFFERS).map(|_| PutBuffer::new(&config)).collect();
            let mut rig = Self { buffers, drain: BufferDrain::new(BUFFERS) };
            assert!(rig.drain(AMPLE).is_empty());
            assert_eq!(rig.expect_drain(ms(50)), ms(50));
            for number in 0..BUFFERS {
                assert!(rig.push(number, 0, 10).is_none(), "the first record of its stream");
            }
            rig
        }

        fn push(&mut self, number: usize, at: u64, size: usize) -> Option<Buffered> {
            let record = UserRecord::new("events", "k", vec![0; size - 1]).check().unwrap();
            self.buffers[number].push(ms(at), record, ()).ok()
        }

        fn is_buffered(&mut self, at: u64, size: usize) -> bool {
            self.push(0, at, size).is_some()
        }

        fn expect_drain(&mut self, next: Instant) -> Instant {
            self.buffers.iter_mut().map(|buffer| buffer.expect_drain(next)).min().unwrap()
        }

        /// Drains the records that were put until `now`. Returns the time and size of each.
        fn drain_until(&mut self, room: Room, now: Instant) -> Vec<(Instant, usize)> {
            let Self { buffers, drain } = self;
            if drain.start(room) {
                buffers.iter_mut().for_each(|buffer| drain.stop(buffer));
            }
            for (number, buffer) in buffers.iter_mut().enumerate() {
                drain.take(number, buffer, now);
            }
            let mut keys = HashKeyCache::default();
            drain.hash_keys(&mut keys);
            let mut drained = Vec::new();
            while !drain.is_empty() {
                let (at, record, ()) = drain.pop(&mut keys).unwrap();
                drained.push((at, record.size()));
            }
            assert!(drain.pop(&mut keys).is_none());
            drained
        }

        fn drain(&mut self, room: Room) -> Vec<(Instant, usize)> {
            self.drain_until(room, ms(1_000))
        }

        fn records_and_bytes(&self) -> (usize, usize) {
            let sum = |count: fn(&PutBuffer<()>) -> usize| self.buffers.iter().map(count).sum();
            (sum(PutBuffer::records), sum(PutBuffer::bytes))
        }
    }

    #[test]
    fn a_record_is_buffered_only_if_a_drain_comes_in_time() {
        let mut rig = Rig::new(Config::builder());
        rig.expect_drain(ms(150));
        assert!(rig.is_buffered(50, 10) && rig.is_buffered(150, 10));
        assert!(!rig.is_buffered(49, 10), "it is due before the drain");
        assert!(!rig.is_buffered(151, 10), "the drain is late");
        rig.expect_drain(Instant::NEVER);
        assert_eq!(rig.drain(AMPLE).len(), 2);
        rig.expect_drain(Instant::NEVER);
        assert!(!rig.is_buffered(150, 10));
    }

    #[test]
    fn a_record_is_drained_within_half_of_its_time_to_live() {
        let mut rig = Rig::new(Config::builder().record_ttl(Duration::from_millis(120)));
        rig.expect_drain(ms(70));
        assert!(!rig.is_buffered(9, 10) && rig.is_buffered(10, 10));
    }

    #[test]
    fn a_buffered_record_that_is_due_makes_the_drain_earlier() {
        let mut rig = Rig::new(Config::builder());
        assert!(rig.is_buffered(20, 10));
        assert_eq!(rig.expect_drain(Instant::NEVER), ms(120), "the time at which the record is due");
        assert!(rig.is_buffered(21, 10));
        assert_eq!(rig.expect_drain(ms(110)), ms(110));
    }

    #[test]
    fn the_producer_has_room_for_two_times_the_capacity_of_the_buffers() {
        let mut rig = Rig::new(Config::builder());
        for room in [Room { records: 2_048, ..AMPLE }, Room { bytes: 8 << 20, ..AMPLE }] {
            rig.drain(room);
            assert!(!rig.is_buffered(0, 10));
            rig.drain(Room { records: room.records + 1, bytes: room.bytes + 1 });
            let buffered = (0..2_000).filter(|n| rig.push(n % BUFFERS, 0, RECORD_SIZE_MAX).is_some()).count();
            assert_eq!(buffered, 1_024);
            assert_eq!(rig.records_and_bytes(), (1_024, 1_024 * RECORD_SIZE_MAX));
            assert_eq!(rig.drain(room).len(), 1_024);
            assert_eq!(rig.records_and_bytes(), (0, 0));
        }
    }

    #[test]
    fn without_room_the_buffers_are_empty_after_a_drain() {
        let mut rig = Rig::new(Config::builder());
        assert!(rig.is_buffered(10, 10));
        assert!(rig.drain.start(Room::default()));
        rig.drain.stop(&mut rig.buffers[0]);
        assert!(!rig.is_buffered(20, 10), "its time would be after the drain");
        assert!(!rig.drain.start(Room::default()), "already stopped");
        assert_eq!(rig.drain_until(Room::default(), ms(20)), [(ms(10), 10)]);
    }

    #[test]
    fn a_drain_is_due_after_16_records_or_16_kib() {
        let mut rig = Rig::new(Config::builder());
        let pushed: Vec<_> = (0..DRAIN_RECORDS).filter_map(|_| rig.push(0, 0, 10)).collect();
        assert_eq!(pushed.iter().position(|buffered| *buffered == Buffered::DrainDue), Some(DRAIN_RECORDS - 1));
        let pushed: Vec<_> = (0..4).filter_map(|_| rig.push(1, 0, RECORD_SIZE_MAX)).collect();
        assert_eq!(pushed.iter().position(|buffered| *buffered == Buffered::DrainDue), Some(3));
    }

    #[test]
    fn records_of_all_buffers_are_drained_in_the_order_of_the_puts() {
        let mut rig = Rig::new(Config::builder());
        let puts: Vec<_> = (0..30).map(|n| (n, n as usize * 7 % 3)).collect();
        for (n, buffer) in &puts {
            assert!(rig.push(*buffer, *n, 100 + *n as usize).is_some());
        }
        assert_eq!(rig.buffers.iter().filter_map(PutBuffer::oldest_put).min(), Some(ms(0)));
        let expected: Vec<_> = puts.iter().map(|(n, _)| (ms(*n), 100 + *n as usize)).collect();
        assert_eq!(rig.drain(AMPLE), expected);
    }

    #[test]
    fn records_put_after_the_start_of_a_drain_stay() {
        let mut rig = Rig::new(Config::builder());
        for at in [10, 20, 30, 40] {
            assert!(rig.push(at as usize / 10 % 2, at, 100 + at as usize).is_some());
        }
        let puts = rig.drain_until(AMPLE, ms(20));
        assert!(puts.into_iter().map(|put| put.0).eq([ms(10), ms(20)]));
        assert_eq!(rig.records_and_bytes(), (2, 270));
        assert_eq!(rig.expect_drain(Instant::NEVER), ms(130));
        assert_eq!(rig.drain(AMPLE), [(ms(30), 130), (ms(40), 140)]);
    }

    #[test]
    fn added_records_are_put_behind_those_of_the_buffers() {
        let mut rig = Rig::new(Config::builder());
        assert!(rig.is_buffered(10, 20) && rig.push(1, 20, 21).is_some());
        let record = |size: usize| (UserRecord::new("events", "k", vec![0; size - 1]).check().unwrap(), ());
        let mut batch = VecDeque::from([record(30), record(31), record(40)]);
        rig.drain.add(ms(20), &mut batch, 2);
        let drained = rig.drain_until(AMPLE, ms(20));
        assert_eq!(drained, [(ms(10), 20), (ms(20), 21), (ms(20), 30), (ms(20), 31)]);
        rig.drain.add(ms(30), &mut batch, 1);
        rig.drain.take_back(&mut batch);
        assert!(rig.drain.is_empty());
        rig.drain.add(ms(30), &mut batch, 1);
        assert!(!rig.drain.is_empty());
        assert_eq!(rig.drain_until(AMPLE, ms(30)), [(ms(30), 40)]);
    }

    #[test]
    fn records_of_one_buffer_with_equal_times_keep_their_order() {
        let mut rig = Rig::new(Config::builder());
        (10..20).for_each(|size| assert!(rig.is_buffered(0, size)));
        assert!(rig.drain(AMPLE).into_iter().eq((10..20).map(|size| (ms(0), size))));
    }

    #[test]
    fn records_are_not_buffered_without_a_benefit() {
        assert!(!Rig::new(Config::builder()).is_buffered(0, RECORD_SIZE_MAX + 1));
        assert!(!Rig::new(Config::builder().max_record_size(Some(2_000))).is_buffered(0, 2_001));
        assert!(Rig::new(Config::builder().aggregation_enabled(false).aggregation_max_count(1)).is_buffered(0, 10));
        assert!(!Rig::new(Config::builder().aggregation_max_count(DRAIN_RECORDS)).is_buffered(0, 10));
        assert!(!Rig::new(Config::builder().aggregation_max_size(DRAIN_BYTES)).is_buffered(0, 10));
        assert!(!Rig::new(Config::builder().collection_max_count(DRAIN_RECORDS)).is_buffered(0, 10));
        assert!(!Rig::new(Config::builder().collection_max_size_per_shard(DRAIN_BYTES)).is_buffered(0, 10));
        let mut closed = Rig::new(Config::builder());
        closed.buffers[0].close();
        assert!(!closed.is_buffered(0, 10));
    }
}

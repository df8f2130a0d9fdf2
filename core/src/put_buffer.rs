//! Buffers in front of the state machine: puts that nobody has to act on yet are collected here and given to it together.
//!
//! A driver that puts from several threads keeps a few [`PutBuffer`]s, each behind a lock of its own. A put that may be
//! buffered takes only that lock. A [`BufferDrain`] then moves what the buffers hold to the [`Producer`](crate::Producer),
//! in the order of the puts: the keys of 16 records are hashed side by side, and the state machine is touched once for
//! many records.

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

/// A buffer that holds this many records wants to be drained: as many as the widest SIMD registers have lanes for MD5.
const DRAIN_RECORDS: usize = 16;

/// A buffer that holds this many bytes wants to be drained: they may fill an aggregate.
const DRAIN_BYTES: usize = 16 << 10;

/// The most records that a buffer holds, while another thread is draining.
const BUFFER_RECORDS_MAX: usize = 128;

/// The most streams that a buffer knows. When there are more, it learns all of them anew.
const KNOWN_STREAMS_MAX: usize = 1_024;

/// Records above this size are not buffered: hashing their key is a negligible part of their cost. No stream on AWS has a
/// lower record limit.
const RECORD_SIZE_MAX: usize = 4_096;

/// Puts that were accepted and that the state machine has not seen yet, in the order in which they came.
///
/// A record may be buffered if nobody can tell the difference: the producer has room for it, knows its stream and its
/// limit, and is drained before the record would be due. [`push`](Self::push) refuses all others; they go to
/// [`Producer::put`](crate::Producer::put), after a drain.
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
/// buffer.expect_drain(now + Duration::from_millis(50)); // when the next drain comes at the latest
///
/// let first = UserRecord::new("events", "a", "hello").check()?;
/// let (first, ticket) = buffer.push(now, first, 1).unwrap_err(); // the producer has to learn of its stream
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
    /// In the order of their times.
    puts: VecDeque<Put<T>>,
    bytes: usize,
    /// Streams whose first record went to the producer: with it, the producer asks for the stream's shards.
    known_streams: HashSet<Arc<str>>,
    /// Whether the producer has room for all that all buffers can hold.
    has_room: bool,
    /// When the buffer is drained at the latest.
    drained_by: Instant,
    is_closed: bool,
    /// How long a record may stay.
    max_wait: Duration,
    max_record_size: usize,
}

/// A put that the state machine has not seen yet.
#[derive(Debug)]
struct Put<T> {
    at: Instant,
    record: CheckedRecord,
    ticket: T,
}

/// What became of a put that was buffered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buffered {
    /// It waits for more.
    Waiting,
    /// It is time to drain the buffer: enough records or bytes wait. If another thread is draining already, the next put
    /// says so again.
    DrainDue,
}

impl<T> PutBuffer<T> {
    /// Creates a buffer, which accepts nothing before its first [`BufferDrain::take`].
    pub fn new(config: &Config) -> Self {
        // Where a few records fill an aggregate or a request, they are sent at once.
        let few_are_enough = config.aggregation_max_count().min(config.collection_max_count()) <= DRAIN_RECORDS
            || config.aggregation_max_size().min(config.collection_max_size_per_shard()) <= DRAIN_BYTES;
        Self {
            puts: VecDeque::new(),
            bytes: 0,
            known_streams: HashSet::new(),
            has_room: false,
            drained_by: Instant::NEVER,
            is_closed: few_are_enough || !config.aggregation_enabled(),
            // Until a record is due; with a short time-to-live, it must be on its way by half of that.
            max_wait: config.record_max_buffered_time().min(config.record_ttl() / 2),
            max_record_size: config.max_record_size().map_or(RECORD_SIZE_MAX, |size| size.min(RECORD_SIZE_MAX)),
        }
    }

    /// Accepts a record that is put at `now`, if it may be buffered.
    ///
    /// # Errors
    ///
    /// Gives the record and its ticket back: drain the buffers, and put it.
    pub fn push(&mut self, now: Instant, record: CheckedRecord, ticket: T) -> Result<Buffered, (CheckedRecord, T)> {
        let size = record.size();
        let may_buffer = self.has_room
            && (now..=now + self.max_wait).contains(&self.drained_by)
            && size <= self.max_record_size
            && self.puts.len() < BUFFER_RECORDS_MAX
            && !self.is_closed;
        if !may_buffer || self.is_first_of_stream(record.stream()) {
            return Err((record, ticket));
        }
        self.bytes += size;
        self.puts.push_back(Put { at: now, record, ticket });
        let is_drain_due = self.puts.len() >= DRAIN_RECORDS || self.bytes >= DRAIN_BYTES;
        Ok(if is_drain_due { Buffered::DrainDue } else { Buffered::Waiting })
    }

    /// Sets when the buffer is drained next: at `next`, or earlier if a record in it needs that. Returns the earlier one.
    pub fn expect_drain(&mut self, next: Instant) -> Instant {
        let due = self.puts.front().map_or(Instant::NEVER, |put| put.at + self.max_wait);
        self.drained_by = next.min(due);
        self.drained_by
    }

    /// Refuses every record from now on. What is in the buffer stays, to be drained.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// The number of records in the buffer.
    pub fn records(&self) -> usize {
        self.puts.len()
    }

    /// The bytes of their data and partition keys.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest record in the buffer was put.
    pub fn oldest_put(&self) -> Option<Instant> {
        self.puts.front().map(|put| put.at)
    }

    /// Returns true once for each stream.
    fn is_first_of_stream(&mut self, stream: &Arc<str>) -> bool {
        // Mostly it is the stream of the put before.
        let is_last = self.puts.back().is_some_and(|last| Arc::ptr_eq(last.record.stream(), stream));
        if is_last || self.known_streams.contains(stream) {
            return false;
        }
        // The names of streams may have no end.
        if self.known_streams.len() >= KNOWN_STREAMS_MAX {
            self.known_streams.clear();
        }
        self.known_streams.insert(stream.clone())
    }
}

/// Room for more records: see [`Producer::room`](crate::Producer::room) and
/// [`Producer::buffer_room`](crate::Producer::buffer_room).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Records that the producer accepts before it is full.
    pub records: usize,
    /// Bytes that the producer accepts before it is full.
    pub bytes: usize,
}

impl Room {
    /// Returns what is left of the room when a record of `size` bytes has taken its part.
    #[must_use]
    pub fn without(self, size: usize) -> Self {
        Self { records: self.records.saturating_sub(1), bytes: self.bytes.saturating_sub(size) }
    }
}

/// Moves puts from buffers to the state machine, in the order in which they were put.
///
/// One drain at a time: a driver keeps it behind a lock. The steps are [`start`](Self::start), [`take`](Self::take) for
/// each buffer, [`hash_keys`](Self::hash_keys), and [`Producer::put_drained`](crate::Producer::put_drained) until it
/// returns false.
#[derive(Debug)]
pub struct BufferDrain<T> {
    /// What was taken from each buffer, in the order of its puts.
    taken: Vec<VecDeque<Put<T>>>,
    /// The buffers from which something is left.
    nonempty: Vec<usize>,
    /// Whether buffers may accept records.
    has_room: bool,
}

impl<T> BufferDrain<T> {
    /// Creates a drain for so many buffers.
    pub fn new(buffers: usize) -> Self {
        let taken = (0..buffers).map(|_| VecDeque::new()).collect();
        Self { taken, nonempty: Vec::with_capacity(buffers), has_room: false }
    }

    /// Starts a drain. `room` is at least what the producer has, without what is in the buffers.
    ///
    /// Returns true if the buffers may no longer accept records. Then call [`stop`](Self::stop) for each, before the clock
    /// is read for [`take`](Self::take): so they are empty after it, and the producer decides about every record itself.
    pub fn start(&mut self, room: Room) -> bool {
        // For what the buffers hold now, and for as much again until the next drain.
        let records = 2 * self.taken.len() * BUFFER_RECORDS_MAX;
        let had_room = self.has_room;
        self.has_room = room.records > records && room.bytes > records * RECORD_SIZE_MAX;
        had_room && !self.has_room
    }

    /// Lets a buffer accept no more records: see [`start`](Self::start).
    pub fn stop(&self, buffer: &mut PutBuffer<T>) {
        buffer.has_room = self.has_room;
    }

    /// Takes what was put into the buffer until `now`.
    ///
    /// `now` is the same for all buffers of a drain, and is read before the first of them is locked. Each put reads the
    /// clock while its buffer is locked. So of two puts of which one came after the other, through whatever buffers, the
    /// later one is never taken without the earlier one: if its time is not after `now`, the earlier one was in its buffer
    /// before `now`.
    pub fn take(&mut self, number: usize, buffer: &mut PutBuffer<T>, now: Instant) {
        let taken = &mut self.taken[number];
        // A panic in the state machine leaves the rest of an earlier drain here.
        let was_empty = taken.is_empty();
        if was_empty && buffer.puts.back().is_some_and(|last| last.at <= now) {
            // The two lists are exchanged, so that neither is allocated again.
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

    /// Hashes the partition keys of all that was taken, side by side.
    pub fn hash_keys(&mut self, keys: &mut HashKeyCache) {
        CheckedRecord::hash_keys(self.taken.iter_mut().flatten().map(|put| &mut put.record), keys);
    }

    /// Whether all that was taken has been put.
    pub fn is_empty(&self) -> bool {
        self.nonempty.is_empty()
    }

    /// Removes the next put, in the order of all buffers together.
    pub(crate) fn pop(&mut self, keys: &mut HashKeyCache) -> Option<(Instant, PreparedRecord, T)> {
        let at = |buffer: &usize| self.taken[*buffer].front().map(|put| put.at);
        // Mostly one task puts at a time.
        let next = match self.nonempty.len() {
            1 => 0,
            _ => (0..self.nonempty.len()).min_by_key(|next| at(&self.nonempty[*next]))?,
        };
        let taken = &mut self.taken[self.nonempty[next]];
        let put = taken.pop_front();
        if taken.is_empty() {
            self.nonempty.swap_remove(next);
        }
        put.map(|Put { at, record, ticket }| (at, record.prepare(keys), ticket))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use core::iter;

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
        /// Buffers that may accept records, with a drain that comes in time for records that are put from 0 to 50 ms.
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

        /// Takes what was put until `now` and returns when each record was put, and its size.
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
            iter::from_fn(|| drain.pop(&mut keys)).map(|(at, record, ())| (at, record.size())).collect()
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
    fn a_record_leaves_the_buffer_by_half_of_its_time_to_live() {
        let mut rig = Rig::new(Config::builder().record_ttl(Duration::from_millis(120)));
        rig.expect_drain(ms(70));
        assert!(!rig.is_buffered(9, 10) && rig.is_buffered(10, 10));
    }

    #[test]
    fn a_record_that_is_pushed_before_the_next_drain_is_known_counts_for_it() {
        let mut rig = Rig::new(Config::builder());
        assert!(rig.is_buffered(20, 10));
        assert_eq!(rig.expect_drain(Instant::NEVER), ms(120), "when that record is due");
        assert!(rig.is_buffered(21, 10));
        assert_eq!(rig.expect_drain(ms(110)), ms(110));
    }

    #[test]
    fn the_producer_has_room_for_all_that_is_buffered_until_it_is_asked_again() {
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
        assert!(!rig.is_buffered(20, 10), "it would have a later time than the drain");
        assert!(!rig.drain.start(Room::default()), "they have been stopped");
        assert_eq!(rig.drain_until(Room::default(), ms(20)), [(ms(10), 10)]);
    }

    #[test]
    fn sixteen_records_or_sixteen_kibibytes_are_to_be_drained() {
        let mut rig = Rig::new(Config::builder());
        let pushed: Vec<_> = (0..DRAIN_RECORDS).filter_map(|_| rig.push(0, 0, 10)).collect();
        assert_eq!(pushed.iter().position(|buffered| *buffered == Buffered::DrainDue), Some(DRAIN_RECORDS - 1));
        let pushed: Vec<_> = (0..4).filter_map(|_| rig.push(1, 0, RECORD_SIZE_MAX)).collect();
        assert_eq!(pushed.iter().position(|buffered| *buffered == Buffered::DrainDue), Some(3));
    }

    #[test]
    fn records_are_drained_in_the_order_of_their_puts_through_whatever_buffers() {
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
    fn what_was_put_after_the_drain_began_stays() {
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
    fn records_of_one_time_and_one_buffer_keep_their_order() {
        let mut rig = Rig::new(Config::builder());
        (10..20).for_each(|size| assert!(rig.is_buffered(0, size)));
        assert!(rig.drain(AMPLE).into_iter().eq((10..20).map(|size| (ms(0), size))));
    }

    #[test]
    fn a_record_that_gains_nothing_is_not_buffered() {
        assert!(!Rig::new(Config::builder()).is_buffered(0, RECORD_SIZE_MAX + 1));
        assert!(!Rig::new(Config::builder().max_record_size(Some(2_000))).is_buffered(0, 2_001));
        assert!(!Rig::new(Config::builder().aggregation_enabled(false)).is_buffered(0, 10));
        assert!(!Rig::new(Config::builder().aggregation_max_count(DRAIN_RECORDS)).is_buffered(0, 10));
        assert!(!Rig::new(Config::builder().aggregation_max_size(DRAIN_BYTES)).is_buffered(0, 10));
        assert!(!Rig::new(Config::builder().collection_max_count(DRAIN_RECORDS)).is_buffered(0, 10));
        assert!(!Rig::new(Config::builder().collection_max_size_per_shard(DRAIN_BYTES)).is_buffered(0, 10));
        let mut closed = Rig::new(Config::builder());
        closed.buffers[0].close();
        assert!(!closed.is_buffered(0, 10));
    }
}

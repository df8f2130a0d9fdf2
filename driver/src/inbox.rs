//! Where puts leave their records for the state machine.

use std::collections::{HashSet, VecDeque};
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kpl_core::{CheckedRecord, Config, Instant};

use crate::outcome::Ticket;
use crate::shared::Outstanding;

/// A record that was put, and that the state machine has not seen yet.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) at: Instant,
    pub(crate) record: CheckedRecord,
    pub(crate) ticket: Ticket,
}

/// Records that lie here until there are some of them, or somebody comes by: the state machine takes them one after the
/// other, under one lock, with their keys hashed side by side.
///
/// A record may lie here if nobody can tell the difference: there is room for it, its stream is known to the state machine
/// and takes records of its size, and the drive loop comes by itself before the record would be due. All others are put there
/// and then, behind what lies here.
///
/// Each handle puts into one of some compartments, so that two cores that put do not hand a compartment to and fro. What one
/// put after another all the same goes to the state machine in that order, by the clock: see [`take`](Self::take).
#[derive(Debug)]
pub(crate) struct Inbox {
    compartments: [Compartment; COMPARTMENTS],
    next: AtomicUsize,
    /// How long a record can lie here.
    patience: Duration,
    /// How large a record can be.
    size_max: usize,
}

/// Each in cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Compartment(Mutex<Puts>);

#[derive(Debug)]
struct Puts {
    /// In the order of their times.
    lying: VecDeque<Put>,
    bytes: usize,
    /// Streams whose first record was put elsewhere: a stream's shards are asked for with its first record.
    streams: HashSet<Arc<str>>,
    /// Whether the state machine has room for all that all compartments can hold.
    has_room: bool,
    /// When the drive loop empties it, at the latest.
    emptied_at: Instant,
    closed: bool,
}

/// What was taken out.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// By compartment, each in the order in which it was put.
    puts: [VecDeque<Put>; COMPARTMENTS],
    /// The compartments from which there is something.
    of: Vec<usize>,
    /// Whether records may lie in the inbox now.
    has_room: bool,
}

/// Which compartment a handle puts into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(usize);

/// Room for more records.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

impl Room {
    pub(crate) fn without(self, other: Self) -> Self {
        Self { records: self.records.saturating_sub(other.records), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

/// What became of a record that was to be left here.
pub(crate) enum Left {
    Lies,
    /// It lies here, and it is time to take it and the others away.
    LiesAndMany,
    /// It cannot lie here.
    Not(CheckedRecord, Ticket),
}

const COMPARTMENTS: usize = 8;

/// As many lanes as the widest registers have for MD5.
const MANY: usize = 16;

/// As many as a compartment has place for, while somebody else is taking records away.
const LYING_MAX: usize = 128;

/// So many bytes are many, too: they may fill an aggregate.
const MANY_BYTES: usize = 16 << 10;

/// A larger record has better things to spare than the MD5 of its key. AWS has no stream that takes less.
const SIZE_MAX: usize = 4_096;

impl Default for Puts {
    fn default() -> Self {
        Self {
            lying: VecDeque::new(),
            bytes: 0,
            streams: HashSet::new(),
            has_room: false,
            emptied_at: Instant::NEVER,
            closed: false,
        }
    }
}

impl Inbox {
    pub(crate) fn new(config: &Config) -> Self {
        let inbox = Self {
            compartments: Default::default(),
            next: AtomicUsize::new(0),
            // No longer than until a record is due; with a short time-to-live, it is on its way by half of that.
            patience: config.record_max_buffered_time().min(config.record_ttl() / 2),
            size_max: config.max_record_size().map_or(SIZE_MAX, |size| size.min(SIZE_MAX)),
        };
        // Where a few records fill an aggregate or a request, they go out at once.
        let few = config.aggregation_max_count().min(config.collection_max_count()) <= MANY
            || config.aggregation_max_size().min(config.collection_max_size_per_shard()) <= MANY_BYTES;
        if few || !config.aggregation_enabled() {
            inbox.close();
        }
        inbox
    }

    /// A place for a handle.
    pub(crate) fn place(&self) -> Place {
        Place(self.next.fetch_add(1, Ordering::Relaxed) % COMPARTMENTS)
    }

    /// Leaves a record here, if it can lie here. The clock is read while the place is locked.
    pub(crate) fn leave(
        &self,
        place: Place,
        clock: impl FnOnce() -> Instant,
        record: CheckedRecord,
        ticket: Ticket,
    ) -> Left {
        let size = record.size();
        let mut puts = self.compartments[place.0].lock();
        let at = clock();
        let can_lie = puts.has_room
            && (at..=at + self.patience).contains(&puts.emptied_at)
            && size <= self.size_max
            && puts.lying.len() < LYING_MAX
            && !puts.closed;
        if !can_lie || puts.is_first_of_stream(record.stream()) {
            return Left::Not(record, ticket);
        }
        puts.bytes += size;
        puts.lying.push_back(Put { at, record, ticket });
        if puts.lying.len() < MANY && puts.bytes < MANY_BYTES { Left::Lies } else { Left::LiesAndMany }
    }

    /// Takes out what was put until now, and tells when that is. `room` is what the state machine has, and will have but for
    /// what is taken.
    ///
    /// Compartments are emptied one after the other, and puts go on. Of two records of which one was put after the other,
    /// the second is never taken without the first: if the second has a time until now, the first was there before now.
    pub(crate) fn take(&self, clock: impl FnOnce() -> Instant, taken: &mut Taken, room: Room) -> Instant {
        // For what is taken, and for as much again.
        const RECORDS: usize = 2 * COMPARTMENTS * LYING_MAX;
        let has_room = room.records > RECORDS && room.bytes > RECORDS * SIZE_MAX;
        if taken.has_room && !has_room {
            // Nothing is left behind then.
            self.compartments.iter().for_each(|compartment| compartment.lock().has_room = false);
        }
        taken.has_room = has_room;
        let now = clock();
        for (of, compartment) in self.compartments.iter().enumerate() {
            let mut puts = compartment.lock();
            let Puts { lying, bytes, .. } = &mut *puts;
            let taken_before = taken.puts[of].len();
            if taken_before == 0 && lying.back().is_some_and(|last| last.at <= now) {
                // Each compartment has two of them, which stay with it.
                mem::swap(lying, &mut taken.puts[of]);
                *bytes = 0;
            } else {
                while let Some(put) = lying.pop_front_if(|put| put.at <= now) {
                    *bytes -= put.record.size();
                    taken.puts[of].push_back(put);
                }
            }
            puts.has_room = has_room;
            if taken_before == 0 && !taken.puts[of].is_empty() {
                taken.of.push(of);
            }
        }
        now
    }

    /// The drive loop comes again at `next`, or earlier if something has been left since that needs it. Gives the earlier.
    pub(crate) fn expect(&self, next: Instant) -> Instant {
        let mut earliest = next;
        for compartment in &self.compartments {
            let mut puts = compartment.lock();
            let due = puts.lying.front().map_or(Instant::NEVER, |put| put.at + self.patience);
            puts.emptied_at = next.min(due);
            earliest = earliest.min(due);
        }
        earliest
    }

    /// What lies here.
    pub(crate) fn lying(&self) -> Outstanding {
        let mut all = Outstanding { records: 0, bytes: 0, oldest_put: None };
        for compartment in &self.compartments {
            let puts = compartment.lock();
            all.records += puts.lying.len();
            all.bytes += puts.bytes;
            all.oldest_put = all.oldest_put.into_iter().chain(puts.lying.front().map(|put| put.at)).min();
        }
        all
    }

    /// Nothing is left here any more.
    pub(crate) fn close(&self) {
        self.compartments.iter().for_each(|compartment| compartment.lock().closed = true);
    }
}

impl Puts {
    /// From now on, it is not.
    fn is_first_of_stream(&mut self, stream: &Arc<str>) -> bool {
        // Mostly it is the stream of the put before.
        let is_last = self.lying.back().is_some_and(|last| Arc::ptr_eq(last.record.stream(), stream));
        !is_last && !self.streams.contains(stream) && self.streams.insert(stream.clone())
    }
}

impl Compartment {
    fn lock(&self) -> MutexGuard<'_, Puts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    pub(crate) fn records(&mut self) -> impl Iterator<Item = &mut CheckedRecord> {
        self.puts.iter_mut().flatten().map(|put| &mut put.record)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// The next one, in the order in which all were put.
    pub(crate) fn pop(&mut self) -> Option<Put> {
        let put_at = |of: &usize| self.puts[*of].front().map(|put| put.at);
        // Mostly one task puts at a time.
        let next = match self.of.len() {
            1 => 0,
            _ => (0..self.of.len()).min_by_key(|next| put_at(&self.of[*next]))?,
        };
        let puts = &mut self.puts[self.of[next]];
        let put = puts.pop_front();
        if puts.is_empty() {
            self.of.swap_remove(next);
        }
        put
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use kpl_core::{ConfigBuilder, UserRecord};

    use super::*;
    use crate::outcome::Outcome;

    const AMPLE: Room = Room { records: 10_000, bytes: 10 << 20 };
    const SOON: Duration = Duration::from_millis(100);

    fn ms(ms: u64) -> Instant {
        Instant::from_nanos(0) + Duration::from_millis(ms)
    }

    /// With room, and a drive loop that comes by in time for records that are put from 0 to 50 ms.
    fn inbox(config: ConfigBuilder) -> Inbox {
        let inbox = Inbox::new(&config.record_max_buffered_time(SOON).build().unwrap());
        assert_eq!(take(&inbox, AMPLE).len(), 0);
        assert_eq!(inbox.expect(ms(50)), ms(50));
        for place in 0..COMPARTMENTS {
            assert!(matches!(put(&inbox, Place(place), 0, 10), Left::Not(..)), "the stream's first");
        }
        inbox
    }

    fn put(inbox: &Inbox, place: Place, at: u64, size: usize) -> Left {
        let record = UserRecord::new("events", "k", vec![0; size - 1]).check().unwrap();
        inbox.leave(place, || ms(at), record, Outcome::new().0)
    }

    fn lies(inbox: &Inbox, at: u64, size: usize) -> bool {
        !matches!(put(inbox, Place(0), at, size), Left::Not(..))
    }

    /// Takes everything out: when it was put, and its size.
    fn take(inbox: &Inbox, room: Room) -> Vec<(Instant, usize)> {
        let mut taken = Taken::default();
        inbox.take(|| ms(1_000), &mut taken, room);
        iter::from_fn(|| taken.pop()).map(|put| (put.at, put.record.size())).collect()
    }

    #[test]
    fn a_record_may_lie_only_if_somebody_comes_for_it_in_time() {
        let inbox = inbox(Config::builder());
        let _ = inbox.expect(ms(150));
        assert!(lies(&inbox, 50, 10) && lies(&inbox, 150, 10));
        assert!(!lies(&inbox, 49, 10), "it is due before the drive loop comes");
        assert!(!lies(&inbox, 151, 10), "the drive loop is late, or on its way");
        let _ = inbox.expect(Instant::NEVER);
        assert_eq!(take(&inbox, AMPLE).len(), 2);
        let _ = inbox.expect(Instant::NEVER);
        assert!(!lies(&inbox, 150, 10));
    }

    #[test]
    fn by_half_of_its_time_to_live_a_record_is_on_its_way() {
        let inbox = inbox(Config::builder().record_ttl(Duration::from_millis(120)));
        let _ = inbox.expect(ms(70));
        assert!(!lies(&inbox, 9, 10) && lies(&inbox, 10, 10));
    }

    #[test]
    fn what_is_left_while_the_drive_loop_looks_is_not_forgotten() {
        let inbox = inbox(Config::builder());
        assert!(lies(&inbox, 20, 10));
        assert_eq!(inbox.expect(Instant::NEVER), ms(120), "it comes when that is due");
        assert!(lies(&inbox, 21, 10));
        assert_eq!(inbox.expect(ms(110)), ms(110));
    }

    #[test]
    fn there_is_room_for_all_that_is_taken_or_left_before_the_state_machine_is_asked_again() {
        let inbox = inbox(Config::builder());
        for room in [Room { records: 2_048, ..AMPLE }, Room { bytes: 8 << 20, ..AMPLE }] {
            take(&inbox, room);
            assert!(!lies(&inbox, 0, 10));
            take(&inbox, Room { records: room.records + 1, bytes: room.bytes + 1 });
            let lying = (0..2_000).filter(|n| !matches!(put(&inbox, Place(n % 8), 0, SIZE_MAX), Left::Not(..)));
            assert_eq!(lying.count(), 1_024);
            assert_eq!((inbox.lying().records, inbox.lying().bytes), (1_024, 1_024 * SIZE_MAX));
            assert_eq!(take(&inbox, room).len(), 1_024);
            assert_eq!((inbox.lying().records, inbox.lying().bytes), (0, 0));
        }
    }

    #[test]
    fn without_room_nothing_is_left_behind() {
        let inbox = inbox(Config::builder());
        let mut taken = Taken::default();
        inbox.take(|| ms(0), &mut taken, AMPLE);
        assert!(lies(&inbox, 10, 10));
        let clock = || {
            assert!(!lies(&inbox, 20, 10), "it would have a later time than what is taken");
            ms(20)
        };
        inbox.take(clock, &mut taken, Room::default());
        assert_eq!((taken.records().count(), inbox.lying().records), (1, 0));
    }

    #[test]
    fn sixteen_are_many() {
        let inbox = inbox(Config::builder());
        let many = |_| matches!(put(&inbox, Place(0), 0, 10), Left::LiesAndMany);
        assert_eq!(
            (0..MANY).map(many).collect::<Vec<_>>(),
            iter::repeat_n(false, MANY - 1).chain([true]).collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_may_fill_an_aggregate_is_much() {
        let inbox = inbox(Config::builder());
        let much = |_| matches!(put(&inbox, Place(0), 0, SIZE_MAX), Left::LiesAndMany);
        assert_eq!([0, 1, 2, 3].map(much), [false, false, false, true]);
    }

    #[test]
    fn records_come_out_in_the_order_of_their_puts_whatever_handles_they_were_put_with() {
        let inbox = inbox(Config::builder());
        let handles = [inbox.place(), inbox.place(), inbox.place()];
        let puts: Vec<_> = (0..30).map(|n| (n, n as usize * 7 % 3)).collect();
        for (n, handle) in &puts {
            assert!(!matches!(put(&inbox, handles[*handle], *n, 100 + *n as usize), Left::Not(..)));
        }
        assert_eq!(inbox.lying().oldest_put, Some(ms(0)));
        let expected: Vec<_> = puts.iter().map(|(n, _)| (ms(*n), 100 + *n as usize)).collect();
        assert_eq!(take(&inbox, AMPLE), expected);
    }

    #[test]
    fn what_was_put_after_the_taking_began_is_not_taken() {
        let inbox = inbox(Config::builder());
        let handles = [inbox.place(), inbox.place()];
        for at in [10, 20, 30, 40] {
            assert!(!matches!(put(&inbox, handles[at as usize / 10 % 2], at, 100 + at as usize), Left::Not(..)));
        }
        let mut taken = Taken::default();
        assert_eq!(inbox.take(|| ms(20), &mut taken, AMPLE), ms(20));
        assert!(iter::from_fn(|| taken.pop()).map(|put| put.at).eq([ms(10), ms(20)]));
        let lying = inbox.lying();
        assert_eq!((lying.records, lying.bytes, lying.oldest_put), (2, 270, Some(ms(30))));
        assert_eq!(inbox.expect(Instant::NEVER), ms(130));
        assert_eq!(take(&inbox, AMPLE), [(ms(30), 130), (ms(40), 140)]);
    }

    #[test]
    fn of_records_of_one_time_those_of_a_handle_keep_their_order() {
        let inbox = inbox(Config::builder());
        let handle = inbox.place();
        (10..20).for_each(|size| assert!(!matches!(put(&inbox, handle, 0, size), Left::Not(..))));
        assert!(take(&inbox, AMPLE).into_iter().eq((10..20).map(|size| (ms(0), size))));
    }

    #[test]
    fn what_has_nothing_to_gain_does_not_lie() {
        assert!(!lies(&inbox(Config::builder()), 0, SIZE_MAX + 1));
        assert!(!lies(&inbox(Config::builder().max_record_size(Some(2_000))), 0, 2_001));
        assert!(!lies(&inbox(Config::builder().aggregation_enabled(false)), 0, 10));
        assert!(!lies(&inbox(Config::builder().aggregation_max_count(MANY)), 0, 10));
        assert!(!lies(&inbox(Config::builder().aggregation_max_size(MANY_BYTES)), 0, 10));
        assert!(!lies(&inbox(Config::builder().collection_max_count(MANY)), 0, 10));
        assert!(!lies(&inbox(Config::builder().collection_max_size_per_shard(MANY_BYTES)), 0, 10));
        let closed = inbox(Config::builder());
        closed.close();
        assert!(!lies(&closed, 0, 10));
    }
}

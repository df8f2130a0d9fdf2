//! Where puts leave their records for the state machine.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
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

impl AsMut<CheckedRecord> for Put {
    fn as_mut(&mut self) -> &mut CheckedRecord {
        &mut self.record
    }
}

/// Records that lie here until there are some of them, or somebody comes by: the state machine takes them one after the
/// other, under one lock, with their keys hashed side by side. That costs a third less than one by one.
///
/// A record may lie here if nobody can tell the difference: there is room for it, its stream takes it whatever the stream
/// is, and the drive loop comes by itself before the record would be due. All others are put there and then, behind what
/// lies here.
#[derive(Debug)]
pub(crate) struct Inbox(Mutex<Puts>);

#[derive(Debug)]
struct Puts {
    waiting: Vec<Put>,
    bytes: usize,
    /// What the state machine has room for, what lies here included.
    room: Room,
    /// When the drive loop empties it, at the latest.
    emptied_at: Instant,
    /// How long a record can lie here: no record is due earlier after its put.
    patience: Duration,
    size_max: usize,
    closed: bool,
}

/// Room for more records.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// What became of a record that was to be left here.
pub(crate) enum Left {
    Lies,
    /// It lies here, and it is time to take it and the others away.
    LiesAndMany,
    /// It cannot lie here.
    Not(Put),
}

/// As many lanes as the widest registers have for MD5. Time under the state machine's lock is a reason to have no more.
const MANY: usize = 16;

/// A larger record has better things to spare than the MD5 of its key. Every stream takes records of this size.
const SIZE_MAX: usize = 4_096;

impl Inbox {
    pub(crate) fn new(config: &Config) -> Self {
        let puts = Puts {
            waiting: Vec::with_capacity(MANY),
            bytes: 0,
            room: Room::default(),
            emptied_at: Instant::NEVER,
            // By half of its time-to-live a record is on its way.
            patience: config.record_max_buffered_time().min(config.record_ttl() / 2),
            size_max: config.max_record_size().map_or(SIZE_MAX, |size| size.min(SIZE_MAX)),
            // What fills an aggregate or a request goes out at once.
            closed: !config.aggregation_enabled() || config.aggregation_max_count() <= MANY,
        };
        Self(Mutex::new(puts))
    }

    fn lock(&self) -> MutexGuard<'_, Puts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a record here, if it can lie here.
    pub(crate) fn leave(&self, put: Put) -> Left {
        let mut puts = self.lock();
        let size = put.record.size();
        let can_lie = puts.waiting.len() < puts.room.records
            && puts.bytes + size <= puts.room.bytes
            && size <= puts.size_max
            && (put.at..=put.at + puts.patience).contains(&puts.emptied_at)
            && !puts.closed;
        if !can_lie {
            return Left::Not(put);
        }
        puts.bytes += size;
        puts.waiting.push(put);
        if puts.waiting.len() < MANY { Left::Lies } else { Left::LiesAndMany }
    }

    /// Takes everything, in the order in which it was put.
    pub(crate) fn take_into(&self, to: &mut VecDeque<Put>) {
        let mut puts = self.lock();
        puts.room.records = puts.room.records.saturating_sub(puts.waiting.len());
        puts.room.bytes = puts.room.bytes.saturating_sub(puts.bytes);
        puts.bytes = 0;
        to.extend(puts.waiting.drain(..));
    }

    /// The state machine has this much room, with everything that was taken.
    pub(crate) fn set_room(&self, room: Room) {
        self.lock().room = room;
    }

    /// The drive loop comes again at `next`, or earlier if something has been left since that needs it. Gives the earlier.
    pub(crate) fn expect(&self, next: Instant) -> Instant {
        let mut puts = self.lock();
        let due = puts.waiting.first().map_or(Instant::NEVER, |put| put.at + puts.patience);
        puts.emptied_at = next.min(due);
        puts.emptied_at
    }

    /// What lies here.
    pub(crate) fn lying(&self) -> Outstanding {
        let puts = self.lock();
        let oldest_put = puts.waiting.first().map(|put| put.at);
        Outstanding { records: puts.waiting.len(), bytes: puts.bytes, oldest_put }
    }

    /// Nothing is left here any more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use kpl_core::{ConfigBuilder, UserRecord};

    use super::*;
    use crate::outcome::Outcome;

    const SOON: Duration = Duration::from_millis(100);

    fn ms(ms: u64) -> Instant {
        Instant::from_nanos(0) + Duration::from_millis(ms)
    }

    /// With room, and a drive loop that comes by in time for records that are put from 0 to 50 ms.
    fn inbox(config: ConfigBuilder) -> Inbox {
        let inbox = Inbox::new(&config.record_max_buffered_time(SOON).build().unwrap());
        inbox.set_room(Room { records: 1_000, bytes: 100_000 });
        assert_eq!(inbox.expect(ms(50)), ms(50));
        inbox
    }

    fn put(at: u64, size: usize) -> Put {
        let record = UserRecord::new("events", "k", vec![0; size - 1]).check().unwrap();
        Put { at: ms(at), record, ticket: Outcome::new().0 }
    }

    fn lies(inbox: &Inbox, at: u64, size: usize) -> bool {
        !matches!(inbox.leave(put(at, size)), Left::Not(_))
    }

    #[test]
    fn a_record_may_lie_only_if_somebody_comes_for_it_in_time() {
        let inbox = inbox(Config::builder());
        let _ = inbox.expect(ms(150));
        assert!(lies(&inbox, 50, 10) && lies(&inbox, 150, 10));
        assert!(!lies(&inbox, 49, 10), "it is due before the drive loop comes");
        assert!(!lies(&inbox, 151, 10), "the drive loop is late, or on its way");
        let _ = inbox.expect(Instant::NEVER);
        let mut taken = VecDeque::new();
        inbox.take_into(&mut taken);
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
    fn there_is_room_for_what_lies_or_has_just_been_taken() {
        let inbox = inbox(Config::builder());
        inbox.set_room(Room { records: 3, bytes: 100 });
        assert!(lies(&inbox, 0, 60) && lies(&inbox, 0, 10));
        assert!(!lies(&inbox, 0, 31) && lies(&inbox, 0, 30));
        assert!(!lies(&inbox, 0, 1));
        inbox.set_room(Room { records: 4, bytes: 1_000 });
        let mut taken = VecDeque::new();
        inbox.take_into(&mut taken);
        assert_eq!((taken.len(), inbox.lying().records, inbox.lying().bytes), (3, 0, 0));
        // The state machine has not counted them yet.
        assert!(!lies(&inbox, 0, 901) && lies(&inbox, 0, 900) && !lies(&inbox, 0, 1));
    }

    #[test]
    fn sixteen_are_many_and_come_out_in_order() {
        let inbox = inbox(Config::builder());
        let sizes = 10..10 + MANY;
        let many: Vec<_> = sizes.clone().map(|size| matches!(inbox.leave(put(0, size)), Left::LiesAndMany)).collect();
        assert_eq!(many, iter::repeat_n(false, MANY - 1).chain([true]).collect::<Vec<_>>());
        let mut taken = VecDeque::new();
        inbox.take_into(&mut taken);
        assert!(taken.iter().map(|put| put.record.size()).eq(sizes));
    }

    #[test]
    fn what_has_nothing_to_gain_does_not_lie() {
        assert!(!lies(&inbox(Config::builder()), 0, SIZE_MAX + 1));
        assert!(!lies(&inbox(Config::builder().max_record_size(Some(2_000))), 0, 2_001));
        assert!(!lies(&inbox(Config::builder().aggregation_enabled(false)), 0, 10));
        assert!(!lies(&inbox(Config::builder().aggregation_max_count(MANY)), 0, 10));
        let closed = inbox(Config::builder());
        closed.close();
        assert!(!lies(&closed, 0, 10));
    }
}

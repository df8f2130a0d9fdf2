//! Packs user records that belong to one shard into one Kinesis record, until it is full or its deadline comes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::codec::{FRAME_SIZE, KeyTables, Placement};
use crate::kinesis_record::{KinesisRecord, Packed, Pending, ShardRef};
use crate::time::Instant;
use crate::wakes::Wakes;

/// How much fits into one aggregated record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AggregateLimits {
    pub(crate) count: usize,
    /// Bytes of the blob, framing included.
    pub(crate) size: usize,
}

/// An aggregate that is still open.
#[derive(Debug)]
pub(crate) struct Aggregate<T> {
    shard: Option<ShardRef>,
    users: Vec<Packed<T>>,
    tables: KeyTables,
    message_size: usize,
    deadline: Instant,
    expiry: Instant,
}

impl<T> Aggregate<T> {
    pub(crate) fn new(shard: Option<ShardRef>) -> Self {
        Self {
            shard,
            users: Vec::new(),
            tables: KeyTables::default(),
            message_size: 0,
            deadline: Instant::NEVER,
            expiry: Instant::NEVER,
        }
    }

    /// Appends a user record, or gives it back if it does not fit.
    pub(crate) fn try_push(
        &mut self,
        user: Pending<T>,
        deadline: Instant,
        expiry: Instant,
        limits: AggregateLimits,
    ) -> Result<(), Pending<T>> {
        let placement = self.place(&user);
        if self.users.len() >= limits.count || FRAME_SIZE + self.message_size + placement.message_size > limits.size {
            return Err(user);
        }
        self.push_at(user, placement, deadline, expiry);
        Ok(())
    }

    /// Appends a user record, whatever the size.
    pub(crate) fn push(&mut self, user: Pending<T>, deadline: Instant, expiry: Instant) {
        let placement = self.place(&user);
        self.push_at(user, placement, deadline, expiry);
    }

    fn place(&self, user: &Pending<T>) -> Placement {
        let (entry, users) = (&user.entry, &self.users);
        self.tables
            .place(&entry.partition_key, entry.explicit_hash_key(), entry.data.len(), |position| users[position].keys())
    }

    fn push_at(&mut self, user: Pending<T>, placement: Placement, deadline: Instant, expiry: Instant) {
        self.users.push(Packed::new(user, placement));
        self.message_size += placement.message_size;
        self.deadline = self.deadline.min(deadline);
        self.expiry = self.expiry.min(expiry);
        let users = &self.users;
        self.tables.append(users.len() - 1, placement, |position| users[position].keys());
    }

    /// The Kinesis record; `None` if nothing was pushed.
    pub(crate) fn close(self) -> Option<KinesisRecord<T>> {
        let Self { shard, users, message_size, deadline, expiry, tables: _ } = self;
        if users.is_empty() { None } else { Some(KinesisRecord::new(users, message_size, shard, deadline, expiry)) }
    }
}

/// The open aggregates of a stream, at most one a shard. Idle shards cost a pointer and are never looked at.
#[derive(Debug)]
pub(crate) struct Aggregator<T> {
    /// By the shard's slot.
    open: Vec<Option<Box<Aggregate<T>>>>,
    wakes: Wakes,
}

impl<T> Default for Aggregator<T> {
    fn default() -> Self {
        Self { open: Vec::new(), wakes: Wakes::default() }
    }
}

impl<T> Aggregator<T> {
    /// Adds a user record to its shard's aggregate. Hands out what that closes, and the record itself if it is too
    /// large for company.
    pub(crate) fn add(
        &mut self,
        user: Pending<T>,
        shard: ShardRef,
        deadline: Instant,
        expiry: Instant,
        limits: AggregateLimits,
        mut closed: impl FnMut(KinesisRecord<T>),
    ) {
        let slot = shard.slot as usize;
        if slot >= self.open.len() {
            self.open.resize_with(slot + 1, || None);
        }
        let open = self.open[slot].get_or_insert_with(|| Box::new(Aggregate::new(Some(shard.clone()))));
        let mut result = open.try_push(user, deadline, expiry, limits);
        if let Err(user) = result {
            let mut fresh = Aggregate::new(Some(shard.clone()));
            result = fresh.try_push(user, deadline, expiry, limits);
            if result.is_ok()
                && let Some(full) = core::mem::replace(&mut **open, fresh).close()
            {
                closed(full);
            }
        }
        match result {
            Ok(()) => {
                let (full, deadline) = (open.users.len() >= limits.count, open.deadline);
                if full {
                    self.close(shard.slot).into_iter().for_each(closed);
                } else {
                    self.wakes.arm(shard.slot, deadline);
                }
            }
            Err(user) => {
                closed(KinesisRecord::single(user, Some(shard), deadline, expiry));
                if self.open[slot].as_ref().is_some_and(|open| open.users.is_empty()) {
                    self.open[slot] = None;
                }
            }
        }
    }

    /// Closes a shard's aggregate, if one is open.
    pub(crate) fn close(&mut self, slot: u32) -> Option<KinesisRecord<T>> {
        self.open.get_mut(slot as usize)?.take()?.close()
    }

    /// The earliest time at which an aggregate may be due.
    pub(crate) fn next_wake(&self) -> Instant {
        self.wakes.next()
    }

    /// Takes a slot whose aggregate is due by `horizon`; slots that turn out not to be due are set again.
    ///
    /// A shard that is `backlogged` can send nothing anyway: its aggregate goes on filling, until its first record
    /// would expire. Whoever clears the backlog [resumes](Self::resume) it.
    pub(crate) fn pop_due(&mut self, horizon: Instant, backlogged: impl Fn(u32) -> bool) -> Option<u32> {
        let mut later: Vec<(u32, Instant)> = Vec::new();
        let due = loop {
            let Some(slot) = self.wakes.pop_due(horizon) else { break None };
            let Some(open) = self.open.get(slot as usize).and_then(Option::as_ref) else { continue };
            let due = if backlogged(slot) { open.expiry } else { open.deadline };
            if due <= horizon {
                break Some(slot);
            }
            later.push((slot, due));
        };
        for (slot, at) in later {
            self.wakes.arm(slot, at);
        }
        due
    }

    /// The shard is backlogged no more: its aggregate goes by its deadline again.
    pub(crate) fn resume(&mut self, slot: u32) {
        if let Some(open) = self.open.get(slot as usize).and_then(Option::as_ref) {
            self.wakes.arm(slot, open.deadline);
        }
    }

    /// Slots of all open aggregates.
    pub(crate) fn open_slots(&self) -> impl Iterator<Item = u32> {
        self.open.iter().enumerate().filter(|(_, open)| open.is_some()).map(|(slot, _)| slot as u32)
    }
}

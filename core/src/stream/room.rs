//! Which puts are refused because the backlog of their shard is too long, and when there is room again.

use alloc::sync::Arc;
use core::mem;

use super::Stream;
use crate::action::Action;
use crate::config::Config;
use crate::context::Context;
use crate::full::{Full, ShardName};
use crate::put_buffer::Room;
use crate::stream::limiter::WHOLE_STREAM;
use crate::time::Instant;

impl<T> Stream<T> {
    /// Returns what is full, if a put for this hash key has to be refused.
    pub(crate) fn full(&mut self, now: Instant, hash_key: u128, room: Room, config: &Config) -> Option<Full> {
        let (shard_id, backlog) = if self.metadata.is_awaited() {
            (None, self.awaiting_metadata.refuse(room, config)?)
        } else {
            let shard = self.metadata.shard(hash_key);
            let (slot, shard_id) = shard.map_or((WHOLE_STREAM, None), |shard| (shard.slot, Some(&shard.id)));
            let backlog = self.limiter.refuse(now, slot, shard_id, room)?;
            (shard_id.cloned(), backlog)
        };
        Some(Full::Shard { shard: ShardName { stream: self.name.clone(), shard_id }, backlog })
    }

    /// Returns what [`full`](Self::full) names for this hash key.
    pub(crate) fn shard_name(&self, hash_key: u128) -> ShardName {
        let shard = if self.metadata.is_awaited() { None } else { self.metadata.shard(hash_key) };
        ShardName { stream: self.name.clone(), shard_id: shard.map(|shard| shard.id.clone()) }
    }

    /// Refuses a put for this hash key, whether or not its shard is full.
    pub(crate) fn refuse(&mut self, now: Instant, hash_key: u128, config: &Config) -> Full {
        let shard = self.shard_name(hash_key);
        let slot = self.metadata.shard(hash_key).map_or(WHOLE_STREAM, |shard| shard.slot);
        let backlog = if self.metadata.is_awaited() {
            self.awaiting_metadata.note_refused(config)
        } else {
            self.limiter.note_refused(now, slot, shard.shard_id.as_ref())
        };
        Full::Shard { shard, backlog }
    }

    /// Reports shards that have room again, and updates [`Context::long_backlogs`].
    pub(crate) fn report_backlog(&mut self, now: Instant, context: &mut Context<T>) {
        while let Some(refused) = self.limiter.pop_freed(now, context.room()) {
            self.report_room(refused.shard_id, context);
        }
        let slow = self.limiter.long_backlogs() + usize::from(self.awaiting_metadata.has_long_backlog(&context.config));
        context.long_backlogs = context.long_backlogs + slow - mem::replace(&mut self.long_backlogs, slow);
    }

    /// Reports that a shard has room again, after a put for it was refused.
    pub(super) fn report_room(&self, shard_id: Option<Arc<str>>, context: &mut Context<T>) {
        context.actions.push_back(Action::RoomFreed(ShardName { stream: self.name.clone(), shard_id }));
    }
}

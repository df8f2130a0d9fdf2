//! The shards of a stream by hash key.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use hashbrown::HashMap;

use crate::record::kinesis_record::ShardRef;
use crate::reply::ListedShard;
use crate::time::Instant;

/// The time for which a shard that is not open stays known: replies to earlier requests may name it.
const CLOSED_SHARDS_KNOWN_FOR: Duration = Duration::from_secs(60);

/// The open shards of a stream by hash key, and the ranges of all shards that a reply may name.
///
/// Each shard has a slot: a small number, the index into the tables of the stages. A slot is reused a minute after its
/// shard has closed.
#[derive(Debug, Default)]
pub(crate) struct ShardMap {
    /// The open shards, ordered by range. Ranges do not overlap.
    open: Vec<Open>,
    index: Index,
    known: HashMap<Arc<str>, Known>,
    /// Shards that are not open, ordered by the time of the first list without them.
    gone: VecDeque<(Instant, Arc<str>)>,
    slots_used: u32,
    slots_free: Vec<u32>,
    /// The number of lists so far.
    listing: u64,
}

#[derive(Debug)]
struct Open {
    start: u128,
    end: u128,
    shard: ShardRef,
}

#[derive(Debug)]
struct Known {
    range: (u128, u128),
    /// The slot; `None` if the shard was never open.
    slot: Option<u32>,
    /// The number of the last list in which the shard was open.
    open_in: u64,
    gone_at: Option<Instant>,
}

/// The changes by a new list of shards.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MapChange {
    /// Slots of shards that have closed, or have another range than before: what waits for them is to be routed again.
    pub(crate) closed: Vec<u32>,
    /// Slots that may be reused.
    pub(crate) forgotten: Vec<u32>,
    /// Whether the open shards cover every hash key exactly once. If not, the list was made during a reshard, or its
    /// pages are from different times.
    pub(crate) is_complete: bool,
}

/// An index by hash key: the hash keys are divided into equal parts, at least as many as shards. Most shards have the
/// same size, so a part has one or two of them, and a lookup searches only those.
#[derive(Debug, Default)]
struct Index {
    /// For each part, the first open shard that ends in it or in a later part. The last entry is the number of open
    /// shards.
    firsts: Vec<u32>,
    bits: u32,
}

impl Index {
    fn new(open: &[Open]) -> Self {
        let bits = open.len().next_power_of_two().ilog2().min(20);
        let mut firsts = Vec::with_capacity((1 << bits) + 1);
        let mut next = 0;
        for part in 0..1_u128 << bits {
            // A single part starts at 0; its shift by 128 bits overflows.
            let start = part.checked_shl(128 - bits).unwrap_or(0);
            next += open[next..].iter().take_while(|open| open.end < start).count();
            firsts.push(next as u32);
        }
        firsts.push(open.len() as u32);
        Self { firsts, bits }
    }

    /// Returns the range of shards to search. The shard of the hash key is in this range, or the next one.
    fn bounds(&self, hash_key: u128) -> (usize, usize) {
        let part = hash_key.checked_shr(128 - self.bits).unwrap_or(0) as usize;
        match self.firsts.get(part..part + 2) {
            Some(&[first, last]) => (first as usize, last as usize),
            _ => (0, 0),
        }
    }
}

impl ShardMap {
    /// Returns the open shard of `hash_key`, if it is known.
    pub(crate) fn shard(&self, hash_key: u128) -> Option<&ShardRef> {
        self.open(hash_key).map(|open| &open.shard)
    }

    /// Returns the first and the last hash key of the open shard of `hash_key`, if it is known.
    pub(crate) fn open_range(&self, hash_key: u128) -> Option<(u128, u128)> {
        self.open(hash_key).map(|open| (open.start, open.end))
    }

    /// Returns the slot and the last hash key of the open shard of `hash_key`; without one, of the next open shard.
    pub(crate) fn slot_from(&self, hash_key: u128) -> Option<(u32, u128)> {
        let open = self.open.get(self.open.partition_point(|open| open.end < hash_key))?;
        Some((open.shard.slot, open.end))
    }

    fn open(&self, hash_key: u128) -> Option<&Open> {
        let (first, last) = self.index.bounds(hash_key);
        let within = self.open.get(first..last)?;
        let open = self.open.get(first + within.partition_point(|open| open.end < hash_key))?;
        if open.start <= hash_key { Some(open) } else { None }
    }

    /// Returns the first and the last hash key of a shard that is open, or was open within the last minute.
    pub(crate) fn range(&self, now: Instant, shard_id: &str) -> Option<(u128, u128)> {
        let known = self.known.get(shard_id)?;
        // An older entry is still there if no list has come since. Its stream may have been deleted and created again.
        known.gone_at.is_none_or(|gone_at| !is_old(now, gone_at)).then_some(known.range)
    }

    /// Returns the slot of `shard`, if the shard still has it.
    pub(crate) fn slot_of(&self, shard: &ShardRef) -> Option<u32> {
        self.known.get(&shard.id).and_then(|known| known.slot).filter(|slot| *slot == shard.slot)
    }

    /// Returns the shard with this id, if it has a slot.
    pub(crate) fn by_name(&self, shard_id: &str) -> Option<ShardRef> {
        let (id, known) = self.known.get_key_value(shard_id)?;
        Some(ShardRef { slot: known.slot?, id: id.clone() })
    }

    /// Returns this shard id, without an allocation if the shard is known.
    pub(crate) fn id_of(&self, shard_id: &str) -> Arc<str> {
        self.known.get_key_value(shard_id).map_or_else(|| shard_id.into(), |(id, _)| id.clone())
    }

    pub(crate) fn open_shards(&self) -> usize {
        self.open.len()
    }

    /// Applies a new list of the stream's shards. Any list is valid; contradictory entries are ignored.
    ///
    /// If a shard has another range than before, the stream was deleted and created again. Then the shards that are not
    /// in the list are forgotten at once, because new ones with other ranges may get their names.
    pub(crate) fn replace(&mut self, now: Instant, listed: Vec<ListedShard>) -> MapChange {
        self.listing += 1;
        let has_other_range = |shard: &ListedShard| {
            self.known.get(&shard.id).is_some_and(|known| known.range != (shard.start, shard.end))
        };
        let is_new_stream = listed.iter().any(has_other_range);
        let mut forgotten = self.forget_gone(|gone_at| is_new_stream || is_old(now, gone_at));
        let opening = self.add_ranges(now, listed);
        let before = core::mem::take(&mut self.open);
        let is_complete = self.open_all(now, opening);
        self.index = Index::new(&self.open);
        let mut closed = Vec::new();
        for Open { start, end, shard } in before {
            let Some(known) = self.known.get(&shard.id) else { continue };
            let is_open = known.open_in == self.listing;
            if !is_open || known.range != (start, end) {
                closed.push(shard.slot);
            }
            if !is_open {
                self.mark_gone(now, &shard.id);
            }
        }
        if is_new_stream {
            forgotten.extend(self.forget_gone(|_| true));
        }
        MapChange { closed, forgotten, is_complete }
    }

    /// Removes all shards, because the stream does not exist: a new one of the same name may have other ranges.
    pub(crate) fn clear(&mut self) -> MapChange {
        let Self { open, slots_used, listing, .. } = core::mem::take(self);
        self.listing = listing;
        let closed = open.into_iter().map(|open| open.shard.slot).collect();
        MapChange { closed, forgotten: (1..=slots_used).collect(), is_complete: false }
    }

    /// Adds the ranges of all shards of a list. Returns the shards that seem open, ordered by range.
    fn add_ranges(&mut self, now: Instant, listed: Vec<ListedShard>) -> Vec<ListedShard> {
        let mut parents: Vec<Arc<str>> =
            listed.iter().flat_map(|shard| shard.parents.iter().flatten().cloned()).collect();
        parents.sort_unstable();
        let mut opening = Vec::with_capacity(listed.len());
        for shard in listed.into_iter().filter(|shard| shard.start <= shard.end) {
            let range = (shard.start, shard.end);
            let unknown = || Known { range, slot: None, open_in: 0, gone_at: None };
            self.known.entry(shard.id.clone()).or_insert_with(unknown).range = range;
            // If a shard is split between two pages, the first page has the parent as open, the second its children.
            if shard.closed || parents.binary_search(&shard.id).is_ok() {
                self.mark_gone(now, &shard.id);
            } else {
                opening.push(shard);
            }
        }
        opening.sort_unstable_by(|a, b| (a.start, a.end, &a.id).cmp(&(b.start, b.end, &b.id)));
        opening
    }

    /// Opens shards in the order of their ranges, without those that overlap the one before. Returns whether the open
    /// shards cover every hash key exactly once.
    fn open_all(&mut self, now: Instant, opening: Vec<ListedShard>) -> bool {
        let mut is_complete = true;
        let mut next_start = Some(0_u128);
        for ListedShard { id, start, end, .. } in opening {
            let is_duplicate = self.known.get(&id).is_some_and(|known| known.open_in == self.listing);
            if is_duplicate || next_start.is_none_or(|next| start < next) {
                is_complete = false;
                if !is_duplicate {
                    self.mark_gone(now, &id);
                }
                continue;
            }
            is_complete &= next_start == Some(start);
            next_start = end.checked_add(1);
            let slot = self.open_slot(&id, (start, end));
            self.open.push(Open { start, end, shard: ShardRef { slot, id } });
        }
        is_complete && next_start.is_none()
    }

    fn open_slot(&mut self, shard_id: &Arc<str>, range: (u128, u128)) -> u32 {
        let Self { known, slots_free, slots_used, listing, .. } = self;
        let mut fresh = || {
            slots_free.pop().unwrap_or_else(|| {
                // Slot 0 is the stream as a whole.
                *slots_used += 1;
                *slots_used
            })
        };
        let Some(known) = known.get_mut(shard_id) else { return fresh() };
        known.range = range;
        known.open_in = *listing;
        known.gone_at = None;
        *known.slot.get_or_insert_with(fresh)
    }

    fn mark_gone(&mut self, now: Instant, shard_id: &Arc<str>) {
        if let Some(known) = self.known.get_mut(shard_id)
            && known.gone_at.is_none()
        {
            known.gone_at = Some(now);
            self.gone.push_back((now, shard_id.clone()));
        }
    }

    /// Removes the shards that are gone since a time for which `is_over` returns true, oldest first. Returns their slots.
    fn forget_gone(&mut self, is_over: impl Fn(Instant) -> bool) -> Vec<u32> {
        let mut forgotten = Vec::new();
        while let Some((gone_at, _)) = self.gone.front()
            && is_over(*gone_at)
            && let Some((gone_at, id)) = self.gone.pop_front()
        {
            // A shard that was open again in the meantime has another time, or none.
            if self.known.get(&id).is_some_and(|known| known.gone_at == Some(gone_at))
                && let Some(Known { slot: Some(slot), .. }) = self.known.remove(&id)
            {
                forgotten.push(slot);
                self.slots_free.push(slot);
            }
        }
        forgotten
    }
}

/// Whether a shard that is gone since `gone_at` is to be forgotten.
fn is_old(now: Instant, gone_at: Instant) -> bool {
    now.saturating_since(gone_at) > CLOSED_SHARDS_KNOWN_FOR
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    pub(crate) fn listed(n: usize, start: u128, end: u128) -> ListedShard {
        ListedShard { id: format!("shardId-{n:012}").into(), start, end, closed: false, parents: [None, None] }
    }

    fn at(secs: u64) -> Instant {
        Instant::from_nanos(secs * 1_000_000_000)
    }

    fn id(map: &ShardMap, key: u128) -> Option<alloc::string::String> {
        map.shard(key).map(|shard| shard.id.to_string())
    }

    fn child(mut shard: ListedShard, parent: usize) -> ListedShard {
        shard.parents[0] = Some(format!("shardId-{parent:012}").into());
        shard
    }

    proptest! {
        #[test]
        fn lookup_matches_a_linear_search(
            mut cuts in proptest::collection::btree_set(1..u128::MAX, 0..40),
            keys in proptest::collection::vec(any::<u128>(), 20),
            skip in any::<proptest::sample::Index>(),
        ) {
            cuts.insert(0);
            let starts: Vec<u128> = cuts.iter().copied().collect();
            let mut shards: Vec<ListedShard> = starts.iter().enumerate().map(|(i, start)| {
                listed(i, *start, starts.get(i + 1).map_or(u128::MAX, |next| next - 1))
            }).collect();
            let mut map = ShardMap::default();
            prop_assert!(map.replace(at(0), shards.clone()).is_complete);
            if shards.len() > 1 {
                shards.remove(skip.index(shards.len()));
                prop_assert!(!map.replace(at(0), shards.clone()).is_complete, "a gap is detected");
            }
            for key in keys.into_iter().chain(starts) {
                let linear = shards.iter().find(|s| s.start <= key && key <= s.end).map(|s| s.id.to_string());
                prop_assert_eq!(id(&map, key), linear);
            }
        }

        #[test]
        fn any_list_is_valid(
            lists in proptest::collection::vec(
                proptest::collection::vec((0..6_usize, any::<u8>(), any::<u8>(), any::<bool>(), 0..6_usize), 0..8), 1..6),
        ) {
            let mut map = ShardMap::default();
            for (i, list) in lists.into_iter().enumerate() {
                let shards = list.into_iter().map(|(n, start, end, closed, parent)| {
                    let shard = listed(n, u128::from(start) << 120, (u128::from(end) << 120) | (u128::MAX >> 8));
                    child(ListedShard { closed, ..shard }, parent)
                }).collect();
                map.replace(at(i as u64 * 50), shards);
                let open: Vec<_> = map.open.iter().map(|open| (open.start, open.end)).collect();
                prop_assert!(open.windows(2).all(|pair| pair[0].1 < pair[1].0), "no overlap: {:?}", open);
                let mut slots: Vec<u32> = map.open.iter().map(|open| open.shard.slot).collect();
                slots.sort_unstable();
                slots.dedup();
                prop_assert_eq!(slots.len(), map.open.len(), "no two open shards share a slot");
            }
        }
    }

    #[test]
    fn slots_are_small_numbers_and_clear_frees_all_of_them() {
        let mut map = ShardMap::default();
        map.replace(at(0), (0..4).map(|n| listed(n, n as u128 * 10, n as u128 * 10 + 9)).collect());
        let slots: Vec<u32> = (0..4_u128).filter_map(|n| map.shard(n * 10)).map(|shard| shard.slot).collect();
        assert_eq!(slots, [1, 2, 3, 4], "slot 0 is the stream as a whole");
        map.replace(at(1), vec![listed(1, 10, 19)]);
        assert_eq!(map.clear(), MapChange { closed: vec![2], forgotten: vec![1, 2, 3, 4], is_complete: false });
        assert_eq!((map.open_shards(), id(&map, 15), map.range(at(1), "shardId-000000000001")), (0, None, None));
    }

    #[test]
    fn slots_are_reused_however_often_the_stream_is_resharded() {
        let mut map = ShardMap::default();
        for n in 0..1_000 {
            map.replace(at(61 * n as u64), vec![listed(2 * n, 0, 99), listed(2 * n + 1, 100, u128::MAX)]);
            let open: Vec<u32> = [0, 100].map(|key| map.shard(key).unwrap().slot).into();
            assert!(open.iter().all(|slot| *slot <= 4), "after {n} reshards: {open:?}");
        }
    }

    #[test]
    fn the_shards_of_a_stream_that_was_deleted_are_forgotten_with_the_next_list() {
        let half = u128::MAX / 2;
        let mut map = ShardMap::default();
        map.replace(at(0), vec![listed(0, 0, half), listed(1, half + 1, u128::MAX)]);
        map.replace(at(1), vec![listed(0, 0, half), child(listed(2, half + 1, u128::MAX), 1)]);
        assert!(map.range(at(1), "shardId-000000000001").is_some());
        // A new stream of the same name. It may get shards 1 and 2, with any range.
        let change = map.replace(at(2), vec![listed(0, 0, u128::MAX)]);
        assert_eq!(change, MapChange { closed: vec![1, 3], forgotten: vec![2, 3], is_complete: true });
        for id in ["shardId-000000000001", "shardId-000000000002"] {
            assert_eq!(map.range(at(2), id), None);
        }
        assert_eq!(map.range(at(2), "shardId-000000000000"), Some((0, u128::MAX)));
    }

    #[test]
    fn a_shard_listed_twice_is_open_once() {
        let mut map = ShardMap::default();
        assert!(!map.replace(at(0), vec![listed(0, 0, 9), listed(0, 10, u128::MAX)]).is_complete);
        assert_eq!((map.open_shards(), id(&map, 0).is_some(), id(&map, 10)), (1, true, None));
        assert_eq!(map.replace(at(100), vec![listed(0, 0, u128::MAX)]).forgotten, [0; 0], "it was open all the time");
    }

    #[test]
    fn a_shard_that_overlaps_another_is_known_for_a_minute() {
        let mut map = ShardMap::default();
        let overlapping = listed(1, 5, 9);
        map.replace(at(0), vec![listed(0, 0, u128::MAX), overlapping.clone()]);
        assert_eq!(map.range(at(0), &overlapping.id), Some((5, 9)));
        map.replace(at(61), vec![listed(0, 0, u128::MAX)]);
        assert_eq!(map.range(at(61), &overlapping.id), None);
    }

    #[test]
    fn children_win_if_a_shard_is_split_between_two_pages() {
        let half = u128::MAX / 2;
        let mut map = ShardMap::default();
        let listed_pages =
            vec![listed(0, 0, u128::MAX), child(listed(1, 0, half), 0), child(listed(2, half + 1, u128::MAX), 0)];
        assert!(map.replace(at(0), listed_pages).is_complete);
        assert_eq!(id(&map, 0).as_deref(), Some("shardId-000000000001"));
        assert_eq!(map.range(at(0), "shardId-000000000000"), Some((0, u128::MAX)), "the parent's range is known, too");
    }

    #[test]
    fn a_closed_shard_stays_known_for_a_minute_before_its_slot_is_reused() {
        let half = u128::MAX / 2;
        let mut map = ShardMap::default();
        map.replace(at(0), vec![listed(0, 0, u128::MAX)]);
        let parent = map.shard(0).cloned().unwrap();
        let split = || vec![child(listed(1, 0, half), 0), child(listed(2, half + 1, u128::MAX), 0)];
        let change = map.replace(at(10), split());
        assert_eq!(change, MapChange { closed: vec![parent.slot], forgotten: vec![], is_complete: true });
        assert!(map.range(at(10), &parent.id).is_some());
        assert_eq!(map.slot_of(&parent), Some(parent.slot));
        assert_eq!(map.range(at(71), &parent.id), None, "also without a new list");
        assert!(map.replace(at(70), split()).forgotten.is_empty());
        assert_eq!(map.replace(at(71), split()).forgotten, vec![parent.slot]);
        assert_eq!(map.range(at(71), &parent.id), None);
        assert_eq!(map.slot_of(&parent), None);
    }
}

//! Counts the lines that consumers read before an earlier line of their key.

use std::collections::{BTreeMap, HashMap};

use xxhash_rust::xxh3::xxh3_128;

/// The lines in the order in which consumers read them, by the hash of their partition key.
#[derive(Debug, Default)]
pub(crate) struct Order {
    keys: HashMap<u128, ReadLines>,
}

/// The places of the lines of one key, by shard. A key has one shard, and after a reshard others. Their IDs are in the
/// order of their creation, so parents come before children.
type ReadLines = BTreeMap<Box<str>, Vec<(u32, u64)>>;

impl Order {
    /// A consumer reads a line for the first time. `place` is its source and its number there.
    pub(crate) fn arrived(&mut self, shard_id: &str, partition_key: &str, place: (u32, u64)) {
        let shards = self.keys.entry(xxh3_128(partition_key.as_bytes())).or_default();
        match shards.get_mut(shard_id) {
            Some(lines) => lines.push(place),
            None => drop(shards.insert(shard_id.into(), vec![place])),
        }
    }

    /// Returns the number of lines that were read before an earlier one of their key.
    pub(crate) fn overtaken(&self) -> u64 {
        self.keys.values().map(overtaken).sum()
    }
}

fn overtaken(shards: &ReadLines) -> u64 {
    // From the last one that was read to the first one.
    let (mut overtaken, mut earliest) = (0, (u32::MAX, u64::MAX));
    for place in shards.values().flatten().rev() {
        overtaken += u64::from(*place > earliest);
        earliest = earliest.min(*place);
    }
    overtaken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_shard_by_shard() {
        let mut order = Order::default();
        // The child is read while the parent is.
        for (shard, number) in [("shardId-2", 3), ("shardId-1", 1), ("shardId-2", 4), ("shardId-1", 2)] {
            order.arrived(shard, "k", (0, number));
        }
        order.arrived("shardId-3", "other", (0, 0));
        assert_eq!(order.overtaken(), 0);
        order.arrived("shardId-3", "k", (0, 0));
        assert_eq!(order.overtaken(), 4);
    }
}

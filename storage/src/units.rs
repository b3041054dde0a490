//! Units of the store: every offset, position, count and time is its own type.
//!
//! **Owns** the newtypes that keep a queue's offset from being taken for a byte position.
//! **Lives on** any core; plain copies.
//! **Invariants** arithmetic that could wrap is checked or saturating; blocks are 4 KiB.
//! **Limits** `PhysicalOffset` is decoded and built by `address` only.
//! **Not here** how any of them is written to disk (`format`) or to the wire (protocol).

use std::fmt;

/// Bytes of one device block: every device write starts and ends on a multiple of it.
pub const BLOCK_BYTES: u64 = 4096;

/// A byte count as an index into memory; what does not fit cannot be in memory either.
pub(crate) fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$name> for $inner {
            fn from(value: $name) -> $inner {
                value.0
            }
        }
    };
}

number! {
    /// Logical offset of a record in its queue; unit: one record.
    QueueOffset(u64)
}
number! {
    /// A record's offset as clients see it: shard and position packed by `address`.
    PhysicalOffset(u64)
}
number! {
    /// Byte position in one shard's log.
    FilePosition(u64)
}
number! {
    /// A number of bytes.
    ByteCount(u64)
}
number! {
    /// Milliseconds since the Unix epoch at which the broker stored a record.
    StoreTimestamp(u64)
}
number! {
    /// A topic's number, given once by the control plane and never reused.
    TopicId(u32)
}
number! {
    /// A queue's number within its topic.
    QueueId(u16)
}
number! {
    /// A shard's number within its store.
    ShardId(u8)
}

impl QueueOffset {
    /// The offset after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The offset `count` records later.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl FilePosition {
    /// The position `bytes` later.
    #[must_use]
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// Bytes from `earlier` to here, zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The first block boundary at or after this position.
    #[must_use]
    pub fn block_up(self) -> Self {
        Self(self.0.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES))
    }

    /// The last block boundary at or before this position.
    #[must_use]
    pub fn block_down(self) -> Self {
        Self(self.0 - self.0 % BLOCK_BYTES)
    }
}

/// One queue of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey {
    /// The topic's number.
    pub topic: TopicId,
    /// The queue's number within the topic.
    pub queue: QueueId,
}

impl QueueKey {
    /// The queue `queue` of `topic`.
    pub fn new(topic: u32, queue: u16) -> Self {
        Self {
            topic: TopicId(topic),
            queue: QueueId(queue),
        }
    }

    /// The shard that holds this queue in a store of `shards_count` shards (0 counts as 1).
    pub fn shard(self, shards_count: u8) -> ShardId {
        let sum = u64::from(self.topic.0) + u64::from(self.queue.0);
        let shard = sum % u64::from(shards_count.max(1));
        ShardId(u8::try_from(shard).unwrap_or(0))
    }
}

/// What a queue holds: offsets `min..max`; `max` is the offset the next readable record gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueBounds {
    /// The first offset still stored.
    pub min: QueueOffset,
    /// The first offset not yet readable.
    pub max: QueueOffset,
}

/// Which of several records with equal store times a search by time means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Boundary {
    /// The first of them.
    #[default]
    Lower,
    /// The last of them.
    Upper,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_round_both_ways() {
        assert_eq!(FilePosition(0).block_up(), FilePosition(0));
        assert_eq!(FilePosition(1).block_up(), FilePosition(4096));
        assert_eq!(FilePosition(4096).block_up(), FilePosition(4096));
        assert_eq!(FilePosition(4097).block_down(), FilePosition(4096));
    }

    #[test]
    fn queues_spread_over_shards() {
        assert_eq!(QueueKey::new(3, 1).shard(4), ShardId(0));
        assert_eq!(QueueKey::new(3, 2).shard(4), ShardId(1));
        assert_eq!(QueueKey::new(3, 2).shard(0), ShardId(0));
    }
}

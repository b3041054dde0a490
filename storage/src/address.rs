//! Physical offsets: the one place that maps them to shard and position.
//!
//! **Owns** the packing: shard in bits 56–62, position in bits 0–55, bit 63 clear (Java's sign).
//! **Lives on** any core; pure.
//! **Invariants** shard 0 of a one-shard store looks like `RocketMQ`'s own offsets.
//! **Limits** 128 shards, 64 PiB per shard.
//! **Not here** whether anything lies at the position.

use crate::units::{FilePosition, PhysicalOffset, ShardId};

const POSITION_BITS: u32 = 56;
const POSITION_MASK: u64 = (1 << POSITION_BITS) - 1;
/// Shards a store may have.
pub const SHARDS_MAX: u8 = 128;

/// The physical offset of `position` in `shard`.
pub fn physical(shard: ShardId, position: FilePosition) -> PhysicalOffset {
    debug_assert!(shard.0 < SHARDS_MAX && position.0 <= POSITION_MASK);
    PhysicalOffset(u64::from(shard.0) << POSITION_BITS | (position.0 & POSITION_MASK))
}

/// Shard and position of a physical offset; `None` when its sign bit is set.
pub fn locate(physical: PhysicalOffset) -> Option<(ShardId, FilePosition)> {
    let shard = u8::try_from(physical.0 >> POSITION_BITS).ok()?;
    (shard < SHARDS_MAX).then_some((ShardId(shard), FilePosition(physical.0 & POSITION_MASK)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        assert_eq!(physical(ShardId(0), FilePosition(77)), PhysicalOffset(77));
        let far = physical(ShardId(127), FilePosition(1 << 40));
        assert_eq!(locate(far), Some((ShardId(127), FilePosition(1 << 40))));
        assert_eq!(locate(PhysicalOffset(1 << 63)), None);
    }
}

//! Which part of `memoryLimit` goes where.
//!
//! **Owns** the shares, and the largest useful size of each.
//! **Lives on** any thread; plain figures, made once at the start.
//! **Invariants** what grows with clients or load has a share here; the shares, the tails and
//! [`BASE_BYTES`] together stay below the limit from 192 MiB on.
//! **Limits** a share is never below what one largest message needs.
//! **Not here** the bounds in counts (each room's own), the parts of tables that grow with topics
//! and groups (`docs/OPERATIONS.md` says how much).

use gantry_runtime::net::{ASSEMBLY_BYTES_MAX, OUT_BYTES_MAX, OUT_BYTES_SOFT};
use gantry_runtime::shard::IO_MEMORY_BYTES_MAX;
use gantry_storage::shard_store::{RECORD_BYTES_MAX, StoreOptions};

use crate::data::shard::{COLD_READS_MAX, INBOX_BYTES_MAX};

/// What a broker needs whatever it does: code, executors, tables, connections' own state.
pub const BASE_BYTES: u64 = 48 << 20;
/// Of 32 parts: replies that wait to be read, of all connections.
const REPLIES_PARTS: u64 = 8;
/// Of 32 parts: requests that wait in the inboxes, and those on their way there.
const INBOX_PARTS: u64 = 4;
/// Of these: messages on their way from one core to another, where there are several.
const ROAD_PARTS: u64 = 1;
/// Of one core: with more it is the receivers that are slow, and producers should hear of it.
const ROAD_BYTES_MAX: usize = 32 << 20;
/// Of 32 parts: frames whose end has not arrived. Their buffers grow by doubling, so that they may
/// take twice of it.
const ASSEMBLY_PARTS: u64 = 1;
/// Of 32 parts: cold log and index pages, read or being filled.
const CACHE_PARTS: u64 = 4;
/// Of 32 parts: reads of the device under way.
const COLD_PARTS: u64 = 2;
/// What one of those takes: a chunk for its reply, another for the records, with room for one that
/// is larger.
const COLD_READ_BYTES: u64 = 1 << 20;
/// Of 32 parts: requests on their way to the control plane, half of it, and what searches
/// by key find, the other half.
const ERRAND_PARTS: u64 = 1;
/// Of one core; a single one may be larger.
const CONTROL_BYTES_MAX: usize = 32 << 20;
/// Reads and writes of the device that a core has under way.
const IO_BYTES: u64 = 8 << 20;
/// No connection may hold more than this part of the replies.
const CONNECTION_PART: u64 = 8;

const _: () = assert!(
    REPLIES_PARTS + INBOX_PARTS + 2 * ASSEMBLY_PARTS + CACHE_PARTS + COLD_PARTS + ERRAND_PARTS
        <= 21,
    "the rest is for the base, tails, and what an allocator wastes"
);

/// Bounds in bytes that follow from `memoryLimit`; see the room's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Replies that wait, of the process.
    pub replies_bytes: usize,
    /// Of them, of one connection: above it, it is closed.
    pub out_bytes_max: usize,
    /// Of them, of one connection: above it, it is not read.
    pub out_bytes_soft: usize,
    /// Incomplete frames of a core.
    pub assembly_bytes: usize,
    /// Requests in the inboxes of a shard.
    pub inbox_bytes: usize,
    /// Messages that a core has sent to others and that are not in an inbox yet.
    pub road_bytes: usize,
    /// Bodies of requests of a core that the control plane has not looked at yet.
    pub control_bytes: usize,
    /// What the searches by key and views by offset id of a core may find before their answer.
    pub search_bytes: usize,
    /// Reads of the device that a shard has under way.
    pub cold_reads: usize,
    /// Cold log that a shard keeps.
    pub read_cache_bytes: u64,
    /// Index pages that a shard keeps.
    pub index_cache_bytes: u64,
    /// Memory of a core for direct I/O; cold log that its shards keep lies in it.
    pub io_memory_bytes: usize,
}

impl MemoryPlan {
    /// The plan for a limit, so many cores and so many shards.
    pub fn new(limit_bytes: u64, cores: u64, shards: u64) -> Self {
        let (cores, shards) = (cores.max(1), shards.max(1));
        let share = |parts: u64| limit_bytes / 32 * parts;
        let stock = StoreOptions::default();
        let replies = share(REPLIES_PARTS);
        let cache = share(CACHE_PARTS) / shards;
        let one_message = 2 * RECORD_BYTES_MAX;
        let cold_reads = share(COLD_PARTS) / shards / COLD_READ_BYTES;
        let read_cache_bytes = (cache / 3).min(stock.read_cache_bytes);
        let errands = share(ERRAND_PARTS) / 2 / cores;
        let roads = if cores > 1 { ROAD_PARTS } else { 0 };
        let inboxes = share(INBOX_PARTS - roads) / shards;
        let kept = read_cache_bytes * shards.div_ceil(cores);
        Self {
            replies_bytes: size(replies),
            out_bytes_max: size((replies / CONNECTION_PART).max(one_message)).min(OUT_BYTES_MAX),
            out_bytes_soft: size(replies / CONNECTION_PART / 4).min(OUT_BYTES_SOFT),
            assembly_bytes: size((share(ASSEMBLY_PARTS) / cores).max(one_message))
                .min(ASSEMBLY_BYTES_MAX),
            inbox_bytes: size(inboxes.max(one_message)).min(INBOX_BYTES_MAX),
            road_bytes: size((share(roads) / cores).max(roads * RECORD_BYTES_MAX))
                .min(ROAD_BYTES_MAX),
            control_bytes: size(errands).min(CONTROL_BYTES_MAX),
            search_bytes: size(errands),
            cold_reads: size(cold_reads).clamp(2, COLD_READS_MAX),
            read_cache_bytes,
            index_cache_bytes: (cache / 3 * 2).min(stock.index_cache_bytes),
            io_memory_bytes: size(kept + IO_BYTES).min(IO_MEMORY_BYTES_MAX),
        }
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_limit_leaves_every_bound_at_its_largest() {
        let plan = MemoryPlan::new(4 << 30, 1, 1);
        let stock = StoreOptions::default();
        assert_eq!(plan.replies_bytes, 1 << 30);
        assert_eq!(plan.out_bytes_max, OUT_BYTES_MAX);
        assert_eq!(plan.out_bytes_soft, OUT_BYTES_SOFT);
        assert_eq!(plan.inbox_bytes, INBOX_BYTES_MAX);
        assert_eq!(plan.cold_reads, COLD_READS_MAX);
        assert_eq!(plan.read_cache_bytes, stock.read_cache_bytes);
        assert_eq!(plan.index_cache_bytes, stock.index_cache_bytes);
        assert_eq!(plan.io_memory_bytes, IO_MEMORY_BYTES_MAX);
    }

    #[test]
    fn the_parts_stay_below_a_small_limit() {
        for (limit, shards) in [(192_u64 << 20, 1), (256 << 20, 1), (1 << 30, 4)] {
            let plan = MemoryPlan::new(limit, shards, shards);
            let inboxes = plan.inbox_bytes as u64 * shards;
            let assembly = plan.assembly_bytes as u64 * shards * 2;
            let caches = (plan.read_cache_bytes + plan.index_cache_bytes) * shards;
            let io = plan.io_memory_bytes as u64 - plan.read_cache_bytes;
            let cold = (plan.cold_reads as u64 * COLD_READ_BYTES).max(io) * shards;
            // Half as much as an inbox waits for topics to be made.
            let parked = inboxes / 2;
            let control = (plan.control_bytes + plan.search_bytes) as u64 * shards;
            let waiting = plan.replies_bytes as u64 + inboxes + parked + assembly + control;
            let roads = plan.road_bytes as u64 * shards;
            let sum = waiting + roads + caches + cold + BASE_BYTES;
            assert!(sum < limit, "{sum} of {limit}: {plan:?}");
            assert!(plan.out_bytes_soft < plan.out_bytes_max);
            assert!(plan.out_bytes_max < plan.replies_bytes);
        }
    }
}

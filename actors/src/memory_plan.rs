//! Which part of `memoryLimit` goes where.
//!
//! **Owns** the shares, and the largest useful size of each.
//! **Lives on** any thread; plain figures, made once at the start.
//! **Invariants** what grows with clients or load has a share here; the shares, the tails and
//! [`BASE_BYTES`] together stay within the limit, which [`Shape::limit_bytes_min`] bounds below.
//! **Limits** a share is never below what one largest message needs.
//! **Not here** the bounds in counts (each room's own), the parts of tables that grow with topics
//! and groups (`docs/OPERATIONS.md` says how much).

use gantry_runtime::net::{ASSEMBLY_BYTES_MAX, OUT_BYTES_MAX, OUT_BYTES_SOFT};
use gantry_runtime::shard::IO_MEMORY_BYTES_MAX;
use gantry_storage::shard_store::{RECORD_BYTES_MAX, StoreOptions};

use crate::data::requests::parked::PARKED_BYTES_MAX;
use crate::data::requests::pushes::PUSH_BYTES_MAX;
use crate::data::shard::{COLD_READS_MAX, INBOX_BYTES_MAX};

/// What a broker needs whatever it does: code, executors, tables, connections' own state.
pub const BASE_BYTES: u64 = 48 << 20;
/// Of 32 parts: replies that wait to be read, of all connections.
const REPLIES_PARTS: u64 = 8;
/// Of 32 parts: requests that wait in the inboxes, and those on their way there. Half as much as an
/// inbox has waits on a core for topics to be made.
const INBOX_PARTS: u64 = 4;
/// Of these: messages on their way from one core to another, where there are several.
const ROAD_PARTS: u64 = 1;
/// Of one core: with more it is the receivers that are slow, and producers should hear of it.
const ROAD_BYTES_MAX: usize = 32 << 20;
/// Of 32 parts: replies that wait for their requester to say that it got them.
const PUSH_PARTS: u64 = 1;
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
/// Of 32 parts: what groups subscribe.
const SUBSCRIBED_PARTS: u64 = 2;
/// Of the process: 100,000 groups of six ordinary subscriptions.
pub const SUBSCRIBED_BYTES_MAX: usize = 256 << 20;
/// No connection may hold more than this part of the replies.
const CONNECTION_PART: u64 = 8;

/// The parts are those of the limit where the base and the tails leave room for them, else of as
/// many of its [`STEPS`] as they do.
const STEPS: u64 = 32;
/// Of what the parts are under the least limit: caches of half a MiB for each of eight cores.
const SHARED_BYTES_MIN: u64 = 48 << 20;

/// What the plan is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Data cores.
    pub cores: u64,
    /// Shards of the store.
    pub shards: u64,
    /// A shard's tail.
    pub tail_bytes: u64,
}

impl Shape {
    /// The least limit that all parts fit into, in whole MiB.
    pub fn limit_bytes_min(self) -> u64 {
        let least = MemoryPlan::of_parts(SHARED_BYTES_MIN, self);
        least.sum(self).next_multiple_of(1 << 20)
    }
}

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
    /// Requests of a core that wait for topics and groups to be made.
    pub parked_bytes: usize,
    /// Replies of a core that are stored once their requester has them.
    pub push_bytes: usize,
    /// Messages that a core has sent to others and that are not in an inbox yet.
    pub road_bytes: usize,
    /// Bodies of requests of a core that the control plane has not looked at yet.
    pub control_bytes: usize,
    /// What the searches by key and views by offset id of a core may find before their answer.
    pub search_bytes: usize,
    /// What all groups subscribe.
    pub subscribed_bytes: usize,
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
    /// The plan for a limit.
    pub fn new(limit_bytes: u64, shape: Shape) -> Self {
        let plans = (1..=STEPS)
            .rev()
            .map(|steps| Self::of_parts(limit_bytes / STEPS * steps, shape));
        let mut fitting = plans.filter(|plan| plan.sum(shape) <= limit_bytes);
        let least = || Self::of_parts(SHARED_BYTES_MIN, shape);
        fitting.next().unwrap_or_else(least)
    }

    /// The plan whose parts are parts of so many bytes.
    fn of_parts(bytes: u64, sized: Shape) -> Self {
        let (cores, shards) = (sized.cores.max(1), sized.shards.max(1));
        let share = |parts: u64| bytes / 32 * parts;
        let stock = StoreOptions::default();
        let one_message = 2 * RECORD_BYTES_MAX;
        let replies = share(REPLIES_PARTS).max(2 * one_message);
        let cache = share(CACHE_PARTS) / shards;
        let cold_reads = share(COLD_PARTS) / shards / COLD_READ_BYTES;
        let read_cache_bytes = (cache / 3).min(stock.read_cache_bytes);
        let errands = share(ERRAND_PARTS) / 2 / cores;
        let roads = if cores > 1 { ROAD_PARTS } else { 0 };
        let inboxes = share(INBOX_PARTS - roads) / shards;
        let inbox_bytes = size(inboxes.max(one_message)).min(INBOX_BYTES_MAX);
        let kept = read_cache_bytes * shards.div_ceil(cores);
        Self {
            replies_bytes: size(replies),
            out_bytes_max: size((replies / CONNECTION_PART).max(one_message)).min(OUT_BYTES_MAX),
            out_bytes_soft: size(replies / CONNECTION_PART / 4).min(OUT_BYTES_SOFT),
            assembly_bytes: size((share(ASSEMBLY_PARTS) / cores).max(one_message))
                .min(ASSEMBLY_BYTES_MAX),
            inbox_bytes,
            parked_bytes: (inbox_bytes / 2).min(PARKED_BYTES_MAX),
            push_bytes: size((share(PUSH_PARTS) / cores).max(RECORD_BYTES_MAX)).min(PUSH_BYTES_MAX),
            road_bytes: size((share(roads) / cores).max(roads * RECORD_BYTES_MAX))
                .min(ROAD_BYTES_MAX),
            control_bytes: size(errands).min(CONTROL_BYTES_MAX),
            search_bytes: size(errands),
            subscribed_bytes: size(share(SUBSCRIBED_PARTS)).min(SUBSCRIBED_BYTES_MAX),
            cold_reads: size(cold_reads).clamp(2, COLD_READS_MAX),
            read_cache_bytes,
            index_cache_bytes: (cache / 3 * 2).min(stock.index_cache_bytes),
            io_memory_bytes: size(kept + IO_BYTES).min(IO_MEMORY_BYTES_MAX),
        }
    }

    /// All parts at their bounds.
    fn sum(&self, shape: Shape) -> u64 {
        let (cores, shards) = (shape.cores.max(1), shape.shards.max(1));
        let of_process = self.replies_bytes + self.subscribed_bytes;
        let waiting = self.parked_bytes + self.push_bytes + self.road_bytes;
        let asked = self.control_bytes + self.search_bytes;
        // Buffers of frames grow by doubling.
        let of_core = waiting + asked + 2 * self.assembly_bytes;
        let caches = self.read_cache_bytes + self.index_cache_bytes;
        let of_shard = self.inbox_bytes as u64 + caches + shape.tail_bytes;
        let device = (self.cold_reads as u64 * COLD_READ_BYTES * shards).max(IO_BYTES * cores);
        let all = of_process as u64 + of_core as u64 * cores + of_shard * shards;
        BASE_BYTES + all + device
    }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn shape(cores: u64, shards: u64) -> Shape {
        let tail_bytes = 16 * MIB;
        Shape {
            cores,
            shards,
            tail_bytes,
        }
    }

    #[test]
    fn the_stock_limit_leaves_every_bound_at_its_largest() {
        let plan = MemoryPlan::new(4 << 30, shape(1, 1));
        let stock = StoreOptions::default();
        assert_eq!(plan.replies_bytes, 1 << 30);
        assert_eq!(plan.out_bytes_max, OUT_BYTES_MAX);
        assert_eq!(plan.out_bytes_soft, OUT_BYTES_SOFT);
        assert_eq!(plan.inbox_bytes, INBOX_BYTES_MAX);
        assert_eq!(plan.parked_bytes, PARKED_BYTES_MAX);
        assert_eq!(plan.push_bytes, PUSH_BYTES_MAX);
        assert_eq!(plan.subscribed_bytes, SUBSCRIBED_BYTES_MAX);
        assert_eq!(plan.cold_reads, COLD_READS_MAX);
        assert_eq!(plan.read_cache_bytes, stock.read_cache_bytes);
        assert_eq!(plan.index_cache_bytes, stock.index_cache_bytes);
        assert_eq!(plan.io_memory_bytes, IO_MEMORY_BYTES_MAX);
    }

    #[test]
    fn all_parts_fit_into_every_limit_that_is_allowed() {
        let mut shapes = Vec::new();
        for cores in [1, 2, 3, 4, 7, 8, 16, 31, 64, 128] {
            for shards in [cores.min(64), 1, 64] {
                shapes.extend([1, 16, 256, 1024].map(|tail| Shape {
                    tail_bytes: tail * MIB,
                    ..shape(cores, shards)
                }));
            }
        }
        for shape in shapes {
            let least = shape.limit_bytes_min();
            let above = [0, 1, 16, 100, 1000, 10_000].map(|more| least + more * MIB);
            let round = [192, 256, 512, 1024, 4096, 16 << 10, 1 << 20].map(|limit| limit * MIB);
            let limits = above.into_iter().chain(round);
            for limit in limits.filter(|limit| *limit >= least) {
                let plan = MemoryPlan::new(limit, shape);
                let sum = plan.sum(shape);
                assert!(sum <= limit, "{sum} of {limit}, {shape:?}: {plan:?}");
                assert!(plan.out_bytes_soft < plan.out_bytes_max);
                assert!(plan.out_bytes_max < plan.replies_bytes);
            }
        }
    }

    #[test]
    fn the_least_limit_is_what_the_documents_say() {
        let least = |cores| shape(cores, cores).limit_bytes_min() / MIB;
        assert_eq!([1, 2, 4, 8].map(least), [132, 198, 320, 564]);
    }
}

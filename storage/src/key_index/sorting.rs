//! Putting the entries of a full buffer into a partition's order without stalling the core.
//!
//! **Owns** the distribution by the hash's upper bits, and the order inside a bucket.
//! **Lives on** one data core.
//! **Invariants** of equal hashes the newest comes first.
//! **Limits** a bucket is sorted in one go: about 10 µs when hashes are spread evenly; keys made to
//! collide cost at most 2 ms per full buffer.
//! **Not here** where the sorted entries go (`partition`).

use super::KeyEntry;
use crate::disk::Disk;

/// Upper bits of a hash that choose its bucket: a full buffer has 128 entries in each.
const BUCKET_BITS: u32 = 9;
const BUCKETS: usize = 1 << BUCKET_BITS;
/// Entries looked at between two yields: about 0.1 ms.
const DISTRIBUTE_SLICE: usize = 16 << 10;

/// Entries by bucket, each bucket newest first.
pub(super) struct Buckets {
    entries: Vec<KeyEntry>,
    /// Where each bucket ends, but the last.
    ends: Vec<usize>,
}

fn bucket_of(hash: u64) -> usize {
    crate::units::index(hash >> (u64::BITS - BUCKET_BITS))
}

/// Distributes `entries`, which are in log order.
pub(super) async fn distribute<D: Disk>(disk: &D, entries: &[KeyEntry]) -> Buckets {
    let mut counts = [0_usize; BUCKETS];
    for slice in entries.chunks(DISTRIBUTE_SLICE) {
        for entry in slice {
            if let Some(count) = counts.get_mut(bucket_of(entry.hash)) {
                *count += 1;
            }
        }
        disk.yield_now().await;
    }
    let mut end = 0;
    let mut ends = Vec::with_capacity(BUCKETS);
    for count in &mut counts {
        // From here on the place of the bucket's next entry.
        let begin = end;
        end += *count;
        *count = begin;
        ends.push(end);
    }
    let empty = KeyEntry::default();
    let mut placed = vec![empty; entries.len()];
    // From the newest to the oldest, so that a sort by hash alone, which keeps the order of equal
    // ones, is enough.
    for slice in entries.rchunks(DISTRIBUTE_SLICE) {
        for entry in slice.iter().rev() {
            let Some(place) = counts.get_mut(bucket_of(entry.hash)) else {
                continue;
            };
            if let Some(slot) = placed.get_mut(*place) {
                *slot = *entry;
            }
            *place += 1;
        }
        disk.yield_now().await;
    }
    let entries = placed;
    Buckets { entries, ends }
}

impl Buckets {
    /// Sorts one bucket after the other; gives each in its turn.
    pub(super) fn sorted(&mut self) -> impl Iterator<Item = &[KeyEntry]> {
        let mut rest = self.entries.as_mut_slice();
        let mut begin = 0;
        self.ends.iter().map(move |end| {
            let (bucket, after) = std::mem::take(&mut rest).split_at_mut(end - begin);
            (begin, rest) = (*end, after);
            sort(bucket);
            &*bucket
        })
    }
}

/// Sorts entries whose equal hashes are newest first already.
pub(super) fn sort(entries: &mut [KeyEntry]) {
    entries.sort_by_key(|entry| entry.hash);
}

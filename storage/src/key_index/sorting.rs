//! Putting entries into a partition's order without stalling the core.
//!
//! **Owns** the distribution over buckets by the hash, and the order inside a bucket.
//! **Lives on** one data core.
//! **Invariants** of equal hashes the newest comes first.
//! **Limits** a bucket is sorted in one go: some 50 ns when hashes are spread evenly; keys made to
//! collide cost at most 2 ms per full buffer.
//! **Not here** where the sorted entries go (`partition`).

use super::KeyEntry;
use crate::disk::Disk;
use crate::units::index;

/// Entries of a bucket when hashes are spread evenly: so few that they are sorted by insertion.
/// Buckets of 128, which are too long for that, took twice as long.
const BUCKET_ENTRIES: usize = 8;
/// Most buckets: those of a full buffer.
const BUCKETS_MAX: usize = 8192;
/// Entries looked at between two yields: about 0.1 ms.
const DISTRIBUTE_SLICE: usize = 16 << 10;

/// Entries by bucket; used again and again, for its memory.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    /// The smallest hash there may be.
    first: u64,
    /// Bits of a hash, counted from `first`, that don't choose its bucket.
    shift: u32,
    /// Of each bucket: its entries, then the place of its next one, at last its end.
    places: Vec<u32>,
    entries: Vec<KeyEntry>,
}

impl Buckets {
    /// Distributes the entries of a full buffer, which are in log order.
    pub(super) async fn distribute<D: Disk>(&mut self, disk: &D, entries: &[KeyEntry]) {
        self.begin((0, u64::MAX), entries.len());
        for slice in entries.chunks(DISTRIBUTE_SLICE) {
            self.count(slice);
            disk.yield_now().await;
        }
        self.find_places();
        // From the newest to the oldest, so that a sort by hash alone, which keeps the order of
        // equal ones, is enough.
        for slice in entries.rchunks(DISTRIBUTE_SLICE) {
            for entry in slice.iter().rev() {
                self.place(entry);
            }
            disk.yield_now().await;
        }
    }

    /// Sorts entries whose equal hashes are newest first already.
    pub(super) fn sort(&mut self, entries: &[KeyEntry]) -> &[KeyEntry] {
        let wider =
            |(low, high): (u64, u64), entry: &KeyEntry| (low.min(entry.hash), high.max(entry.hash));
        let hashes = entries.iter().fold((u64::MAX, 0), wider);
        self.begin(hashes, entries.len());
        self.count(entries);
        self.find_places();
        for entry in entries {
            self.place(entry);
        }
        self.sorted(entries.len()).next().unwrap_or_default()
    }

    fn begin(&mut self, (first, last): (u64, u64), count: usize) {
        let wanted = (count / BUCKET_ENTRIES).next_power_of_two();
        let buckets = wanted.clamp(2, BUCKETS_MAX);
        let span_bits = u64::BITS - last.saturating_sub(first).leading_zeros();
        self.first = first;
        self.shift = span_bits.saturating_sub(buckets.ilog2());
        self.places.clear();
        self.places.resize(buckets, 0);
        self.entries.resize(count, KeyEntry::default());
    }

    #[inline]
    fn place_of(&mut self, hash: u64) -> Option<&mut u32> {
        let bucket = index(hash.wrapping_sub(self.first) >> self.shift);
        self.places.get_mut(bucket)
    }

    fn count(&mut self, entries: &[KeyEntry]) {
        for entry in entries {
            if let Some(count) = self.place_of(entry.hash) {
                *count += 1;
            }
        }
    }

    fn find_places(&mut self) {
        let mut end = 0;
        for place in &mut self.places {
            let begin = end;
            end += *place;
            *place = begin;
        }
    }

    #[inline]
    fn place(&mut self, entry: &KeyEntry) {
        let Some(place) = self.place_of(entry.hash) else {
            return;
        };
        let at = index(u64::from(*place));
        *place += 1;
        if let Some(slot) = self.entries.get_mut(at) {
            *slot = *entry;
        }
    }

    /// Sorts one bucket after the other; gives the entries in slices of so many, or some more.
    pub(super) fn sorted(&mut self, entries_min: usize) -> impl Iterator<Item = &[KeyEntry]> {
        let mut rest = self.entries.as_mut_slice();
        let mut ends = self.places.iter().map(|end| index(u64::from(*end)));
        let mut begin = 0;
        std::iter::from_fn(move || {
            let mut count = 0;
            for end in ends.by_ref() {
                let bucket = rest.get_mut(count..end - begin).unwrap_or_default();
                bucket.sort_by_key(|entry| entry.hash);
                count = end - begin;
                if count >= entries_min {
                    break;
                }
            }
            let (slice, after) = std::mem::take(&mut rest).split_at_mut(count);
            (begin, rest) = (begin + count, after);
            (count > 0).then_some(&*slice)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim_disk::SimDisk;
    use crate::units::{FilePosition, StoreTimestamp};

    fn entries(hashes: impl Iterator<Item = u64>) -> Vec<KeyEntry> {
        let entry = |(hash, position)| KeyEntry {
            hash,
            position: FilePosition(position),
            time: StoreTimestamp(1),
        };
        hashes.zip(0..).map(entry).collect()
    }

    /// Spread hashes, narrow ones, many equal ones, the outermost ones.
    #[test]
    fn entries_are_sorted_whatever_their_hashes_are() {
        let spread = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut buckets = Buckets::default();
        let disk = SimDisk::new(1);
        for count in [0, 1, 2, 7, 100, 2048, 70_000] {
            let of: [fn(u64) -> u64; 4] =
                [|n| n, |n| n % 3, |n| n * (n % 2), |n| (n % 2) * u64::MAX];
            let kinds = of.map(|of| entries((0..count).map(of)));
            let spread = entries((0..count).map(spread));
            for entries in kinds.into_iter().chain([spread]) {
                let mut wanted = entries.clone();
                wanted.reverse();
                let sorted = buckets.sort(&wanted).to_vec();
                wanted.sort_by_key(|entry| entry.hash);
                assert_eq!(sorted, wanted);
                disk.block_on(buckets.distribute(&disk, &entries));
                let slices: Vec<_> = buckets.sorted(50).map(<[_]>::to_vec).collect();
                assert_eq!(slices.concat(), wanted);
                let few = slices.iter().filter(|slice| slice.len() < 50);
                assert!(few.count() <= 1, "only the last one is short");
            }
        }
    }
}

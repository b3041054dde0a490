//! What is due when: up to millions of entries, ordered only as far as the present needs.
//!
//! **Owns** the pending entries by due time.
//! **Lives on** the control plane's thread; pure.
//! **Invariants** entries come out in due order, those due together in the order of the log. The
//! far future lies unsorted in buckets of 17 minutes, the next minutes in buckets of a second, and
//! only the current second in a heap: adding costs a push, whatever the number.
//! **Limits** 24 bytes an entry, up to twice that while a bucket grows: 1 M entries take 24–48 MiB.
//! **Not here** records, delivery, persistence.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// A bucket of the near future is this wide: 2^10 ms.
const FINE_BITS: u32 = 10;
/// A bucket of the far future is this wide: 2^20 ms.
const COARSE_BITS: u32 = 20;

/// A pending record; ordered by time, then by place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// When it is due, ms since 1970.
    pub due_ms: u64,
    /// Where it lies.
    pub physical: u64,
    /// The record's length.
    pub bytes: u32,
    /// Its queue, by the supervisor's own number.
    pub queue: u16,
}

const _: () = assert!(size_of::<Entry>() == 24);

/// The pending entries; see the room's head.
#[derive(Debug, Default)]
pub struct DueTable {
    now: BinaryHeap<Reverse<Entry>>,
    /// Buckets before this one are in `now`.
    fine_from: u64,
    fine: BTreeMap<u64, Vec<Entry>>,
    /// Buckets before this one are in `fine` or `now`.
    coarse_from: u64,
    coarse: BTreeMap<u64, Vec<Entry>>,
    len: usize,
}

impl DueTable {
    /// How many are pending.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds one.
    pub fn insert(&mut self, entry: Entry) {
        self.len += 1;
        self.place(entry);
    }

    fn place(&mut self, entry: Entry) {
        let (fine, coarse) = (entry.due_ms >> FINE_BITS, entry.due_ms >> COARSE_BITS);
        if fine < self.fine_from {
            self.now.push(Reverse(entry));
        } else if coarse < self.coarse_from {
            self.fine.entry(fine).or_default().push(entry);
        } else {
            self.coarse.entry(coarse).or_default().push(entry);
        }
    }

    /// A time that nothing is due before; none when nothing is pending.
    pub fn next_ms(&self) -> Option<u64> {
        let now = self.now.peek().map(|first| first.0.due_ms);
        let fine = self.fine.first_key_value().map(|(at, _)| at << FINE_BITS);
        let coarse = self.coarse.first_key_value();
        let coarse = coarse.map(|(at, _)| at << COARSE_BITS);
        now.into_iter().chain(fine).chain(coarse).min()
    }

    /// Moves entries that are due at `now_ms` to `out`, in order, until it holds `count_max` of
    /// them or the last one has reached `bytes_max`.
    pub fn take_due(
        &mut self,
        now_ms: u64,
        (count_max, bytes_max): (usize, u64),
        out: &mut Vec<Entry>,
    ) {
        self.sort_until(now_ms);
        let mut bytes: u64 = out.iter().map(|entry| u64::from(entry.bytes)).sum();
        while out.len() < count_max && bytes < bytes_max {
            match self.now.peek() {
                Some(Reverse(first)) if first.due_ms <= now_ms => bytes += u64::from(first.bytes),
                _ => return,
            }
            if let Some(Reverse(entry)) = self.now.pop() {
                self.len -= 1;
                out.push(entry);
            }
        }
    }

    /// Brings every bucket that `now_ms` has reached into the heap.
    fn sort_until(&mut self, now_ms: u64) {
        let (fine, coarse) = ((now_ms >> FINE_BITS) + 1, (now_ms >> COARSE_BITS) + 1);
        if coarse > self.coarse_from {
            self.coarse_from = coarse;
            let later = self.coarse.split_off(&coarse);
            let reached = std::mem::replace(&mut self.coarse, later);
            for entry in reached.into_values().flatten() {
                self.place(entry);
            }
        }
        if fine > self.fine_from {
            self.fine_from = fine;
            let later = self.fine.split_off(&fine);
            let reached = std::mem::replace(&mut self.fine, later);
            self.now
                .extend(reached.into_values().flatten().map(Reverse));
        }
    }

    /// Takes one out before its time; false when it isn't pending.
    pub fn remove(&mut self, due_ms: u64, physical: u64) -> bool {
        let is_it = |entry: &Entry| entry.due_ms == due_ms && entry.physical == physical;
        let (fine, coarse) = (due_ms >> FINE_BITS, due_ms >> COARSE_BITS);
        let before = self.len;
        if fine < self.fine_from {
            let heap_len = self.now.len();
            self.now.retain(|Reverse(entry)| !is_it(entry));
            self.len -= heap_len - self.now.len();
            return self.len < before;
        }
        let (buckets, at) = if coarse < self.coarse_from {
            (&mut self.fine, fine)
        } else {
            (&mut self.coarse, coarse)
        };
        let Some(bucket) = buckets.get_mut(&at) else {
            return false;
        };
        let Some(place) = bucket.iter().position(is_it) else {
            return false;
        };
        bucket.swap_remove(place);
        if bucket.is_empty() {
            buckets.remove(&at);
        }
        self.len -= 1;
        true
    }

    /// Those due at exactly this time.
    pub fn due_at(&self, due_ms: u64) -> Vec<Entry> {
        let (fine, coarse) = (due_ms >> FINE_BITS, due_ms >> COARSE_BITS);
        let fine = self.fine.get(&fine).into_iter().flatten();
        let coarse = self.coarse.get(&coarse).into_iter().flatten();
        let now = self.now.iter().map(|entry| &entry.0);
        let all = now.chain(fine).chain(coarse);
        all.filter(|entry| entry.due_ms == due_ms)
            .copied()
            .collect()
    }

    /// The first ones after this time and place, in order.
    pub fn after(&self, after: (u64, u64), count_max: usize) -> Vec<Entry> {
        let is_after = |entry: &&Entry| (entry.due_ms, entry.physical) > after;
        let now = self.now.iter().map(|entry| &entry.0);
        let mut found: Vec<Entry> = now.filter(is_after).copied().collect();
        let fine = self.fine.range(after.0 >> FINE_BITS..);
        let coarse = self.coarse.range(after.0 >> COARSE_BITS..);
        // A bucket is wholly before the next one.
        for (_, bucket) in fine.chain(coarse) {
            if found.len() >= count_max {
                break;
            }
            found.extend(bucket.iter().filter(is_after));
        }
        if found.len() > count_max {
            found.select_nth_unstable(count_max);
            found.truncate(count_max);
        }
        found.sort_unstable();
        found
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        let now = self.now.iter().map(|entry| &entry.0);
        let fine = self.fine.values().flatten();
        now.chain(fine).chain(self.coarse.values().flatten())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(due_ms: u64, physical: u64) -> Entry {
        Entry {
            due_ms,
            physical,
            bytes: 100,
            queue: 0,
        }
    }

    proptest! {
        #[test]
        fn pages_are_the_sorted_list(
            dues in proptest::collection::vec(0_u64..5_000_000, 1..200),
            now_ms in 0_u64..3_000_000,
            page in 1_usize..20,
        ) {
            let mut table = DueTable::default();
            for (n, due) in dues.iter().enumerate() {
                table.insert(entry(*due, n as u64));
            }
            table.take_due(now_ms, (usize::MAX, u64::MAX), &mut Vec::new());
            let mut sorted: Vec<Entry> = table.iter().copied().collect();
            sorted.sort_unstable();
            let (mut seen, mut after) = (Vec::new(), (0, 0));
            // The first entry may lie at the very beginning.
            sorted.retain(|one| (one.due_ms, one.physical) > after);
            loop {
                let some = table.after(after, page);
                prop_assert!(some.len() <= page);
                let Some(last) = some.last() else { break };
                after = (last.due_ms, last.physical);
                seen.extend(some);
            }
            prop_assert_eq!(seen, sorted);
        }

        #[test]
        fn comes_out_as_from_a_sorted_list(
            dues in proptest::collection::vec(0_u64..5_000_000, 1..300),
            steps in proptest::collection::vec(
                (0_u64..800_000, 0_usize..40, 0_u64..5_000_000),
                1..40,
            ),
        ) {
            let (mut table, mut model) = (DueTable::default(), std::collections::BTreeSet::new());
            for (n, due) in dues.iter().enumerate() {
                table.insert(entry(*due, n as u64));
                model.insert(entry(*due, n as u64));
            }
            let mut now = 0;
            for (n, (step, count, due)) in steps.into_iter().enumerate() {
                now += step;
                let late = entry(due, 1_000_000 + n as u64);
                table.insert(late);
                model.insert(late);
                prop_assert!(table.next_ms().unwrap() <= model.first().unwrap().due_ms);
                if n % 3 == 0 {
                    let victim = *model.iter().nth(model.len() / 2).unwrap();
                    prop_assert!(table.due_at(victim.due_ms).contains(&victim));
                    prop_assert!(table.remove(victim.due_ms, victim.physical));
                    prop_assert!(!table.remove(victim.due_ms, victim.physical));
                    model.remove(&victim);
                }
                let mut out = Vec::new();
                table.take_due(now, (count, u64::MAX), &mut out);
                let want: Vec<Entry> =
                    model.iter().filter(|one| one.due_ms <= now).take(count).copied().collect();
                for one in &want {
                    model.remove(one);
                }
                prop_assert_eq!(out, want);
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.iter().count(), model.len());
            }
        }
    }

    #[test]
    fn a_million_entries_stay_small_whatever_their_times() {
        for spread_ms in [
            1_000_u64,
            100_000,
            3_600_000,
            30 * 86_400_000,
            3 * 365 * 86_400_000,
        ] {
            let mut table = DueTable::default();
            table.sort_until(1_800_000_000_000);
            for n in 0..1_000_000_u64 {
                let at = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % spread_ms;
                table.insert(entry(1_800_000_001_000 + at, n));
            }
            let buckets = table.fine.values().chain(table.coarse.values());
            let entries: usize = buckets.map(|bucket| bucket.capacity() * 24 + 48).sum();
            let bytes = entries + table.now.capacity() * 24;
            assert!(
                bytes < 50 << 20,
                "{bytes} bytes for a spread of {spread_ms} ms"
            );
        }
    }
}

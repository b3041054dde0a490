//! What is pending, as the supervisor and the requests about it see it.
//!
//! **Owns** the pending entries, those on their way, those to be tried again, and what is known of
//! their queues.
//! **Lives on** the control plane's thread, behind a `RefCell` that is never held across an await.
//! **Invariants** an entry is in exactly one place: pending, away (being delivered or moved) or to
//! be tried again. It leaves the board only when its record is stored where it belongs, recalled,
//! or can never be delivered. All of it can be rebuilt from the log.
//! **Limits** those of `due`; away and to-be-tried entries are bounded by the batches.
//! **Not here** the loop (`super`), reading and storing (`deliver`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use gantry_storage::address;
use gantry_storage::units::{FilePosition, PhysicalOffset, QueueKey, QueueOffset, ShardId};

use super::book::ParkedQueue;
use super::due::{DueTable, Entry};
use super::marks::{Marks, QueueMark, Recalled, Stored};
use super::rebuild::Unread;
use crate::seam::owed::OwedRow;

/// How long a recalled message is remembered beyond its time. `Marks::done_ms` goes back when a row
/// comes after what was due later is done: it was on its way, which takes seconds at the worst.
const RECALLED_KEPT_MS: u64 = 60_000;

/// Totals since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records delivered.
    pub delivered: u64,
    /// Records that can never be delivered: their topic or their bytes are gone.
    pub dropped: u64,
    /// Records recalled.
    pub recalled: u64,
}

/// See the room's head.
#[derive(Debug, Default)]
pub struct Board {
    /// Whether everything pending is known, but for the queues that can't be read.
    pub is_complete: bool,
    /// Totals.
    pub totals: Totals,
    pub(super) due: DueTable,
    queues: Vec<ParkedQueue>,
    by_key: HashMap<QueueKey, u16>,
    away: BTreeSet<Entry>,
    again: Vec<(u64, Entry)>,
    recalled: HashMap<u64, Recalled>,
    /// Queues that are not known to their end.
    unread: BTreeMap<QueueKey, Unread>,
    /// `Marks::done_ms` as it was taken last.
    pub(super) done_ms: u64,
    /// Something changed since the last marks.
    pub(super) is_dirty: bool,
}

impl Board {
    /// Forgets everything and begins with what the tables say.
    pub fn begin(&mut self, stored: &Stored, queues: impl IntoIterator<Item = QueueKey>) {
        let totals = self.totals;
        *self = Self {
            totals,
            recalled: stored.recalled.clone(),
            done_ms: stored.marks.done_ms,
            ..Self::default()
        };
        for key in queues {
            self.slot(key);
            self.set_unread(key, Unread::at_start(key, &stored.marks));
        }
    }

    /// A queue is not known to its end.
    pub(super) fn set_unread(&mut self, key: QueueKey, unread: Unread) {
        self.unread.insert(key, unread);
    }

    /// A queue is.
    pub(super) fn set_read(&mut self, key: QueueKey) {
        self.unread.remove(&key);
    }

    /// Queues that are not known to their end.
    pub(super) fn unread(&self) -> Vec<Unread> {
        self.unread.values().copied().collect()
    }

    /// Whether there are such queues.
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Whether a queue that fits is one.
    pub fn is_unread(&self, fits: impl Fn(QueueKey) -> bool) -> bool {
        self.unread.keys().any(|key| fits(*key))
    }

    fn slot(&mut self, key: QueueKey) -> u16 {
        if let Some(slot) = self.by_key.get(&key) {
            return *slot;
        }
        let slot = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        self.queues.push(ParkedQueue::new(key));
        self.by_key.insert(key, slot);
        slot
    }

    fn queue_mut(&mut self, slot: u16) -> Option<&mut ParkedQueue> {
        self.queues.get_mut(usize::from(slot))
    }

    /// The queue of an entry.
    pub fn key_of(&self, entry: &Entry) -> Option<QueueKey> {
        self.queues
            .get(usize::from(entry.queue))
            .map(|queue| queue.key)
    }

    /// Every queue of parked records.
    pub fn queues(&self) -> &[ParkedQueue] {
        &self.queues
    }

    /// How far a queue's rows are known.
    pub fn next_of(&self, key: QueueKey) -> QueueOffset {
        let slot = self.by_key.get(&key);
        let queue = slot.and_then(|slot| self.queues.get(usize::from(*slot)));
        queue.map_or(QueueOffset(0), |queue| queue.next)
    }

    /// Everything of a queue before `next` is known, even what no row came for.
    pub fn known_until(&mut self, key: QueueKey, next: QueueOffset) {
        let slot = self.slot(key);
        if let Some(queue) = self.queue_mut(slot) {
            queue.next = queue.next.max(next);
            self.is_dirty = true;
        }
    }

    /// Learns a row of a scan: rows between are done.
    pub fn learn_scanned(&mut self, row: &OwedRow) {
        let slot = self.slot(row.queue);
        let Some(queue) = self.queue_mut(slot) else {
            return;
        };
        if row.offset < queue.next {
            return;
        }
        queue.next = row.offset.next();
        self.is_dirty = true;
        let recalled = self.recalled.get(&row.physical.0);
        if !recalled.is_some_and(|recalled| recalled.is_of(row)) {
            self.add(Entry {
                due_ms: row.time_ms,
                physical: row.physical.0,
                bytes: row.bytes,
                queue: slot,
            });
        }
    }

    /// Learns a row that a core sent. False when rows before it are missing: scan the queue.
    pub fn learn(&mut self, row: &OwedRow) -> bool {
        let next = self.next_of(row.queue);
        if row.offset > next {
            return false;
        }
        self.learn_scanned(row);
        true
    }

    fn add(&mut self, entry: Entry) {
        if let Some(queue) = self.queue_mut(entry.queue) {
            queue.add(entry.physical);
            self.due.insert(entry);
        }
    }

    /// Takes what is due, or due for another try, in due order; it is away until one of
    /// [`Board::finish`], [`Board::try_again`].
    pub fn take_due(&mut self, now_ms: u64, limits: (usize, u64)) -> Vec<Entry> {
        if self.again.iter().any(|(at_ms, _)| *at_ms <= now_ms) {
            let (ready, later) = self
                .again
                .drain(..)
                .partition(|(at_ms, _)| *at_ms <= now_ms);
            self.again = later;
            let ready: Vec<(u64, Entry)> = ready;
            for (_, entry) in ready {
                self.due.insert(entry);
            }
        }
        let mut batch = Vec::new();
        self.due.take_due(now_ms, limits, &mut batch);
        self.away.extend(&batch);
        batch
    }

    /// Takes an entry out before its time; false when it isn't pending.
    pub fn take(&mut self, entry: Entry) -> bool {
        let found = self.due.remove(entry.due_ms, entry.physical);
        if found {
            self.away.insert(entry);
        }
        found
    }

    /// Whether an entry due then is away or waits for another try.
    pub fn is_on_its_way(&self, due_ms: u64) -> bool {
        let again = self.again.iter().map(|(_, entry)| entry);
        let mut entries = self.away.iter().chain(again);
        entries.any(|entry| entry.due_ms == due_ms)
    }

    /// An entry is done with. `delivered` is its record's offset in the parking queue. One that the
    /// board doesn't know to be away is another board's: this one was begun anew meanwhile.
    pub fn finish(&mut self, entry: Entry, delivered: Option<QueueOffset>) {
        if !self.away.remove(&entry) {
            return;
        }
        self.is_dirty = true;
        if let Some(queue) = self.queue_mut(entry.queue) {
            queue.done(entry.physical);
            if let Some(offset) = delivered {
                queue.delivered = queue.delivered.max(offset.next());
            }
        }
    }

    /// An entry goes back, to be tried at `at_ms` or when it is due; one of another board doesn't.
    pub fn try_again(&mut self, entry: Entry, at_ms: u64) {
        if !self.away.remove(&entry) {
            return;
        }
        if at_ms > entry.due_ms {
            self.again.push((at_ms, entry));
        } else {
            self.due.insert(entry);
        }
    }

    /// Notes that a message isn't to be delivered, whatever a scan finds.
    pub fn note_recalled(&mut self, physical: u64, recalled: Recalled) {
        self.recalled.insert(physical, recalled);
    }

    /// The tables know that an entry isn't to be delivered: it is done with, also when the board
    /// was begun anew meanwhile and has found it again.
    pub fn set_recalled(&mut self, entry: Entry, recalled: Recalled) {
        self.note_recalled(entry.physical, recalled);
        self.take(entry);
        self.finish(entry, None);
    }

    /// Whether that is still to be remembered.
    pub fn is_recalled(&self, physical: u64) -> bool {
        self.recalled.contains_key(&physical)
    }

    /// The first pending entries after this time and place, in due order; those on their way are
    /// left out.
    pub fn after(&self, after: (u64, u64), count_max: usize) -> Vec<Entry> {
        let mut found = self.due.after(after, count_max);
        let again = self.again.iter().map(|(_, entry)| *entry);
        found.extend(again.filter(|entry| (entry.due_ms, entry.physical) > after));
        found.sort_unstable();
        found.truncate(count_max);
        found
    }

    /// Whether an entry waits for another try.
    pub(super) fn has_again(&self) -> bool {
        !self.again.is_empty()
    }

    /// When there may be something to do.
    pub fn next_ms(&self) -> Option<u64> {
        let again = self.again.iter().map(|(at_ms, _)| *at_ms).min();
        self.due.next_ms().into_iter().chain(again).min()
    }

    /// How many are not delivered.
    pub fn pending(&self) -> usize {
        self.due.len() + self.away.len() + self.again.len()
    }

    /// The marks as of now, and which recalled messages they make unnecessary to remember.
    pub fn marks(&self, now_ms: u64) -> (Marks, Vec<u64>) {
        let away = self.away.first().map(|entry| entry.due_ms);
        let again = self.again.iter().map(|(_, entry)| entry.due_ms).min();
        let open = self.due.next_ms().into_iter().chain(away).chain(again);
        let first_open = open.min().unwrap_or(u64::MAX).min(now_ms);
        let mut done_ms = first_open.saturating_sub(1);
        // What is pending in an unread queue was due since then, and its mark stays as it was.
        if self.has_unread() {
            done_ms = done_ms.min(self.done_ms);
        }
        let queues = self.queues.iter();
        let queues = queues.filter(|queue| !self.unread.contains_key(&queue.key));
        let queues = queues.map(|queue| QueueMark {
            key: queue.key,
            next: queue.next,
            floor: queue.floor(),
        });
        let marks = Marks {
            done_ms,
            queues: queues.collect(),
        };
        let is_past =
            |recalled: &Recalled| recalled.due_ms.saturating_add(RECALLED_KEPT_MS) <= done_ms;
        let past = self.recalled.iter().filter(|(_, one)| is_past(one));
        (marks, past.map(|(physical, _)| *physical).collect())
    }

    /// The tables no longer remember these.
    pub fn forget_recalled(&mut self, gone: &[u64]) {
        for physical in gone {
            self.recalled.remove(physical);
        }
    }

    /// Nothing pending of this shard lies before this; none when nothing is pending there.
    pub fn floor(&self, shard: ShardId) -> Option<FilePosition> {
        let again = self.again.iter().map(|(_, entry)| entry);
        let open = self.due.iter().chain(&self.away).chain(again);
        open.filter_map(|entry| position_in(shard, entry)).min()
    }

    /// Some of the pending entries of this shard that lie before `below`.
    pub fn before(&self, shard: ShardId, below: FilePosition, count_max: usize) -> Vec<Entry> {
        let lies_before =
            |entry: &&Entry| position_in(shard, entry).is_some_and(|place| place < below);
        let found = self.due.iter().filter(lies_before);
        found.take(count_max).copied().collect()
    }
}

fn position_in(shard: ShardId, entry: &Entry) -> Option<FilePosition> {
    let (of, position) = address::locate(PhysicalOffset(entry.physical))?;
    (of == shard).then_some(position)
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;

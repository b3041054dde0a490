//! The table of one shard's open halves.
//!
//! **Owns** which halves are open, how often each was checked and when it is due next.
//! **Lives on** the data core of the shard; pure, its clock is the caller's.
//! **Invariants** each open half stands in `open` and in `due` exactly once. A half whose end is
//! under way is not checked, and not ended a second time. An end that its own shard keeps is heard
//! of again, however long it waits; one that got lost on its way to another shard gives the half
//! back to the checks. Only [`Halves::ended`] forgets a half.
//! **Limits** some 85 bytes an open half (1,000,000 are measured in `memory_of_a_million`).
//! **Not here** the records (`shard::transactions`), who is asked (`control::supervisors`).

use std::collections::{BTreeMap, BTreeSet};

use gantry_storage::units::QueueOffset;
use hashbrown::HashMap;

/// After this long an end on its way to another shard is looked at again, and after twice this long
/// it counts as lost: it waits for another core for less, and for a flush hardly ever for more; an
/// end told later than that is heard all the same.
pub const END_MS_MAX: u64 = 10_000;

/// Where an open half stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody has decided.
    Open,
    /// Its end waits to be stored in its own shard.
    Ending,
    /// Its end is on its way to another shard.
    EndingAway,
    /// For so long that it was due meanwhile.
    EndingAwayLong,
}

/// Where the end of a half is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndsAt {
    /// In its own shard.
    Home,
    /// In another one.
    Away,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    due_ms: u64,
    checks: u32,
    stage: Stage,
}

/// A half that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Where its record is in the half queue.
    pub offset: QueueOffset,
    /// Checks it had.
    pub checks: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Halves {
    open: BTreeMap<QueueOffset, Entry>,
    due: BTreeSet<(u64, QueueOffset)>,
    /// Of halves that were moved forward: what their producers were told → the copy's offset.
    moved: HashMap<QueueOffset, QueueOffset>,
    /// The other way round. Few halves are ever moved, so their entries needn't say it.
    firsts: HashMap<QueueOffset, QueueOffset>,
    /// The half queue is known up to here.
    next: QueueOffset,
}

impl Halves {
    /// A half was stored.
    pub fn opened(&mut self, offset: QueueOffset, due_ms: u64, checks: u32) {
        let entry = Entry {
            due_ms,
            checks,
            stage: Stage::Open,
        };
        if let Some(old) = self.open.insert(offset, entry) {
            self.due.remove(&(old.due_ms, offset));
        }
        self.due.insert((due_ms, offset));
        self.next = self.next.max(offset.next());
    }

    /// Where the half is now that its producer knows as `first`; none when it is not open.
    pub fn find(&self, first: QueueOffset) -> Option<QueueOffset> {
        let offset = self.moved.get(&first).copied().unwrap_or(first);
        self.open.contains_key(&offset).then_some(offset)
    }

    /// Whether the half at `offset` is open and no end of it under way.
    pub fn is_undecided(&self, offset: QueueOffset) -> bool {
        let entry = self.open.get(&offset);
        entry.is_some_and(|entry| entry.stage == Stage::Open)
    }

    /// Begins the end of a half. False when it isn't undecided.
    pub fn begin_end(&mut self, offset: QueueOffset, at: EndsAt) -> bool {
        let stage = match at {
            EndsAt::Home => Stage::Ending,
            EndsAt::Away => Stage::EndingAway,
        };
        let entry = self.open.get_mut(&offset);
        let entry = entry.filter(|entry| entry.stage == Stage::Open);
        entry.map(|entry| entry.stage = stage).is_some()
    }

    /// The end came to nothing; the half is undecided again.
    pub fn cancel_end(&mut self, offset: QueueOffset) {
        if let Some(entry) = self.open.get_mut(&offset) {
            entry.stage = Stage::Open;
        }
    }

    /// A half has ended. False when it wasn't open.
    pub fn ended(&mut self, offset: QueueOffset) -> bool {
        self.next = self.next.max(offset.next());
        let Some(entry) = self.open.remove(&offset) else {
            return false;
        };
        self.due.remove(&(entry.due_ms, offset));
        if let Some(first) = self.firsts.remove(&offset) {
            self.moved.remove(&first);
        }
        true
    }

    /// The half known as `first` has a copy at `offset`, which takes its place: returns where it
    /// was before. None when it has been decided meanwhile; then the copy means nothing.
    pub fn moved(&mut self, first: QueueOffset, offset: QueueOffset) -> Option<QueueOffset> {
        self.known_up_to(offset.next());
        let old = self.find(first).filter(|old| self.is_undecided(*old))?;
        let entry = *self.open.get(&old)?;
        self.restored(first, offset, entry.checks, entry.due_ms);
        Some(old)
    }

    /// A copy found in the log; an earlier record of the same half counts no longer.
    pub fn restored(&mut self, first: QueueOffset, offset: QueueOffset, checks: u32, due_ms: u64) {
        if let Some(old) = self.find(first) {
            self.ended(old);
        }
        self.opened(offset, due_ms, checks);
        self.moved.insert(first, offset);
        self.firsts.insert(offset, first);
    }

    /// The half was checked once more, and is due again at `due_ms`.
    pub fn checked(&mut self, offset: QueueOffset, due_ms: u64) -> Option<u32> {
        let entry = self.open.get_mut(&offset)?;
        self.due.remove(&(entry.due_ms, offset));
        entry.checks = entry.checks.saturating_add(1);
        entry.due_ms = due_ms;
        self.due.insert((due_ms, offset));
        Some(entry.checks)
    }

    /// Halves that are due, at most `most`; they are due again at `again_ms` unless told otherwise.
    pub fn take_due(&mut self, now_ms: u64, again_ms: u64, most: usize) -> Vec<Due> {
        let mut taken = Vec::new();
        // A half whose end is under way is passed over, so the loop has a bound of its own.
        for _ in 0..most.saturating_mul(2) {
            let Some(&(due_ms, offset)) = self.due.first().filter(|(ms, _)| *ms <= now_ms) else {
                break;
            };
            self.due.remove(&(due_ms, offset));
            let Some(entry) = self.open.get_mut(&offset) else {
                continue;
            };
            entry.due_ms = match entry.stage {
                Stage::Open => again_ms.max(now_ms + 1),
                Stage::Ending | Stage::EndingAway | Stage::EndingAwayLong => now_ms + END_MS_MAX,
            };
            self.due.insert((entry.due_ms, offset));
            match entry.stage {
                // The shard that keeps it says what becomes of it.
                Stage::Ending => {}
                Stage::EndingAway => entry.stage = Stage::EndingAwayLong,
                Stage::EndingAwayLong => entry.stage = Stage::Open,
                Stage::Open => taken.push(Due {
                    offset,
                    checks: entry.checks,
                }),
            }
            if taken.len() >= most {
                break;
            }
        }
        taken
    }

    /// When this half is due.
    pub fn due_of(&self, offset: QueueOffset) -> Option<u64> {
        self.open.get(&offset).map(|entry| entry.due_ms)
    }

    /// When the next half is due.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    /// No half below this offset is open.
    pub fn floor(&self) -> QueueOffset {
        let first = self.open.first_key_value();
        first.map_or(self.next, |(offset, _)| *offset)
    }

    /// The first offset of the half queue that the table doesn't know.
    pub fn next(&self) -> QueueOffset {
        self.next
    }

    /// The half queue is known up to here.
    pub fn known_up_to(&mut self, next: QueueOffset) {
        self.next = self.next.max(next);
    }

    /// Open halves from `from` on, with the checks each had and when it is due.
    pub fn open_from(
        &self,
        from: QueueOffset,
    ) -> impl Iterator<Item = (QueueOffset, u32, u64)> + '_ {
        let open = self.open.range(from..);
        open.map(|(offset, entry)| (*offset, entry.checks, entry.due_ms))
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
#[path = "halves_tests.rs"]
mod tests;
